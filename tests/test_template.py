"""R1-Zero's template and the parser of responses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.pipeline.world import PAPER_REFLECTION_WORDS
from zero2r1.tasks.laptop.words import ZERO_TEMPLATE
from zero2r1.template import TEMPLATES, parse_response, render


@pytest.mark.parametrize("template", [*TEMPLATES.values(), ZERO_TEMPLATE])
def test_no_template_asks_for_reflection(template):
    """Paper, section 2.2.3: structure only. A word that asks for checking would plant what is to be observed."""
    asks = PAPER_REFLECTION_WORDS | {"reflect", "verify", "double", "careful", "carefully", "step", "again", "long", "detailed"}
    assert not asks & set(re.findall(r"[a-z]+", template.lower()))


def test_the_zero_template_shows_both_blocks_and_ends_with_the_assistants_turn():
    before, question, after = render(TEMPLATES["zero"], "What is 2 + 3")
    assert "<think>" in before and "</answer>" in before
    assert question == "What is 2 + 3" and after == ". Assistant:"


@pytest.mark.parametrize("question", ["What is 2 + 3?", "Add 2 and 3.", "Add! "])
def test_a_question_with_its_own_stop_gets_no_second_one(question):
    assert render(TEMPLATES["zero"], question) == (render(TEMPLATES["zero"], "x")[0], question.strip(), " Assistant:")


@pytest.mark.parametrize("template", ["no hole", "{question} {question}"])
def test_a_template_needs_exactly_one_hole(template):
    with pytest.raises(ValueError, match="exactly one"):
        render(template, "q")


@pytest.mark.parametrize(
    ("text", "thinking", "answer", "strict"),
    [
        ("<think> a </think> <answer> 7 </answer>", "a", "7", True),
        ("<think>a</think><answer>7</answer>\n", "a", "7", True),
        ("<think> </think> <answer> 7 </answer>", "", "7", False),  # an empty thought is no thought
        ("<think> a </think> <answer> </answer>", "a", "", False),
        ("<think> a </think> 7", "a", None, False),
        ("<answer> 7 </answer>", None, "7", False),
        ("<answer> 7 </answer> <think> a </think>", "a", None, False),  # in the wrong order
        ("hm <think> a </think> <answer> 7 </answer>", "a", "7", False),
        ("<think> a </think> so <answer> 7 </answer>", "a", "7", False),
        ("<think> a </think> <answer> 7 </answer> bye", "a", "7", False),
        ("<think> a <think> b </think> <answer> 7 </answer>", "b", "7", False),
        ("<think> a </think> <answer> 6 </answer> <answer> 7 </answer>", "a", "7", False),  # the last one counts
        ("<think> a <answer> 7 </answer> </think>", "a <answer> 7 </answer>", None, False),  # an answer inside the thinking
        ("<think> a", None, None, False),
        ("", None, None, False),
    ],
)
def test_layouts(text, thinking, answer, strict):
    parsed = parse_response(text)
    assert (parsed.thinking, parsed.answer, parsed.strict) == (thinking, answer, strict)


def test_a_prefilled_opening_tag_is_not_asked_for_again():
    assert parse_response("a </think> <answer> 7 </answer>", think_open=True).strict
    assert not parse_response("a </think> <answer> 7 </answer>").strict


def test_the_summary_is_what_follows_the_thinking():
    parsed = parse_response("<think> a </think> It is 7.")
    assert parsed.summary == "It is 7." and parsed.thinking == "a" and not parsed.strict


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "7"]), max_size=12))
def test_any_text_is_parsed_and_strict_texts_have_the_one_layout(pieces):
    text = "".join(pieces)
    parsed = parse_response(text)
    wanted = re.fullmatch(r"\s*<think>([^<]*[^<\s][^<]*)</think>\s*<answer>([^<]*[^<\s][^<]*)</answer>\s*", text)
    assert parsed.strict == (wanted is not None)


def test_a_loop_of_tags_is_parsed_in_linear_time():
    """Pairs of every opening with every closing tag would be 4e8 here."""
    text = "<think>" * 20_000 + "</think>" * 20_000
    assert parse_response(text).thinking == "" and not parse_response("<think></think>" * 20_000).strict

"""The format reward: a parser, not a pattern."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.rewards.format import MODES, format_reward
from zero2r1.template import COLD_START_TOKEN, parse_cold_start, write_cold_start


def value(text: str, mode: str = "strict", **columns: object) -> float | None:
    return format_reward(mode)(completions=[text], **{name: [column] for name, column in columns.items()})[0]


@pytest.mark.parametrize(
    "text",
    [
        "<think>3 + 4 = 7</think><answer>7</answer>",
        "<think>\n3 + 4 = 7\n</think>\n\n<answer>\n7\n</answer>\n",
        "  <think> a < b and b > a </think> <answer> x \\le 3 </answer>",
        "<think>先算 3 + 4</think> <answer>7</answer>",
    ],
)
def test_the_strict_layout(text):
    assert value(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "<think></think><answer>7</answer>",
        "<think> \n\t </think><answer>7</answer>",
        "<think>...</think><answer>7</answer>",  # dots say nothing
        "<think>\u200b\u200b</think><answer>7</answer>",  # nor do characters nobody sees
        "<think>a</think><answer></answer>",
        "<think>a</think><answer> . </answer>",
        "<think>a</think>",
        "<answer>7</answer>",
        "<answer>7</answer><think>a</think>",
        "<think>a<think>b</think><answer>7</answer>",
        "<think>a</think>b</think><answer>7</answer>",
        "<think>a</think><think>b</think><answer>7</answer>",
        "<think>a</think><answer>6</answer><answer>7</answer>",
        "<think>a <answer>7</answer></think>",
        "<think>a</think><answer>7",
        "so <think>a</think><answer>7</answer>",
        "<think>a</think> therefore <answer>7</answer>",
        "<think>a</think><answer>7</answer> and more",
        "<THINK>a</THINK><ANSWER>7</ANSWER>",
        "<think >a</think ><answer>7</answer>",
        "<think/>a<answer>7</answer>",
        "＜think＞a＜/think＞<answer>7</answer>",
        "<think>a</think><answer>7</answer><Answer>8</Answer>",
        "<think>a <thinking>b</thinking></think><answer>7</answer>",
    ],
)
def test_what_is_not_the_strict_layout(text):
    assert value(text) == 0.0


def test_a_prompt_that_ends_with_the_opening_tag_asks_for_no_second_one():
    assert value("a</think><answer>7</answer>", prompts="Solve. <think>\n") == 1.0
    assert value("<think>a</think><answer>7</answer>", prompts="Solve. <think>") == 0.0  # it stands there already
    assert value("a</think><answer>7</answer>", prompts="Solve.") == 0.0
    assert value("<think>a<think>b</think><answer>7</answer>", prompts="Solve. <think>") == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>It is 7.", 1.0),
        ("<think>a</think><answer>7</answer>", 1.0),
        ("<think>a</think>", 0.0),  # nothing to read
        ("Well <think>a</think>It is 7.", 0.0),
        ("<think></think>It is 7.", 0.0),
        ("<think>a b</think> Use the <answer key>: 5", 1.0),  # spelling matters for think tags here
        ("<think>a</think>b</think>It is 7.", 0.0),
        ("It is 7.", 0.0),
    ],
)
def test_thinking_only(text, expected):
    assert value(text, "think_only") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|special_token|3 + 4 = 7|special_token|It is 7.", 1.0),
        ("|special_token|3 + 4 = 7|special_token| ", 0.0),
        ("|special_token||special_token|It is 7.", 0.0),
        ("3 + 4 = 7|special_token|It is 7.", 0.0),
        ("x|special_token|a|special_token|b", 0.0),
        ("|special_token|a|special_token|b|special_token|c", 0.0),
        ("<think>a</think><answer>7</answer>", 0.0),
    ],
)
def test_cold_start(text, expected):
    assert value(text, "cold_start") == expected


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_is_written_as_cold_start_is_read_back(reasoning, summary):
    sayable = any(c.isalnum() for c in reasoning) and any(c.isalnum() for c in summary)
    if not sayable or COLD_START_TOKEN in reasoning + summary:
        with pytest.raises(ValueError, match="cold-start output"):
            write_cold_start(reasoning, summary)
        return
    parsed = parse_cold_start(write_cold_start(reasoning, summary))
    assert (parsed.thinking, parsed.answer, parsed.strict) == (reasoning.strip(), summary.strip(), True)


def test_only_the_length_limit_cuts_off():
    assert value("<think>a</think><answer>7</answer>", finish_reason="end_turn") == 1.0


def test_truncated_outputs_earn_nothing_in_any_mode():
    for mode in MODES:
        assert value("<think>a</think><answer>7</answer>", mode, finish_reason="length") == 0.0


def test_an_unknown_mode_is_refused_at_once():
    with pytest.raises(ValueError, match="strict, think_only, optional, cold_start"):
        format_reward("loose")


@given(st.text())
def test_no_text_breaks_it(text):
    assert all(value(text, mode) in (0.0, 1.0) for mode in MODES)

"""What a reward model reads of a response, and how long ones are fitted."""

from __future__ import annotations

import pytest

from tests.reward_models.toy_models import TAGS, WORDS
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.reward_models.data import Label, Preference, Response
from zero2r1.reward_models.encoding import RewardEncoder, RewardExample, digest_of_examples, ends_of, fit, viewed
from zero2r1.types import Message

ASKED = (
    Message(role="user", content="n1"),
    Message(role="assistant", content="n2", reasoning_content="n3"),
    Message(role="user", content="n4"),
)
RESPONSE = Response(thinking="poison n5", summary="good n6")


def test_the_views():
    asked = [{"role": "user", "content": "n1"}, {"role": "assistant", "content": "n2"}, {"role": "user", "content": "n4"}]
    assert viewed(ASKED, RESPONSE, "summary") == [*asked, {"role": "assistant", "content": "good n6"}]
    assert viewed(ASKED, RESPONSE, "response") == [
        *asked, {"role": "assistant", "content": "good n6", "reasoning_content": "poison n5"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("view", "read"), [("summary", "good n6 <|im_end|>"), ("response", "<think> poison n5 </think> good n6 <|im_end|>")]
)
def test_the_response_is_encoded_under_the_chat_template_up_to_the_end_of_its_turn(view, read):
    tokenizer = word_tokenizer(WORDS, TAGS)
    example = RewardEncoder.of(tokenizer, view).example(ASKED, (RESPONSE,))
    assert tokenizer.decode(example.response_ids[0]) == read
    prompt = tokenizer.decode(example.prompt_ids)
    assert prompt.startswith("<|im_start|> user n1 <|im_end|>") and "poison" not in prompt and "n3" not in prompt


def test_pairs_and_labels():
    encoder = RewardEncoder.of(word_tokenizer(WORDS, TAGS), "summary")
    other = Response(thinking=None, summary="n7")
    pair = encoder.preference(Preference(messages=ASKED, chosen=RESPONSE, rejected=other))
    label = encoder.label(Label(messages=ASKED, response=other, safe=False))
    assert len(pair.response_ids) == 2 and pair.safe is None and label.safe is False
    assert label.response_ids == pair.response_ids[1:] and label.prompt_ids == pair.prompt_ids
    assert ends_of([pair, label]) == {pair.response_ids[0][-1]}


def test_long_prompts_lose_their_beginning_and_ends_stay():
    """Length 6: the longest response has 4 tokens, so 2 of the 5 prompt tokens stay, for both responses."""
    example = RewardExample(prompt_ids=(1, 2, 3, 4, 5), response_ids=((6, 7, 8, 9), (10, 9)))
    short = RewardExample(prompt_ids=(1, 2), response_ids=((6, 9), (9,)))
    fitted = fit([example, short], 6)
    assert fitted.examples == (RewardExample(prompt_ids=(4, 5), response_ids=((6, 7, 8, 9), (10, 9))), short)
    assert (fitted.cut, fitted.cut_responses) == (1, 0)


def test_a_response_that_fills_the_length_keeps_its_end_and_a_prompt_token():
    example = RewardExample(prompt_ids=(1, 2), response_ids=((3, 4, 5, 6, 7), (8, 7)))
    fitted = fit([example], 4)
    assert fitted.examples == (RewardExample(prompt_ids=(2,), response_ids=((5, 6, 7), (8, 7))),)
    assert (fitted.cut, fitted.cut_responses) == (1, 1)


def test_the_digest_knows_order_sides_borders_and_labels():
    base = RewardExample(prompt_ids=(1, 2), response_ids=((3,), (4,)))
    others = [
        [RewardExample(prompt_ids=(1, 2), response_ids=((4,), (3,)))],
        [RewardExample(prompt_ids=(1,), response_ids=((2, 3), (4,)))],
        [RewardExample(prompt_ids=(1, 2), response_ids=((3,), (4,)), safe=False)],
        [RewardExample(prompt_ids=(1, 2), response_ids=((3,), (4,)), safe=True)],
        [base, base],
    ]
    assert len({digest_of_examples(examples) for examples in ([base], *others)}) == 6


def test_an_empty_part_is_refused():
    with pytest.raises(ValueError, match="needs a prompt token"):
        RewardExample(prompt_ids=(1,), response_ids=((),))

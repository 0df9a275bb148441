"""The weighted sum, and how a broken reward function is told apart from a low reward."""

from __future__ import annotations

import pytest

from zero2r1.rewards.combine import RewardError, make_grader
from zero2r1.rewards.format import format_reward
from zero2r1.types import Completion, Message, Problem, Segment


def problem(**changes) -> Problem:
    base = {
        "id": "p", "prompt": "1 + 1", "answer": "2", "verifier": "math", "domain": "math", "language": "en", "source": "test",
        "licence": "CC0", "split": "train", "extra": {"hint": "two"},
    }  # fmt: skip
    return Problem(**{**base, **changes})


def completion(text: str, finish: str = "stop") -> Completion:
    return Completion(
        segments=(Segment(token_ids=(1, 2), logprobs=(-1.0, -1.0)),), text=text, finish_reason=finish, seed=0, policy_version=0
    )


def grade(functions, weights=None, texts=("a", "b"), **changes):
    weights = weights or dict.fromkeys(functions, 1.0)
    return make_grader(functions, weights)([problem(**changes)] * len(texts), [completion(t) for t in texts])


def test_the_sum_is_weighted_and_every_part_stays_visible():
    rewards = grade(
        {"accuracy": lambda **_: [1.0, 0.0], "format": lambda **_: [1.0, 1.0]}, {"accuracy": 1.0, "format": 0.2}
    )  # fmt: skip
    assert [reward.value for reward in rewards] == [1.2, 0.2]
    assert rewards[1].components == {"accuracy": 0.0, "format": 1.0}
    assert rewards[0].details["gold"] == "2"


def test_what_does_not_apply_is_left_out_and_nothing_at_all_is_none():
    rewards = grade({"a": lambda **_: [None, None], "b": lambda **_: [0.5, None]})
    assert [reward.value for reward in rewards] == [0.5, None]


def test_functions_get_trls_keywords_and_every_column():
    seen = {}

    def spy(prompts, completions, completion_ids, trainer_state, **columns):
        seen.update(columns, prompts=prompts, completions=completions, completion_ids=completion_ids)
        return [0.0] * len(completions)

    grade({"spy": spy})
    assert seen["prompts"] == ["1 + 1"] * 2 and seen["completions"] == ["a", "b"] and seen["completion_ids"] == [[1, 2]] * 2
    assert seen["answer"] == ["2", "2"] and seen["hint"] == ["two", "two"] and seen["finish_reason"] == ["stop", "stop"]
    grade({"spy": spy}, prompt=(Message(role="user", content="1 + 1"),))
    assert seen["prompts"][0] == [{"role": "user", "content": "1 + 1"}]
    assert seen["completions"][0] == [{"role": "assistant", "content": "a"}]


def test_an_async_function_is_awaited():
    async def later(completions, **_):
        return [1.0] * len(completions)

    assert [reward.value for reward in grade({"later": later})] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        (1.0, "returned a float; return a list"),
        (["1", 0.0], "returned a str at index 0"),
        ([0.0, float("nan")], "returned nan at index 1"),
        ([float("inf"), 0.0], "returned inf at index 0"),
    ],
)
def test_a_broken_function_is_an_error_that_names_it(result, message):
    with pytest.raises(RewardError, match=rf'reward "mine" \(test_combine.py:\d+\) {message}'):
        grade({"mine": lambda **_: result})


def test_an_exception_names_function_and_completion():
    def broken(**_):
        raise KeyError("gold")

    with pytest.raises(RewardError, match=r"raised KeyError: 'gold'. First completion of the call: 'a'"):
        grade({"mine": broken})


@pytest.mark.parametrize("weights", [{"a": 1.0, "b": 1.0}, {}, {"a": float("inf")}])
def test_weights_must_name_the_functions_and_be_finite(weights):
    with pytest.raises(ValueError, match="must name the same rewards|finite"):
        make_grader({"a": lambda **_: []}, weights)


def test_problems_and_completions_must_be_as_many():
    with pytest.raises(ValueError, match="1 problems for 2 completions"):
        make_grader({"a": lambda **_: []}, {"a": 1.0})([problem()], [completion("a"), completion("b")])


@pytest.mark.parametrize(
    ("text", "finish", "strict", "think_only"),
    [
        ("<think> a </think> <answer> 7 </answer>", "stop", 1.0, 1.0),
        ("<think> a </think> <answer> 7 </answer>", "length", 0.0, 0.0),
        ("<think> a </think> It is 7.", "stop", 0.0, 1.0),
        ("<think> </think> <answer> 7 </answer>", "stop", 0.0, 0.0),
        ("It is 7.", "stop", 0.0, 0.0),
    ],
)
def test_the_format_reward_in_both_modes(text, finish, strict, think_only):
    for mode, value in (("strict", strict), ("think_only", think_only)):
        grader = make_grader({"format": format_reward(mode)}, {"format": 1.0})
        assert grader([problem()], [completion(text, finish)])[0].value == value


def test_a_required_part_that_does_not_apply_leaves_no_grade():
    """A reference nobody can read must not be trained on format alone."""
    functions = {"accuracy": lambda **_: [None, 1.0], "format": lambda **_: [1.0, 1.0]}
    grader = make_grader(functions, {"accuracy": 1.0, "format": 1.0}, required=["accuracy"])
    rewards = grader([problem()] * 2, [completion("a"), completion("b")])
    assert [reward.value for reward in rewards] == [None, 2.0]
    assert rewards[0].components == {"accuracy": None, "format": 1.0}

"""The weighted sum, and how a broken reward function is told apart from a low reward."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.rewards.combine import RewardError, checked_values, make_grader
from zero2r1.rewards.format import format_reward
from zero2r1.types import Completion, Message, Problem, Segment


@pytest.fixture(autouse=True)
def kept_cases(tmp_path, monkeypatch):
    """Where cases are kept."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


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

    async def inside_a_loop():
        return grade({"later": later})

    assert [reward.value for reward in grade({"later": later})] == [1.0, 1.0]
    assert [reward.value for reward in asyncio.run(inside_a_loop())] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        ([1.0, 1.0, 1.0], "returned 3 values for 2 completions"),
        (None, "returned a NoneType; return a list"),
        ({"a": 1.0, "b": 1.0}, "returned a dict; return a list"),
        (np.array(1.0), "returned a ndarray; return a list"),
        (np.ones((2, 1)), "returned a ndarray; return a list"),
        ([np.ones(1), 0.0], "returned a ndarray at index 0, for 'a'; rewards are numbers"),
        ([0.0, 1j], "returned a complex at index 1, for 'b'; rewards are numbers"),
        ([0.0, 10**400], "returned inf at index 1, for 'b'; use None"),
        (np.array([0.0, np.nan]), "returned nan at index 1"),
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


def test_the_case_is_kept_for_a_second_look(kept_cases):
    with pytest.raises(RewardError) as caught:
        grade({"mine": lambda **_: [float("nan"), 0.0]})
    (kept,) = kept_cases.glob("zero2r1-reward-*.json")
    assert str(kept) in str(caught.value)
    case = json.loads(kept.read_text())
    assert case["columns"]["completions"] == ["a", "b"] and case["columns"]["answer"] == ["2", "2"] and "returned nan" in case["fault"]


def test_an_error_stays_an_error_where_the_case_cannot_be_kept(kept_cases, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(kept_cases / "absent"))
    with pytest.raises(RewardError, match=r"returned 0 values for 2 completions. \(The case could not be saved: "):
        grade({"mine": lambda **_: []})


def test_what_counts_as_a_number():
    values = [None, 1, True, 0.5, Fraction(1, 4), Decimal("0.5"), np.float32(0.5), np.int64(2), np.bool_(True), np.array(0.5)]
    assert checked_values("f", values, values) == [None, 1.0, 1.0, 0.5, 0.25, 0.5, 0.5, 2.0, 1.0, 0.5]
    assert checked_values("f", np.array([0.5, 1.5]), "ab") == [0.5, 1.5]
    assert checked_values("f", (1, None), "ab") == [1.0, None]


@given(st.lists(st.one_of(st.none(), st.floats(), st.text(max_size=3), st.booleans(), st.lists(st.floats(), max_size=2)), max_size=4))
def test_only_finite_numbers_and_none_come_through(result):
    try:
        values = checked_values("f", result, ["x"] * 3)
    except RewardError:
        return
    assert len(values) == 3 and all(value is None or abs(value) < float("inf") for value in values)


def test_two_functions_may_log_the_same_column():
    def logging(word):
        def function(log_extra, log_metric, **_):
            log_extra("why", [f"{word} a", f"{word} b"])
            log_extra("gold", [word, word])
            log_metric("length", len(word))
            return [1.0, 1.0]

        return function

    functions = {"first": logging("one"), "must": logging("three")}
    rewards = make_grader(functions, dict.fromkeys(functions, 1.0), required=["must"])([problem()] * 2, [completion("a"), completion("b")])
    assert rewards[1].details == {
        "gold": "2",  # the problem's own, always
        "why": "three b",  # what is required speaks first
        "why/first": "one b",
        "gold/must": "three",
        "gold/first": "one",
        "length": 5,
        "length/first": 3,
    }
    assert list(rewards[0].components) == ["first", "must"]


def test_what_is_logged_needs_one_value_per_completion():
    def short(log_extra, **_):
        log_extra("why", ["only one"])
        return [1.0, 1.0]

    with pytest.raises(RewardError, match="logged 1 values of 'why' for 2 completions"):
        grade({"short": short})


def test_the_source_of_a_problem_is_verls_data_source_unless_the_data_have_one():
    seen = []

    def spy(data_source, **_):
        seen.append(data_source)
        return [0.0, 0.0]

    grade({"spy": spy})
    grade({"spy": spy}, extra={"data_source": "openai/gsm8k"})
    assert seen == [["test"] * 2, ["openai/gsm8k"] * 2]


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

"""Twelve ways to break a reward function, none of which becomes a number or stalls the others."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest

from tests.rewards.test_worker_pool import until
from zero2r1.rewards.combine import RewardError, make_grader
from zero2r1.rewards.isolated import IsolatedReward
from zero2r1.types import Completion, Problem, Segment

FILE = Path(__file__).with_name("broken_rewards.py")


def at(code: str) -> str:
    """Where the file of broken rewards says this: ``broken_rewards.py:18``."""
    return f"broken_rewards.py:{1 + [line.strip() for line in FILE.read_text().splitlines()].index(code)}"


RAISED = "raised ValueError: no digits (" + at('raise ValueError("no digits")') + ")"
REWARD = f'reward "reward" ({at("def reward(completions, log_extra, log_metric, **columns):")})'


@pytest.fixture
def isolated(tmp_path, monkeypatch):
    """Makes isolated rewards of the file beside this one, and closes them."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where cases are kept
    made: list[IsolatedReward] = []

    def make(function: str = "reward", **settings) -> IsolatedReward:
        made.append(IsolatedReward(f"{FILE}:{function}", **{"limit_s": 0.5, **settings}))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


def graded(reward: IsolatedReward, completions: list[str], **columns) -> tuple[list[float | None], dict[str, list[object]]]:
    logged: dict[str, list[object]] = {}
    return reward(completions=completions, log_extra=logged.__setitem__, **columns), logged


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("raise", RAISED),
        ("hang", "took longer than 0.5 s"),
        ("busy", "took longer than 0.5 s"),
        ("sigkill", "killed the worker twice (signal 9)"),
        ("sigsegv", "killed the worker twice (signal 11)"),
        ("exit", "killed the worker twice (exit code 3)"),
    ],
)
def test_a_sample_that_breaks_the_function_costs_itself_and_says_why(isolated, kind, reason):
    reward = isolated()
    counted: dict[str, float] = {}
    logged: dict[str, list[object]] = {}
    values = reward(completions=["fine", kind, "fine"], log_extra=logged.__setitem__, log_metric=counted.__setitem__)
    assert values == [1.0, None, 1.0]
    assert logged == {"why": ["looked at fine", None, "looked at fine"], "why_reward": [None, reason, None]}
    assert counted == {"length": 4.0, "rewards/reward/invalid": 1.0}  # 4 letters twice; the third sample logged nothing that counts
    assert until(lambda: reward.pool.size == 2)
    assert graded(reward, ["fine"] * 4)[0] == [1.0] * 4


def test_none_is_an_answer_and_not_a_failure(isolated):
    values, logged = graded(isolated(max_invalid_in_a_row=1), ["none", "none"])
    assert values == [None, None] and logged == {"why": ["looked at none"] * 2}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "returned nan at index 0, for 'nan';"),
        ("inf", "returned inf at index 0, for 'inf';"),
        ("string", "returned a str at index 0, for 'string'; rewards are numbers."),
        ("scalar", "returned a float; return a list with one number per completion."),
        ("short", "returned 0 values for 1 completions."),
        ("long", "returned 2 values for 1 completions."),
    ],
)
def test_what_is_no_reward_is_an_error_that_names_the_function_and_keeps_the_case(isolated, tmp_path, kind, message):
    with pytest.raises(RewardError) as caught:
        graded(isolated(), ["fine", kind], answer=["7", "8"])
    assert str(caught.value).startswith(f"{REWARD} {message}")
    (kept,) = tmp_path.glob("zero2r1-reward-*.json")
    assert str(kept) in str(caught.value)
    assert json.loads(kept.read_text())["columns"] == {"completions": [kind], "answer": ["8"]}


def test_numbers_of_numpy_and_truths_are_numbers(isolated):
    assert graded(isolated(), ["array", "float32", "true"])[0] == [0.5, 0.5, 1.0]


def test_the_others_get_their_numbers_while_some_hang(isolated):
    values, logged = graded(isolated(), ["hang", "busy", *["fine"] * 60])
    assert values == [None, None, *[1.0] * 60]
    assert logged["why_reward"] == ["took longer than 0.5 s"] * 2 + [None] * 60


def test_eight_hung_samples_of_64_cost_one_limit_with_two_workers(isolated):
    reward = isolated(limit_s=1.0)
    places = list(range(56, 64))
    began = time.monotonic()
    values, _ = graded(reward, ["hang" if i in places else "fine" for i in range(64)])
    assert time.monotonic() - began < 1.0 + 2.0  # two workers alone need four limits
    assert [i for i, value in enumerate(values) if value is None] == places
    assert until(lambda: reward.pool.size == 2)


def test_a_call_whose_worker_died_is_made_again(isolated, tmp_path):
    values, logged = graded(isolated("once"), ["a"], flag=[str(tmp_path / "flag")])
    assert values == [1.0] and logged == {}


def test_failures_in_a_row_across_calls_are_an_error_from_then_on(isolated, tmp_path):
    reward = isolated(max_invalid_in_a_row=3)
    assert graded(reward, ["raise", "raise", "fine", "raise"])[0] == [None, None, 1.0, None]
    assert graded(reward, ["raise 5"])[0] == [None]
    with pytest.raises(RewardError) as caught:
        graded(reward, ["raise 6", "fine"])
    assert str(caught.value).startswith(f"{REWARD} gave no value to 3 samples in a row. The last: raised ValueError: no digits (broken")
    (kept,) = tmp_path.glob("zero2r1-reward-*.json")
    assert str(kept) in str(caught.value) and json.loads(kept.read_text())["columns"] == {"completions": ["raise 6"]}
    with pytest.raises(RewardError, match="3 samples in a row"):
        graded(reward, ["fine"])


def test_a_row_is_counted_in_the_order_of_submission(isolated):
    """All hung samples end after all others: in the order of their ends there would be four in a row."""
    values, _ = graded(isolated(max_invalid_in_a_row=3), ["hang", "fine", "hang", "hang", "fine", "hang"])
    assert values == [None, 1.0, None, None, 1.0, None]


def test_a_function_that_compares_completions_sees_them_all_and_fails_for_all(isolated):
    reward = isolated("rank", batch="all", max_invalid_in_a_row=4)
    assert graded(reward, ["b", "a", "c"]) == ([1.0, 0.0, 2.0], {})
    values, logged = graded(reward, ["b", "hang", "c"])
    assert values == [None] * 3 and logged == {"why_rank": ["took longer than 0.5 s"] * 3}
    assert reward(completions=[]) == []
    with pytest.raises(RewardError, match="6 samples in a row"):  # 3 + 3
        graded(reward, ["b", "hang", "c"])


def test_what_the_function_prints_and_reads_is_not_the_pipe(isolated, capfd):
    assert graded(isolated("noisy", limit_s=10.0), ["a", "b"])[0] == [0.0, 0.0]
    out, err = capfd.readouterr()
    assert out == "" and err.count("also to where prints go") == 2


def test_async_functions_keep_their_event_loop(isolated):
    assert graded(isolated("later", limit_s=10.0, workers=1), ["a", "b", "c"])[0] == [1.0, 1.0, 1.0]


def test_columns_arrive_as_they_are_and_large_ones_too(isolated):
    text = "\x00\ud800 é \n\U0001f9ee" + "x" * 3_000_000
    columns = {"prompts": [[{"role": "user", "content": "1 + 1"}]], "level": [None], "extra": [{"nested": [1, 2.5, True]}]}
    values, logged = graded(isolated("echo", limit_s=10.0), [text], **columns)
    assert values == [float(len(text))]
    (seen,) = logged["echo"]
    assert seen.pop("log_metric").startswith("<")  # what JSON cannot write is logged as it prints
    assert seen == {"completions": text, "trainer_state": None, **{name: column for name, column in columns.items()}}
    assert logged["array"] == [[1, 2]]


def test_a_column_that_cannot_travel_is_named(isolated):
    reward = isolated("echo", workers=1)
    with pytest.raises(ValueError, match=r"column 'made' cannot be sent to reward .echo. \(broken_rewards.py:\d+\): .*set is not JSON"):
        graded(reward, ["a"], made=[{1, 2}])
    for bad in ("text", ["a", "b"], ("a",)):
        with pytest.raises(ValueError, match="column 'made' must be a list with 1 entries"):
            graded(reward, ["a"], made=bad)


def test_columns_the_function_does_not_name_need_not_travel(isolated):
    assert graded(isolated("strict", workers=1), ["7", "8"], answer=["7", "7"], made=[{1}, {2}])[0] == [1.0, 0.0]


def test_a_column_the_data_lack_is_an_error_and_no_failure(isolated):
    with pytest.raises(RewardError, match=r"broken_rewards.py:\d+ asks for answer, which the data do not have; they have completions"):
        graded(isolated("strict", workers=1), ["7"])


def test_in_a_grader_every_part_and_reason_stands_in_the_details(isolated):
    problem = Problem(
        id="p", prompt="1 + 1", answer="2", verifier="math", domain="math", language="en", source="t", licence="CC0", split="train"
    )
    segment = Segment(token_ids=(1,), logprobs=(0.0,))
    fine = Completion(segments=(segment,), text="fine", finish_reason="stop", seed=0, policy_version=0)
    grader = make_grader({"constant": lambda **_: [0.5, 0.5], "mine": isolated(name="mine")}, {"constant": 1.0, "mine": 2.0})
    first, second = grader([problem] * 2, [fine, dataclasses.replace(fine, text="raise")])
    assert (first.value, second.value) == (2.5, None)  # what is left of a sum is no reward
    assert first.details["why"] == "looked at fine" and first.details["why_mine"] is None
    assert second.details["why_mine"] == RAISED
    assert second.details["rewards/mine/invalid"] == 1.0 and second.details["gold"] == "2"
    with pytest.raises(RewardError) as caught:
        grader([problem] * 2, [fine, dataclasses.replace(fine, text="short")])
    assert str(caught.value).startswith(REWARD.replace('"reward"', '"mine"') + " returned 0 values")
    assert str(caught.value).count("The case is saved") == 1

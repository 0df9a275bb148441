"""Evaluation: what is counted as right, voted on and averaged, on an engine that answers from a script."""

from __future__ import annotations

import pytest

from zero2r1.eval.runner import evaluate
from zero2r1.rewards.accuracy import accuracy_reward
from zero2r1.rewards.combine import make_grader
from zero2r1.rollout.engine import SamplingParams
from zero2r1.rollout.fake_engine import FakeEngine
from zero2r1.types import Problem


def problem(name: str, answer: str, task: str) -> Problem:
    return Problem(
        id=name, prompt=name, answer=answer, verifier="math", domain="math", language="en", source="test", licence="CC0",
        split="test", extra={"task": task},
    )  # fmt: skip


PROBLEMS = [problem("p", "7", "easy"), problem("q", "8", "hard")]
SAID = {
    0: ["#### 7", "#### 7", "#### 6", "no idea"],
    1: ["#### 9", "#### 9", "#### 8", ("#### 8", "length")],
}


@pytest.fixture
def result():
    engine = FakeEngine(lambda request, index: SAID[request.id][index])
    return evaluate(
        engine, PROBLEMS, name="fake", encode=lambda problem: ((1, 2, 3), ()),
        grader=make_grader({"accuracy": accuracy_reward()}, {"accuracy": 1.0}),
        describe=lambda problem, completion: {"sure": float("idea" not in completion.text)},
        params=SamplingParams(max_new_tokens=9, stop_token_ids=(0,)), samples=4, seed=0,
    )  # fmt: skip


def test_pass_at_k_is_per_problem_and_unbiased(result):
    # p: 2 of 4 right; q: 1 of 4 (the truncated one does not count)
    assert result.arrays["pass@1"] == (0.5, 0.25)
    assert result.arrays["pass@2"] == (pytest.approx(1 - 1 / 6), pytest.approx(0.5))
    assert result.arrays["pass@4"] == (1.0, 1.0)


def test_the_vote_counts_readable_answers_that_ended(result):
    # p: 7 twice, 6 once. q: 9 twice, 8 once (the truncated 8 is no vote)
    assert result.arrays["maj@4"] == (1.0, 0.0)


def test_figures_have_means_errors_and_lengths_by_outcome(result):
    figures = result.figures()
    assert figures["pass@1"] == 0.375
    assert figures["pass@1/stderr"] == pytest.approx(0.125)  # sample std of (0.5, 0.25) is 0.17678, over sqrt(2)
    assert figures["share_right"] == 3 / 8 and figures["share_truncated"] == 1 / 8
    assert figures["ungraded"] == 0.0
    assert figures["sure"] == pytest.approx(7 / 8)


def test_by_column_and_rows(result):
    assert result.by("task") == {"easy": 0.5, "hard": 0.25}
    rows = result.rows()
    assert len(rows) == 8 and rows[7]["finish_reason"] == "length" and rows[0]["extracted"] == "7"


def test_every_sample_has_a_seed_of_its_own():
    seeds = []

    def remember(request, index):
        seeds.append(request.seeds[index])
        return "#### 7"

    for seed in (0, 0, 1):
        evaluate(
            FakeEngine(remember), PROBLEMS, name="x", encode=lambda problem: ((1,), ()),
            grader=make_grader({"accuracy": accuracy_reward()}, {"accuracy": 1.0}), describe=lambda problem, completion: {},
            params=SamplingParams(max_new_tokens=9, stop_token_ids=(0,)), samples=4, seed=seed,
        )  # fmt: skip
    first, again, other = seeds[:8], seeds[8:16], seeds[16:]
    assert first == again and len(set(first)) == 8 and not set(first) & set(other)

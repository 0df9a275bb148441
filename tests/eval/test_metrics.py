"""pass@k, majority votes and intervals, by hand and against known distributions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from zero2r1.eval.metrics import bootstrap_difference, bootstrap_mean, bootstrap_ratio, majority_vote, mean_and_error, pass_at_k


def test_pass_at_k_by_hand():
    # 2 right among 4: draws of 2 without a right one: C(2,2) / C(4,2) = 1/6
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(4, 2, 1) == 0.5
    assert pass_at_k(4, 0, 4) == 0.0 and pass_at_k(4, 1, 4) == 1.0


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_mean_over_all_draws(right, k):
    outcomes = [True] * right + [False] * (5 - right)
    draws = list(itertools.combinations(outcomes, k))
    assert pass_at_k(5, right, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_pass_at_k_refuses_what_is_not_defined(samples, right, k):
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(samples, right, k)


@pytest.mark.parametrize(
    ("votes", "right", "value"),
    [
        ({"7": 3, "8": 2}, {"7": True, "8": False}, 1.0),
        ({"7": 2, "8": 3}, {"7": True, "8": False}, 0.0),
        ({"7": 2, "8": 2}, {"7": True, "8": False}, 0.5),  # a tie earns what a draw between the tied would
        ({"7": 1, "8": 1, "9": 1}, {"7": True, "8": False, "9": False}, 1 / 3),
        ({}, {}, 0.0),
    ],
)
def test_majority_votes_and_ties(votes, right, value):
    assert majority_vote(votes, right) == pytest.approx(value)


def test_standard_error_by_hand():
    # values 0, 0, 1, 1: mean 1/2, sample variance 1/3, error sqrt(1/3)/2
    assert mean_and_error([0, 0, 1, 1]) == (0.5, pytest.approx(math.sqrt(1 / 3) / 2))
    assert mean_and_error([3.0]) == (3.0, 0.0)
    with pytest.raises(ValueError, match="mean of nothing"):
        mean_and_error([])


def test_the_bootstrap_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(0).normal(1.0, 2.0, size=2000)
    estimate, low, high = bootstrap_mean(values, seed=0)
    error = mean_and_error(values)[1]
    assert estimate == pytest.approx(values.mean())
    assert (low - estimate) / error == pytest.approx(-1.96, abs=0.1) and (high - estimate) / error == pytest.approx(1.96, abs=0.1)


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(1)
    difficulty = rng.normal(0, 5, size=300)
    before, after = difficulty + rng.normal(0, 0.1, 300), difficulty + 1 + rng.normal(0, 0.1, 300)
    estimate, low, high = bootstrap_difference(after, before, seed=0)
    assert estimate == pytest.approx(1.0, abs=0.05) and high - low < 0.1  # unpaired it would be about 1.6 wide


def test_ratio_and_its_limits():
    estimate, low, high = bootstrap_ratio([4.0] * 10, [2.0] * 10, seed=0)
    assert (estimate, low, high) == (2.0, 2.0, 2.0)
    assert bootstrap_ratio([1.0, 1.0], [0.0, 0.0], seed=0)[0] == math.inf


def test_an_interval_needs_two_problems_and_pairs_need_equal_lengths():
    with pytest.raises(ValueError, match="at least 2 problems"):
        bootstrap_mean([1.0], seed=0)
    with pytest.raises(ValueError, match="2 values against 3"):
        bootstrap_difference([1, 2], [1, 2, 3], seed=0)

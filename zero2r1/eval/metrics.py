"""The statistics of evaluation, as pure functions. Errors are over problems, the unit that was sampled at random."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

A = TypeVar("A", bound=Hashable)
Interval = tuple[float, float, float]
"""Estimate, lower and upper 95 % bound."""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that at least one of ``k`` answers drawn without replacement from ``samples`` is right.

    1 - C(n - c, k) / C(n, k): unbiased, unlike looking at the first k.

    Raises:
        ValueError: k is larger than the number of samples, or more are right than were drawn.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right among {samples} samples is not defined")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def majority_vote(votes: Mapping[A, int], right: Mapping[A, bool]) -> float:
    """Whether the most frequent answer is right: 1 or 0.

    Ties: the share of the tied answers that are right, which is what drawing one of them at random would earn on average.
    Without any vote: 0. Answers that could not be read are no votes.
    """
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [answer for answer, count in votes.items() if count == most]
    return sum(right[answer] for answer in tied) / len(tied)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error: sample standard deviation over the square root of the count (0 for a single value)."""
    if len(values) == 0:
        raise ValueError("the mean of nothing is not defined")
    array = np.asarray(values, dtype=np.float64)
    error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else 0.0
    return float(array.mean()), error


def bootstrap_mean(values: Sequence[float], *, seed: int, rounds: int = 4000) -> Interval:
    """Percentile bootstrap of a mean over problems."""
    array = np.asarray(values, dtype=np.float64)
    return _interval(float(array.mean()), array[_draws(len(array), seed, rounds)].mean(axis=1))


def bootstrap_difference(after: Sequence[float], before: Sequence[float], *, seed: int, rounds: int = 4000) -> Interval:
    """Percentile bootstrap of mean(after) - mean(before), paired: both measured on the same problems in the same order."""
    first, second = _paired(after, before)
    draws = _draws(len(first), seed, rounds)
    differences = first - second
    return _interval(float(differences.mean()), differences[draws].mean(axis=1))


def bootstrap_ratio(after: Sequence[float], before: Sequence[float], *, seed: int, rounds: int = 4000) -> Interval:
    """Percentile bootstrap of mean(after) / mean(before), paired; infinite where nothing was there before."""
    first, second = _paired(after, before)
    draws = _draws(len(first), seed, rounds)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = first[draws].mean(axis=1) / second[draws].mean(axis=1)
        estimate = float(first.mean() / second.mean()) if second.mean() else math.inf
    return _interval(estimate, np.where(np.isnan(ratios), 0.0, ratios))


def _paired(after: Sequence[float], before: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(after) != len(before):
        raise ValueError(f"paired statistics need the same problems: {len(after)} values against {len(before)}")
    return np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)


def _draws(count: int, seed: int, rounds: int) -> np.ndarray:
    if count < 2:
        raise ValueError("a confidence interval needs at least 2 problems")
    return np.random.Generator(np.random.Philox(key=seed)).integers(count, size=(rounds, count))


def _interval(estimate: float, distribution: np.ndarray) -> Interval:
    low, high = np.quantile(distribution, (0.025, 0.975), method="nearest")
    return estimate, float(low), float(high)

"""Is a learnt score being hacked? It rises while a benchmark that only rules can decide falls (paper, supplement B.5 and figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance


@dataclass(frozen=True, slots=True, kw_only=True)
class Hacking:
    """A score that rose by ``rise`` while its benchmark fell by ``fall``: means of the last window against those of the first."""

    rise: float
    fall: float


def find_hacking(
    score: Sequence[float], benchmark: Sequence[float], *, window: int, min_rise: float, min_fall: float, errors: float = 2.0
) -> Hacking | None:
    """Whether a score rose while a benchmark fell, by more than chance moves them.

    The last ``window`` steps are compared with the first ``window`` steps. Both changes must reach their minimum, and both must exceed
    ``errors`` standard errors of the difference of the two means. Histories shorter than two windows tell nothing.

    Args:
        score, benchmark: one value a step, of the same steps.

    Example, window 2, minima 0.1, errors 0: score 0.2 0.2 0.6 0.6 with benchmark 0.8 0.8 0.5 0.5 rose by 0.4 and fell by 0.3.
    """
    assert len(score) == len(benchmark), f"{len(score)} scores beside {len(benchmark)} values of the benchmark"
    if len(score) < 2 * window:
        return None
    rise, fall = _change(score, window, errors), -_change(benchmark, window, errors)
    return Hacking(rise=rise, fall=fall) if min(rise, fall) > 0 and rise >= min_rise and fall >= min_fall else None


def _change(values: Sequence[float], window: int, errors: float) -> float:
    """Mean of the last window minus mean of the first; 0 where that is within so many standard errors."""
    first, last = values[:window], values[-window:]
    change = fmean(last) - fmean(first)
    error = math.sqrt((variance(first) + variance(last)) / window) if window > 1 else 0.0
    return change if abs(change) > errors * error else 0.0

"""When reasoning RL is done: "until convergence" (paper section 2.3.2) as a rule that can be stated and tested."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def converged(history: Sequence[float], *, window: int, min_gain: float, patience: int) -> bool:
    """Whether a figure has stopped rising.

    Its mean over the last ``window`` steps exceeds the mean over the ``window`` steps before by less than ``min_gain``, and that was
    so after each of the last ``patience`` steps. A history too short to say so has not converged.

    Example, window 2, min_gain 0.1, patience 1: 0.1 0.3 0.5 0.7 gains 0.4 and goes on, 0.5 0.7 0.6 0.6 gains 0.0 and is done.
    """
    if len(history) < 2 * window + patience - 1:
        return False
    ends = range(len(history) - patience + 1, len(history) + 1)
    return all(fmean(history[end - window : end]) - fmean(history[end - 2 * window : end - window]) < min_gain for end in ends)

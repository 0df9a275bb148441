from __future__ import annotations

import pytest

from zero2r1.grpo.convergence import converged


@pytest.mark.parametrize(
    ("history", "done"),
    [
        ([0.1, 0.3, 0.5, 0.7], False),  # means 0.2 and 0.6: it rose by 0.4
        ([0.5, 0.7, 0.6, 0.6], True),  # 0.6 and 0.6
        ([0.7, 0.7, 0.5, 0.5], True),  # a fall is no gain
        ([0.6, 0.6, 0.6], False),  # two windows of two need four steps
    ],
)
def test_two_windows_are_compared(history: list[float], done: bool) -> None:
    assert converged(history, window=2, min_gain=0.1, patience=1) is done


def test_patience_wants_the_same_verdict_several_steps_in_a_row() -> None:
    flat_once = [0.0, 0.0, 1.0, 1.0, 1.0]  # after four steps it gains 1.0, after five 0.5: (1+1)/2 - (0+1)/2
    assert not converged(flat_once, window=2, min_gain=0.6, patience=2)
    assert converged(flat_once, window=2, min_gain=0.6, patience=1)
    assert converged([*flat_once, 1.0], window=2, min_gain=0.6, patience=2)  # 0.5 and then 0.0
    assert not converged([1.0] * 4, window=2, min_gain=0.6, patience=2)  # too short to have looked twice


def test_a_gain_as_large_as_asked_for_is_not_smaller() -> None:
    assert not converged([0.5, 0.5, 0.75, 0.75], window=2, min_gain=0.25, patience=1)

"""Learning-rate factors by hand."""

from __future__ import annotations

import pytest

from zero2r1.training.optimizer import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        # 7 steps, 2 of warm-up; then progress 0, 1/4, 1/2, 3/4, 1 down to 0.1
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.775, 0.55, 0.325, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.868198, 0.55, 0.231802, 0.1]),  # 0.1 + 0.9 (1 + cos(pi/4)) / 2 = 0.868198
    ],
)
def test_factors(schedule, factors):
    found = [learning_rate_factor(step, total=7, warmup=2, schedule=schedule, final=0.1) for step in range(7)]
    assert found == pytest.approx(factors, abs=1e-6)


def test_steps_beyond_the_end_keep_the_last_factor():
    assert learning_rate_factor(99, total=7, warmup=2, schedule="linear", final=0.1) == pytest.approx(0.1)

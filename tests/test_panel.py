"""What a piped run prints, and the small curves of the live panel."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zero2r1.panel import Panel, sparkline


@pytest.mark.parametrize(
    ("values", "top", "line"),
    [([], 1.0, ""), ([0.0, 0.5, 1.0], 1.0, "▁▅█"), ([1, 2, 4], None, "▃▅█"), ([0.0, 0.0], None, "▁▁")],
)
def test_sparklines(values, top, line):
    assert sparkline(values, top) == line


def test_a_long_curve_is_averaged_down():
    assert sparkline([0.0] * 24 + [1.0] * 24, 1.0) == "▁" * 12 + "█" * 12


def test_piped_output_is_plain_lines_at_the_first_every_nth_and_the_last_step():
    out = io.StringIO()
    with Panel("R1-Zero", 25, console=Console(file=out, width=200), plain_every=10) as panel:
        for step in range(1, 26):
            panel.show(step, {"rewards/accuracy/mean": step / 25, "tokens_per_s": 5000.0})
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["1/25", "10/25", "20/25", "25/25"]
    assert lines[-1].startswith("R1-Zero  step 25/25  0.00 s/step  0:00 left  5.0k tok/s  accuracy 1")
    assert "left" not in lines[0]  # nothing is known about the pace yet


def test_a_terminal_gets_a_panel_with_curves():
    out = io.StringIO()
    with Panel("base", 4, console=Console(file=out, width=100, force_terminal=True)) as panel:
        panel.show(1, {"pretraining_loss": 2.0})
        panel.show(2, {"pretraining_loss": 1.0})
    assert "base  step 2/4" in out.getvalue() and "█" in out.getvalue()

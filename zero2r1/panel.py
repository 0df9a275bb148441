"""What a terminal shows of a run: a live panel of a few lines, or plain lines when the output is piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import MofNCompleteColumn, Progress
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
CURVES = (
    ("accuracy", "rewards/accuracy/mean", 1.0),
    ("format", "rewards/format/mean", 1.0),
    ("length", "completions/mean_length", None),
    ("self-check", "reasoning/self_check", 1.0),
    ("one language", "reasoning/one_language", 1.0),
    ("helpful", "rewards/helpful/mean", 1.0),
    ("harmless", "rewards/harmless/mean", 1.0),
    ("judged right", "accuracy", 1.0),
    ("reverse KL", "reverse_kl", None),
)


def sparkline(values: list[float], top: float | None, width: int = 24) -> str:
    """The last values as block characters, averaged down to ``width``; ``top`` is the full block (the largest value if None)."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    ceiling = top or max(means) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int(value / ceiling * len(BLOCKS))))] for value in means)


@contextmanager
def progress(title: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal for work of known size, a line a tenth when standard error is piped; yields ``update(done, total)``."""
    console = Console(stderr=True)
    if not shown:
        yield lambda done, total: None
    elif console.is_terminal:
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        tenths = -1

        def line(done: int, total: int) -> None:
            nonlocal tenths
            if done * 10 // total > tenths:
                tenths = done * 10 // total
                console.print(f"{title}: {done} of {total}", highlight=False, markup=False)

        yield line


class Panel:
    """Shows one phase: pretraining or RL. Use as a context; feed it rows.

    Args:
        plain_every: steps between two lines when the output is no terminal.
    """

    def __init__(self, title: str, total: int, *, console: Console, plain_every: int = 10) -> None:
        self._title, self._total, self._console, self._plain_every = title, total, console, plain_every
        self._curves: dict[str, list[float]] = {}
        self._began: tuple[int, float] | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Panel:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def show(self, step: int, row: Mapping[str, Any]) -> None:
        """Add a step and redraw."""
        for label, key, _ in (*CURVES, ("loss", "pretraining_loss", None)):
            if isinstance(row.get(key), (int, float)):
                self._curves.setdefault(label, []).append(float(row[key]))
        if self._began is None:
            self._began = (step, time.monotonic())  # what came before the first step (an evaluation) is not the speed of a step
        if self._live:
            self._live.update(Text("\n".join([self._head(step, row), *self._lines(row)])))
        elif step % self._plain_every == 0 or step == self._total or step == 1:
            figures = "  ".join(f"{label} {values[-1]:.3g}" for label, values in self._curves.items())
            self._console.print(f"{self._head(step, row)}  {figures}", highlight=False, soft_wrap=True)

    def _head(self, step: int, row: Mapping[str, Any]) -> str:
        rate = row.get("tokens_per_s") or 0.0
        speed = f"  {rate / 1000:.1f}k tok/s" if rate >= 1000 else f"  {rate:.0f} tok/s" if rate else ""
        return f"{self._title}  step {step}/{self._total}{self._pace(step)}{speed}"

    def _pace(self, step: int) -> str:
        assert self._began is not None
        first, began = self._began
        if step == first:
            return ""
        pace = (time.monotonic() - began) / (step - first)
        left = int(pace * (self._total - step))
        return f"  {pace:.2f} s/step  {left // 60}:{left % 60:02d} left"

    def _lines(self, row: Mapping[str, Any]) -> list[str]:
        tops = {label: top for label, _, top in CURVES}
        lines = [f"  {label:<13}{values[-1]:7.3g}  {sparkline(values, tops.get(label))}" for label, values in self._curves.items()]
        if "frac_reward_zero_std" in row:
            lines.append(
                f"  groups without signal {row['frac_reward_zero_std']:.0%} (all right {row['frac_all_right']:.0%}, all wrong "
                f"{row['frac_all_wrong']:.0%})  truncated {row['completions/clipped_ratio']:.0%}  entropy {row.get('entropy', 0):.2f}"
            )
        return lines


def make_console() -> Console:
    """A console on standard output that never wraps figures when piped."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)

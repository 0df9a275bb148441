"""What a person hears of a pipeline while it runs: what to expect, curves, how one question is answered, what is first seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from zero2r1.eval.runner import EvalResult
from zero2r1.panel import Panel

MILESTONES = (
    ("rewards/format/mean", 0.9, "90 % of the answers keep the format"),
    ("rewards/accuracy/mean", 0.5, "half of the answers are right"),
    ("reasoning/self_check", 0.25, "a quarter of the answers check themselves"),
    ("reasoning/one_language", -0.5, "half of the answers mix languages"),
)
"""(metric, level to rise to, or to fall to when negative, what to say the first time)."""
Show = Callable[[int, Mapping[str, Any]], None]
"""Takes a step and its row of ``metrics.jsonl``."""


class Narrator:
    """Speaks to a console, or to nobody."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._began = time.monotonic()
        self._waiting = list(MILESTONES)
        self._asked = False

    def say(self, text: str) -> None:
        """A line. Nothing in it is markup: it may hold what a model wrote."""
        if self._console is not None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def clock(self) -> str:
        """Minutes and seconds since the beginning."""
        seconds = int(time.monotonic() - self._began)
        return f"{seconds // 60}:{seconds % 60:02d}"

    @contextmanager
    def panel(self, title: str, total: int, *, plain_every: int = 10) -> Iterator[Show]:
        """Curves of a phase of ``total`` steps; yields what takes them."""
        if self._console is None:
            yield lambda step, row: None
            return
        with Panel(title, total, console=self._console, plain_every=plain_every) as panel:
            yield panel.show

    def progress(self, title: str) -> Callable[[int, int], None]:
        """Hears how much of some work is done; says so at a half and at the end."""
        said: list[int] = []

        def heard(done: int, total: int) -> None:
            half = 2 * done // total
            if half and half not in said:
                said.append(half)
                self.say(f"{self.clock()}  {title}: {done} of {total}")

        return heard

    def milestones(self, row: Mapping[str, Any]) -> None:
        """Say what is first seen at this step."""
        reached = [m for m in self._waiting if m[0] in row and (row[m[0]] >= m[1] if m[1] > 0 else row[m[0]] <= -m[1])]
        for milestone in reached:
            self._waiting.remove(milestone)
            self.say(f"* step {row['step']}: {milestone[2]}")

    def evaluation(self, result: EvalResult) -> None:
        """The figures of a checkpoint, and how it answers the same question as every other."""
        problem, answer = result.problems[0], result.answers[0][0]
        self.say(f"{self.clock()}  {evaluation_line(result)}")
        if not self._asked:
            self._asked = True
            self.say(f"      asked  {problem.question}   (gold: {problem.answer})")
        self.say(f"      {'right' if answer.right else 'wrong'}  {' '.join(answer.text.split())}")


def evaluation_line(result: EvalResult) -> str:
    """The figures of a checkpoint in one line."""
    f, k = result.figures(), len(result.answers[0])
    shown = [f"pass@1 {f['pass@1']:.3f} ± {f['pass@1/stderr']:.3f}", f"maj@{k} {f[f'maj@{k}']:.3f}", f"pass@{k} {f[f'pass@{k}']:.3f}"]
    shown += [f"length {f['length']:.1f}", f"format {f['format_ok']:.2f}", f"self-check {f['self_check']:.2f}"]
    return "  ".join([f"{result.name:<12}", *shown, f"one language {f['one_language']:.2f}", f"readable {f['readable']:.2f}"])

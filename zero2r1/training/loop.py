"""What the loops of all trainers share: what they write to, who looks in, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol


class RunRecord(Protocol):
    """What the trainer writes; :class:`zero2r1.run_dir.RunDir` is one."""

    def append_metrics(self, row: Mapping[str, Any]) -> None: ...
    def append_event(self, event: str, **details: Any) -> None: ...
    def write_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def truncate_after(self, step: int) -> None: ...


class Outcome(Enum):
    """Why training ended."""

    DONE = "done"
    STOPPED = "stopped"


class TrainingHalted(ValueError):
    """A guard stopped the run; the last checkpoint is intact."""


def diverged(*, loss: float, grad_norm: float, in_a_row: int, step: int, learning_rate: float) -> TrainingHalted:
    """What to raise when nothing was finite for so many steps."""
    return TrainingHalted(
        f"E501 diverged: loss {loss} or gradient norm {grad_norm} was not finite for {in_a_row} steps in a row, up to step {step}. "
        f"The weights were not touched by them. Lower the learning rate, now {learning_rate}: "
        f"--optimizer.learning_rate {learning_rate / 4:g}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Where others look in. None of them can change what is computed."""

    evaluate: Callable[[int], None] | None = None
    """Called with the step, every ``evaluate_every`` steps."""
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_warning: Callable[[str], None] = lambda text: None
    """Hears of what a person should look at while training goes on."""
    should_stop: Callable[[], bool] = lambda: False
    """Polled between rollouts; true saves a checkpoint and returns."""

"""Metrics for an outside viewer, off by default. The run folder stays the record; this only copies its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

Tracker = Literal["none", "tensorboard", "wandb"]
Track = Callable[[Mapping[str, Any]], None]
"""Takes one row of ``metrics.jsonl``."""


def open_tracker(kind: Tracker, run: Path) -> Track:
    """A function that passes rows on: to TensorBoard files in the run folder, or to Weights & Biases (as WANDB_MODE says).

    Raises:
        ValueError: the library is not installed; the message says how to get it.
    """
    if kind == "none":
        return lambda row: None
    try:
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(run / "tensorboard"))

            def to_tensorboard(row: Mapping[str, Any]) -> None:
                for name, value in _numbers(row).items():
                    writer.add_scalar(name, value, global_step=row["step"])
                writer.flush()

            return to_tensorboard
        import wandb

        # The run's name as the id: a resumed run continues its curves instead of starting new ones.
        session = wandb.init(project="zero2r1", name=run.name, id=run.name, resume="allow", dir=str(run))
        return lambda row: session.log(_numbers(row), step=int(row["step"]))
    except ImportError as error:
        raise ValueError(f'track is {kind}, which is not installed:  pip install "zero2r1[track]"   (or --track=none)') from error


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name != "step" and isinstance(value, (int, float))}

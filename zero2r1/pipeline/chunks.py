"""Long work in pieces that are kept: each piece of the input is done once, written whole, and read back when the run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from zero2r1.samples import write_lines

T = TypeVar("T")
Row = Mapping[str, Any]


class StageStopped(Exception):
    """The run was asked to stop, or waits for a person; what is done is kept. The message says how to go on, if there is more to do
    than to start it again."""


def in_chunks(
    folder: Path,
    items: Sequence[T],
    work: Callable[[Sequence[T]], Sequence[Row]],
    *,
    size: int,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """The rows that ``work`` makes of all items, ``size`` items at a time; rows of pieces done before are read from ``folder``.

    Nothing is lost and nothing is done twice but the piece that was under way when the process ended. The same items must be given
    again: the caller keeps one folder for one set of settings.

    Raises:
        StageStopped: ``should_stop`` was true between two pieces.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(items), size):
        file = folder / f"part_{start // size:05d}.jsonl"
        if not file.exists():
            if should_stop():
                raise StageStopped
            write_lines(file, work(items[start : start + size]))
        with file.open(encoding="utf-8") as lines:
            rows += [json.loads(line) for line in lines]
        on_progress(min(start + size, len(items)), len(items))
    return rows

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from zero2r1.pipeline.chunks import StageStopped, in_chunks


class Worker:
    def __init__(self, fail_at: int | None = None) -> None:
        self.pieces: list[list[int]] = []
        self._fail_at = fail_at

    def __call__(self, piece: Sequence[int]) -> list[dict[str, int]]:
        if self._fail_at is not None and self._fail_at in piece:
            raise RuntimeError("killed")
        self.pieces.append(list(piece))
        return [{"square": item * item} for item in piece]


def squares(count: int) -> list[dict[str, int]]:
    return [{"square": n * n} for n in range(count)]


def test_pieces_are_done_once_and_read_back(tmp_path: Path) -> None:
    worker, heard = Worker(), []
    assert in_chunks(tmp_path, range(5), worker, size=2, on_progress=lambda done, total: heard.append((done, total))) == squares(5)
    assert worker.pieces == [[0, 1], [2, 3], [4]]
    assert heard == [(2, 5), (4, 5), (5, 5)]
    again = Worker()
    assert in_chunks(tmp_path, range(5), again, size=2) == squares(5)
    assert again.pieces == []


def test_only_the_piece_under_way_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        in_chunks(tmp_path, range(6), Worker(fail_at=3), size=2)
    (tmp_path / "part_00001.jsonl.tmp").write_text('{"squ', encoding="utf-8")  # what a crash in the middle of writing leaves
    again = Worker()
    assert in_chunks(tmp_path, range(6), again, size=2) == squares(6)
    assert again.pieces == [[2, 3], [4, 5]]


def test_asked_to_stop_it_stops_between_pieces_and_keeps_them(tmp_path: Path) -> None:
    answers = iter([False, True])
    with pytest.raises(StageStopped):
        in_chunks(tmp_path, range(6), Worker(), size=2, should_stop=lambda: next(answers))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part_00000.jsonl"]

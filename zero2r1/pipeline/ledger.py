"""What a pipeline has done: for every stage its settings, inputs and outputs by digest. From it follows what must run again.

A stage is up to date when it finished with the settings and the inputs it would be given now. Inputs are digests of contents, so
a stage that ran again and came to the same result makes nothing below it stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from zero2r1.config import diff
from zero2r1.run_dir import RunDir

FILE = "ledger.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stage in the ledger."""

    name: str
    number: int
    title: str
    folder: str
    status: str = "waiting"
    """``waiting``, ``running``, ``done``, or ``not run`` where the recipe leaves it out."""
    why: str = ""
    """Why it ran the last time: ``first run``, or what had changed."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Name -> SHA-256 of a file, or of a folder's files."""
    paths: Mapping[str, str] = field(default_factory=dict)
    """Name -> where the output lies, relative to the run folder where it lies inside."""
    seconds: float = 0.0
    started: str = ""


class Ledger:
    """The entries of a run, written after every change."""

    def __init__(self, run: RunDir, entries: Sequence[Entry], header: Mapping[str, Any]) -> None:
        self._run, self._header = run, dict(header)
        self._entries = {entry.name: entry for entry in entries}

    @classmethod
    def open(cls, run: RunDir, fresh: Sequence[Entry], header: Mapping[str, Any]) -> Ledger:
        """The ledger of the run, its entries in the order of ``fresh``; a stage it does not know yet is taken from there."""
        known = read_ledger(run.path)["stages"] if (run.path / FILE).exists() else []
        entries = {entry["name"]: Entry(**entry) for entry in known}
        ledger = cls(run, [entries.get(entry.name, entry) for entry in fresh], header)
        ledger._write()
        return ledger

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def set(self, name: str, **changes: Any) -> Entry:
        """Change an entry and write the ledger."""
        self._entries[name] = replace(self._entries[name], **changes)
        self._write()
        return self._entries[name]

    def stale(self, name: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str | None:
        """Why a stage cannot be left or continued as it is; ``None`` if settings and inputs are those it was started with."""
        entry = self._entries[name]
        if entry.status in ("waiting", "not run"):
            return None
        changes = diff(entry.settings, settings)
        changes += [f"{key} is another" for key in inputs if entry.inputs.get(key) != inputs[key]]
        return "changed: " + "; ".join(changes) if changes else None

    def _write(self) -> None:
        self._run.write_json(FILE, {**self._header, "stages": [asdict(entry) for entry in self._entries.values()]})


def read_ledger(folder: Path) -> Any:
    """The ledger of a run folder as JSON values."""
    return json.loads((folder / FILE).read_text(encoding="utf-8"))


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder: of the names and contents of all its files."""
    if path.is_file():
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    whole = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise ValueError(f"{path} holds no file to take a digest of")
    for file in files:
        whole.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\n".encode())
    return whole.hexdigest()

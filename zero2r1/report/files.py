"""Reading what may be missing, cut off or spoilt: every file of a run is optional, and one that cannot be read is named, not hidden."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

MISSING = (FileNotFoundError, NotADirectoryError)


class RunFiles:
    """The files below one folder, by their path in it. ``unreadable`` collects what was there and could not be read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._unreadable: dict[str, str] = {}

    @property
    def unreadable(self) -> tuple[str, ...]:
        return tuple(f"{name}: {why}" for name, why in sorted(self._unreadable.items()))

    def text(self, name: str) -> str:
        """The text of a file, or nothing. Bytes that are no UTF-8 become U+FFFD."""
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except MISSING:
            return ""
        except OSError as error:
            self._spoilt(name, error)
            return ""

    def object(self, name: str) -> dict[str, Any]:
        """A JSON object, or an empty one."""
        value = self._json(name)
        if isinstance(value, dict):
            return value
        if value is not None:
            self._spoilt(name, ValueError("no JSON object"))
        return {}

    def array(self, name: str) -> list[Any] | None:
        """A JSON list; ``None`` where there is none."""
        value = self._json(name)
        if value is None or isinstance(value, list):
            return value
        self._spoilt(name, ValueError("no JSON list"))
        return None

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a JSONL file; a last line cut off by a crash is left out."""
        for number, line in enumerate(self.text(name).split("\n")[:-1], start=1):
            try:
                value = json.loads(line)
            except ValueError as error:
                self._spoilt(name, ValueError(f"line {number}: {error}"))
                continue
            if isinstance(value, dict):
                yield value

    def settings(self, name: str) -> Mapping[str, Any]:
        """A YAML file of settings, or nothing."""
        try:
            value = yaml.safe_load(self.text(name))
        except yaml.YAMLError as error:
            self._spoilt(name, error)
            return {}
        return value if isinstance(value, dict) else {}

    def rows(self, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The rows of a Parquet file with those of ``columns`` that it has, or nothing."""
        import pyarrow.parquet as pq

        path = self.root / name
        if not path.exists():
            return []
        try:
            with pq.ParquetFile(path) as file:
                chosen = None if columns is None else [column for column in columns if column in file.schema_arrow.names]
                found: list[dict[str, Any]] = file.read(columns=chosen).to_pylist()
                return found
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are ValueError and OSError
            self._spoilt(name, error)
            return []

    def names(self, pattern: str) -> list[str]:
        """Paths that match, in order."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))

    def _json(self, name: str) -> Any:
        text = self.text(name)
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            self._spoilt(name, error)
            return None

    def _spoilt(self, name: str, error: Exception) -> None:
        self._unreadable.setdefault(name, str(error).splitlines()[0][:200] if str(error) else type(error).__name__)


def number(value: Any) -> float | None:
    """A JSON value as a number; ``None`` where it is none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None


def count(value: Any) -> int | None:
    """A JSON value as a whole number; ``None`` where it is none."""
    found = number(value)
    return int(found) if found is not None and math.isfinite(found) else None


def numbers(value: Any) -> dict[str, float]:
    """The entries of a JSON object that are numbers."""
    found = {str(key): number(item) for key, item in value.items()} if isinstance(value, dict) else {}
    return {key: item for key, item in found.items() if item is not None}


def counts(value: Any) -> dict[str, int]:
    """The entries of a JSON object that are whole numbers."""
    return {key: found for key, item in mapping(value).items() if (found := count(item)) is not None}


def mapping(value: Any) -> dict[str, Any]:
    """A JSON value where an object was expected."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """A JSON value where a list was expected."""
    return value if isinstance(value, list) else []

"""What a verifier says of one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``correct`` is ``None`` when the reference itself cannot be read: a fault of the data, not of the answer."""

    correct: bool | None
    extracted: str | None
    why: str
    vote: str | None = None
    """What a majority vote counts, the same for equal answers; ``extracted`` if left out."""


Verifier = Callable[[str, Mapping[str, Any]], Verdict]
"""(answer text, the problem's columns) -> verdict. ``columns["answer"]`` is the reference."""

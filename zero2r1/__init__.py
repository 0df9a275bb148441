"""zero2r1: the DeepSeek-R1 system as one package. Names load on first use, so importing it is instant."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLACES = {
    "Completion": "zero2r1.types",
    "Problem": "zero2r1.types",
    "Reward": "zero2r1.types",
    "ZeroSettings": "zero2r1.pipeline.config",
    "make_grader": "zero2r1.rewards.combine",
    "parse_response": "zero2r1.template",
    "read_problems": "zero2r1.tasks.files",
    "train_zero": "zero2r1.pipeline.api",
}
__all__ = [*sorted(_PLACES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'zero2r1' has no attribute {name!r}")

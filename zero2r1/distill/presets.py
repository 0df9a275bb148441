"""The six published students (paper, section 2.4 and its supplement), as settings of ``zero2r1 distill``.

All were tuned on the same 800,000 samples of stage 3, for two to three epochs, without RL. The authors also changed the students'
configurations and tokenizers a little and do not say how; what is set here is that a base made for shorter texts takes the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

EPOCHS = 2
"""Two in the text, "2 to 3" in the supplement."""
BATCH_SIZE = 64
CONTEXT = 32_768
FINAL_FACTOR = 0.1
"""A cosine from the initial learning rate to a tenth of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRecipe:
    """What one student was made of. The learning rate is the only setting that differs between students."""

    student: str
    base: str
    """Its name on the Hub."""
    learning_rate: float
    """The initial one."""

    @property
    def preset(self) -> str:
        """What ``--preset`` calls it: ``r1-distill-qwen-7b``."""
        return self.student.lower()

    def settings(self) -> dict[str, Any]:
        """Settings of ``zero2r1 distill``; the data and everything the paper does not state are left to the user."""
        optimizer = {"learning_rate": self.learning_rate, "schedule": "cosine", "final_factor": FINAL_FACTOR}
        tuning = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "max_length": CONTEXT, "optimizer": optimizer}
        return {"model": self.base, "context": CONTEXT, "method": "sft", "sft": tuning}


STUDENTS: tuple[StudentRecipe, ...] = (
    StudentRecipe(student="R1-Distill-Qwen-1.5B", base="Qwen/Qwen2.5-Math-1.5B", learning_rate=1e-4),
    StudentRecipe(student="R1-Distill-Qwen-7B", base="Qwen/Qwen2.5-Math-7B", learning_rate=8e-5),
    StudentRecipe(student="R1-Distill-Qwen-14B", base="Qwen/Qwen2.5-14B", learning_rate=7e-5),
    StudentRecipe(student="R1-Distill-Qwen-32B", base="Qwen/Qwen2.5-32B", learning_rate=6e-5),
    StudentRecipe(student="R1-Distill-Llama-8B", base="meta-llama/Llama-3.1-8B", learning_rate=5e-5),
    StudentRecipe(student="R1-Distill-Llama-70B", base="meta-llama/Llama-3.3-70B-Instruct", learning_rate=2e-5),
)

PRESETS: Mapping[str, StudentRecipe] = MappingProxyType({recipe.preset: recipe for recipe in STUDENTS})
"""``r1-distill-qwen-7b`` -> its recipe."""


def preset_settings(name: str) -> Mapping[str, Any]:
    """The settings of a published recipe.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"--preset {name} is not known; choose one of {', '.join(PRESETS)}")
    return PRESETS[name].settings()

"""Settings of ``zero2r1 distill``: a student, what it learns from, and how it is measured."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zero2r1.config import Settings
from zero2r1.distill.config import OnPolicySettings
from zero2r1.pipeline.config import BaseSettings, EvaluationSettings, SftDataSettings
from zero2r1.sft.config import SftSettings
from zero2r1.tracking import Tracker
from zero2r1.training.config import OptimizerSettings


class DistillDataSettings(SftDataSettings):
    """``train`` is what the method ``sft`` imitates, ``prompts`` what the method ``on_policy`` asks; ``held_out`` measures both."""

    prompts: str | None = None  # problems, or `laptop` for the laptop world's; their answers are not looked at
    columns: dict[str, str] = {}  # of held_out and prompts
    count: int | None = Field(None, ge=1)  # the most problems taken from prompts (all); the laptop world makes 8192 if left out


class DistillSettings(Settings):
    """Everything ``distill`` knows. The defaults are the paper's: from samples, text alone, no RL."""

    model: str = "laptop"  # the student: `laptop`, `smollm2-135m`, or a folder or name that transformers loads
    base: BaseSettings = BaseSettings(size="student")
    context: int | None = Field(None, ge=1)  # raises the student's max_position_embeddings to this where it is smaller
    method: Literal["sft", "on_policy"] = "sft"
    teacher: str | None = None  # a folder or name; with on_policy, which needs its distributions
    data: DistillDataSettings = DistillDataSettings()
    sft: SftSettings = SftSettings(
        batch_size=64, optimizer=OptimizerSettings(learning_rate=1e-4, schedule="cosine", final_factor=0.1)
    )  # the learning rate of the smallest student; larger ones have lower ones: --preset
    on_policy: OnPolicySettings = OnPolicySettings()
    evaluation: EvaluationSettings = EvaluationSettings(max_new_tokens=4_096)
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    track: Tracker = "none"

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> DistillSettings:
        unused = (
            {"teacher": self.teacher, "data.prompts": self.data.prompts, "data.count": self.data.count}
            if self.method == "sft"
            else {"data.train": self.data.train}
        )
        given = [name for name, value in unused.items() if value is not None]
        if given:
            other = "on_policy" if self.method == "sft" else "sft"
            raise ValueError(f"{', '.join(given)} would not be used by the method {self.method}: drop it, or set --method={other}")
        return self

    @model_validator(mode="after")
    def _one_seed(self) -> DistillSettings:
        for name, value in (("sft.seed", self.sft.seed), ("on_policy.seed", self.on_policy.seed)):
            if value:  # 0 is what a section has that nobody set
                raise ValueError(f"{name} is not used here, where one seed serves all: set seed")
        return self

    @property
    def tuning(self) -> SftSettings:
        """The settings of the method ``sft``, with the seed of all."""
        return self.sft.model_copy(update={"seed": self.seed})

    @property
    def imitation(self) -> OnPolicySettings:
        """The settings of the method ``on_policy``, with the seed of all."""
        return self.on_policy.model_copy(update={"seed": self.seed})

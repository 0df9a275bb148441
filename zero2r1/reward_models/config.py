"""Settings of reward models. Defaults are the paper's (section 2.3.4 and supplement); "not stated" marks what it leaves open."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zero2r1.config import Settings
from zero2r1.training.config import ComputeSettings, OptimizerSettings

Kind = Literal["preference", "safety"]
"""What is learnt: which of two responses is more helpful, or whether one is safe."""
View = Literal["summary", "response"]
"""What is read of a response: the summary alone, or thinking and summary."""
VIEW_OF_KIND: dict[Kind, View] = {"preference": "summary", "safety": "response"}
"""Helpfulness is judged by the summary, harmlessness by the whole response (section 2.3.4)."""


class RewardModelSettings(Settings):
    """Everything the trainer of reward models needs."""

    kind: Kind = "preference"
    view: View | None = None  # what is read; by default the summary for preferences, the whole response for safety
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(256, ge=1)  # pairs or labels per update
    max_length: int = Field(8_192, ge=8)  # tokens of prompt and response; a longer prompt loses its beginning, and that is counted
    held_out_share: float = Field(0.1, ge=0, lt=1)  # of the prompts, where no file is held out; not stated
    head_std: float = Field(0.02, ge=0)  # of the new head's weights; with 0 all scores begin equal; not stated
    seed: int = Field(0, ge=0)
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=6e-6)
    compute: ComputeSettings = ComputeSettings()
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    stop_after_nonfinite_steps: int = Field(3, ge=1)

    @property
    def reads(self) -> View:
        """The view that holds: the one that was set, or that of the kind."""
        return self.view or VIEW_OF_KIND[self.kind]

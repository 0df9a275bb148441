"""Settings of supervised fine-tuning. Defaults are the paper's (supplement B.4.2); "not stated" marks what it leaves open."""

from __future__ import annotations

from pydantic import Field

from zero2r1.config import Settings
from zero2r1.training.config import ComputeSettings, LoraSettings, OptimizerSettings


class SftSettings(Settings):
    """Everything the SFT trainer needs."""

    epochs: int = Field(2, ge=1)  # two in the text, 2 to 3 in the supplement
    batch_size: int = Field(128, ge=1)  # examples per update
    max_length: int = Field(32_768, ge=2)  # tokens of prompt and response; what is longer is cut, and counted
    packing: bool = False  # several examples in one forward pass, blind to each other: the same gradient, less time
    seed: int = Field(0, ge=0)
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=5e-5, schedule="cosine", final_factor=0.1)
    lora: LoraSettings | None = None  # none: all weights are trained
    compute: ComputeSettings = ComputeSettings()
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    stop_after_nonfinite_steps: int = Field(3, ge=1)

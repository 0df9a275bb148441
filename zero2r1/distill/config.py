"""Settings of on-policy distillation. None of it is in the paper, which distils from samples; the defaults are ours."""

from __future__ import annotations

from pydantic import Field, model_validator

from zero2r1.config import Settings
from zero2r1.training.config import ComputeSettings, LoraSettings, OptimizerSettings, SamplerSettings, refuse_processes


class StudentRolloutSettings(SamplerSettings):
    """How the student answers."""

    prompts_per_step: int = Field(64, ge=1)
    samples_per_prompt: int = Field(1, ge=1)  # a prompt is computed once for all of them
    temperature: float = Field(1.0, gt=0)  # of the sampling and of both distributions that are compared; no factor beside it
    max_new_tokens: int = Field(4_096, ge=1)


class OnPolicySettings(Settings):
    """Everything the trainer of on-policy distillation needs. A step is one rollout of the student and one update."""

    steps: int = Field(1_000, ge=1)
    seed: int = Field(0, ge=0)
    rollout: StudentRolloutSettings = StudentRolloutSettings()
    optimizer: OptimizerSettings = OptimizerSettings(learning_rate=1e-5, schedule="cosine", final_factor=0.1)
    lora: LoraSettings | None = None  # none: all weights are trained
    compute: ComputeSettings = ComputeSettings()
    checkpoint_every: int = Field(100, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    stop_after_nonfinite_steps: int = Field(3, ge=1)

    @model_validator(mode="after")
    def _one_process_samples_adapters(self) -> OnPolicySettings:
        refuse_processes(self.lora, self.rollout)
        return self

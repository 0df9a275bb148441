"""Settings that stages share: the optimizer, how a pass is computed, and how much is sampled at once."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from zero2r1.config import Settings


class OptimizerSettings(Settings):
    """AdamW; the paper states only the learning rate."""

    learning_rate: float = Field(3e-6, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)  # not stated
    weight_decay: float = Field(0.0, ge=0)  # not stated
    warmup_steps: int = Field(10, ge=0)  # not stated
    schedule: Literal["constant", "linear", "cosine"] = "constant"  # not stated
    final_factor: float = Field(0.1, ge=0, le=1)  # where linear and cosine end, as a share of the learning rate
    max_grad_norm: float = Field(1.0, gt=0)  # not stated


class LoraSettings(Settings):
    """Adapters are trained instead of the weights (:mod:`zero2r1.models.adapters`). No dropout: log-probabilities must not change from pass
    to pass. The paper trains all weights."""

    rank: int = Field(32, ge=1)
    alpha: float = Field(64.0, gt=0)  # the adapter's product is multiplied by alpha / rank
    targets: tuple[str, ...] = ()  # names of layers such as q_proj; every linear layer but the head if left out


class ComputeSettings(Settings):
    """How the training pass is computed. None of it changes what is computed, beyond rounding."""

    tokens_per_micro_batch: int = Field(16_384, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; master weights stay float32
    float32_logits: bool = True  # with bfloat16: the head still multiplies in float32
    gradient_checkpointing: bool = False
    # On a CPU. Float32 products of models of 32 MiB and more by oneDNN, in the sampler or everywhere. With "all", log-probabilities of
    # SmolLM2-135M in sampler and trainer differ by up to 7e-5, else by 4e-5; on some CPUs it is much faster (docs/results.md). With
    # bfloat16, products alone are in bfloat16 and all else in float32, unless this is off. With gradient_checkpointing layers are trained
    # by torch's own products (of "all" the head's remain), in bfloat16 by autocast, which has attention in it too.
    onednn: Literal["off", "sampler", "all"] = "sampler"
    # On a GPU: what lies in the host's memory while it is not needed. The reference comes to the device for scoring (GRPO with beta above
    # 0; with lora there is no copy to put away), the optimizer's moments for its step. Each leaves the peak and costs two copies a step.
    offload: tuple[Literal["reference", "optimizer"], ...] = ()
    skip_groups_without_signal: bool = True  # GRPO, only where their gradient is exactly zero: equal rewards and beta 0

    @property
    def half(self) -> bool:
        """Whether a pass is computed in bfloat16."""
        return self.dtype == "bfloat16"

    @property
    def half_head(self) -> bool:
        """Whether the head's product is in bfloat16 too."""
        return self.half and not self.float32_logits


class SamplerSettings(Settings):
    """How much the embedded engine decodes at a time. Changes time and memory, not what is sampled, beyond rounding."""

    token_budget: int = Field(262_144, ge=1)  # positions of all rows decoded at once: bounds the memory of the cache
    max_rows: int = Field(256, ge=1)
    processes: int = Field(1, ge=1)  # on a CPU: of one thread each, and token_budget and max_rows of each; for small models


def refuse_processes(lora: LoraSettings | None, sampler: SamplerSettings) -> None:
    """Several processes sample whole models only.

    Raises:
        ValueError: several are to sample a model with adapters.
    """
    if lora is not None and sampler.processes > 1:
        raise ValueError(
            f"rollout.processes is {sampler.processes}, and several processes sample whole models, which a model with adapters (lora) is "
            "not. Set rollout.processes: 1 in the same section"
        )

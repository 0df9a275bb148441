"""One update of the student on what it has just sampled: both models read it, the divergence is lowered, the weights move.

Shapes: C sampled tokens of one pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zero2r1.distill.divergence import reverse_kl
from zero2r1.models.attention import backbone_forward
from zero2r1.training.config import ComputeSettings
from zero2r1.training.packing import PackedBatch, pack, split_into_packs
from zero2r1.training.step import clip_and_step, head_options, training_context
from zero2r1.types import Completion, TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one update did."""

    reverse_kl: float
    """The loss: the mean over all sampled tokens of the update."""
    grad_norm: float
    applied: bool
    """False: something was not finite and the weights were left as they are."""


def training_samples(prompts: Sequence[tuple[int, ...]], groups: Sequence[Sequence[Completion]]) -> list[TrainingSample]:
    """The completions of one update; every sampled token weighs one over their number, however they are packed."""
    tokens = sum(sum(completion.loss_mask) for group in groups for completion in group)
    return [
        TrainingSample(
            group=i,
            prompt_ids=prompt,
            completion_ids=completion.token_ids,
            weights=tuple(1.0 / tokens if sampled else 0.0 for sampled in completion.loss_mask),
            advantage=0.0,
            sampler_logprobs=completion.logprobs,
        )
        for i, (prompt, group) in enumerate(zip(prompts, groups, strict=True))
        for completion in group
    ]


def completion_divergence(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: PackedBatch, *, temperature: float, compute: ComputeSettings
) -> Tensor:
    """KL(student || teacher) [C] where each token of the completions was sampled.

    The gradient is of these divergences with the text as it stands. That another student would have written another text is left out,
    as in SFT: there is no term of a policy gradient.
    """
    device = batch.input_ids.device
    with torch.no_grad(), training_context(teacher, compute, device):
        teacher_hidden = _hidden(teacher, batch)
    with training_context(student, compute, device):
        hidden = _hidden(student, batch)
        weight = head_weight(student)
        options = head_options(compute)
        return reverse_kl(
            hidden,
            weight,
            teacher_hidden,
            head_weight(teacher).detach()[: weight.shape[0]],  # what lies beyond is padding
            temperature=temperature,
            head_dtype=torch.bfloat16 if options["half_head"] else torch.promote_types(hidden.dtype, torch.float32),
            onednn=options["onednn"],
        )


def head_weight(model: Any) -> Tensor:
    """The weight [V, width] that makes logits of hidden states."""
    weight: Tensor = model.get_output_embeddings().weight
    return weight


def _hidden(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    return backbone_forward(model, batch.input_ids, batch.position_ids, batch.layout).index_select(0, batch.source)


def student_update(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    samples: Sequence[TrainingSample],
    *,
    temperature: float,
    max_grad_norm: float,
    compute: ComputeSettings,
) -> UpdateStats:
    """Accumulate the gradient over packs, clip its norm and step; leave everything untouched if it is not finite."""
    device = next(student.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in split_into_packs(samples, compute.tokens_per_micro_batch):
        batch = pack(part, device=device, half=compute.half)
        divergence = completion_divergence(student, teacher, batch, temperature=temperature, compute=compute)
        loss = (batch.weights * divergence).sum()
        torch.autograd.backward(loss)
        total += loss.item()
    grad_norm, applied = clip_and_step(student, [optimizer], total, max_grad_norm=max_grad_norm)
    return UpdateStats(reverse_kl=total, grad_norm=grad_norm, applied=applied)

"""One update of the policy from one mini-batch: fixed log-probabilities, then loss, backward and step.

Shapes: T completion tokens of one pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zero2r1.grpo.config import GrpoSettings, OldLogprobs
from zero2r1.grpo.loss import GrpoLoss, grpo_loss
from zero2r1.grpo.reference import Reference
from zero2r1.training.config import ComputeSettings
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.packing import PackedBatch, pack, split_into_packs
from zero2r1.training.step import clip_and_step, head_options, training_context
from zero2r1.types import TrainingSample

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPack:
    """A pack with the log-probabilities that stay fixed while the policy moves."""

    batch: PackedBatch
    old_logprobs: Tensor | None  # [T]; None: those of the update's own pass
    ref_logprobs: Tensor | None  # [T]


def fix_logprobs(
    samples: Sequence[TrainingSample],
    policy: PreTrainedModel,
    reference: Reference | None,
    *,
    temperature: float,
    old: OldLogprobs,
    settings: ComputeSettings,
) -> list[FixedPack]:
    """Pack a mini-batch and compute pi_old and pi_ref of its tokens, before any update of this rollout."""
    device = next(policy.parameters()).device
    parts = split_into_packs(samples, settings.tokens_per_micro_batch)
    batches = [pack(part, device=device, half=settings.half) for part in parts]

    def score(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
        with torch.no_grad(), training_context(model, settings, device):
            return completion_logprobs(model, batch, temperature=temperature, **head_options(settings))[0]

    def old_of(batch: PackedBatch) -> Tensor | None:
        return score(policy, batch) if old == "scored" else batch.sampler_logprobs if old == "sampler" else None

    fixed = [FixedPack(batch=batch, old_logprobs=old_of(batch), ref_logprobs=None) for batch in batches]
    if reference is None or not batches:
        return fixed
    with reference.scoring() as model:  # once for all of them: it may have to be fetched
        return [replace(one, ref_logprobs=score(model, one.batch)) for one in fixed]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """What one update did. Per-token figures are means over the tokens it trained on."""

    loss: float
    grad_norm: float
    applied: bool
    """False: something was not finite and the weights were left as they are."""
    figures: dict[str, float]


def policy_update(
    policy: PreTrainedModel,
    optimizers: Sequence[torch.optim.Optimizer],
    packs: Sequence[FixedPack],
    *,
    temperature: float,
    max_grad_norm: float,
    grpo: GrpoSettings,
    compute: ComputeSettings,
) -> UpdateStats:
    """Accumulate the gradient over the packs, clip its norm and step; leave everything untouched if it is not finite."""
    device = next(policy.parameters()).device
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    total = 0.0
    tally = _Tally(corrected=grpo.correction != "none")
    for fixed in packs:
        batch = fixed.batch
        with training_context(policy, compute, device):
            logprobs, entropy = completion_logprobs(policy, batch, temperature=temperature, with_entropy=True, **head_options(compute))
        result = grpo_loss(
            logprobs,
            logprobs.detach() if fixed.old_logprobs is None else fixed.old_logprobs,
            batch.advantages,
            batch.weights,
            batch.segment_ids,
            ref_logprobs=fixed.ref_logprobs,
            beta=grpo.beta,
            clip_low=grpo.clip_low,
            clip_high=grpo.clip_high,
            ratio=grpo.ratio,
            kl=grpo.kl,
            surrogate=grpo.surrogate,
            correction=grpo.correction,
            correction_cap=grpo.correction_cap,
            sampler_logprobs=batch.sampler_logprobs,
            entropy=entropy,
            entropy_bonus=grpo.entropy_bonus,
        )
        result.loss.backward()
        total += result.loss.item()
        assert entropy is not None
        tally.add(result, batch, logprobs.detach(), entropy.detach())
    grad_norm, applied = clip_and_step(policy, optimizers, total, max_grad_norm=max_grad_norm)
    return UpdateStats(loss=total, grad_norm=grad_norm, applied=applied, figures=tally.means())


class _Tally:
    """Token means over all packs of an update, under TRL's names."""

    def __init__(self, *, corrected: bool) -> None:
        self._corrected = corrected
        self._sums: dict[str, float] = {}
        self._tokens = 0
        self._largest_gap = 0.0

    def add(self, result: GrpoLoss, batch: PackedBatch, logprobs: Tensor, entropy: Tensor) -> None:
        trained = batch.weights != 0
        gap = (logprobs - batch.sampler_logprobs).abs()[trained]
        for name, values in (
            ("entropy", entropy),
            ("kl", result.kl),
            ("policy_kl", result.policy_kl),
            ("clip_ratio/low_mean", result.clipped_low),
            ("clip_ratio/high_mean", result.clipped_high),
            ("clip_ratio/region_mean", result.clipped_low | result.clipped_high),
            ("sampling/importance_sampling_ratio/mean", result.ratio),
            *([("sampling/correction/mean", result.correction)] if self._corrected else []),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + values[trained].double().sum().item()
        name = "sampling/sampling_logp_difference/mean"
        self._sums[name] = self._sums.get(name, 0.0) + gap.double().sum().item()
        self._tokens += int(trained.sum())
        self._largest_gap = max(self._largest_gap, gap.max().item() if gap.numel() else 0.0)

    def means(self) -> dict[str, float]:
        if not self._tokens:
            return {}
        means = {name: value / self._tokens for name, value in self._sums.items()}
        return {**means, "sampling/sampling_logp_difference/max": self._largest_gap}

"""The GRPO loss (paper equations 1 and 2) as pure functions of log-probabilities.

Every variant is one function and one entry of :data:`RATIOS`, :data:`SURROGATES`, :data:`CORRECTIONS` or :data:`KL_ESTIMATORS`.
Shapes: T tokens of all outputs of a micro-batch, S outputs. ``segments`` [T] says which output a token belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def token_ratio(log_ratio: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """rho_t = pi(o_t|...) / pi_old(o_t|...) for every token: the form of DeepSeekMath, equation 3."""
    return log_ratio.exp()


def sequence_ratio(log_ratio: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """rho_i = pi(o_i|q) / pi_old(o_i|q), the product over the output, as equation 1 prints it; given to all its tokens."""
    return _segment_sum(log_ratio, segments)[segments].exp()


def sequence_mean_ratio(log_ratio: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """The output's ratio to the power 1/|o_i| (GSPO): a product of thousands of factors that stays in range."""
    lengths = _segment_sum(mask.to(log_ratio.dtype), segments).clamp(min=1)
    return (_segment_sum(log_ratio, segments) / lengths)[segments].exp()


def _segment_sum(values: Tensor, segments: Tensor) -> Tensor:
    count = int(segments.max()) + 1 if segments.numel() else 0
    return values.new_zeros(count).index_add(0, segments, values)


RatioFn = Callable[[Tensor, Tensor, Tensor], Tensor]
RATIOS: Mapping[str, RatioFn] = {
    "token": token_ratio,
    "sequence": sequence_ratio,
    "sequence_mean": sequence_mean_ratio,
}


def clipped_surrogate(ratio: Tensor, advantages: Tensor, logprobs: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), the paper's: beyond the clip a token has no gradient."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


def clipped_weight_surrogate(ratio: Tensor, advantages: Tensor, logprobs: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi (CISPO, arXiv 2506.13585, equations 4 and 5): every token keeps a gradient."""
    return ratio.detach().clamp(1 - clip_low, 1 + clip_high) * advantages * logprobs


def score_surrogate(ratio: Tensor, advantages: Tensor, logprobs: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """A log pi (REINFORCE): no ratio and no clip, so only true for samples of the policy itself. The bounds have no meaning here."""
    return advantages * logprobs


SurrogateFn = Callable[..., Tensor]
"""What the policy maximises for every token: (ratio [T], advantages [T], logprobs [T], clip_low, clip_high) -> [T]."""
SURROGATES: Mapping[str, SurrogateFn] = {
    "clipped": clipped_surrogate,
    "clipped_weight": clipped_weight_surrogate,
    "score": score_surrogate,
}


def no_correction(gap: Tensor, *, cap: float) -> Tensor:
    """1 for every token: old log-probabilities and the sampler's are taken for the same."""
    return torch.ones_like(gap)


def truncated_correction(gap: Tensor, *, cap: float) -> Tensor:
    """min(pi_old / pi_sampler, cap) (truncated importance sampling): samples of an engine that computes otherwise than the trainer."""
    return gap.exp().clamp(max=cap)


CorrectionFn = Callable[..., Tensor]
"""A fixed weight of every token's surrogate: (log pi_old - log pi_sampler [T], cap) -> [T]."""
CORRECTIONS: Mapping[str, CorrectionFn] = {"none": no_correction, "truncated": truncated_correction}


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    """log(pi/pi_ref): unbiased as a value, but as a loss its gradient has mean zero."""
    return logprobs - ref_logprobs


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    """log(pi/pi_ref)^2 / 2: biased as a value; on samples of the policy its gradient is that of KL(pi || pi_ref)."""
    return (logprobs - ref_logprobs).square() / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    """pi_ref/pi - log(pi_ref/pi) - 1 (equation 2), never negative. As a loss its gradient is that of KL(pi_ref || pi)."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def kl_k3_corrected(logprobs: Tensor, ref_logprobs: Tensor, ratio: Tensor) -> Tensor:
    """rho times k3 with rho differentiable: value and gradient of KL(pi || pi_ref), also on old samples (DeepSeek-V3.2)."""
    return ratio * kl_k3(logprobs, ref_logprobs, ratio)


KlFn = Callable[[Tensor, Tensor, Tensor], Tensor]
KL_ESTIMATORS: Mapping[str, KlFn] = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3, "k3_corrected": kl_k3_corrected}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoLoss:
    """The loss and what to report about it. All but ``loss`` are detached."""

    loss: Tensor  # scalar: sum over this micro-batch; micro-batches add up to the mini-batch's loss
    ratio: Tensor  # [T]
    clipped_low: Tensor  # [T] bool: rho < 1 - clip_low with A < 0, where the gradient (with clipped_weight: its weight) is cut
    clipped_high: Tensor  # [T] bool: rho > 1 + clip_high with A > 0
    kl: Tensor  # [T] k3 of policy and reference; zeros without a reference
    policy_kl: Tensor  # [T] k3 of policy and old policy
    correction: Tensor  # [T] the weight for what sampler and trainer compute otherwise


def grpo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    segments: Tensor,
    *,
    ref_logprobs: Tensor | None,
    beta: float,
    clip_low: float,
    clip_high: float,
    ratio: str = "token",
    kl: str = "k3",
    surrogate: str = "clipped",
    correction: str = "none",
    correction_cap: float = 2.0,
    sampler_logprobs: Tensor | None = None,
    entropy: Tensor | None = None,
    entropy_bonus: float = 0.0,
) -> GrpoLoss:
    """-J of one micro-batch; every tensor is [T].

    Args:
        logprobs: of the policy, with gradient.
        old_logprobs: of the policy that sampled, fixed.
        weights: from :mod:`~zero2r1.grpo.aggregation`; a token of weight 0 (forced, or of a masked output) has no effect.
        ref_logprobs: of the reference; needed when ``beta`` > 0.
        ratio: a key of :data:`RATIOS`. kl: of :data:`KL_ESTIMATORS`. surrogate: of :data:`SURROGATES`. correction: of :data:`CORRECTIONS`.
        sampler_logprobs: of the engine that sampled, fixed; needed for a correction.
        entropy: of the policy, with gradient; ``entropy_bonus`` times it is maximised too.
    """
    mask = weights != 0
    # Zeroed before exp, not after: inf * 0 would be NaN in the gradient.
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    rho = RATIOS[ratio](log_ratio, segments, mask)
    policy = torch.where(mask, logprobs, 0.0)
    gap = torch.zeros_like(logprobs) if sampler_logprobs is None else torch.where(mask, old_logprobs - sampler_logprobs, 0.0)
    weight = CORRECTIONS[correction](gap, cap=correction_cap)
    token_loss = -weight * SURROGATES[surrogate](rho, advantages, policy, clip_low=clip_low, clip_high=clip_high)
    if entropy is not None and entropy_bonus > 0:
        token_loss = token_loss - entropy_bonus * torch.where(mask, entropy, 0.0)
    kl_T = torch.zeros_like(logprobs)
    if ref_logprobs is not None:
        reference = torch.where(mask, ref_logprobs, 0.0)
        if beta > 0:
            token_loss = token_loss + beta * KL_ESTIMATORS[kl](policy, reference, rho)
        kl_T = kl_k3(policy.detach(), reference, rho.detach())
    elif beta > 0:
        raise ValueError(f"beta is {beta}, but there are no reference log-probabilities")
    moved = rho.detach()
    return GrpoLoss(
        loss=(weights * token_loss).sum(),
        ratio=moved,
        clipped_low=(moved < 1 - clip_low) & (advantages < 0) & mask,
        clipped_high=(moved > 1 + clip_high) & (advantages > 0) & mask,
        kl=kl_T,
        policy_kl=kl_k3(log_ratio.detach(), torch.zeros_like(log_ratio), moved),
        correction=weight,
    )

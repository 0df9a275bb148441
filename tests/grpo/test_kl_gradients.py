"""What each KL estimator's gradient is, by exact enumeration of a policy with two steps and three tokens.

The expectation over outputs is a sum over all nine, so there is no sampling noise: claims of the docstrings hold to 1e-12.
(TRL #4967 and PR #6503, slime #397: k3 in the loss is widely taken for the gradient of KL(pi || pi_ref), which it is not.)
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from zero2r1.grpo.loss import grpo_loss

PAIRS = list(itertools.product(range(3), repeat=2))


def table(seed: int) -> Tensor:
    """Logits [4, 3]: row 0 for the first token, row 1 + a for the second after token a."""
    return torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logprobs(logits: Tensor, pair: tuple[int, int]) -> Tensor:
    first, second = pair
    normalised = logits.log_softmax(-1)
    return torch.stack([normalised[0, first], normalised[1 + first, second]])


def expected_gradient(kl: str, ratio: str, policy: Tensor, old: Tensor, ref: Tensor) -> Tensor:
    """E over outputs of the old policy of d(loss) / d(logits), loss = sum over tokens of the KL term, beta 1, advantage 0."""
    leaf = policy.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for pair in PAIRS:
        result = grpo_loss(
            logprobs(leaf, pair), logprobs(old, pair), torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64),
            torch.tensor([0, 0]), ref_logprobs=logprobs(ref, pair), beta=1.0, clip_low=0.2, clip_high=0.2, kl=kl, ratio=ratio,
        )  # fmt: skip
        total = total + logprobs(old, pair).sum().exp() * result.loss
    return torch.autograd.grad(total, leaf)[0]


def true_gradient(kind: str, policy: Tensor, prefix: Tensor, ref: Tensor) -> Tensor:
    """Gradient of a KL divergence.

    ``whole``: KL(pi || ref) of whole outputs. ``step`` and ``step_reversed``: KL(pi || ref) and KL(ref || pi) of each token given
    what stands before it, prefixes drawn from ``prefix`` and not differentiated through.
    """
    leaf = policy.clone().requires_grad_()
    p, q = leaf.log_softmax(-1), ref.log_softmax(-1)
    if kind == "whole":
        value = sum(logprobs(leaf, pair).sum().exp() * (logprobs(leaf, pair) - logprobs(ref, pair)).sum() for pair in PAIRS)
    else:
        rows = (p.exp() * (p - q)).sum(-1) if kind == "step" else (q.exp() * (q - p)).sum(-1)
        value = rows[0] + (prefix.log_softmax(-1)[0].exp() * rows[1:]).sum()
    return torch.autograd.grad(value, leaf)[0]


def gap(left: Tensor, right: Tensor) -> float:
    return (left - right).abs().max().item()


POLICY, OLD, REF = table(1), table(1) + 0.2 * table(2), table(3)


def test_k1_in_the_loss_pulls_nowhere():
    assert gap(expected_gradient("k1", "token", POLICY, POLICY, REF), torch.zeros(4, 3)) < 1e-12


def test_k2_has_the_gradient_of_kl_from_the_policy():
    assert gap(expected_gradient("k2", "token", POLICY, POLICY, REF), true_gradient("step", POLICY, POLICY, REF)) < 1e-12


def test_k3_has_the_gradient_of_the_reversed_kl():
    found = expected_gradient("k3", "token", POLICY, POLICY, REF)
    assert gap(found, true_gradient("step_reversed", POLICY, POLICY, REF)) < 1e-12
    assert gap(found, true_gradient("step", POLICY, POLICY, REF)) > 0.01  # the known bias


@pytest.mark.parametrize("old", [POLICY, OLD], ids=["on policy", "old samples"])
def test_corrected_k3_has_the_gradient_of_kl_from_the_policy(old):
    assert gap(expected_gradient("k3_corrected", "token", POLICY, old, REF), true_gradient("step", POLICY, old, REF)) < 1e-12


@pytest.mark.parametrize("old", [POLICY, OLD], ids=["on policy", "old samples"])
def test_corrected_k3_with_the_ratio_of_the_whole_output_has_the_exact_gradient(old):
    assert gap(expected_gradient("k3_corrected", "sequence", POLICY, old, REF), true_gradient("whole", POLICY, old, REF)) < 1e-12

"""The loss against hand-worked numbers and against a second, independent implementation in float64."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.grpo import reference
from zero2r1.grpo.advantages import leave_one_out
from zero2r1.grpo.aggregation import AGGREGATIONS
from zero2r1.grpo.loss import KL_ESTIMATORS, RATIOS, SURROGATES, clipped_surrogate, clipped_weight_surrogate, grpo_loss, kl_k3


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_k3_by_hand():
    # x = log(pi_ref/pi): e^x - x - 1. At -ln 2: 0.5 + 0.6931472 - 1 = 0.1931472; at ln 2: 2 - 0.6931472 - 1 = 0.3068528
    x = doubles(-math.log(2), math.log(2), 0.0)
    assert kl_k3(torch.zeros_like(x), x, torch.ones_like(x)).tolist() == pytest.approx([0.1931471806, 0.3068528194, 0.0], abs=1e-10)


@pytest.mark.parametrize(
    ("rho", "advantage", "epsilon", "value", "gradient"),
    [
        (1.5, 1.0, 0.2, 1.2, 0.0),  # too far up already: cut
        (1.5, -1.0, 0.2, -1.5, -1.0),  # worse and more likely: the full gradient
        (0.5, 1.0, 0.2, 0.5, 1.0),
        (0.5, -1.0, 0.2, -0.8, 0.0),  # worse and rarer by enough: cut
        (1.0, 1.0, 0.2, 1.0, 1.0),
        (1.0, -1.0, 0.2, -1.0, -1.0),
        (15.0, 1.0, 10.0, 11.0, 0.0),
        (15.0, -1.0, 10.0, -15.0, -1.0),
        (0.01, -1.0, 10.0, -0.01, -1.0),  # 1 - 10 < 0: the lower bound never acts
    ],
)
def test_clipping_truth_table(rho, advantage, epsilon, value, gradient):
    ratio = doubles(rho).requires_grad_()
    result = clipped_surrogate(ratio, doubles(advantage), ratio.log(), clip_low=epsilon, clip_high=epsilon)
    result.sum().backward()
    assert result.item() == pytest.approx(value, abs=1e-12)
    assert ratio.grad.item() == gradient


def a_batch(seed: int = 0, vocab: int = 3) -> tuple[np.ndarray, list[reference.Output]]:
    """Seven outputs in three groups, lengths 1 to 6, some tokens forced; ratios spread over both sides of the clip."""
    rng = np.random.default_rng(seed)
    outputs, first = [], 0
    logits = rng.normal(size=(23, vocab))
    for group, length in ((0, 3), (0, 1), (0, 4), (1, 6), (1, 2), (2, 5), (2, 2)):
        rows = tuple(range(first, first + length))
        tokens = tuple(int(t) for t in rng.integers(vocab, size=length))
        logp = [reference.log_softmax(logits[r])[t] for r, t in zip(rows, tokens, strict=True)]
        outputs.append(
            reference.Output(
                group=group,
                rows=rows,
                tokens=tokens,
                advantage=float(rng.normal()),
                old=tuple(float(x + rng.normal() * 0.25) for x in logp),
                ref=tuple(float(x + rng.normal() * 0.4) for x in logp),
                trained=tuple(length < 4 or t != 1 for t in range(length)),
            )
        )
        first += length
    return logits, outputs


def ours(
    logits: Tensor,
    outputs: list[reference.Output],
    *,
    aggregation: str,
    cap: int,
    samplers: list[list[float]] | None = None,
    **options: object,
) -> Tensor:
    lengths = [sum(o.trained) for o in outputs]
    weights = AGGREGATIONS[aggregation](lengths, [o.group for o in outputs], cap)
    rows = torch.tensor([row for o in outputs for row in o.rows])
    tokens = torch.tensor([token for o in outputs for token in o.tokens])
    flat = [(o, w, s) for s, (o, w) in enumerate(zip(outputs, weights, strict=True))]
    distributions = logits[rows].log_softmax(-1)
    return grpo_loss(
        distributions.gather(-1, tokens[:, None])[:, 0],
        doubles(*(x for o, _, _ in flat for x in o.old)),
        doubles(*(o.advantage for o, _, _ in flat for _ in o.rows)),
        doubles(*(w * trained for o, w, _ in flat for trained in o.trained)),
        torch.tensor([s for o, _, s in flat for _ in o.rows]),
        ref_logprobs=doubles(*(x for o, _, _ in flat for x in o.ref)),
        sampler_logprobs=None if samplers is None else doubles(*(x for of_output in samplers for x in of_output)),
        entropy=-(distributions.exp() * distributions).sum(-1),
        **options,
    ).loss


NUMBERS = [(0.0, 0.2, 0.2), (0.3, 0.15, 0.28), (0.04, 10.0, 10.0)]  # beta, clip_low, clip_high
CHOICES = list(itertools.product(sorted(RATIOS), sorted(KL_ESTIMATORS), sorted(AGGREGATIONS), NUMBERS))


@pytest.mark.parametrize(("ratio", "kl", "aggregation", "numbers"), CHOICES)
def test_value_and_gradient_equal_the_second_implementation(ratio, kl, aggregation, numbers):
    beta, clip_low, clip_high = numbers
    logits, outputs = a_batch()
    options = {"ratio": ratio, "kl": kl, "beta": beta, "clip_low": clip_low, "clip_high": clip_high}
    leaf = torch.tensor(logits, requires_grad=True)
    value = ours(leaf, outputs, aggregation=aggregation, cap=9, **options)
    value.backward()

    def theirs(at):
        return reference.loss(at, outputs, aggregation=aggregation, cap=9, **options)

    assert value.item() == pytest.approx(theirs(logits), abs=1e-12)
    assert np.abs(leaf.grad.numpy() - reference.gradient(theirs, logits)).max() <= 1e-9


@pytest.mark.parametrize("surrogate", sorted(SURROGATES))
@pytest.mark.parametrize("aggregation", sorted(AGGREGATIONS))
@pytest.mark.parametrize(("entropy_bonus", "correction_cap"), [(0.0, None), (0.05, None), (0.0, 1.1), (0.05, 1.1)])
def test_surrogates_bonus_and_correction_equal_the_second_implementation(surrogate, aggregation, entropy_bonus, correction_cap):
    logits, outputs = a_batch()
    rng = np.random.default_rng(7)
    samplers = [[float(old + rng.normal() * 0.2) for old in output.old] for output in outputs]
    shared = {"ratio": "token", "kl": "k2", "beta": 0.1, "clip_low": 0.2, "clip_high": 0.28, "surrogate": surrogate}
    correction = {} if correction_cap is None else {"correction": "truncated", "correction_cap": correction_cap}
    leaf = torch.tensor(logits, requires_grad=True)
    options = {**shared, **correction, "entropy_bonus": entropy_bonus}
    value = ours(leaf, outputs, aggregation=aggregation, cap=9, samplers=samplers, **options)
    value.backward()

    def theirs(at):
        return reference.loss(
            at, outputs, aggregation=aggregation, cap=9, held=logits, samplers=samplers, correction_cap=correction_cap,
            entropy_bonus=entropy_bonus, **shared,
        )  # fmt: skip

    assert value.item() == pytest.approx(theirs(logits), abs=1e-12)
    assert np.abs(leaf.grad.numpy() - reference.gradient(theirs, logits)).max() <= 1e-9


@pytest.mark.parametrize(
    ("rho", "advantage", "gradient"),
    # epsilon 0.2 and 0.28; the gradient with respect to log pi is the clipped weight times A: never cut, only bounded
    [(1.0, 2.0, 2.0), (1.5, 2.0, 2.56), (1.5, -1.0, -1.28), (0.5, 1.0, 0.8), (0.5, -1.0, -0.8)],
)
def test_cispo_bounds_the_weight_and_keeps_every_gradient(rho, advantage, gradient):
    logp = doubles(-1.0).requires_grad_()
    ratio = (logp - (-1.0 - math.log(rho))).exp()
    clipped_weight_surrogate(ratio, doubles(advantage), logp, clip_low=0.2, clip_high=0.28).sum().backward()
    assert logp.grad.item() == pytest.approx(gradient, abs=1e-12)


def test_gspo_by_hand():
    # An output of two tokens, log-ratios 0.3 and -0.1: s = exp(0.2 / 2) = e^0.1 = 1.1051709, for both tokens. A = 1, no clip:
    # loss = -(1/2 + 1/2) s; d s / d logp_t = s / 2, so each gradient is -(1/2 + 1/2) s / 2 = -0.5525855.
    logp = doubles(-0.7, -1.1).requires_grad_()
    result = grpo_loss(
        logp, doubles(-1.0, -1.0), doubles(1, 1), doubles(0.5, 0.5), torch.tensor([0, 0]),
        ref_logprobs=None, beta=0.0, clip_low=0.5, clip_high=0.5, ratio="sequence_mean",
    )  # fmt: skip
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-1.1051709181, abs=1e-9)
    assert logp.grad.tolist() == pytest.approx([-0.5525854590] * 2, abs=1e-9)


def test_truncated_importance_sampling_by_hand():
    # pi_old / pi_sampler = e^0.1 = 1.1051709 and e^1 = 2.718 cut to 2. On policy (rho 1), A = 1, weights 1/2:
    # loss = -(1.1051709 + 2) / 2 = -1.5525855, and so is the sum of the gradients.
    logp = doubles(-1.0, -1.0).requires_grad_()
    result = grpo_loss(
        logp, doubles(-1.0, -1.0), doubles(1, 1), doubles(0.5, 0.5), torch.tensor([0, 0]), ref_logprobs=None, beta=0.0,
        clip_low=0.2, clip_high=0.2, correction="truncated", correction_cap=2.0, sampler_logprobs=doubles(-1.1, -2.0),
    )  # fmt: skip
    result.loss.backward()
    assert result.loss.item() == pytest.approx(-1.5525854590, abs=1e-9)
    assert logp.grad.tolist() == pytest.approx([-0.5525854590, -1.0], abs=1e-9)


def test_rloo_is_the_policy_gradient_of_whole_outputs():
    # Rewards 1, 0, 0 give r - mean(others) = 1, -1/2, -1/2. Outputs of 1, 2 and 1 tokens; d loss / d logp = -A / 3 at every token.
    assert leave_one_out([1, 0, 0]) == pytest.approx([1.0, -0.5, -0.5])
    logp = doubles(-1.0, -0.5, -0.7, -0.2).requires_grad_()
    (weight, *_) = AGGREGATIONS["output_sum"]([1, 2, 1], [0, 0, 0], 99)
    result = grpo_loss(
        logp, logp.detach(), doubles(1, -0.5, -0.5, -0.5), torch.full((4,), weight, dtype=torch.float64), torch.tensor([0, 1, 1, 2]),
        ref_logprobs=None, beta=0.0, clip_low=0.2, clip_high=0.2, surrogate="score",
    )  # fmt: skip
    result.loss.backward()
    assert logp.grad.tolist() == pytest.approx([-1 / 3, 1 / 6, 1 / 6, 1 / 6], abs=1e-12)


def test_the_batch_has_clipped_tokens_on_both_sides():
    """Or the comparison above would not have tried the clip."""
    logits, outputs = a_batch()
    ratios = [
        (np.exp(reference.log_softmax(logits[r])[t] - old), o.advantage)
        for o in outputs
        for r, t, old in zip(o.rows, o.tokens, o.old, strict=True)
    ]
    assert any(rho > 1.28 and a > 0 for rho, a in ratios)
    assert any(rho < 0.8 and a < 0 for rho, a in ratios)


def test_first_step_has_loss_zero_and_a_gradient():
    """TRL #2703, open-r1 #239: loss 0 on policy is the normal case, because advantages of a group sum to zero."""
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logp = logits.log_softmax(-1)[:, 0]
    result = grpo_loss(
        logp, logp.detach(), doubles(1, 1, -1, -1), doubles(0.25, 0.25, 0.25, 0.25), torch.tensor([0, 0, 1, 1]),
        ref_logprobs=None, beta=0.0, clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    result.loss.backward()
    assert result.loss.item() == 0.0
    assert result.ratio.tolist() == [1.0] * 4
    assert logits.grad.abs().max() > 0.1


def test_equal_rewards_with_kl_leave_the_pure_kl_gradient():
    """TRL PR #7068: a group without signal still pays its KL; with beta 0 it pays nothing."""
    logp, ref = doubles(-1.0, -0.5).requires_grad_(), doubles(-0.8, -0.9)
    segments, weights = torch.tensor([0, 1]), doubles(0.5, 0.5)
    result = grpo_loss(
        logp, logp.detach(), doubles(0, 0), weights, segments, ref_logprobs=ref, beta=0.1, clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    result.loss.backward()
    # d k3 / d logp = 1 - exp(ref - logp): (1 - e^0.2, 1 - e^-0.4) = (-0.2214028, 0.3296800), times 0.1 * 0.5
    assert logp.grad.tolist() == pytest.approx([-0.01107014, 0.01648400], abs=1e-8)


@pytest.mark.parametrize("hidden", [float("nan"), float("inf"), -1e9])
def test_what_stands_at_masked_positions_never_matters(hidden):
    """Soup PR #1084: exp of garbage at a masked position, times zero, is NaN."""
    gradients = []
    for garbage in (-2.0, hidden):
        logp = doubles(-1.0, -0.5).requires_grad_()
        full = torch.cat([logp, doubles(-3.0)])
        result = grpo_loss(
            full, doubles(-1.1, -0.4, garbage), doubles(1, 1, 1), doubles(0.5, 0.5, 0), torch.tensor([0, 0, 0]),
            ref_logprobs=doubles(-1, -1, garbage), beta=0.1, clip_low=0.2, clip_high=0.2, ratio="sequence",
        )  # fmt: skip
        result.loss.backward()
        gradients.append(logp.grad.tolist())
    assert gradients[0] == gradients[1]


def test_beta_without_reference_is_refused():
    with pytest.raises(ValueError, match="no reference"):
        grpo_loss(
            doubles(-1), doubles(-1), doubles(1), doubles(1), torch.tensor([0]),
            ref_logprobs=None, beta=0.1, clip_low=0.2, clip_high=0.2,
        )  # fmt: skip

"""One update: the same gradient however it is cut, in float64, float32 and bfloat16, with and without checkpointing."""

from __future__ import annotations

import copy
import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from tests.tiny_models import random_samples, tiny_llama
from zero2r1.grpo.config import GrpoSettings
from zero2r1.grpo.update import FixedPack, fix_logprobs, policy_update
from zero2r1.models.loading import checkpoint_activations
from zero2r1.training.config import ComputeSettings
from zero2r1.training.packing import pack

CPU = torch.device("cpu")
GRPO = GrpoSettings(beta=0.05, clip_low=0.2, clip_high=0.28)
SAMPLES = random_samples([4, 4, 4, 4], longest=40)


def layouts() -> list[list[list[int]]]:
    """16 ways to cut 16 samples into micro-batches: equal, lopsided, and shuffled."""
    order = list(range(16))
    ways = [[order[i : i + size] for i in range(0, 16, size)] for size in (16, 8, 4, 2, 1)]
    ways += [[order[:k], order[k:]] for k in (1, 3, 7, 13, 15)]
    for seed in range(6):
        rng = random.Random(seed)
        shuffled = rng.sample(order, 16)
        cuts = [0, *sorted(rng.sample(range(1, 16), rng.randint(1, 6))), 16]
        ways.append([shuffled[a:b] for a, b in itertools.pairwise(cuts)])
    return ways


def gradient(model: torch.nn.Module, layout: list[list[int]], dtype: torch.dtype, **options: object) -> Tensor:
    """The gradient of one update, read off a step of plain SGD at learning rate 1 without clipping of its norm."""
    policy = copy.deepcopy(model)
    packs = []
    for part in layout:
        batch = pack([SAMPLES[i] for i in part], device=CPU, dtype=dtype)
        old = batch.sampler_logprobs
        packs.append(FixedPack(batch=batch, old_logprobs=old, ref_logprobs=old - 0.1))
    before = torch.cat([p.detach().flatten() for p in policy.parameters()])
    policy_update(
        policy, [torch.optim.SGD(policy.parameters(), lr=1.0)], packs, temperature=1.0, max_grad_norm=math.inf,
        grpo=GRPO, compute=ComputeSettings(**options),
    )  # fmt: skip
    return before - torch.cat([p.detach().flatten() for p in policy.parameters()])


def test_there_are_sixteen_different_layouts():
    assert len({str(layout) for layout in layouts()}) == 16
    assert all(sorted(i for part in layout for i in part) == list(range(16)) for layout in layouts())


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_sixteen_micro_batch_layouts_give_one_gradient(dtype, bound):
    """TRL #3021, ms-swift #10117, open-instruct PR #1137: division by the number of accumulation steps, means over micro-batches."""
    model = tiny_llama(dtype=dtype)
    whole = gradient(model, layouts()[0], dtype)
    assert whole.norm() > 0.1
    for layout in layouts()[1:]:
        assert (gradient(model, layout, dtype) - whole).norm() <= bound * whole.norm()


def test_gradient_checkpointing_computes_again_what_it_did_not_keep():
    model = tiny_llama()
    plain = gradient(model, layouts()[1], torch.float32)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    checkpoint_activations(model)
    model.train()
    model.model.layers[0].mlp.register_forward_pre_hook(count)
    kept = gradient(model, layouts()[1], torch.float32)
    assert calls == 2 * len(layouts()[1])
    torch.testing.assert_close(kept, plain, atol=1e-6, rtol=1e-5)


def test_the_first_update_of_a_rollout_needs_no_pass_for_old_logprobs():
    """The policy is still the one that sampled: its own pass says the same, in two packs, with a model that computes once per pack."""
    compute, grpo = ComputeSettings(tokens_per_micro_batch=100), GrpoSettings(beta=0.0, reference_reset_steps=None)
    norms, passes = {}, {}
    for old in ("scored", "of_update"):
        policy = tiny_llama()
        calls: list[bool] = []
        policy.model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        packs = fix_logprobs(SAMPLES, policy, None, temperature=1.0, old=old, settings=compute)
        assert len(packs) > 1
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        stats = policy_update(policy, [optimizer], packs, temperature=1.0, max_grad_norm=1.0, grpo=grpo, compute=compute)
        assert stats.figures["sampling/importance_sampling_ratio/mean"] == 1.0
        norms[old], passes[old] = stats.grad_norm, (calls.count(False), calls.count(True))
    assert norms["of_update"] == norms["scored"] > 0.01
    assert passes == {"scored": (len(packs), len(packs)), "of_update": (0, len(packs))}


def test_checkpointed_layers_run_on_the_operators_they_are_computed_again_with(monkeypatch):
    """oneDNN layers in the forward pass and torch's in the second: torch refuses, because the two keep different tensors."""
    monkeypatch.setattr("zero2r1.models.packed_linear.WORTHWHILE_BYTES", 0)
    policy = tiny_llama()
    checkpoint_activations(policy)
    policy.train()
    compute = ComputeSettings(gradient_checkpointing=True, onednn="all")
    packs = fix_logprobs(SAMPLES, policy, None, temperature=1.0, old="scored", settings=compute)
    settings = GrpoSettings(beta=0.0, reference_reset_steps=None)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    assert policy_update(policy, [optimizer], packs, temperature=1.0, max_grad_norm=1.0, grpo=settings, compute=compute).applied


def moved(dtype: str, weights: torch.dtype = torch.float32, updates: int = 200) -> Tensor:
    """How far 200 AdamW updates at learning rate 1e-6 move the weights."""
    policy = tiny_llama().to(weights)
    compute = ComputeSettings(dtype=dtype)
    packs = fix_logprobs(SAMPLES, policy, None, temperature=1.0, old="scored", settings=compute)
    before = torch.cat([p.detach().flatten() for p in policy.parameters()]).double()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-6, betas=(0.9, 0.95), weight_decay=0.0)
    settings = GrpoSettings(beta=0.0, reference_reset_steps=None)
    for _ in range(updates):
        policy_update(policy, [optimizer], packs, temperature=1.0, max_grad_norm=1.0, grpo=settings, compute=compute)
    return torch.cat([p.detach().flatten() for p in policy.parameters()]).double() - before


def test_bfloat16_compute_moves_float32_weights_as_float32_does():
    full, half = moved("float32"), moved("bfloat16")
    assert full.norm() > 1e-3
    assert 0.95 < (half.norm() / full.norm()).item() < 1.05
    assert torch.nn.functional.cosine_similarity(full, half, dim=0) > 0.95


def test_bfloat16_weights_would_not_have_moved():
    """Why the master weights are float32: an update of 1e-6 vanishes beside a weight of 0.2 with 8 bits."""
    full, lost = moved("float32", updates=20), moved("bfloat16", weights=torch.bfloat16, updates=20)
    assert lost.norm() < 0.5 * full.norm() or torch.nn.functional.cosine_similarity(full, lost, dim=0) < 0.5

"""GRPO with adapters: it learns, the base stays, the reference costs no second model, and sampler and trainer stay one policy."""

from __future__ import annotations

import copy
import hashlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_models import random_samples, tiny_llama
from tests.toy_run import curve, toy_policy, toy_settings, toy_trainer
from zero2r1.checkpoint import load_latest
from zero2r1.grpo.reference import AdapterReference, CopiedReference, reference_of
from zero2r1.grpo.update import fix_logprobs
from zero2r1.models import packed_linear
from zero2r1.models.adapters import adapter_parameters, add_lora
from zero2r1.models.packed_linear import available
from zero2r1.rollout import torch_engine
from zero2r1.training.config import ComputeSettings, LoraSettings
from zero2r1.training.loop import Hooks, Outcome


def lora_settings(*, rank=8, targets=(), **settings):
    return toy_settings(**settings).model_copy(update={"lora": LoraSettings(rank=rank, alpha=16.0, targets=targets)})


def adapted(seed=0):
    policy = tiny_llama(seed=seed)
    add_lora(policy, rank=4, alpha=8.0, targets=(), seed=seed)
    return policy


def move(policy, seed):
    """What an update does, and more of it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(policy).values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def scored(policy, reference):
    """Log-probabilities of the policy and of the reference for the same tokens."""
    settings = ComputeSettings(tokens_per_micro_batch=64)  # several packs: the reference comes and goes
    packs = fix_logprobs(random_samples((4, 3, 5)), policy, reference, temperature=1.0, old="scored", settings=settings)
    assert len(packs) > 1
    return torch.cat([pack.old_logprobs for pack in packs]), torch.cat([pack.ref_logprobs for pack in packs])


@pytest.mark.parametrize("seed", range(2))
def test_grpo_lifts_the_toy_task_with_adapters_alone(tmp_path, seed):
    """The head is not trained, and with the small weights it begins with no logit would differ much from another: here they are larger."""
    policy = toy_policy(seed)
    with torch.no_grad():
        policy.lm_head.weight.mul_(20)
    base = copy.deepcopy(policy.state_dict())
    trainer, _, _ = toy_trainer(tmp_path, lora_settings(seed=seed, steps=110, prompts=12, group_size=16), policy=policy)
    trainer.train()
    rows = curve(tmp_path)
    assert rows[0]["rewards/accuracy/mean"] < 0.15
    assert sum(row["rewards/accuracy/mean"] for row in rows[-5:]) / 5 >= 0.75
    for name, tensor in policy.state_dict().items():
        if name not in adapter_parameters(policy):
            assert torch.equal(tensor, base[name.replace(".base_layer", "")])


def test_the_first_step_is_that_of_the_base(tmp_path):
    """Before the first update both sample the same tokens for the same rewards, and the loss is the same number."""
    toy_trainer(tmp_path / "full", toy_settings(steps=1, beta=0.01))[0].train()
    toy_trainer(tmp_path / "lora", lora_settings(steps=1, beta=0.01))[0].train()
    (full,), (lora,) = curve(tmp_path / "full"), curve(tmp_path / "lora")
    assert {**lora, "grad_norm": 0.0} == {**full, "grad_norm": 0.0} and lora["grad_norm"] != full["grad_norm"]


def test_the_reference_starts_as_the_base_and_is_reset_to_the_policy(tmp_path):
    """As with all weights: the divergence is exactly 0 at step 1 and right after each reset (steps 3 and 5), and not in between."""
    settings = lora_settings(steps=6, beta=0.01, reference_reset_steps=2, old_logprobs="recompute")
    toy_trainer(tmp_path, settings)[0].train()
    assert [row["kl"] == 0.0 for row in curve(tmp_path)] == [True, False, True, False, True, False]


def test_a_reference_of_adapters_scores_as_a_copy_of_the_whole_policy_does():
    policy = adapted()
    ours, copied = reference_of(policy), CopiedReference(policy)
    assert isinstance(ours, AdapterReference) and isinstance(reference_of(tiny_llama()), CopiedReference)
    for seed in range(3):
        move(policy, seed)
        new, ref = scored(policy, ours)
        again, expected = scored(policy, copied)
        assert torch.equal(ref, expected) and torch.equal(new, again) and (ref - new).abs().max() > 1e-3
        if seed:
            ours.reset()
            copied.reset()
            assert torch.equal(*scored(policy, ours))
    base, first = tiny_llama(), scored(policy, AdapterReference(policy))[1]
    assert torch.equal(scored(base, CopiedReference(base))[1], first)


def test_a_reference_keeps_nothing_before_a_reset_and_its_adapters_afterwards():
    policy = adapted()
    reference = AdapterReference(policy)
    assert reference.tensors() == {}
    move(policy, 0)
    reference.reset()
    kept = {name: tensor.clone() for name, tensor in reference.tensors().items()}
    assert kept.keys() == adapter_parameters(policy).keys()
    expected = scored(policy, reference)[1]
    move(policy, 1)
    with pytest.raises(RuntimeError, match="inside"), reference.scoring():
        raise RuntimeError("inside")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in reference.tensors().items())
    other = AdapterReference(policy)
    other.load(kept)
    assert torch.equal(scored(policy, other)[1], expected)
    other.load({})
    assert torch.equal(scored(policy, other)[1], scored(policy, AdapterReference(policy))[1])


@pytest.mark.parametrize("stop_at", [4, 8])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, stop_at):
    """Before the first reset of the reference, and after it."""
    settings = lora_settings(steps=12, beta=0.01, reference_reset_steps=5, mini_batches=2)
    straight, policy, _ = toy_trainer(tmp_path / "straight", settings)
    straight.train()
    interrupted, _, run = toy_trainer(tmp_path / "halves", settings, hooks=Hooks(should_stop=lambda: len(run.metrics()) >= stop_at))
    assert interrupted.train() is Outcome.STOPPED
    kept = load_latest(tmp_path / "halves" / "checkpoints")
    assert kept is not None and any(name.startswith("reference/") for name in kept.tensors()) is (stop_at > 5)
    resumed, again, _ = toy_trainer(tmp_path / "halves", settings)
    assert resumed.train() is Outcome.DONE
    assert curve(tmp_path / "straight") == curve(tmp_path / "halves")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(policy.parameters(), again.parameters(), strict=True))
    assert digests(tmp_path / "straight") == digests(tmp_path / "halves")


def digests(folder: Path) -> dict[str, str]:
    last = (folder / "checkpoints" / "latest").resolve()
    return {str(file.relative_to(last)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(last.rglob("*.*"))}


def test_a_checkpoint_is_an_ordinary_model_that_has_learnt_and_a_small_state(tmp_path):
    trainer, policy, _ = toy_trainer(tmp_path, lora_settings(steps=4, targets=("q_proj", "down_proj")))
    trainer.train()
    found = load_latest(tmp_path / "checkpoints")
    assert found is not None
    adapters = adapter_parameters(policy)
    # Two layers of A and B, and of each the two moments and the counter of its optimizer.
    assert {name.partition("/")[0] for name in found.tensors()} == {"trained", "optimizer"} and len(found.tensors()) == 4 * (1 + 3)
    assert all(torch.equal(found.tensors()[f"trained/{name}"], parameter) for name, parameter in adapters.items())
    saved = AutoModelForCausalLM.from_pretrained(found.path / "model").eval()
    ids = torch.arange(1, 13)[None]
    with torch.no_grad():
        torch.testing.assert_close(saved(input_ids=ids).logits, policy(input_ids=ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "products", ["own", "merged", pytest.param("packed", marks=pytest.mark.skipif(not available(), reason="no oneDNN"))]
)
def test_the_sampler_follows_every_update(tmp_path, monkeypatch, products):
    """The gap is measured before each update, on tokens of the policy of that moment; the policy has moved far in between."""
    if products == "packed":
        monkeypatch.setattr(packed_linear, "WORTHWHILE_BYTES", 0)
    if products == "own":
        monkeypatch.setattr(torch_engine, "packed_linears", lambda model, **_: nullcontext())
    settings = lora_settings(steps=4, prompts=12, group_size=16)
    fast = settings.optimizer.model_copy(update={"learning_rate": 0.1})
    trainer, policy, _ = toy_trainer(tmp_path, settings.model_copy(update={"optimizer": fast}))
    start = AdapterReference(policy)
    trainer.train()
    rows = curve(tmp_path)
    assert len(rows) == 4 and all(row["sampling/sampling_logp_difference/max"] <= 1e-5 for row in rows)
    compute = ComputeSettings()
    (pack,) = fix_logprobs(random_samples((8,), vocab=16), policy, start, temperature=1.0, old="scored", settings=compute)
    assert (pack.old_logprobs - pack.ref_logprobs).abs().max() > 0.1

"""What a GPU computes in ways of its own is what the plain way computes there: captured steps, varlen attention, offloading."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.rollout.test_decoding import CASES, assert_same
from tests.rollout.test_torch_engine import requests, words
from tests.tiny_models import random_samples, tiny_llama, tiny_qwen
from tests.toy_run import curve, toy_policy, toy_settings, toy_trainer
from zero2r1.grpo.reference import CopiedReference
from zero2r1.models.attention import PackedAttention
from zero2r1.models.varlen_attention import VarlenAttention
from zero2r1.rollout.decoding import BucketDecoder, CapturedSteps
from zero2r1.rollout.engine import SamplingParams, generate
from zero2r1.rollout.kv_cache import BucketAttention, KVCache
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.offload import keep_state_on_host
from zero2r1.training.optimizer import build_adamw
from zero2r1.training.packing import pack

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]
GPU = torch.device("cuda")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("max_rows", [256, 5])
def test_captured_steps_give_the_samples_of_exact_ones(name, max_rows):
    """In float64, so that no token is decided by rounding. Twice: the second time every step is played from a graph."""
    model = tiny_llama(dtype=torch.float64).to(GPU)
    captured, exact = (TorchEngine(model, words, max_rows=max_rows, resident=resident) for resident in (True, False))
    for _ in range(2):
        assert_same(generate(captured, CASES[name]), generate(exact, CASES[name]), within=1e-6)


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_steps_are_captured_once_a_bucket_and_follow_new_weights(build):
    model = build().to(GPU)
    engine = TorchEngine(model, words, autocast=torch.bfloat16)
    asked = requests(20, 4, SamplingParams(max_new_tokens=24, stop_token_ids=()))
    for _ in range(3):
        before = generate(engine, asked)
    decoder = engine._decoder
    assert isinstance(decoder, BucketDecoder) and isinstance(decoder._run, CapturedSteps)
    assert decoder._run._graphs.keys() == decoder._run._warm
    other = build(seed=1).to(GPU)
    model.load_state_dict(other.state_dict())
    after = generate(engine, asked)
    assert engine._decoder is decoder and after != before
    # Log-probabilities of the first tokens: those of an engine that was captured with these weights.
    fresh = generate(TorchEngine(other, words, autocast=torch.bfloat16), asked)
    gaps = [abs(a.logprobs[0] - b.logprobs[0]) for x, y in zip(after, fresh, strict=True) for a, b in zip(x, y, strict=True)]
    assert max(gaps) < 1e-3


def test_padded_attention_does_not_care_how_a_kernel_lays_out_its_result():
    """The memory-efficient kernel returns heads and positions transposed."""
    model = tiny_llama().to(GPU)
    cache = KVCache(model, rows=4, positions=64, dtype=torch.bfloat16)
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    assert 1 < kv_heads < heads
    query, key = (torch.randn(4, count, cache.keys.shape[-1], device=GPU, dtype=torch.bfloat16) for count in (heads, kv_heads))
    found = []
    for backend in (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        layout = BucketAttention(cache, torch.zeros(4, dtype=torch.long, device=GPU), 64)
        with sdpa_kernel(backend):
            found.append(layout.attend(0, query, key, key, 0.1))
    torch.testing.assert_close(*found, atol=0.02, rtol=0.02)


def test_varlen_attention_is_that_of_buckets_in_bfloat16():
    """Both multiply in bfloat16 and add up in float32; outputs and gradients are rounded to 2^-9 of numbers of about 1 and, of a prompt's
    gradients, of sums over its group."""
    generator = torch.Generator().manual_seed(0)
    prompts, completions, prompt_of = [37, 5, 64], [700, 300, 129, 128, 64, 33, 8, 1], [0, 0, 1, 2, 1, 2, 0, 1]
    tokens = sum(prompts) + sum(completions) + 7
    inputs = [torch.randn(tokens, heads, 64, generator=generator).to(GPU, torch.bfloat16).requires_grad_() for heads in (6, 2, 2)]
    asked = torch.randn(tokens, 6, 64, generator=generator).to(GPU, torch.bfloat16)
    asked[-7:] = 0
    found = []
    for kind in (VarlenAttention, PackedAttention):
        output = kind(prompts, completions, prompt_of, padding=7, device=GPU).attend(0, *inputs, 0.125)
        found.append([output.float(), *(g.float() for g in torch.autograd.grad((output * asked).sum(), inputs))])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() / theirs.norm() < 0.02
        assert (ours - theirs).abs().max() < 0.05 * theirs.abs().max()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_in_bfloat16_uses_it_and_agrees_with_buckets(checkpointing):
    model = tiny_llama().to(GPU).train(checkpointing)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    results = []
    for half in (True, False):
        batch = pack(random_samples([4, 4, 4], longest=40), device=GPU, half=half)
        assert isinstance(batch.layout, VarlenAttention) == half
        model.zero_grad()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logprobs, _ = completion_logprobs(model, batch)
        (logprobs * batch.weights).sum().backward()
        results.append((logprobs.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (ours, our_gradient), (theirs, their_gradient) = results
    assert (ours - theirs).abs().mean() < 0.02
    assert (our_gradient - their_gradient).norm() / their_gradient.norm() < 0.05


def test_a_reference_is_on_the_device_for_scoring_only():
    reference = CopiedReference(tiny_llama().to(GPU), offload=True)
    places = lambda: {parameter.device.type for parameter in reference._copy.parameters()}  # noqa: E731
    assert places() == {"cpu"} and next(reference._copy.parameters()).is_pinned()
    with pytest.raises(RuntimeError, match="of the test"), reference.scoring() as model:
        assert places() == {"cuda"} and model.device.type == "cuda"
        raise RuntimeError("of the test")
    assert places() == {"cpu"}


def test_moments_are_on_the_device_for_a_step_only():
    weights = []
    for offload in (True, False):
        model = tiny_llama().to(GPU)
        optimizer = build_adamw(model, learning_rate=0.01, betas=(0.9, 0.95), weight_decay=0.1)
        if offload:
            keep_state_on_host(optimizer)
        for step in range(3):
            for i, parameter in enumerate(model.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 * (step + 1) * (-1) ** i)
            optimizer.step()
            places = {value.device.type for state in optimizer.state.values() for value in state.values()}
            assert places == ({"cpu"} if offload else {"cuda"})
        weights.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*weights, strict=True))


def test_a_run_with_offloading_learns_the_same_and_resumes(tmp_path):
    settings = toy_settings(steps=6, prompts=4, group_size=4)
    settings = settings.model_copy(update={"grpo": settings.grpo.model_copy(update={"beta": 0.05}), "checkpoint_every": 2})
    compute = settings.compute.model_copy(update={"offload": ("reference", "optimizer")})
    for name, chosen, steps in (("without", settings, (6,)), ("with", settings.model_copy(update={"compute": compute}), (4, 6))):
        for until in steps:
            toy_trainer(tmp_path / name, chosen.model_copy(update={"steps": until}), policy=toy_policy(0).to(GPU))[0].train()
    ours, theirs = curve(tmp_path / "with"), curve(tmp_path / "without")
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)

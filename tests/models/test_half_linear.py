"""bfloat16 products on a CPU: close to float32 in value and gradient, float32 outside, and gone when the context ends."""

from __future__ import annotations

import pytest
import torch

from tests.tiny_models import random_samples, tiny_llama, tiny_qwen
from zero2r1.models.half_linear import half_linears
from zero2r1.models.packed_linear import available, packed_linears
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.packing import pack

CPU = torch.device("cpu")


def gradients(model, batch, *, enabled):
    model.zero_grad()
    with half_linears(model, enabled=enabled):
        logprobs, _ = completion_logprobs(model, batch)
    (logprobs * batch.weights).sum().backward()
    return logprobs.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_values_and_gradients_are_those_of_float32_to_bfloat16_rounding(build):
    model, batch = build(), pack(random_samples([3, 2]), device=CPU)
    exact, exact_gradients = gradients(model, batch, enabled=False)
    half, half_gradients = gradients(model, batch, enabled=True)
    assert half.dtype == torch.float32 and 0 < (half - exact).abs().max() < 0.1
    for name, gradient in half_gradients.items():
        assert gradient.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), exact_gradients[name].flatten(), dim=0)
        assert cosine > 0.99, name


def test_a_product_of_numbers_that_bfloat16_holds_is_exact():
    # 3 * 1 + 5 * 2 = 13 and 3 * 4 - 5 * 0.5 = 9.5, plus biases 1 and 0.25
    layer = torch.nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0], [4.0, -0.5]]), torch.tensor([1.0, 0.25])
    x = torch.tensor([[3.0, 5.0]], requires_grad=True)
    with half_linears(layer):
        out = layer(x)
    out.backward(torch.tensor([[1.0, 2.0]]))
    assert out.tolist() == [[14.0, 9.75]]
    # d x = (1 + 2 * 4, 2 - 2 * 0.5); d W = outer((1, 2), (3, 5)); d b = (1, 2)
    assert x.grad.tolist() == [[9.0, 1.0]]
    assert layer.weight.grad.tolist() == [[3.0, 5.0], [6.0, 10.0]] and layer.bias.grad.tolist() == [1.0, 2.0]


def test_nothing_is_left_of_it_afterwards():
    model = tiny_llama()
    with half_linears(model):
        assert any("forward" in module.__dict__ for module in model.modules())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_head_stays_in_float32():
    model = tiny_llama()
    with half_linears(model):
        assert "forward" not in model.lm_head.__dict__


@pytest.mark.skipif(not available(), reason="no oneDNN")
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_packed_for_sampling_they_give_what_they_give_in_training(build):
    """With biases and without, joined and alone: the same bfloat16 products, in float32 behind them."""
    model, x = build(), torch.randn(40, 32, generator=torch.Generator().manual_seed(0))
    layer = model.model.layers[0]
    parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj]
    with torch.no_grad():
        with half_linears(model):
            training = [part(x) for part in parts]
        with packed_linears(model, half=True):
            sampling = [part(x) for part in parts]
            assert "forward" not in model.lm_head.__dict__  # a small head stays as it is
    for one, other in zip(training, sampling, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2**-7, atol=1e-3)


@pytest.mark.skipif(not available(), reason="no oneDNN")
def test_the_head_multiplies_in_bfloat16_only_if_asked():
    model, x = tiny_llama(), torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    rounded = x.bfloat16().float() @ model.lm_head.weight.detach().bfloat16().float().T  # products of short numbers, a long sum
    with torch.no_grad():
        exact = model.lm_head(x)
        with packed_linears(model, half=True):
            assert torch.equal(model.lm_head(x), exact)
        with packed_linears(model, half=True, half_head=True):
            torch.testing.assert_close(model.lm_head(x), rounded, rtol=2**-8, atol=1e-6)
            assert not torch.equal(model.lm_head(x), exact)
        assert torch.equal(model.lm_head(x), exact)


@pytest.mark.skipif(not available(), reason="no oneDNN")
def test_an_engine_in_bfloat16_follows_the_weights_and_stays_close_to_float32():
    model = tiny_llama()
    params = SamplingParams(max_new_tokens=12, stop_token_ids=(63,))
    requests = [Request(id=i, prompt_ids=(1 + i, 2, 3), seeds=(5, 6), params=params) for i in range(3)]
    gaps = []
    for _ in range(2):
        engine = TorchEngine(model, str, autocast=torch.bfloat16)
        assert not engine.exact
        for request, group in zip(requests, generate(engine, requests), strict=True):
            for completion in group:
                ids = torch.tensor([request.prompt_ids + completion.token_ids])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits[0].log_softmax(-1)
                exact = logits[len(request.prompt_ids) - 1 : -1].gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
                gaps.append((exact - torch.tensor(completion.logprobs)).abs().max().item())
        assert 1e-5 < max(gaps) < 0.1
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.2)  # a gap of old weights would be several nats

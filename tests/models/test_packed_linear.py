"""Packed weights: the same numbers, only while they are true, and only where they help."""

from __future__ import annotations

import gc

import pytest
import torch

from tests.tiny_models import tiny_llama
from zero2r1.models import packed_linear
from zero2r1.models.packed_linear import available, head_product, onednn_linears, packed_linears
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.torch_engine import TorchEngine

pytestmark = pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def every_size(monkeypatch):
    monkeypatch.setattr(packed_linear, "WORTHWHILE_BYTES", 0)


@pytest.mark.parametrize("rows", [1, 7, 32, 33, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_product_is_the_ordinary_one_to_rounding(rows, with_bias):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 24, bias=with_bias), torch.randn(2, rows, 48)
    expected = layer(x).detach()
    with packed_linears(layer):
        product = layer(x)
    assert product.shape == (2, rows, 24)
    torch.testing.assert_close(product, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("with_bias", [False, True])
def test_layers_with_one_input_share_one_product(with_bias, monkeypatch):
    """Grouped queries: 6 query, 2 key and 2 value columns. Different inputs must not be mistaken for the same."""
    torch.manual_seed(0)
    module = torch.nn.Module()
    for name, width in (("q_proj", 6), ("k_proj", 2), ("v_proj", 2)):
        setattr(module, name, torch.nn.Linear(4, width, bias=with_bias))
    first, second = torch.randn(3, 4), torch.randn(3, 4)
    layers = (module.q_proj, module.k_proj, module.v_proj)
    expected = [[layer(x).detach() for layer in layers] for x in (first, second)]
    products = 0
    plain = packed_linear._linear

    def counted(*arguments):
        nonlocal products
        products += 1
        return plain(*arguments)

    monkeypatch.setattr(packed_linear, "_linear", counted)
    with packed_linears(module):
        found = [[layer(x) for layer in layers] for x in (first, second)]
        assert products == 2
        mixed = [module.q_proj(first), module.k_proj(second), module.v_proj(first), module.q_proj(first)]
    for ours, plain_outputs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain_outputs, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed, [expected[0][0], expected[1][1], expected[0][2], expected[0][0]], atol=1e-6, rtol=0)


def test_the_head_is_added_up_in_chains():
    """3 * 192 + 1 ones: a sum in chains is exact too; the last piece is as short as it must be."""
    weight, x = torch.arange(577.0).repeat(5, 1), torch.ones(2, 577)
    assert torch.equal(head_product(weight, onednn=True)(x), torch.full((2, 5), 576 * 577 / 2))
    assert torch.equal(head_product(weight, onednn=False)(x), torch.full((2, 5), 576 * 577 / 2))


def test_layers_are_packed_only_inside_the_context():
    model = tiny_llama()
    layer = model.model.layers[0].mlp.up_proj
    with packed_linears(model):
        assert "forward" in layer.__dict__
    assert "forward" not in layer.__dict__
    with packed_linears(model, enabled=False):
        assert "forward" not in layer.__dict__


def test_gradients_are_the_ordinary_ones_to_rounding():
    model, ids = tiny_llama(packed=False), torch.arange(40).view(2, 20)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with onednn_linears(model, enabled=enabled):
            model(input_ids=ids).logits.log_softmax(-1)[..., 0].sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("half", [False, True])
def test_of_joined_weights_the_packed_copy_alone_is_kept(half):
    """Gates and ups of tiny_llama: together [96, 32], a shape that nothing else has."""
    model = tiny_llama()
    with packed_linears(model, half=half):
        gc.collect()
        alive = [tensor for tensor in gc.get_objects() if type(tensor) is torch.Tensor and tuple(tensor.shape) == (96, 32)]
        assert all(tensor.layout == torch._mkldnn for tensor in alive)
        assert len(alive) == 2  # of two layers


def test_small_models_and_other_types_stay_as_they_are(monkeypatch):
    for other in (tiny_llama(dtype=torch.float64), tiny_llama().bfloat16()):
        with packed_linears(other), onednn_linears(other):
            assert not any("forward" in module.__dict__ for module in other.modules())
    monkeypatch.setattr(packed_linear, "WORTHWHILE_BYTES", 10**9)
    model = tiny_llama()
    with packed_linears(model):
        assert "forward" not in model.lm_head.__dict__


def test_the_engine_samples_from_the_weights_of_the_moment():
    """A packed copy that outlives an update is the oldest bug of fast samplers (verl #7495): new weights, new samples."""
    model = tiny_llama()
    engine = TorchEngine(model, lambda ids: str(list(ids)))
    asked = [Request(id=0, prompt_ids=(3, 4, 5), seeds=tuple(range(8)), params=SamplingParams(max_new_tokens=12, stop_token_ids=(1,)))]
    first = generate(engine, asked)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.add_(0.5)
    engine.load_weights(None, 1)
    second = generate(engine, asked)
    fresh = generate(TorchEngine(model, lambda ids: str(list(ids))), asked)
    assert [c.token_ids for c in second[0]] == [c.token_ids for c in fresh[0]] != [c.token_ids for c in first[0]]


def test_an_abandoned_stream_leaves_the_model_as_it_was():
    model = tiny_llama()
    engine = TorchEngine(model, lambda ids: "")
    engine.submit([Request(id=0, prompt_ids=(3, 4), seeds=(1, 2, 3), params=SamplingParams(max_new_tokens=9, stop_token_ids=(1,)))])
    stream = engine.stream()
    next(stream)
    assert "forward" in model.lm_head.__dict__
    stream.close()
    assert "forward" not in model.lm_head.__dict__

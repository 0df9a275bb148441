"""The shorter way through a model: the same numbers to the last bit, and only where it knows the model."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.rollout.test_torch_engine import requests, words
from tests.tiny_models import random_samples, tiny_llama, tiny_qwen
from zero2r1.models.adapters import add_lora
from zero2r1.models.attention import backbone_forward, use_packed_attention
from zero2r1.models.lean_backbone import backbone_without_gradient
from zero2r1.models.packed_linear import packed_linears
from zero2r1.rollout.engine import generate
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.training.packing import pack

CPU = torch.device("cpu")


class Operations(TorchDispatchMode):
    """Counts what is computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def both(model, batch):
    return [way(batch.input_ids, batch.position_ids, batch.layout) for way in (backbone_without_gradient(model), plain(model))]


def plain(model):
    return lambda *arguments: backbone_forward(model, *arguments)


def scaled_rope():
    model = tiny_llama()
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 256}
    rotary = type(model.model.rotary_emb)(model.config)
    model.model.rotary_emb = rotary
    assert rotary.attention_scaling != 1
    return model


@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen, lambda: tiny_llama(kv_heads=4), scaled_rope])
def test_hidden_states_are_those_of_the_class_to_the_last_bit(build):
    lean, ours = both(build(), pack(random_samples([3, 1, 2], longest=30), device=CPU))
    assert torch.equal(lean, ours)


def test_it_computes_fewer_operations():
    model, batch = tiny_llama(), pack(random_samples([1], longest=8), device=CPU)
    counts = []
    for way in (backbone_without_gradient(model), plain(model)):
        with torch.no_grad(), Operations() as operations:
            way(batch.input_ids, batch.position_ids, batch.layout)
        counts.append(operations.count)
    assert counts[0] + 20 * model.config.num_hidden_layers <= counts[1]


def test_adapters_and_packed_products_count():
    model = tiny_qwen()
    add_lora(model, rank=2, alpha=4.0, targets=(), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    batch = pack(random_samples([2, 2]), device=CPU)
    lean, ours = both(model, batch)
    assert torch.equal(lean, ours)
    with packed_linears(model, half=True):
        lean, ours = both(model, batch)
    assert torch.equal(lean, ours)


def test_a_model_it_does_not_know_goes_the_way_of_its_class():
    # Qwen3 norms queries and keys: left out, the numbers would be others.
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=64, head_dim=8, **sizes)).eval()
    use_packed_attention(model)
    lean, ours = both(model, pack(random_samples([2, 1]), device=CPU))
    assert torch.equal(lean, ours)


def test_so_does_a_model_in_another_type():
    model = tiny_llama(dtype=torch.float64)
    lean, ours = both(model, pack(random_samples([2, 1]), device=CPU))
    assert lean.dtype == torch.float64 and torch.equal(lean, ours)


def test_what_an_engine_samples_does_not_change():
    model = tiny_llama()
    lean = TorchEngine(model, words)
    before = TorchEngine(model, words)
    object.__setattr__(before._sampled, "backbone", plain(model))
    assert generate(lean, requests()) == generate(before, requests())

"""LoRA: nothing changes at first, only the adapters move, and what is written is the model that was trained."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.models import packed_linear
from zero2r1.models.adapters import (
    adapter_parameters,
    adapters_off,
    add_lora,
    effective_weight,
    has_adapters,
    merge_adapters,
    merged_state,
    save_adapter,
)
from zero2r1.models.loading import checkpoint_activations, load_policy, save_policy
from zero2r1.models.packed_linear import available, onednn_linears, packed_linears
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.tasks.laptop.words import TAGS

IDS = torch.arange(3, 43).view(2, 20)
BOTH = pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])


def adapted(build=tiny_llama, *, rank=4, targets=(), seed=0, trained=True):
    """A model whose adapters matter, as after training: B is zero before it."""
    model = build()
    add_lora(model, rank=rank, alpha=8.0, targets=targets, seed=seed)
    if trained:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapter_parameters(model).items():
                if "lora_B" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@BOTH
def test_a_model_computes_the_same_bits_before_its_adapters_are_trained(build):
    assert torch.equal(logits(adapted(build, trained=False)), logits(build()))
    assert (logits(adapted(build)) - logits(build())).abs().max() > 0.1  # and would not, if they had been


def test_every_linear_layer_but_the_head_gets_one_and_only_these_are_trained():
    model = adapted(trained=False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    # 2 layers, in each q, k, v, o, gate, up, down, of each A and B
    assert trained == adapter_parameters(model).keys() and len(trained) == 2 * 7 * 2
    assert all(parameter.shape[0] == 4 for name, parameter in adapter_parameters(model).items() if "lora_A" in name)
    assert not any("lm_head" in name or "embed" in name for name in trained)
    chosen = adapter_parameters(adapted(targets=("q_proj", "model.layers.1.mlp.down_proj"), trained=False))
    assert sorted({name.partition(".lora_")[0] for name in chosen}) == [
        "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj",
    ]  # fmt: skip


def test_the_first_values_belong_to_the_seed_and_the_place_and_to_nothing_else():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = adapter_parameters(adapted(seed=7, trained=False))
    assert torch.equal(torch.rand(3), expected)  # the global generator did not move
    torch.manual_seed(6)
    again = adapter_parameters(adapted(seed=7, trained=False))
    alone = adapter_parameters(adapted(seed=7, targets=("k_proj",), trained=False))
    other = adapter_parameters(adapted(seed=8, trained=False))
    a, b = (f"model.layers.{i}.self_attn.k_proj.lora_A.default.weight" for i in (0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first[a], alone[a]) and not torch.equal(first[a], other[a]) and not torch.equal(first[a], first[b])
    drawn = first[a].detach()  # uniform within 1 / sqrt(32), the input's width
    assert drawn.abs().max() <= 32**-0.5 and drawn.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.15)


def test_the_weight_is_the_sum_by_hand():
    """alpha / rank is 8 / 4; A has 0.5 everywhere, B 3 in its first row: 2 * (4 * 3 * 0.5) = 12 more in that row and nothing elsewhere."""
    model = adapted()
    layer = model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.lora_A["default"].weight.fill_(0.5)
        layer.lora_B["default"].weight.zero_()[0] = 3.0
    added = effective_weight(layer) - tiny_llama().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(added, torch.cat([torch.full((1, 32), 12.0), torch.zeros(31, 32)]), atol=1e-5, rtol=0)
    assert torch.equal(effective_weight(model.lm_head), tiny_llama().lm_head.weight)


def test_a_step_moves_adapters_and_leaves_the_base_to_the_bit():
    model = adapted(trained=False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):  # A has no gradient while B is zero
        model(input_ids=IDS).logits.log_softmax(-1)[..., 3].sum().backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} == adapter_parameters(model).keys()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == adapter_parameters(model).keys()


@BOTH
def test_without_its_adapters_a_model_is_its_base_and_afterwards_itself(build):
    model = adapted(build)
    frozen = next(name for name in adapter_parameters(model) if "lora_A" in name)
    adapter_parameters(model)[frozen].requires_grad_(False)
    required = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    itself = logits(model)
    with pytest.raises(RuntimeError, match="inside"), adapters_off(model):
        assert torch.equal(logits(model), logits(build()))
        with adapters_off(model):
            pass
        assert torch.equal(logits(model), logits(build()))  # the inner context does not end the outer one
        raise RuntimeError("inside")
    assert torch.equal(logits(model), itself)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == required


@BOTH
def test_the_merged_weights_are_an_ordinary_model_that_computes_the_same(build):
    model, plain = adapted(build), build()
    merged = merged_state(model)
    assert merged.keys() == plain.state_dict().keys()
    plain.load_state_dict(merged)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=0)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.base_layer.weight, build().model.layers[0].self_attn.q_proj.weight)
    assert merged_state(build()).keys() == plain.state_dict().keys()


def test_merging_for_good_leaves_an_ordinary_model_that_can_be_adapted_again():
    model = adapted()
    expected, merged = logits(model), merged_state(model)
    merge_adapters(model)
    assert not has_adapters(model) and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, merged[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(logits(model), expected, atol=1e-5, rtol=0)
    add_lora(model, rank=2, alpha=2.0, targets=(), seed=1)
    assert has_adapters(model)
    untouched = tiny_llama().requires_grad_(False)
    merge_adapters(untouched)
    assert not any(parameter.requires_grad for parameter in untouched.parameters())


@BOTH
def test_a_saved_model_is_loaded_merged_and_its_adapter_by_peft(build, tmp_path):
    from peft import PeftModel

    model, base = adapted(build), build(packed=False) if build is tiny_llama else build()
    tokenizer = word_tokenizer([f"w{i}" for i in range(60 - len(TAGS))], TAGS)
    save_policy(model, tokenizer, tmp_path / "model", stops=(1,))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    assert type(found) is type(model)
    torch.testing.assert_close(logits(found), logits(model), atol=1e-5, rtol=0)
    again, _ = load_policy(tmp_path / "model", device=torch.device("cpu"))
    assert not has_adapters(again)
    peft_model = PeftModel.from_pretrained(base, tmp_path / "model" / "adapter").eval()
    assert torch.equal(logits(peft_model), logits(model))
    assert json.loads((tmp_path / "model" / "adapter" / "adapter_config.json").read_text())["inference_mode"] is True


SAVE = """
import sys
from pathlib import Path
from tests.models.test_adapters import adapted
from zero2r1.models.adapters import save_adapter
save_adapter(adapted(), Path(sys.argv[1]))
"""


def test_the_files_of_an_adapter_are_the_same_bytes_in_every_process(tmp_path):
    """PEFT keeps the targets as a set, whose order changes from process to process."""
    save_adapter(adapted(), tmp_path / "here")
    environment = {**os.environ, "PYTHONHASHSEED": "3", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVE, str(tmp_path / "there")]
    subprocess.run(command, check=True, timeout=120, env=environment, cwd=Path(__file__).parents[2])
    names = ("adapter_config.json", "adapter_model.safetensors")
    here, there = ([hashlib.sha256((tmp_path / place / name).read_bytes()).hexdigest() for name in names] for place in ("here", "there"))
    assert here == there
    targets = json.loads((tmp_path / "here" / names[0]).read_text())["target_modules"]
    assert targets == sorted(targets)


@pytest.mark.parametrize("target", ["q_pro", "lm_head", "embed_tokens", "self_attn"])
def test_a_target_that_is_no_linear_layer_is_refused_with_the_names_there_are(target):
    model = tiny_llama()
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(ValueError, match=rf"lora.targets names {target}, .*Choose among {names}, or"):
        add_lora(model, rank=4, alpha=8.0, targets=("v_proj", target), seed=0)
    assert not has_adapters(model) and all(parameter.requires_grad for parameter in model.parameters())


def test_where_peft_is_missing_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'pip install "zero2r1\[lora\]"'):
        add_lora(tiny_llama(), rank=4, alpha=8.0, targets=(), seed=0)


@pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")
@BOTH
def test_packed_a_layer_with_an_adapter_is_one_product_with_the_sum(build, monkeypatch):
    monkeypatch.setattr(packed_linear, "WORTHWHILE_BYTES", 0)
    products, plain = [], packed_linear._linear
    monkeypatch.setattr(packed_linear, "_linear", lambda x, weight, bias: products.append(1) or plain(x, weight, bias))
    model = adapted(build)
    expected = logits(model)
    for _ in range(2):  # a second packing starts from the base again and adds the adapter once
        with packed_linears(model):
            packed = logits(model)
        torch.testing.assert_close(packed, expected, atol=2e-5, rtol=0)
    # 2 layers of 4 products (q, k and v are one, gate and up are one) and the head, as without adapters; twice
    assert len(products) == 2 * (2 * 4 + 1)
    with adapters_off(model), packed_linears(model):
        torch.testing.assert_close(logits(model), logits(build()), atol=2e-5, rtol=0)
    assert torch.equal(logits(model), expected)


@BOTH
def test_where_packing_would_not_help_it_is_one_product_too_as_long_as_nothing_is_trained(build):
    model = adapted(build, trained=False)
    products: list[int] = []
    for name, module in model.named_modules():
        if "lora_" in name and type(module) is torch.nn.Linear:
            module.register_forward_hook(lambda *_: products.append(1))
    with packed_linears(model):
        assert torch.equal(logits(model), logits(build())) and not products
    with packed_linears(model, enabled=False):
        assert torch.equal(logits(model), logits(build())) and len(products) == 2 * 7 * 2


@pytest.mark.skipif(not available(), reason="this build of torch has no oneDNN")
def test_the_gradients_of_adapters_are_the_ordinary_ones_on_onednn(monkeypatch):
    monkeypatch.setattr(packed_linear, "WORTHWHILE_BYTES", 0)
    model = adapted(tiny_qwen)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with onednn_linears(model, enabled=enabled):
            model(input_ids=IDS).logits.log_softmax(-1)[..., 0].sum().backward()
        gradients.append([parameter.grad.clone() for parameter in adapter_parameters(model).values()])
    for plain, fast in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)


def test_checkpointed_activations_change_no_gradient():
    gradients = []
    for checkpointed in (False, True):
        model = adapted()
        if checkpointed:
            checkpoint_activations(model)
            model.train()
        model(input_ids=IDS, use_cache=False).logits.log_softmax(-1)[..., 0].sum().backward()
        gradients.append([parameter.grad for parameter in adapter_parameters(model).values()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))

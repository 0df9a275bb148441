from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from zero2r1.models.tiny import SIZES, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer

IDS = torch.tensor([[3, 1, 4, 1, 5]])


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer([str(n) for n in range(100)], ("<think>", "</think>"))


def test_parameter_count_worked_out_by_hand(tokenizer: PreTrainedTokenizerFast) -> None:
    # Vocabulary 107 = <unk> + 100 + eos, pad, two turn marks + 2 tags. Embedding and head: 2 * 107 * 128 = 27,392.
    # A block: q, k, v, o 4 * 128 * 128 = 65,536; gate, up, down 3 * 128 * 352 = 135,168; two norms 256: 200,960.
    # 27,392 + 4 * 200,960 + last norm 128 = 831,360.
    model = build_tiny_model(SIZES["teacher"], tokenizer, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 831_360


@pytest.mark.parametrize("size", sorted(SIZES))
def test_heads_are_64_wide_and_embeddings_untied(tokenizer: PreTrainedTokenizerFast, size: str) -> None:
    model = build_tiny_model(SIZES[size], tokenizer, seed=0)
    assert model.config.head_dim == 64
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_weights_are_a_function_of_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(1)
    one = build_tiny_model(SIZES["student"], tokenizer, seed=7)
    torch.manual_seed(2)
    two = build_tiny_model(SIZES["student"], tokenizer, seed=7)
    other = build_tiny_model(SIZES["student"], tokenizer, seed=8)
    for (name, x), y, z in zip(one.named_parameters(), two.parameters(), other.parameters(), strict=True):
        assert torch.equal(x, y), name
        assert x.ndim < 2 or not torch.equal(x, z), name


def test_initial_spread_follows_fan_in(tokenizer: PreTrainedTokenizerFast) -> None:
    model = build_tiny_model(SIZES["teacher"], tokenizer, seed=0)
    block = model.model.layers[0]
    # 1/sqrt(128) = 0.0884; residual outputs are divided by sqrt(2 * 4 layers) = 2.828; relative error about 1/sqrt(2n).
    assert block.self_attn.q_proj.weight.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.03)
    assert block.self_attn.o_proj.weight.std().item() == pytest.approx(1 / math.sqrt(128) / math.sqrt(8), rel=0.03)
    assert block.mlp.down_proj.weight.std().item() == pytest.approx(1 / math.sqrt(352) / math.sqrt(8), rel=0.03)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.08, rel=0.03)


def test_a_saved_folder_loads_to_the_same_logits(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = build_tiny_model(SIZES["student"], tokenizer, seed=0).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        assert torch.equal(model(IDS).logits, loaded(IDS).logits)

"""The laptop model: a small Llama as `transformers` knows it, so that everything that loads a Llama loads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySize:
    """``head_dim`` is 64 throughout because attention kernels of other engines reject smaller heads."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    head_dim: int = 64


SIZES: Mapping[str, TinySize] = {
    "teacher": TinySize(width=128, layers=4, heads=2, feed_forward=352),
    "student": TinySize(width=64, layers=4, heads=1, feed_forward=192),
}
EMBEDDING_STD = 0.08
CONTEXT = 1024


def build_tiny_model(size: TinySize, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model in float32: N(0, 1/fan-in), residual outputs smaller by sqrt(2 layers)."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.head_dim,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim != 2:
                continue
            std = EMBEDDING_STD if "embed_tokens" in name else 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                std /= math.sqrt(2 * size.layers)
            parameter.normal_(0, std, generator=generator)
    return model

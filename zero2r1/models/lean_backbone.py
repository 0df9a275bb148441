"""Decoding a few rows costs less in products than in what surrounds them: modules that call modules, casts to the type at hand, masks that
nobody reads. Here a model of the Llama family is computed by the operations of its class in their order, and by no others: float32 results
are equal to the last bit. Its linear layers are the model's own, so packed ones and adapters count.

Shapes: T tokens, W width, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from zero2r1.models.attention import AttentionLayout, backbone_forward

Backbone = Callable[[Tensor, Tensor, AttentionLayout], Tensor]
"""Token ids [T], their positions [T], layout -> hidden states [T, W], as :func:`~zero2r1.models.attention.backbone_forward`."""

FAMILY = (LlamaForCausalLM, Qwen2ForCausalLM)
"""Classes whose layers are: norm, attention with rotated queries and keys, sum, norm, gated product, sum."""


def backbone_without_gradient(model: PreTrainedModel) -> Backbone:
    """The shortest way to the hidden states of a model prepared by ``use_packed_attention``; not to be differentiated."""
    lean = type(model) in FAMILY and all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return partial(_lean_forward, model) if lean else partial(backbone_forward, model)


def _lean_forward(model: Any, token_ids: Tensor, positions: Tensor, layout: AttentionLayout) -> Tensor:
    decoder = model.model
    hidden = F.embedding(token_ids, decoder.embed_tokens.weight)
    cos, sin = (table[0, :, None] for table in decoder.rotary_emb(hidden, positions[None]))  # [T, 1, D]
    for index, layer in enumerate(decoder.layers):
        attention, gated = layer.self_attn, layer.mlp
        normed = _normed(layer.input_layernorm, hidden)
        heads = (normed.shape[0], -1, attention.head_dim)
        query, key, value = (project(normed).view(heads) for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        attended = layout.attend(index, _rotated(query, cos, sin), _rotated(key, cos, sin), value, attention.scaling)
        hidden += attention.o_proj(attended.reshape(normed.shape[0], -1))
        normed = _normed(layer.post_attention_layernorm, hidden)
        hidden += gated.down_proj(gated.act_fn(gated.gate_proj(normed)) * gated.up_proj(normed))
    return _normed(decoder.norm, hidden)


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (x_i, x_i+D/2) of x [T, H, D] turned by its angle."""
    low, high = x.chunk(2, dim=-1)
    return (x * cos).add_(torch.cat((-high, low), dim=-1).mul_(sin))

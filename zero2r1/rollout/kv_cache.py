"""Keys and values of the rows being sampled, in one preallocated block, and the attention that reads them.

Shapes: R rows, H heads, H_kv key-value heads, S positions, D head size, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from zero2r1.models.varlen_attention import pack_layout


class KVCache:
    """Rows 0 to n-1 are active; a finished row is overwritten by the last one, so no gap is ever computed."""

    def __init__(self, model: PreTrainedModel, *, rows: int, positions: int, dtype: torch.dtype | None = None) -> None:
        """In the type of the model's parameters if ``dtype`` does not say otherwise."""
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, rows, heads, positions, width)
        # Zeros, not empty: attention multiplies what it masks by 0, and 0 times a stray NaN is NaN.
        parameter = next(model.parameters())
        self.keys = torch.zeros(shape, dtype=dtype or parameter.dtype, device=parameter.device)
        self.values = torch.zeros_like(self.keys)

    @property
    def rows(self) -> int:
        return self.keys.shape[1]

    @property
    def positions(self) -> int:
        return self.keys.shape[3]

    def fill(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Start a row with the keys and values [L, H_kv, P, D] of its prompt."""
        self.keys[:, row, :, : keys.shape[2]] = keys
        self.values[:, row, :, : keys.shape[2]] = values

    def move(self, source: Sequence[int], target: Sequence[int], used: int) -> None:
        """Copy the first ``used`` positions of rows ``source`` over rows ``target``."""
        if source:
            for block in (self.keys, self.values):
                block[:, list(target), :, :used] = block[:, list(source), :, :used]


class DecodeAttention:
    """One new token a row: append its key and value, then attend to all of the row. An ``AttentionLayout``."""

    def __init__(self, cache: KVCache, lengths: Tensor, longest: int) -> None:
        """lengths [R]: tokens already in each row, ``longest`` at most; the new one goes there."""
        self._cache = cache
        kv_heads = cache.keys.shape[2]
        lanes = torch.arange(len(lengths) * kv_heads, device=lengths.device)  # (row, kv head) side by side
        lengths_of_lanes = lengths.repeat_interleave(kv_heads)
        self._places = lanes * cache.positions + lengths_of_lanes
        self._used = longest + 1
        hidden = torch.arange(self._used, device=lengths.device) > lengths_of_lanes[:, None, None]
        self._mask = torch.zeros(hidden.shape, dtype=cache.keys.dtype, device=lengths.device)
        self._mask.masked_fill_(hidden, float("-inf"))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [R, H, D], key and value [R, H_kv, D] -> [R, H, D]."""
        keys, values = self._cache.keys[layer].flatten(0, 1), self._cache.values[layer].flatten(0, 1)
        lanes, width = len(self._places), keys.shape[-1]
        keys.view(-1, width).index_copy_(0, self._places, key.to(keys.dtype).reshape(lanes, width))
        values.view(-1, width).index_copy_(0, self._places, value.to(values.dtype).reshape(lanes, width))
        # Batched products over (row, kv head), the query heads that share a kv head side by side.
        q = query.to(keys.dtype).reshape(lanes, -1, width)
        k, v = keys[:lanes, : self._used], values[:lanes, : self._used]
        scores = torch.baddbmm(self._mask.expand(-1, q.shape[1], -1), q, k.transpose(1, 2), alpha=scale)
        return torch.bmm(scores.softmax(-1), v).view_as(query).to(query.dtype)


class BucketAttention:
    """As :class:`DecodeAttention`, in shapes of the bucket alone: rows attend to all of its positions. An ``AttentionLayout``."""

    def __init__(self, cache: KVCache, lengths: Tensor, positions: int) -> None:
        """lengths [R], each below ``positions``: what is beyond a row's own length is masked."""
        self._cache, self._positions = cache, positions
        kv_heads = cache.keys.shape[2]
        lanes = torch.arange(len(lengths) * kv_heads, device=lengths.device)
        self._places = lanes * cache.positions + lengths.repeat_interleave(kv_heads, output_size=len(lanes))
        hidden = torch.arange(positions, device=lengths.device) > lengths[:, None]
        mask = torch.zeros(hidden.shape, dtype=cache.keys.dtype, device=lengths.device).masked_fill_(hidden, float("-inf"))
        self._mask = mask[:, None, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [R, H, D], key and value [R, H_kv, D] -> [R, H, D] in the type of the cache."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        rows, (kv_heads, width) = len(query), key.shape[1:]
        keys.view(-1, width).index_copy_(0, self._places, key.to(keys.dtype).reshape(-1, width))
        values.view(-1, width).index_copy_(0, self._places, value.to(values.dtype).reshape(-1, width))
        # The query heads that share a kv head as if they were positions: nothing is repeated for them.
        q = query.to(keys.dtype).reshape(rows, kv_heads, -1, width)
        k, v = keys[:rows, :, : self._positions], values[:rows, :, : self._positions]
        mask = self._mask.expand(-1, kv_heads, q.shape[2], -1)
        # Not a view: kernels differ in how they lay out what they return.
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).reshape(query.shape)


class PrefillAttention:
    """Attention over packed prompts that keeps their keys and values. An ``AttentionLayout``."""

    def __init__(self, prompt_lengths: Sequence[int], device: torch.device, dtype: torch.dtype | None = None) -> None:
        """``dtype``: of what is kept; as it comes if left out."""
        self._lengths, self._dtype = list(prompt_lengths), dtype
        self._packed = pack_layout(prompt_lengths, (), (), device=device, half=dtype is torch.bfloat16)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]."""
        self._keys.append(key.to(self._dtype or key.dtype))
        self._values.append(value.to(self._dtype or value.dtype))
        return self._packed.attend(layer, query, key, value, scale)

    def per_prompt(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [L, H_kv, P, D] of each prompt, after the forward pass."""
        keys, values = (torch.stack(x).transpose(1, 2).split(self._lengths, dim=2) for x in (self._keys, self._values))
        return list(zip(keys, values, strict=True))

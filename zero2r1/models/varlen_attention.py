"""Attention of a pack by one call of a kernel for sequences of unequal lengths: no padding, no masks. For GPUs, in half precision.

Every prompt is a sequence that attends to itself, and every completion one that attends to its prompt and itself. Queries are the packed
tokens as they lie; keys and values are gathered, so a prompt's stand once for itself and once before each of its completions. Fewer
queries than keys are aligned at the end, as FlashAttention has it: the last query sees every key.

Shapes: T packed tokens, S sequences, K gathered keys, H heads, H_kv key-value heads, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from zero2r1.models.attention import AttentionLayout, PackedAttention

WIDEST_HEAD, HEAD_MULTIPLE = 256, 8
"""What FlashAttention takes of head sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Where each sequence's queries and keys begin, one entry more than there are sequences, and the longest of each."""

    queries: Tensor  # [S + 1] int32
    keys: Tensor  # [S + 1] int32
    longest_queries: int
    longest_keys: int


Kernel = Callable[[Tensor, Tensor, Tensor, Spans, float], Tensor]
"""query [T, H, D], key and value [K, H_kv, D], spans, scale -> [T, H, D]: causal, aligned at the end."""


def pack_layout(
    prompt_lengths: Sequence[int],
    completion_lengths: Sequence[int],
    prompt_of: Sequence[int],
    *,
    padding: int = 0,
    device: torch.device,
    half: bool,
) -> AttentionLayout:
    """The layout of a pack that suits a device. Arguments are those of :class:`PackedAttention`; ``half``: attention is in bfloat16."""
    kind = VarlenAttention if half and device.type == "cuda" else PackedAttention
    return kind(prompt_lengths, completion_lengths, prompt_of, padding=padding, device=device)


class VarlenAttention:
    """An ``AttentionLayout`` over the pack of a :class:`PackedAttention`, which it leaves heads to that the kernel does not take.

    Computes in autocast's type where there is autocast.

    Args:
        kernel: FlashAttention as torch has it, if left out.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        completion_lengths: Sequence[int],
        prompt_of: Sequence[int],
        *,
        padding: int = 0,
        device: torch.device,
        kernel: Kernel | None = None,
    ) -> None:
        self._lengths = list(prompt_lengths), list(completion_lengths), list(prompt_of)
        self._padding, self._device, self._kernel = padding, device, kernel or flash
        queries = [*prompt_lengths, *completion_lengths]
        keys = [*prompt_lengths, *(prompt_lengths[p] + n for p, n in zip(prompt_of, completion_lengths, strict=True))]
        starts = list(accumulate(queries, initial=0))
        places = [torch.arange(starts[len(prompt_lengths)])]
        for p, start, end in zip(prompt_of, starts[len(prompt_lengths) :], starts[len(prompt_lengths) + 1 :], strict=False):
            places += [torch.arange(starts[p], starts[p + 1]), torch.arange(start, end)]
        self._tokens, self._index = starts[-1], torch.cat(places).to(device)
        self._spans = Spans(
            queries=torch.tensor(starts, dtype=torch.int32, device=device),
            keys=torch.tensor(list(accumulate(keys, initial=0)), dtype=torch.int32, device=device),
            longest_queries=max(queries),
            longest_keys=max(keys),
        )

    @cached_property
    def _buckets(self) -> PackedAttention:
        return PackedAttention(*self._lengths, padding=self._padding, device=self._device)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]; see :class:`~zero2r1.models.attention.AttentionLayout`."""
        if query.shape[-1] > WIDEST_HEAD or query.shape[-1] % HEAD_MULTIPLE:
            return self._buckets.attend(layer, query, key, value, scale)
        device = query.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
        q = query[: self._tokens].to(dtype)
        k, v = (_Gather.apply(x.to(dtype), self._index) for x in (key, value))
        attended = self._kernel(q, k, v, self._spans, scale)
        return torch.cat((attended, attended.new_zeros(self._padding, *attended.shape[1:]))) if self._padding else attended


class _Gather(torch.autograd.Function):
    """tokens [T, ...] -> [K, ...] by ``index``. A prompt's gradient is a sum over its group: added up in float32, whatever it comes in."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.tokens = len(tokens)
        return tokens.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (index,) = ctx.saved_tensors
        dtype = torch.promote_types(grad.dtype, torch.float32)
        total = torch.zeros(ctx.tokens, *grad.shape[1:], dtype=dtype, device=grad.device)
        return total.index_add_(0, index, grad.to(dtype)).to(grad.dtype), None


@cache
def _knows_groups() -> bool:
    """Whether torch's function takes fewer key-value heads than heads; torch 2.11 does not say so yet."""
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def flash(query: Tensor, key: Tensor, value: Tensor, spans: Spans, scale: float) -> Tensor:
    """FlashAttention as torch has it. A :data:`Kernel`."""
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}  # no key after the query's own: causal
    share = query.shape[1] // key.shape[1]
    if share > 1 and _knows_groups():
        options["enable_gqa"] = True
    elif share > 1:
        key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    lengths = spans.queries, spans.keys, spans.longest_queries, spans.longest_keys
    attended: Tensor = varlen_attn(query, key, value, *lengths, **options)
    return attended

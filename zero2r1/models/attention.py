"""Attention for packed groups, plugged into unmodified `transformers` classes.

A pack is one row of tokens: every prompt of the pack once, then all completions,

    [ q_1 | q_2 | ... | o_1 | o_2 | o_3 | ... | padding ]

so the prompt of a group is computed once however many completions share it, and matrix products see no padding.
Only attention looks at sequences: completions are padded to their neighbours of similar length, and each attends to
its own prompt and to itself. Nothing leaks from one sequence to another.

Shapes: T packed tokens, N prompts, B completions of one bucket, L longest of them, P longest prompt, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "zero2r1"
BUCKET_ROWS = 64
BUCKET_RATIO = 0.75  # a bucket's shortest completion is at least this share of its longest: padding stays small
LONG = 512  # completions longer than this share a bucket only behind prompts of equal length, and then need no mask


class AttentionLayout(Protocol):
    """Knows which packed token may look at which; handed to the model as the keyword ``layout``."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]."""
        ...


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let the model's attention follow a ``layout`` keyword. Weights and class stay as they are.

    Called without ``layout`` (``model.generate``, an evaluation harness) the model works as before.

    Raises:
        ValueError: for a model whose attention or head does more than this layout knows.
    """
    config = model.config
    if getattr(config, "use_sliding_window", getattr(config, "sliding_window", None) is not None):
        raise ValueError(f"{type(model).__name__} uses sliding-window attention, which packed attention does not know yet.")
    for setting in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, setting, None) not in (None, 1, 1.0):
            raise ValueError(f"{type(model).__name__} rescales its logits ({setting}); the chunked head does not know that.")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(f"{type(model).__name__} has a bias in its head, which the chunked head does not know.")
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            # Log-probabilities of the same tokens must not change from one pass to the next.
            module.p = 0.0


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    layout: AttentionLayout | None = kwargs.pop("layout", None)
    if layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    rows = (x[0].transpose(0, 1) for x in (query, key, value))  # [1, H, T, D] -> [T, H, D]
    return layout.attend(int(module.layer_idx), *rows, scale)[None], None


def backbone_forward(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, layout: AttentionLayout) -> Tensor:
    """Hidden states [T, width] of one packed row of token ids [T]; no cache, no logits."""
    decoder = model.get_decoder()
    # A mask that is already 4-dimensional is passed on as it is; without one a T x T mask would be built for nothing.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    output = decoder(input_ids=input_ids[None], position_ids=position_ids[None], attention_mask=no_mask, use_cache=False, layout=layout)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


class _PadRows(torch.autograd.Function):
    """rows [n, ...] -> [m, ...] by ``index``; its gradient is a gather too, because padding receives none."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class _Padding:
    """Moves sequences of the given lengths between the packed and the padded form."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        lengths_B = torch.tensor(lengths)
        self.rows, self.width, self.tokens = len(lengths), int(lengths_B.max()), int(lengths_B.sum())
        starts_B = lengths_B.cumsum(0) - lengths_B
        column_L = torch.arange(self.width)
        # Padding repeats the sequence's last token: a finite value that causality or the mask hides.
        self.index = (starts_B[:, None] + column_L.minimum(lengths_B[:, None] - 1)).flatten().to(device)
        self.inverse = (column_L < lengths_B[:, None]).flatten().nonzero().flatten().to(device)

    def pad(self, packed: Tensor) -> Tensor:
        """[tokens, H, D] -> [rows, width, H, D]"""
        padded: Tensor = _PadRows.apply(packed, self.index, self.inverse)
        return padded.view(self.rows, self.width, *packed.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[rows, width, H, D] -> [tokens, H, D]"""
        return padded.flatten(0, 1).index_select(0, self.inverse)


class PackedAttention:
    """The layout of one pack: prompts, then completions in the order given, then ``padding`` unused tokens.

    Completions should come sorted by length; neighbours of similar length share a bucket.

    Args:
        prompt_lengths: tokens of each prompt, N of them.
        completion_lengths: tokens of each completion.
        prompt_of: which prompt each completion continues.
        padding: tokens after the last completion that nothing attends to.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        completion_lengths: Sequence[int],
        prompt_of: Sequence[int],
        *,
        padding: int = 0,
        device: torch.device,
    ) -> None:
        self._prompts = _Padding(prompt_lengths, device)
        self._padding = padding
        self._buckets: list[tuple[_Padding, Tensor, Tensor | int]] = []
        lengths_N = torch.tensor(prompt_lengths)
        for first, last in _bucket_edges(completion_lengths, [prompt_lengths[prompt] for prompt in prompt_of]):
            bucket = _Padding(completion_lengths[first:last], device)
            prompt_of_B = torch.tensor(prompt_of[first:last])
            if bucket.width > LONG:
                self._buckets.append((bucket, prompt_of_B.to(device), prompt_lengths[prompt_of[first]]))
                continue
            sees_prompt = torch.arange(self._prompts.width) < lengths_N[prompt_of_B, None]
            causal = torch.ones(bucket.width, bucket.width, dtype=torch.bool).tril()
            mask = torch.cat(
                (
                    sees_prompt[:, None].expand(-1, bucket.width, -1),
                    causal[None].expand(bucket.rows, -1, -1),
                ),
                dim=-1,
            )
            self._buckets.append((bucket, prompt_of_B.to(device), mask[:, None].to(device)))
        self._sizes = [self._prompts.tokens, *(bucket.tokens for bucket, _, _ in self._buckets), padding]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [T, H, D], key and value [T, H_kv, D] -> [T, H, D]; see :class:`AttentionLayout`."""
        q_parts, k_parts, v_parts = (x.split(self._sizes) for x in (query, key, value))
        prompt_q, prompt_k, prompt_v = (self._prompts.pad(parts[0]) for parts in (q_parts, k_parts, v_parts))
        outputs = [self._prompts.unpad(_sdpa(prompt_q, prompt_k, prompt_v, None, scale))]
        for part, (bucket, prompt_of_B, mask) in enumerate(self._buckets, start=1):
            queries, shared = bucket.pad(q_parts[part]), None if isinstance(mask, Tensor) else mask
            keys = torch.cat((prompt_k.index_select(0, prompt_of_B)[:, :shared], bucket.pad(k_parts[part])), dim=1)
            values = torch.cat((prompt_v.index_select(0, prompt_of_B)[:, :shared], bucket.pad(v_parts[part])), dim=1)
            if shared is None:
                attended = _sdpa(queries, keys, values, mask, scale)
            else:
                # Queries that nobody asks for stand before the others, so that the square is causal: no mask of L x (P + L), half the work.
                before = queries.new_zeros(len(queries), shared, *queries.shape[2:])
                attended = _sdpa(torch.cat((before, queries), dim=1), keys, values, None, scale)[:, shared:]
            outputs.append(bucket.unpad(attended))
        if self._padding:
            outputs.append(torch.zeros_like(q_parts[-1]))
        return torch.cat(outputs)


def _bucket_edges(lengths: Sequence[int], prompt_lengths: Sequence[int]) -> list[tuple[int, int]]:
    edges: list[tuple[int, int]] = []
    first = 0
    for i in range(1, len(lengths) + 1):
        full = i == len(lengths) or i - first == BUCKET_ROWS
        spread = lengths[first : i + 1]
        unlike = max(spread) > LONG and len(set(prompt_lengths[first : i + 1])) > 1
        if full or unlike or min(spread) < BUCKET_RATIO * max(spread):
            edges.append((first, i))
            first = i
    return edges


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """[B, L, H, D] x [B, S, H_kv, D] -> [B, L, H, D]; causal when there is no mask."""
    if key.shape[2] != query.shape[2]:
        share = query.shape[2] // key.shape[2]
        key, value = key.repeat_interleave(share, dim=2), value.repeat_interleave(share, dim=2)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    return out.transpose(1, 2)

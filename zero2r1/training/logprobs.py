"""log pi(o_t | q, o_<t) of packed completions, without ever holding [T, V] logits.

The head runs over chunks of tokens; the backward pass runs them again. Memory is one chunk times the vocabulary.
Temperature divides the logits before the softmax, as in the sampler, so that both see the same distribution.

Shapes: C completion tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zero2r1.models.attention import backbone_forward
from zero2r1.models.packed_linear import Product, head_product
from zero2r1.training.packing import PackedBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = 96 * 2**20
"""Logits held at once, in float32: enough rows for matrix products to run at full speed."""
KEPT_BYTES = 256 * 2**20
"""Probabilities kept from the forward pass for the backward pass, which computes the rest again."""


def completion_logprobs(
    model: PreTrainedModel,
    batch: PackedBatch,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    half_head: bool = False,
    onednn: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability [C] of every completion token, and the entropy [C] of the distribution it was drawn from.

    Args:
        temperature: of the sampler, > 0.
        with_entropy: the entropy costs one more pass over the logits, and its gradient another, if it is asked for.
        half_head: multiply with the head in bfloat16; in float32 otherwise, even when the rest runs in bfloat16.
        onednn: multiply with the head by oneDNN where that is faster; see :mod:`zero2r1.models.packed_linear`.
    """
    hidden = backbone_forward(model, batch.input_ids, batch.position_ids, batch.layout).index_select(0, batch.source)
    head = model.get_output_embeddings()
    dtype = torch.bfloat16 if half_head else torch.promote_types(hidden.dtype, torch.float32)
    settings: dict[str, Any] = {"temperature": temperature, "with_entropy": with_entropy, "head_dtype": dtype, "onednn": onednn}
    return chunked_logprobs(hidden, head.weight, batch.targets, **settings)


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    with_entropy: bool = False,
    head_dtype: torch.dtype | None = None,
    chunk: int | None = None,
    onednn: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """hidden [C, D], head weight [V, D], targets [C] -> log-probabilities [C], entropies [C] or None.

    ``head_dtype`` is the type the head multiplies in; ``None`` keeps autocast's choice, or the type of ``hidden``.
    ``chunk`` tokens at a time, from :data:`CHUNK_BYTES` if not given.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0 to have log-probabilities, got {temperature}")
    if head_dtype is None:
        kind = hidden.device.type
        head_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    rows = chunk or max(1, CHUNK_BYTES // (4 * weight.shape[0]))
    logprobs, entropies = _ChunkedLogprobs.apply(hidden, weight, targets, temperature, with_entropy, head_dtype, rows, onednn)
    return logprobs, entropies if with_entropy else None


def _scaled_logits(hidden: Tensor, head: Product, temperature: float) -> Tensor:
    logits = head(hidden)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        with_entropy: bool,
        dtype: torch.dtype,
        rows: int,
        onednn: bool,
    ) -> tuple[Tensor, Tensor]:
        outputs: list[Tensor] = []
        entropies: list[Tensor] = []
        normalisers: list[Tensor] = []
        ctx.kept = deque()
        room = KEPT_BYTES if any(ctx.needs_input_grad) else 0
        with torch.autocast(hidden.device.type, enabled=False):
            head = head_product(weight.to(dtype), onednn=onednn)
            for hidden_chunk, target_chunk in zip(hidden.split(rows), targets.split(rows), strict=True):
                logits = _scaled_logits(hidden_chunk.to(dtype), head, temperature)
                largest = logits.amax(-1, keepdim=True)
                logits -= largest
                chosen = logits.gather(-1, target_chunk[:, None])[:, 0]
                exponentials = logits.exp() if with_entropy else logits.exp_()
                total = exponentials.sum(-1)
                normalisers.append(largest[:, 0] + total.log())
                outputs.append(chosen - total.log())
                if with_entropy:
                    entropies.append(total.log() - logits.mul_(exponentials).sum(-1) / total)
                room -= exponentials.nbytes
                if room >= 0:
                    ctx.kept.append(exponentials.div_(total[:, None]))
        logprobs = torch.cat(outputs)
        entropy = torch.cat(entropies) if with_entropy else logprobs.new_empty(0)
        ctx.save_for_backward(hidden, weight, targets, torch.cat(normalisers), entropy)
        ctx.temperature, ctx.dtype, ctx.rows, ctx.onednn = temperature, dtype, rows, onednn
        ctx.set_materialize_grads(False)  # most losses have no use for the entropy: its gradient is None then
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets, normalisers, entropies = ctx.saved_tensors
        grad = torch.zeros_like(normalisers) if grad is None else grad
        weight_in_dtype = weight.to(ctx.dtype)
        head = head_product(weight_in_dtype, onednn=ctx.onednn)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for first in range(0, hidden.shape[0], ctx.rows):
            chunk = slice(first, first + ctx.rows)
            rows = hidden[chunk].to(ctx.dtype)
            p = ctx.kept.popleft() if ctx.kept else None  # the graph may live longer than it is needed, and they are large
            if p is None:
                p = _scaled_logits(rows, head, ctx.temperature).sub_(normalisers[chunk, None]).exp_()
            # d log p(target) / d logits = onehot(target) - p
            grad_logits = p * -grad[chunk, None]
            grad_logits.scatter_add_(-1, targets[chunk, None], grad[chunk, None])
            if grad_entropy is not None:
                # d H / d logits = -p (log p + H)
                grad_logits -= grad_entropy[chunk, None] * (torch.xlogy(p, p) + p * entropies[chunk, None])
            grad_logits = grad_logits.div_(ctx.temperature).to(ctx.dtype)
            grad_hidden[chunk] = (grad_logits @ weight_in_dtype).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.t().to(weight.dtype), rows.to(weight.dtype))
        return grad_hidden, grad_weight, *[None] * 6

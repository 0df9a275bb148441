"""KL(student || teacher) over the whole vocabulary at every token, without ever holding [C, V] probabilities.

    KL(p || q) = sum_v p(v) (log p(v) - log q(v)),        p = softmax(z / T) of the student, q = softmax(y / T) of the teacher

The student stands first: the reverse direction, in which mass where the teacher has none is what costs. Its gradient by the student's
logits is d KL / d z_v = p(v) (log p(v) - log q(v) - KL) / T. That is all of it: distillation with soft targets often multiplies the loss
by T², so that its gradient keeps its size when T grows. Nothing is multiplied here; a T other than 1 changes the size of the gradient.

Both heads run over chunks of tokens. The backward pass needs p (log p - log q - KL) again; up to a bound it is kept, beyond that it is
computed a second time.

Shapes: C tokens, R tokens of one chunk, D width of the student, E width of the teacher, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zero2r1.models.packed_linear import Product, head_product

CHUNK_BYTES = 96 * 2**20
"""Size of one chunk of logits in float32; at most three such tensors, of student and teacher together, are alive at once."""
KEPT_BYTES = 256 * 2**20
"""Kept from the forward pass for the backward pass."""


def reverse_kl(
    student_hidden: Tensor,
    student_weight: Tensor,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    *,
    temperature: float = 1.0,
    head_dtype: torch.dtype | None = None,
    chunk: int | None = None,
    onednn: bool = False,
) -> Tensor:
    """hidden states [C, D] and [C, E], head weights [V, D] and [V, E] -> KL(student || teacher) [C] in nats, at ``temperature``.

    No gradient flows to the teacher, whatever its tensors ask for.

    Args:
        temperature: divides the logits of both, > 0. The value is the divergence of the two tempered distributions, times nothing.
        head_dtype: the type both heads multiply in; ``None`` keeps autocast's choice, or the type of ``student_hidden``.
        chunk: tokens at a time, from :data:`CHUNK_BYTES` if not given.
        onednn: multiply with the heads by oneDNN where that is faster; see :mod:`zero2r1.models.packed_linear`.

    Raises:
        ValueError: the temperature is not above 0, or the two do not have the same tokens and vocabulary.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be > 0 to have distributions, got {temperature}")
    if student_hidden.shape[0] != teacher_hidden.shape[0] or student_weight.shape[0] != teacher_weight.shape[0]:
        raise ValueError(
            f"student and teacher must see the same tokens and vocabulary; got {student_hidden.shape[0]} and {teacher_hidden.shape[0]} "
            f"tokens, {student_weight.shape[0]} and {teacher_weight.shape[0]} rows of the heads"
        )
    if head_dtype is None:
        kind = student_hidden.device.type
        head_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else student_hidden.dtype
    rows = chunk or max(1, CHUNK_BYTES // (4 * student_weight.shape[0]))
    tensors = (student_hidden, student_weight, teacher_hidden, teacher_weight)
    divergence: Tensor = _ReverseKL.apply(*tensors, temperature, head_dtype, rows, onednn)  # type: ignore[no-untyped-call]
    return divergence


def _log_probabilities(hidden: Tensor, head: Product, temperature: float) -> Tensor:
    logits = head(hidden)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _compare(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [R, V] of both -> KL [R], and p (log p - log q - KL) [R, V]. Overwrites both arguments."""
    gap = torch.sub(student, teacher, out=teacher)
    p = student.exp_()
    divergence = torch.linalg.vecdot(p, gap)
    return divergence, gap.sub_(divergence[:, None]).mul_(p)


class _ReverseKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        temperature: float,
        dtype: torch.dtype,
        rows: int,
        onednn: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight)
        ctx.temperature, ctx.dtype, ctx.rows, ctx.onednn = temperature, dtype, rows, onednn
        ctx.kept = []
        room = KEPT_BYTES if any(ctx.needs_input_grad[:2]) else 0
        outputs: list[Tensor] = []
        with torch.autocast(hidden.device.type, enabled=False):
            heads = [head_product(w.to(dtype), onednn=onednn) for w in (weight, teacher_weight)]
            for chunks in zip(torch.split(hidden, rows), torch.split(teacher_hidden, rows), strict=True):
                logprobs = (_log_probabilities(h.to(dtype), head, temperature) for h, head in zip(chunks, heads, strict=True))
                divergence, slope = _compare(*logprobs)
                outputs.append(divergence)
                room -= slope.nbytes
                if room >= 0:
                    ctx.kept.append(slope)
        return torch.cat(outputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, teacher_hidden, teacher_weight = ctx.saved_tensors
        student, teacher = weight.to(ctx.dtype), teacher_weight.to(ctx.dtype)
        heads = [head_product(w, onednn=ctx.onednn) for w in (student, teacher)]
        kept = iter(ctx.kept)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for first in range(0, hidden.shape[0], ctx.rows):
            chunk = slice(first, first + ctx.rows)
            rows = hidden[chunk].to(ctx.dtype)
            slope = next(kept, None)
            if slope is None:
                pair = zip((rows, teacher_hidden[chunk].to(ctx.dtype)), heads, strict=True)
                slope = _compare(*(_log_probabilities(h, head, ctx.temperature) for h, head in pair))[1]
            grad_logits = (slope * (grad[chunk, None] / ctx.temperature)).to(ctx.dtype)
            grad_hidden[chunk] = (grad_logits @ student).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.t().to(weight.dtype), rows.to(weight.dtype))
        return grad_hidden, grad_weight, *[None] * 6

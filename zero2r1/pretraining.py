"""A base model from nothing: next-token training on a stream of documents. What reinforcement learning starts from.

Documents are packed into rows of equal length, separated by the end token, and never repeated.

Several processes may train one model: each computes the gradient of rows of its own, ``exchange`` hands every one of them the sum, and
all take the same step. With matrices as small as the laptop model's, two processes of one thread are faster than one of two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zero2r1.training.optimizer import build_muon, learning_rate_factor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

DOCUMENTS_AT_ONCE = 512
Exchange = Callable[[Tensor], Tensor]
"""A vector of each process -> their mean, in place or new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainStep:
    """What one step reports."""

    step: int
    loss: float
    tokens_per_s: float


def packed_rows(documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, length: int) -> Iterator[list[int]]:
    """Token rows of ``length + 1``: each row's last token is the next row's first, so every token is predicted once."""
    buffer: list[int] = [tokenizer.eos_token_id]
    source = iter(documents)
    while True:
        batch = [text for text, _ in zip(source, range(DOCUMENTS_AT_ONCE), strict=False)]
        if not batch:
            return
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            buffer += ids
            buffer.append(tokenizer.eos_token_id)
        at = 0
        while at + length + 1 <= len(buffer):
            yield buffer[at : at + length + 1]
            at += length
        buffer = buffer[at:]


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    documents: Iterable[str],
    *,
    steps: int,
    rows: int = 16,
    row_length: int = 256,
    exchange: Exchange | None = None,
    matrix_learning_rate: float = 0.02,
    other_learning_rate: float = 4e-3,
    on_step: Callable[[PretrainStep], None] = lambda report: None,
) -> float:
    """Train ``model`` in place for ``steps`` steps of ``rows * row_length`` tokens; returns the mean loss of the last tenth.

    Args:
        rows: of this process; reports count the tokens of it alone.
        exchange: given the gradient and the loss of this process as one vector, the mean over all processes; the same in each.

    Muon on the matrices with weight decay 0.1, 50 steps of warm-up, a cosine to 5 %, gradient norm clipped at 1.
    """
    optimizers = build_muon(model, matrix_learning_rate=matrix_learning_rate, other_learning_rate=other_learning_rate, weight_decay=0.1)
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    stream = packed_rows(documents, tokenizer, row_length)
    model.train()
    losses: list[Tensor] = []
    for step in range(steps):
        began = time.monotonic()
        ids = torch.tensor([row for row, _ in zip(stream, range(rows), strict=False)])
        factor = learning_rate_factor(step, total=steps, warmup=50, schedule="cosine", final=0.05)
        for optimizer, rates in zip(optimizers, base_rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        if exchange is not None:
            loss = _share(model, loss, exchange)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        on_step(PretrainStep(step=step + 1, loss=loss.item(), tokens_per_s=rows * row_length / (time.monotonic() - began)))
    model.eval()
    return float(torch.stack(losses[-max(1, steps // 10) :]).mean())


def _share(model: PreTrainedModel, loss: Tensor, exchange: Exchange) -> Tensor:
    """Replace the gradients by their mean over all processes; returns the mean loss."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    mean = exchange(torch.cat([*(gradient.flatten() for gradient in gradients), loss.detach().reshape(1)]))
    for gradient, piece in zip(gradients, mean[:-1].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(piece.view_as(gradient))
    return mean[-1].clone()  # a view would keep the whole vector alive for as long as the loss is

"""Optimizers and learning-rate schedules shared by every gradient step."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(step: int, *, total: int, warmup: int, schedule: Schedule, final: float) -> float:
    """What the learning rate is multiplied with in step ``step`` (0 is the first) of ``total``.

    Rises linearly over ``warmup`` steps, then stays, or falls to ``final`` in a line or a half cosine.
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    shape = 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return final + (1 - final) * shape


def build_adamw(model: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over every trainable parameter; matrices decay, vectors (norms, biases) do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)


def build_muon(
    model: nn.Module, *, matrix_learning_rate: float, other_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon on the matrices inside the blocks, AdamW on embeddings, head and norms: fast pretraining of small models.

    Muon orthogonalises each matrix's momentum; its step is scaled by sqrt(max(1, rows/columns)).
    """
    outer = {id(p) for name, p in model.named_parameters() if "embed" in name or "lm_head" in name or p.ndim < 2}
    matrices = [p for p in model.parameters() if id(p) not in outer]
    others = [p for p in model.parameters() if id(p) in outer]
    return [
        torch.optim.Muon(matrices, lr=matrix_learning_rate, weight_decay=weight_decay, momentum=0.95, nesterov=True),
        torch.optim.AdamW(others, lr=other_learning_rate, betas=(0.9, 0.95), weight_decay=0.0, foreach=True),
    ]

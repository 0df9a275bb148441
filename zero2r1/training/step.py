"""Around every gradient step, whichever stage takes it: how the pass is computed, and when the weights may move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from zero2r1.models.half_linear import half_linears
from zero2r1.models.loading import checkpoint_activations
from zero2r1.models.packed_linear import onednn_linears
from zero2r1.training.config import ComputeSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare_model(model: PreTrainedModel, settings: ComputeSettings) -> None:
    """Make a model prepared by ``use_packed_attention`` ready for gradient steps; dropout is off in it whatever the mode."""
    if settings.gradient_checkpointing:
        checkpoint_activations(model)
    model.train(settings.gradient_checkpointing)  # transformers checkpoints in training mode only


@contextmanager
def training_context(model: PreTrainedModel, settings: ComputeSettings, device: torch.device) -> Iterator[None]:
    """Around a training or scoring forward pass: bfloat16 products over float32 weights if asked for, the faster products on a CPU."""
    half = settings.half
    # Checkpointing computes layers again after this context has ended, and refuses if other operators run then.
    replaces = device.type == "cpu" and settings.onednn != "off" and not settings.gradient_checkpointing
    with (
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=half and not replaces),
        half_linears(model, enabled=half and replaces),
        onednn_linears(model, enabled=settings.onednn == "all" and not half and replaces),
    ):
        yield


def head_options(settings: ComputeSettings) -> dict[str, bool]:
    """What the settings ask of :func:`~zero2r1.training.logprobs.completion_logprobs`."""
    return {"half_head": settings.half_head, "onednn": settings.onednn == "all"}


def clip_and_step(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], loss: float, *, max_grad_norm: float
) -> tuple[float, bool]:
    """Clip the accumulated gradient by its norm, step, and clear it. Returns the norm before clipping, and whether it stepped.

    Weights and moments stay as they were when loss or norm is not finite, or when nothing was accumulated (norm 0, still true).
    """
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)) if parameters else 0.0
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite and parameters:
        for optimizer in optimizers:
            optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return norm, finite

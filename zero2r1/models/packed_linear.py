"""Linear layers of large models on a CPU by oneDNN, for as long as a context is open. Float32 as before, equal to rounding.

Decoding a few rows is bound by reading the weights; laid out for oneDNN that takes half the time. In training oneDNN gains a tenth
of the products it is used for (docs/results.md). Small weights live in the processor's cache and gain nothing: they stay as they are.

Off unless ZERO2R1_ONEDNN=1: rounding is a little coarser. Log-probabilities of SmolLM2-135M in sampler and trainer then differ by up to
5.2e-5 over 17,000 tokens, without it by 2.9e-5; the engine promises 5e-5.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""x [..., rows, in] -> x W^T + b [..., rows, out]"""

WORTHWHILE_BYTES = 32 * 2**20
"""Weights below this stay in the last-level cache between uses."""
ROWS_HINT = 32
ROUND_ROWS_ABOVE, ROUND_ROWS_TO = 32, 8
"""oneDNN compiles one kernel per number of rows; above a few, rows are padded so that its cache of kernels suffices."""


def switched_on() -> bool:
    """Whether the user asked for these products."""
    return os.environ.get("ZERO2R1_ONEDNN") == "1"


@cache
def available() -> bool:
    """Whether this build of torch has the two oneDNN operators. They are internal to torch, hence the look before use."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def linear_product(weight: Tensor, bias: Tensor | None = None, *, rows: int = ROWS_HINT) -> Product:
    """The product with this weight, by the packed layout where that is worth the packing. Takes no gradient through it.

    Args:
        rows: how many rows a call will typically have.
    """
    fits = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.nbytes >= WORTHWHILE_BYTES
    return _packed(weight, bias, rows) if fits and switched_on() and available() else lambda x: F.linear(x, weight, bias)


def _packed(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def product(x: Tensor) -> Tensor:
        rows = x.shape[-2]
        padding = -rows % ROUND_ROWS_TO if rows > ROUND_ROWS_ABOVE else 0
        padded = F.pad(x, (0, 0, 0, padding)) if padding else x
        out: Tensor = torch.ops.mkldnn._linear_pointwise(padded, packed, bias, "none", [], "")
        return out[..., :rows, :] if padding else out

    return product


class _Linear(torch.autograd.Function):
    """x W^T + b with oneDNN where it is faster than torch's default on this side of a training step: all but the weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = torch.ops.mkldnn._linear_pointwise(grad, weight.t(), None, "none", [], "") if ctx.needs_input_grad[0] else None
        grad_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, rows.sum(0) if ctx.has_bias else None


@contextmanager
def packed_linears(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """While the context is open, the model's linear layers use packed copies of their weights. Its weights must not change meanwhile.

    Costs a copy of the weights in memory, which ends with the context. Does nothing where it would not help.
    """
    with _replaced(model, lambda linear: _packed(linear.weight, linear.bias, ROWS_HINT), enabled=enabled):
        yield


@contextmanager
def onednn_linears(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """While the context is open, the model's linear layers run on oneDNN, with gradients. Does nothing where it would not help."""
    with _replaced(model, lambda linear: lambda x: _Linear.apply(x, linear.weight, linear.bias), enabled=enabled):
        yield


@contextmanager
def _replaced(model: nn.Module, product: Callable[[nn.Linear], Product], *, enabled: bool) -> Iterator[None]:
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    size = sum(linear.weight.nbytes for linear in linears)
    suits = all(linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32 for linear in linears)
    if not (enabled and suits and size >= WORTHWHILE_BYTES and switched_on() and available()):
        yield
        return
    try:
        for linear in linears:
            linear.forward = product(linear)  # type: ignore[method-assign]
        yield
    finally:
        for linear in linears:
            linear.__dict__.pop("forward", None)

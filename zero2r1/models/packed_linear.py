"""Linear layers on a CPU with their weights laid out for oneDNN, for as long as the weights stay what they are.

Decoding a few rows is bound by reading the weights; in this layout that takes half the time (docs/results.md). The numbers are
float32 as before, equal to rounding. Small weights live in the processor's cache and gain nothing, so they stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""x [..., in] -> x W^T + b [..., out]"""

WORTHWHILE_BYTES = 32 * 2**20
"""Weights below this stay in the last-level cache between uses."""
ROWS_HINT = 32
ROUND_ROWS_ABOVE, ROUND_ROWS_TO = 32, 8
"""oneDNN compiles one kernel per number of rows; above a few, rows are padded so that its cache of kernels suffices."""


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
    return _packed(weight, bias, rows) if fits and available() else lambda x: F.linear(x, weight, bias)


def _packed(weight: Tensor, bias: Tensor | None, rows: int) -> Product:
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def product(x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        count = flat.shape[0]
        padding = -count % ROUND_ROWS_TO if count > ROUND_ROWS_ABOVE else 0
        if padding:
            flat = F.pad(flat, (0, 0, 0, padding))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(flat, packed, bias, "none", [], "")
        return out[:count].view(*x.shape[:-1], -1)

    return product


@contextmanager
def packed_linears(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """While the context is open, the model's linear layers use packed copies of their weights. Its weights must not change meanwhile.

    Costs a copy of the weights in memory, which ends with the context. Does nothing where it would not help.
    """
    linears = [module for module in model.modules() if type(module) is nn.Linear]
    size = sum(linear.weight.nbytes for linear in linears)
    suits = all(linear.weight.device.type == "cpu" and linear.weight.dtype == torch.float32 for linear in linears)
    if not (enabled and suits and size >= WORTHWHILE_BYTES and available()):
        yield
        return
    try:
        for linear in linears:
            linear.forward = _packed(linear.weight, linear.bias, ROWS_HINT)  # type: ignore[method-assign]
        yield
    finally:
        for linear in linears:
            linear.__dict__.pop("forward", None)

"""Linear layers in bfloat16 on a CPU, everything between them in float32: the residual, norms, attention and what a layer hands on.

Autocast would run attention and activations in bfloat16 too, which is no faster on a CPU. Here only matrix products are shorter; weights
are cast when the context opens. Results are those of bfloat16 products (8 bits of mantissa) with float32 sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero2r1.models.packed_linear import Product, replaced_forwards


class _HalfLinear(torch.autograd.Function):
    """x W^T + b: x [..., in] and the result in float32, the product in bfloat16. The gradients are products in bfloat16 as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, half_weight: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        ctx.save_for_backward(rows, half_weight)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        out = F.linear(rows, half_weight).float()
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, half_weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        half = flat.to(torch.bfloat16)
        grad_x = (half @ half_weight).float().view(ctx.shape) if ctx.needs_input_grad[0] else None
        grad_weight = (half.t() @ rows).float() if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, flat.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None, None


@contextmanager
def half_linears(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """While the context is open, the model's linear layers but its head multiply in bfloat16, with gradients in float32.

    Its weights must not change meanwhile. Costs a copy of them in bfloat16, which ends with the context and the graph built in it.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    linears = [module for module in model.modules() if type(module) is nn.Linear and module is not head] if enabled else []

    def products() -> Iterator[tuple[nn.Module, Product]]:
        for linear in linears:
            half = linear.weight.detach().to(torch.bfloat16)
            yield linear, lambda x, layer=linear, half=half: _HalfLinear.apply(x, layer.weight, layer.bias, half)

    with replaced_forwards(products()):
        yield

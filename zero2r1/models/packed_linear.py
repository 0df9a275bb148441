"""Linear layers of large models on a CPU by oneDNN, for as long as a context is open. Float32 as before, equal to rounding.

Decoding a few rows is bound by reading the weights; laid out for oneDNN that takes half the time. In training oneDNN gains a tenth
of the products it is used for (docs/results.md). Small weights live in the processor's cache and gain nothing: they stay as they are.

oneDNN adds up a whole row in one chain, torch's default (MKL) in chains of 192, which rounds less. It matters in the head alone,
where the error goes straight into a log-probability; there rows are cut into chains of 192 too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zero2r1.models.adapters import effective_weight, is_adapted

Product = Callable[[Tensor], Tensor]
"""x [..., rows, in] -> x W^T + b [..., rows, out]"""

WORTHWHILE_BYTES = 32 * 2**20
"""Weights below this stay in the last-level cache between uses."""
CHAIN = 192
"""Numbers added up one after the other before a new sum begins, where exactness asks for it."""
ROWS_HINT = 32
ROUND_ROWS_ABOVE, ROUND_ROWS_TO = 32, 8
"""oneDNN compiles one kernel per number of rows; above a few, rows are padded so that its cache of kernels suffices."""
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that are given the same input: one product of their joined weights serves all."""


@cache
def available() -> bool:
    """Whether this build of torch has the two oneDNN operators. They are internal to torch, hence the look before use."""
    return torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    )


def head_product(weight: Tensor, *, onednn: bool) -> Product:
    """The product with the weight of a head, as exact as torch's default. Takes no gradient through it."""
    if weight.is_cuda and weight.dtype == torch.bfloat16:  # logits that are not rounded to bfloat16 once more
        return lambda x: torch.mm(x, weight.t(), out_dtype=torch.float32)  # type: ignore[call-overload, no-any-return]
    if not (onednn and _worthwhile([weight])):
        return lambda x: F.linear(x, weight)
    return _in_chains(weight.detach(), lambda part: lambda x: _linear(x, part.contiguous(), None))


def _worthwhile(weights: Sequence[Tensor]) -> bool:
    suits = bool(weights) and all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    return suits and sum(weight.nbytes for weight in weights) >= WORTHWHILE_BYTES and available()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _packed(weight: Tensor, bias: Tensor | None = None, *, half: bool = False) -> Product:
    whole = weight.dtype
    kind = torch.bfloat16 if half else whole
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind).contiguous(), ROWS_HINT)

    def product(x: Tensor) -> Tensor:
        rows = x.shape[-2]
        padding = -rows % ROUND_ROWS_TO if rows > ROUND_ROWS_ABOVE else 0
        out = _linear((F.pad(x, (0, 0, 0, padding)) if padding else x).to(kind), packed, None if half else bias)
        out = out[..., :rows, :] if padding else out
        if not half:
            return out
        return out.to(whole) if bias is None else out + bias  # the sum is in the type of the bias

    return product


def _in_chains(weight: Tensor, product: Callable[[Tensor], Product]) -> Product:
    """The sum of the products with pieces of every row of ``weight``, each piece at most CHAIN long."""
    count = -(-weight.shape[1] // CHAIN)
    parts = [product(part) for part in weight.chunk(count, dim=1)]

    def total(x: Tensor) -> Tensor:
        pieces = x.chunk(count, dim=-1)
        out = parts[0](pieces[0].contiguous())
        for part, piece in zip(parts[1:], pieces[1:], strict=True):
            out += part(piece.contiguous())
        return out

    return total


class _Linear(torch.autograd.Function):
    """x W^T + b with oneDNN where it is faster than torch's default on this side of a training step: all but the weight gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = _linear(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        grad_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return grad_x, grad_weight, rows.sum(0) if ctx.has_bias else None


class _Joined:
    """Layers with the same input as one packed product; each layer's call returns its columns of it."""

    def __init__(self, layers: Sequence[Any], *, half: bool) -> None:
        biases = [layer.bias for layer in layers if layer.bias is not None]
        weight = torch.cat([effective_weight(layer) for layer in layers])
        self._product = _packed(weight, torch.cat(biases) if biases else None, half=half)
        self._widths = [layer.out_features for layer in layers]
        self._input: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def of(self, index: int) -> Product:
        def product(x: Tensor) -> Tensor:
            if x is not self._input or index not in self._outputs:
                self._input, self._outputs = x, dict(enumerate(self._product(x).split(self._widths, dim=-1)))
            out = self._outputs.pop(index)
            if not self._outputs:
                self._input = None  # nothing is held longer than the module's own forward
            return out

        return product


@contextmanager
def packed_linears(model: nn.Module, *, enabled: bool = True, half: bool = False, half_head: bool = False) -> Iterator[None]:
    """While the context is open, the model's linear layers use packed copies of their weights. Its weights must not change meanwhile.

    A layer with an adapter is one product with the sum of both, packed or not. Costs a copy of these weights in memory, which ends with the
    context. Takes no gradient. Does nothing where it would not help.

    Args:
        half: multiply in bfloat16, all layers but the head; what goes in and out stays as it is.
        half_head: with ``half``, the head too.
    """
    packs = half or _worthwhile([layer.weight for layer in whole_layers(model)])
    products = _packed_products(model, half, half_head) if packs else _merged_products(model)
    with replaced_forwards(products if enabled else iter(())):
        yield


def whole_layers(model: nn.Module) -> list[Any]:
    """Linear layers with and without adapters. The layers inside one with an adapter are not among them."""
    inner = {part for layer in model.modules() if is_adapted(layer) for part in layer.modules() if part is not layer}
    return [module for module in model.modules() if type(getattr(module, "base_layer", module)) is nn.Linear and module not in inner]


def _merged_products(model: nn.Module) -> Iterator[tuple[nn.Module, Product]]:
    for layer in filter(is_adapted, whole_layers(model)):
        with torch.no_grad():
            weight = effective_weight(layer)
        yield layer, lambda x, weight=weight, bias=layer.bias: F.linear(x, weight, bias)


def _packed_products(model: nn.Module, half: bool, half_head: bool) -> Iterator[tuple[nn.Module, Product]]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    whole = set(whole_layers(model))
    joined: set[nn.Module] = set()
    with torch.no_grad():
        for module in model.modules():
            for names in SIBLINGS:
                layers = [layer for name in names if (layer := getattr(module, name, None)) in whole]
                if len(layers) == len(names) and len({(layer.in_features, layer.bias is None) for layer in layers}) == 1:
                    together = _Joined(layers, half=half)
                    yield from ((layer, together.of(i)) for i, layer in enumerate(layers))
                    joined.update(layers)
            if module in whole and module not in joined:
                weight = effective_weight(module)
                if module is not head or half_head:
                    yield module, _packed(weight, module.bias, half=half)
                elif not half or _worthwhile([weight]):
                    yield module, _in_chains(weight, _packed)


@contextmanager
def onednn_linears(model: nn.Module, *, enabled: bool = True) -> Iterator[None]:
    """While the context is open, the model's linear layers run on oneDNN, with gradients. Does nothing where it would not help."""

    linears = [module for module in model.modules() if type(module) is nn.Linear]
    helps = enabled and _worthwhile([linear.weight for linear in linears])
    with replaced_forwards((linear, lambda x, layer=linear: _Linear.apply(x, layer.weight, layer.bias)) for linear in linears if helps):
        yield


@contextmanager
def replaced_forwards(products: Iterator[tuple[nn.Module, Product]]) -> Iterator[None]:
    """While the context is open, these layers compute with these products instead of their own forward."""
    replaced: list[nn.Module] = []
    try:
        for layer, product in products:
            replaced.append(layer)
            layer.forward = product  # type: ignore[method-assign]
        yield
    finally:
        for layer in replaced:
            layer.__dict__.pop("forward", None)

"""A second model object that computes what a model does, to sample from: in evaluation mode, without adapters, at fixed addresses.

For GPUs. It shares every tensor with its source but the weights of two kinds of linear layers, of which it has copies: of those with
adapters, with the adapters added; and of all of them when it is to be in bfloat16. That is what autocast would make of float32 weights in
every step of decoding; here it is made once, so a step reads two bytes a weight. What lies between linear layers is computed as in
training, so that sampler and trainer round alike.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zero2r1.models.adapters import effective_weight, is_adapted
from zero2r1.models.packed_linear import head_product, whole_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _HalfHead(nn.Linear):
    """A head in bfloat16 whose logits are rounded as in training."""

    def forward(self, input: Tensor) -> Tensor:
        return head_product(self.weight, onednn=False)(input).float()


class Twin:
    """The second object, ``model``, and how it is brought up to date.

    Args:
        source: prepared by ``use_packed_attention``; its parameters may change in place, and may not be replaced.
        half: linear layers in bfloat16, all but the head; logits are float32.
        half_head: with ``half``, the head too.
    """

    def __init__(self, source: PreTrainedModel, *, half: bool, half_head: bool = False) -> None:
        shared = {id(tensor): tensor for tensor in (*source.parameters(), *source.buffers())}
        self.model: PreTrainedModel = copy.deepcopy(source, shared)  # structure alone
        self._source = source
        self._copies: dict[str, nn.Linear] = {}
        head = source.get_output_embeddings()
        names = {module: name for name, module in source.named_modules()}
        for layer in whole_layers(source):
            halved = half and (half_head or layer is not head)
            if halved or is_adapted(layer):
                kind = _HalfHead if halved and layer is head else nn.Linear
                self._replace(names[layer], layer, kind, torch.bfloat16 if halved else effective_weight(layer).dtype)
        self.model.eval()

    def _replace(self, name: str, layer: Any, kind: type[nn.Linear], dtype: torch.dtype) -> None:
        weight = effective_weight(layer)
        own = nn.utils.skip_init(
            kind, layer.in_features, layer.out_features, bias=layer.bias is not None, device=weight.device, dtype=dtype
        ).requires_grad_(False)
        self.model.set_submodule(name, own)
        self._copies[name] = own

    def refresh(self) -> None:
        """Take over what the source's weights are at this moment, in place."""
        with torch.no_grad():
            for name, own in self._copies.items():
                layer = self._source.get_submodule(name)  # by name: adapters may have been merged and be gone
                own.weight.copy_(effective_weight(layer))
                if own.bias is not None:
                    own.bias.copy_(layer.bias)

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """Around sampling: up to date from the beginning; the source's weights must not change meanwhile."""
        self.refresh()
        yield

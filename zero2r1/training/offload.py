"""What lies in the memory of the host while a GPU does not need it: the reference between scorings, Adam's moments between steps.

On a CPU nothing moves: what would be copied is where it belongs already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def to_host(tensor: Tensor) -> Tensor:
    """The tensor in memory of the host from which a GPU copies fast; itself, where it is on a CPU."""
    if tensor.device.type == "cpu":
        return tensor
    kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return kept.copy_(tensor)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, shared ones once."""
    yield from model.parameters()
    yield from model.buffers()


def keep_on_host(model: nn.Module) -> None:
    """Move a model that is not trained to the host, in place."""
    for tensor in _tensors(model):
        tensor.data = to_host(tensor.data)


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While the context is open, a model that is kept on the host is on the device. What changes there is forgotten."""
    kept = [(tensor, tensor.data) for tensor in _tensors(model)]
    try:
        for tensor, data in kept:
            tensor.data = data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def keep_state_on_host(optimizer: torch.optim.Optimizer) -> None:
    """From now on an optimizer's state is on the device of its parameters during ``step()`` only."""

    def bring(*_: Any) -> None:
        for parameter, state in optimizer.state.items():
            state.update({name: value.to(parameter.device, non_blocking=True) for name, value in state.items()})

    def put_away(*_: Any) -> None:
        put_state_away(optimizer)

    optimizer.register_step_pre_hook(bring)
    optimizer.register_step_post_hook(put_away)


def put_state_away(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to the host, as after a step."""
    for state in optimizer.state.values():
        state.update({name: to_host(value) for name, value in state.items()})

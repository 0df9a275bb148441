"""The reference that the KL term holds the policy to: the policy as it was at the beginning, or at the last reset."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from zero2r1.models.adapters import adapter_parameters, adapters_off, has_adapters
from zero2r1.training.offload import keep_on_host, on_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Reference(Protocol):
    """A policy of the past, to score with."""

    def scoring(self) -> AbstractContextManager[PreTrainedModel]:
        """The model that computes as the reference does, for as long as the context is open; not to be trained in it."""
        ...

    def reset(self) -> None:
        """Become the policy of this moment."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What must be kept to be this reference again."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the reference of which these are the tensors."""
        ...


def reference_of(policy: PreTrainedModel, *, offload: bool = False) -> Reference:
    """The policy of this moment. Of a policy with adapters nothing is copied but adapters, and these from the first reset on.

    Args:
        offload: it lies in the host's memory and comes to the policy's device for scoring.

    Raises:
        ValueError: there is no copy that could be put away.
    """
    if not has_adapters(policy):
        return CopiedReference(policy, offload=offload)
    if offload:
        raise ValueError(
            "compute.offload names the reference, and with lora there is no copy of the model to put away: the reference is the policy "
            "without its adapters. It is not needed: leave reference out of compute.offload"
        )
    return AdapterReference(policy)


class CopiedReference:
    """A second model, frozen."""

    def __init__(self, policy: PreTrainedModel, *, offload: bool = False) -> None:
        self._policy = policy
        self._copy = copy.deepcopy(policy).requires_grad_(False).eval()
        if offload:
            keep_on_host(self._copy)

    @contextmanager
    def scoring(self) -> Iterator[PreTrainedModel]:
        """See :class:`Reference`."""
        with on_device(self._copy, self._policy.device):
            yield self._copy

    def reset(self) -> None:
        """See :class:`Reference`."""
        self._copy.load_state_dict(self._policy.state_dict())

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Reference`."""
        state: dict[str, Tensor] = self._copy.state_dict()
        return state

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See :class:`Reference`."""
        self._copy.load_state_dict(dict(tensors))


class AdapterReference:
    """The policy itself: without its adapters, which change nothing at the beginning, or with those of the last reset."""

    def __init__(self, policy: PreTrainedModel) -> None:
        self._policy = policy
        self._values: dict[str, Tensor] = {}

    @contextmanager
    def scoring(self) -> Iterator[PreTrainedModel]:
        """See :class:`Reference`."""
        if not self._values:
            with adapters_off(self._policy):
                yield self._policy
            return
        self._swap()
        try:
            yield self._policy
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in adapter_parameters(self._policy).items():
            parameter.data, self._values[name] = self._values[name], parameter.data

    def reset(self) -> None:
        """See :class:`Reference`."""
        self._values = {name: parameter.detach().clone() for name, parameter in adapter_parameters(self._policy).items()}

    def tensors(self) -> dict[str, Tensor]:
        """See :class:`Reference`. Nothing before the first reset."""
        return dict(self._values)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """See :class:`Reference`."""
        own = adapter_parameters(self._policy)
        assert not tensors or tensors.keys() == own.keys(), "the reference had other adapters"
        self._values = {name: tensor.to(own[name].device) for name, tensor in tensors.items()}

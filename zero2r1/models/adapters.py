"""LoRA adapters: beside a frozen weight W a product of two thin matrices is trained, and the layer's weight is W + alpha / rank * B A.

PEFT's layers are put into the model itself: its class, config, names of modules and everything that drives it stay, and the names of its
parameters do not. What leaves the program leaves as an ordinary model (:func:`merged_state`) or in PEFT's format (:func:`save_adapter`).

Source: Hu et al., LoRA, arXiv 2106.09685. PEFT is an extra (``pip install "zero2r1[lora]"``), imported where an adapter is made or saved.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zero2r1.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "default"
"""PEFT allows several adapters in a layer and names each; here is one."""


def add_lora(model: PreTrainedModel, *, rank: int, alpha: float, targets: Sequence[str], seed: int) -> None:
    """Give linear layers adapters, in place; from now on only these require a gradient. The model computes what it did, to the bit.

    A is uniform within 1 / sqrt(width of its input), a function of the seed and the layer's name; B is zero.

    Args:
        targets: last parts of the names of layers (``q_proj``), or whole names; every linear layer but the head if there are none.

    Raises:
        ValueError: PEFT is not installed, or a target names no linear layer.
    """
    assert not has_adapters(model), "this model has adapters already"
    peft = _peft()
    _check_targets(model, targets)
    chosen = sorted(set(targets)) or "all-linear"
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=chosen)
    with torch.random.fork_rng(devices=[]):  # PEFT draws values on the CPU, which are replaced below
        peft.inject_adapter_in_model(config, model, adapter_name=NAME)
    model.train(model.training)  # new modules are in training mode, whatever the model is in
    for name, layer in _adapted(model):
        weight = layer.lora_A[NAME].weight
        generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name))
        drawn = torch.rand(weight.shape, generator=generator) * 2 - 1
        with torch.no_grad():
            weight.copy_(drawn / math.sqrt(weight.shape[1]))


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError('lora trains adapters of PEFT, which is not installed:  pip install "zero2r1[lora]"') from error
    return peft


def _check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    unknown = [target for target in targets if not any(name == target or name.endswith(f".{target}") for name in names)]
    if unknown:
        kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
        raise ValueError(
            f"lora.targets names {', '.join(unknown)}, and {type(model).__name__} has no such linear layer, the head aside. Choose among "
            f"{kinds}, or leave it out for all of them"
        )


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is a layer with an adapter. Asked of its parts, so that nobody needs PEFT to ask."""
    return hasattr(module, "lora_A") and hasattr(module, "base_layer")


def _adapted(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if is_adapted(module)]


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters were added to the model."""
    return any(map(is_adapted, model.modules()))


def effective_weight(layer: Any) -> Tensor:
    """The weight [out, in] that a linear layer multiplies with at this moment: its adapter's share added, unless adapters are off."""
    if not is_adapted(layer):
        weight: Tensor = layer.weight
        return weight
    base: Tensor = layer.base_layer.weight
    return base if layer.disable_adapters else base + layer.get_delta_weight(NAME)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapters' parameters, by their names in the model."""
    return {
        f"{name}.{part}": parameter
        for name, layer in _adapted(model)
        for part, parameter in layer.named_parameters()
        if not part.startswith("base_layer.")
    }


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """While the context is open, the model computes as it did before adapters were added."""
    before = [(layer, layer.disable_adapters) for _, layer in _adapted(model)]
    trained = [(parameter, parameter.requires_grad) for parameter in adapter_parameters(model).values()]
    try:
        for layer, _ in before:
            layer.enable_adapters(False)
        yield
    finally:
        for layer, off in before:
            layer.enable_adapters(not off)
        for parameter, required in trained:  # PEFT sets these as it switches
            parameter.requires_grad_(required)


def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the ordinary model that computes the same, under its own names. What no adapter touches is not copied.

    Merged weights lie in the host's memory: a device that has room for the model and its adapters need not have it for these as well.
    """
    adapters, layers = adapter_parameters(model), dict(_adapted(model))
    state: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            layer, inside, part = name.rpartition(".base_layer.")
            if inside and layer in layers:
                state[f"{layer}.{part}"] = effective_weight(layers[layer]).detach().cpu() if part == "weight" else tensor
            elif name not in adapters:
                state[name] = tensor
    return state


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters to the weights for good: an ordinary model again, all of which requires a gradient. Such a model stays as it is."""
    layers = _adapted(model)
    if not layers:
        return
    with torch.no_grad():
        for name, layer in layers:
            layer.base_layer.weight.copy_(effective_weight(layer))
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.base_layer)
    del model.peft_config
    model.requires_grad_(True)


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Write the adapters alone, for ``PeftModel.from_pretrained(base, folder)``; ``base`` is what they were added to."""
    config: Any = copy.copy(model.peft_config[NAME])
    config.base_model_name_or_path = model.name_or_path or None
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)  # a set, which PEFT would write in an order of its own every time
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.removesuffix(f'.{NAME}.weight')}.weight": parameter.detach().cpu().contiguous()
        for name, parameter in adapter_parameters(model).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})

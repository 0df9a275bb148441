"""Where the training of a model stands: its step and its optimizer, saved and resumed in one way for every trainer.

A model that is trained whole is resumed from the folder it is saved in. Of a model of which a part is trained (LoRA), that folder has
something else, the weights with the adapters merged: the part stands beside the optimizer's state as ``trained/<parameter>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from zero2r1.checkpoint import (
    BrokenCheckpoint,
    Checkpoint,
    load_latest,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    save_checkpoint,
)
from zero2r1.models.adapters import merged_state
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import RunRecord, diverged
from zero2r1.training.offload import keep_state_on_host, put_state_away
from zero2r1.training.optimizer import build_adamw, learning_rate_factor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRAINED = "trained/"
"""What the names of trained parameters begin with in a checkpoint, where others are not trained."""


class LoopSettings(Protocol):
    """What the settings of every trainer have."""

    @property
    def optimizer(self) -> OptimizerSettings: ...
    @property
    def compute(self) -> ComputeSettings: ...
    @property
    def keep_checkpoints(self) -> int: ...
    @property
    def stop_after_nonfinite_steps(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a run learns from, as its checkpoints remember it: to go on with other material would be another run."""

    noun: str
    """What there are many of; the key in the checkpoint's state. Example: ``examples``."""
    verb: str
    """What a model has done with them. Example: ``has learnt``."""
    count: int
    sha256: str


class Progress:
    """The step and the optimizer of ``model``, which it trains in place.

    Args:
        model: what requires a gradient now is trained.
        steps: how many there will be; the learning rate's schedule ends with them.
        checkpoints: folder of checkpoints.
        save_model: writes the model as a folder that `transformers` loads.
        material: what a checkpoint must have been trained on to be continued; not checked if left out.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: LoopSettings,
        *,
        steps: int,
        run: RunRecord,
        checkpoints: Path,
        save_model: Callable[[Path], None],
        material: Material | None = None,
    ) -> None:
        self._model, self._settings, self._steps, self._run = model, settings, steps, run
        self._checkpoints, self._save_model, self._material = checkpoints, save_model, material
        self._part = _trained_part(model)
        opt = settings.optimizer
        self.optimizer = build_adamw(model, learning_rate=opt.learning_rate, betas=opt.betas, weight_decay=opt.weight_decay)
        self._offloads = "optimizer" in settings.compute.offload
        if self._offloads:
            keep_state_on_host(self.optimizer)
        self.step = 0
        self._nonfinite_steps = 0

    def set_learning_rate(self) -> float:
        """Give the optimizer the learning rate of the step to come, and return it."""
        opt = self._settings.optimizer
        factor = learning_rate_factor(self.step, total=self._steps, warmup=opt.warmup_steps, schedule=opt.schedule, final=opt.final_factor)
        for group in self.optimizer.param_groups:
            group["lr"] = opt.learning_rate * factor
        return opt.learning_rate * factor

    def guard(self, *, applied: bool, loss: float, grad_norm: float) -> None:
        """Count steps whose update could not be applied.

        Raises:
            TrainingHalted: there were too many in a row.
        """
        self._nonfinite_steps = 0 if applied else self._nonfinite_steps + 1
        if self._nonfinite_steps >= self._settings.stop_after_nonfinite_steps:
            rate = self._settings.optimizer.learning_rate
            raise diverged(loss=loss, grad_norm=grad_norm, in_a_row=self._nonfinite_steps, step=self.step, learning_rate=rate)

    def save(self, *, state: Mapping[str, Any] | None = None, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write a checkpoint, with what else the trainer must know to go on."""
        moments, described = optimizer_tensors(self.optimizer, self._model)
        known = {} if self._material is None else {self._material.noun: {"count": self._material.count, "sha256": self._material.sha256}}
        save_checkpoint(
            self._checkpoints,
            self.step,
            write_model=self._save_model,
            tensors={**moments, **{f"{_TRAINED}{name}": parameter for name, parameter in self._part.items()}, **(tensors or {})},
            state={"step": self.step, "optimizer": described, "nonfinite_steps": self._nonfinite_steps, **known, **(state or {})},
            keep_last=self._settings.keep_checkpoints,
        )
        self._run.append_event("checkpoint", step=self.step)

    def resume(self) -> Checkpoint | None:
        """Go on from the newest complete checkpoint, and drop what the run recorded after it; ``None`` where there is none yet.

        Raises:
            ValueError: that checkpoint was trained on other material, or on another base than a part of the model was trained beside.
            BrokenCheckpoint: there are checkpoints, and none is intact, or it belongs to another model.
        """
        found = load_latest(self._checkpoints)
        if found is None:
            self._run.truncate_after(0)
            return None
        self._check(found)
        tensors = found.tensors()
        if self._part:
            _load_part(self._part, {name.removeprefix(_TRAINED): t for name, t in tensors.items() if name.startswith(_TRAINED)})
            self._check_base(found)
        else:
            load_weights(self._model, found.model_tensors())
        load_optimizer_tensors(self.optimizer, self._model, tensors, found.state["optimizer"])
        if self._offloads:
            put_state_away(self.optimizer)
        self.step, self._nonfinite_steps = found.state["step"], found.state["nonfinite_steps"]
        self._run.truncate_after(self.step)
        self._run.append_event("resumed", step=self.step)
        return found

    def _check(self, found: Checkpoint) -> None:
        here = self._material
        known = None if here is None else found.state.get(here.noun)
        if here is None or known is None or known["sha256"] == here.sha256:  # older checkpoints do not say
            return
        raise ValueError(
            f"E002 resume: {found.path} {here.verb} {known['count']} {here.noun} (SHA-256 {known['sha256'][:12]}), and these are "
            f"{here.count} others ({here.sha256[:12]}). Restore the data that the run was started with, or learn the new data in a run "
            "of its own: another --name, or --from and the stage in a pipeline"
        )

    def _check_base(self, found: Checkpoint) -> None:
        """What is not trained comes from the model's folder and not from the checkpoint: with the trained part it must be what it was."""
        here, untouched = merged_state(self._model), self._model.state_dict().keys()
        shared = {name: saved for name, saved in found.model_tensors().items() if name in here and name not in self._part}
        changed = [name for name, saved in shared.items() if not _same(saved, here[name].cpu(), exactly=name in untouched)]
        if changed:
            raise ValueError(
                f"E002 resume: {found.path} was trained beside other weights than the model has now ({changed[0]} and {len(changed) - 1} "
                "more differ). Restore the model that the run was started from, or give the new run another --name"
            )


def _trained_part(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require a gradient, where others do not; nothing where all do."""
    parameters = dict(model.named_parameters())
    part = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    return part if len(part) < len(parameters) else {}


def _same(saved: Tensor, here: Tensor, *, exactly: bool) -> bool:
    """Whether weights are what they were; merged ones up to rounding, which is another on another device."""
    return torch.equal(saved, here) if exactly else torch.allclose(saved, here, rtol=1e-5, atol=1e-7)


def _load_part(part: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]) -> None:
    shapes, known = ({name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (part, saved))
    if shapes != known:
        differing = sorted(name for name in {**shapes, **known} if shapes.get(name) != known.get(name))
        raise BrokenCheckpoint(
            f"the checkpoint has {len(known)} trained parameters beside frozen ones, and this model {len(shapes)}: {differing[:3]} differ"
        )
    with torch.no_grad():
        for name, parameter in part.items():
            parameter.copy_(saved[name])

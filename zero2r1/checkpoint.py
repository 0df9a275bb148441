"""Checkpoints that are complete or absent: written beside, digested, renamed. Safetensors and JSON only, no pickle.

checkpoints/step_000300/model/        a plain folder that transformers loads
                        state/        optimizer, reference and counters, for an exact continuation
                        manifest.json SHA-256 of every file
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zero2r1.run_dir import point_latest

log = logging.getLogger(__name__)

MODEL, STATE, MANIFEST = "model", "state", "manifest.json"


class BrokenCheckpoint(ValueError):
    """Files are missing or do not match their digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose digests were verified."""

    path: Path
    state: Mapping[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """Optimizer and reference, by name."""
        return load_file(self.path / STATE / "tensors.safetensors")

    def model_tensors(self) -> dict[str, Tensor]:
        """The policy's weights, by parameter name."""
        tensors: dict[str, Tensor] = {}
        for file in sorted((self.path / MODEL).glob("*.safetensors")):
            tensors |= load_file(file)
        return tensors


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    write_model: Callable[[Path], None],
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    keep_last: int,
) -> Path:
    """Write ``folder/step_NNNNNN`` so that it exists only when it is complete, then drop the oldest.

    Args:
        write_model: writes the model into the folder it is given.
        state: JSON values.
        keep_last: how many complete checkpoints stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("step_*.tmp"):
        shutil.rmtree(stale)
    target = folder / f"step_{step:06d}"
    temporary = folder / f"{target.name}.tmp"
    (temporary / STATE).mkdir(parents=True)
    write_model(temporary / MODEL)
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary / STATE / "tensors.safetensors")
    (temporary / STATE / "state.json").write_text(json.dumps(dict(state), indent=1), encoding="utf-8")
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(temporary)): _digest(path) for path in files}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in (*files, temporary / MANIFEST):
        _sync(path)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
    _sync(folder)
    point_latest(target)
    for old in _steps(folder)[:-keep_last]:
        shutil.rmtree(old)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is intact; ``None`` when none was ever written.

    Raises:
        BrokenCheckpoint: there are checkpoints and every one of them is broken. Training does not start over silently.
    """
    faults: list[str] = []
    for path in reversed(_steps(folder)):
        try:
            return load_checkpoint(path)
        except BrokenCheckpoint as fault:
            log.warning("skipping a broken checkpoint: %s", fault)
            faults.append(str(fault))
    if faults:
        raise BrokenCheckpoint(
            "no checkpoint of this run is intact:\n  " + "\n  ".join(faults) + f"\nRemove {folder} to start again from step 0."
        )
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """Verify every file of one checkpoint.

    Raises:
        BrokenCheckpoint: naming the file that is missing, added or changed.
    """
    try:
        manifest: dict[str, str] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenCheckpoint(f"{path.name}: {MANIFEST} is missing or unreadable") from error
    if not isinstance(manifest, dict) or f"{STATE}/state.json" not in manifest:
        raise BrokenCheckpoint(f"{path.name}: {MANIFEST} does not list a checkpoint")
    for name, digest in manifest.items():
        file = path / name
        if not file.is_file():
            raise BrokenCheckpoint(f"{path.name}: {name} is missing")
        if _digest(file) != digest:
            raise BrokenCheckpoint(f"{path.name}: {name} does not match its digest")
    return Checkpoint(path=path, state=json.loads((path / STATE / "state.json").read_text(encoding="utf-8")))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put saved weights back; parameters that share another's storage may be missing, as `save_pretrained` writes them once.

    Raises:
        BrokenCheckpoint: names differ. Some architectures are saved under other names than they have in memory; continuing with
            what happens to match would be training another model.
    """
    result = model.load_state_dict(dict(tensors), strict=False)
    state = model.state_dict()
    loaded = {state[name].data_ptr() for name in tensors if name in state}
    missing = [name for name in result.missing_keys if state[name].data_ptr() not in loaded]
    if missing or result.unexpected_keys:
        raise BrokenCheckpoint(
            f"the saved weights do not fit the model: missing {missing[:3]}, unknown {result.unexpected_keys[:3]} "
            f"({len(missing)} and {len(result.unexpected_keys)} names)"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimizer state as named tensors, and its scalars: ``optimizer/<parameter>/<buffer>``."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer/{names[id(parameter)]}/{key}"] = torch.as_tensor(value)
    return tensors, {"kind": type(optimizer).__name__, "parameters": len(optimizer.state)}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    """Put back what :func:`optimizer_tensors` took.

    Raises:
        BrokenCheckpoint: the state belongs to another optimizer, or to a model with other parameters.
    """
    if scalars["kind"] != type(optimizer).__name__:
        raise BrokenCheckpoint(f"the checkpoint holds the state of {scalars['kind']}, not of {type(optimizer).__name__}")
    parameters = dict(model.named_parameters())
    for key, tensor in tensors.items():
        if not key.startswith("optimizer/"):
            continue
        name, buffer = key.removeprefix("optimizer/").rsplit("/", 1)
        if name not in parameters:
            raise BrokenCheckpoint(f"the checkpoint has optimizer state for {name!r}, which this model does not have")
        # The step counter stays on the CPU unless the kernel that reads it runs on the device.
        on_device = buffer != "step" or optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
        optimizer.state[parameters[name]][buffer] = tensor.to(parameters[name].device if on_device else tensor.device)


def _steps(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step_*") if path.is_dir() and path.suffix != ".tmp")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Checkpoints: complete or absent, whatever breaks and whenever the process dies."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1 import checkpoint
from zero2r1.checkpoint import (
    BrokenCheckpoint,
    load_checkpoint,
    load_latest,
    load_optimizer_tensors,
    load_weights,
    optimizer_tensors,
    save_checkpoint,
)
from zero2r1.training.optimizer import build_adamw


class Killed(BaseException):
    """Stands for kill -9: no handler of ours may catch it."""


def weights(step: int) -> dict[str, Tensor]:
    return {"weight": torch.full((3, 2), float(step))}


def writer(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights(step), folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "none"}')

    return write


def save(folder: Path, step: int, *, keep_last: int = 3) -> Path:
    tensors = {"optimizer/weight/exp_avg": torch.full((2,), step / 3, dtype=torch.float64), "reference/weight": torch.arange(step)}
    return save_checkpoint(folder, step, write_model=writer(step), tensors=tensors, state={"step": step}, keep_last=keep_last)


def latest_step(folder: Path) -> int | None:
    """The step that a resuming run would continue from, after checking that its tensors belong to that step."""
    found = load_latest(folder)
    if found is None:
        return None
    step: int = found.state["step"]
    assert torch.equal(found.model_tensors()["weight"], weights(step)["weight"])
    assert torch.equal(found.tensors()["reference/weight"], torch.arange(step))
    return step


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 300)
    assert path == tmp_path / "step_000300"
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    assert names == ["manifest.json", "model/config.json", "model/model.safetensors", "state/state.json", "state/tensors.safetensors"]
    found = load_latest(tmp_path)
    assert found is not None and found.path == path and found.state == {"step": 300}
    assert found.tensors()["optimizer/weight/exp_avg"].tolist() == [100.0, 100.0]
    assert found.tensors()["optimizer/weight/exp_avg"].dtype == torch.float64
    assert latest_step(tmp_path) == 300


def test_no_checkpoint_yet_is_none(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") is None
    (tmp_path / "step_000001.tmp").mkdir()  # killed inside the very first save
    assert load_latest(tmp_path) is None


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (100, 200, 300, 400):
        save(tmp_path, step, keep_last=2)
    assert sorted(path.name for path in tmp_path.glob("step_*")) == ["step_000300", "step_000400"]


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, write_model=writer(5), tensors={}, state={"step": 5, "again": True}, keep_last=3)
    found = load_latest(tmp_path)
    assert found is not None and found.state == {"step": 5, "again": True}
    assert [path.name for path in tmp_path.glob("step_*")] == ["step_000005"]


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))


FILES = ["model/model.safetensors", "model/config.json", "state/tensors.safetensors", "state/state.json", "manifest.json"]


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], name: str
) -> None:
    save(tmp_path, 100)
    damage(save(tmp_path, 200) / name)
    with caplog.at_level(logging.WARNING, logger="zero2r1.checkpoint"):
        assert latest_step(tmp_path) == 100
    assert "step_000200" in caplog.text and name in caplog.text


def test_no_flipped_bit_of_the_manifest_lets_other_content_through(tmp_path: Path) -> None:
    manifest = save(tmp_path, 1) / "manifest.json"
    content = manifest.read_bytes()
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << position % 8
        manifest.write_bytes(bytes(changed))
        try:
            loaded = load_checkpoint(manifest.parent)
        except BrokenCheckpoint:
            continue
        # Harmless: blanks between the entries, or the same digits in other case would be. Everything is still listed.
        assert json.loads(changed) == json.loads(content) and loaded.state == {"step": 1}


def test_when_all_are_broken_it_refuses_and_lists_them(tmp_path: Path) -> None:
    truncate(save(tmp_path, 100) / "model" / "model.safetensors")
    (save(tmp_path, 200) / "state" / "state.json").unlink()
    with pytest.raises(BrokenCheckpoint) as caught:
        load_latest(tmp_path)
    said = str(caught.value)
    assert "step_000100: model/model.safetensors does not match its digest" in said
    assert "step_000200: state/state.json is missing" in said
    assert f"Remove {tmp_path}" in said


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "step_000001").mkdir()
    with pytest.raises(BrokenCheckpoint, match=r"manifest\.json is missing"):
        load_checkpoint(tmp_path / "step_000001")


KILL_POINTS = [
    (checkpoint, "save_file"), (checkpoint, "_digest"), (checkpoint, "_sync"), (json, "dumps"), (os, "replace"), (shutil, "rmtree"),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "function"), KILL_POINTS, ids=[name for _, name in KILL_POINTS])
@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("when", ["before", "after"])
def test_death_at_any_point_of_a_save_leaves_a_complete_checkpoint(
    tmp_path: Path, owner: object, function: str, call: int, when: str
) -> None:
    save(tmp_path, 100, keep_last=2)
    save(tmp_path, 200, keep_last=2)
    real, calls = getattr(owner, function), 0

    def dying(*arguments: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call + 1 and when == "before":
            raise Killed
        result = real(*arguments, **named)
        if calls == call + 1:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, function, dying)
        try:
            save(tmp_path, 300, keep_last=2)
        except Killed:
            pass
        else:
            assert calls <= call  # the function is called less often; every call was struck in another case
    assert latest_step(tmp_path) in (200, 300)
    save(tmp_path, 400, keep_last=2)  # no clean-up by hand is needed
    assert latest_step(tmp_path) == 400
    assert not list(tmp_path.glob("*.tmp"))


def test_a_model_writer_that_fails_halfway_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 100, keep_last=1)

    def full_disk(folder: Path) -> None:
        writer(200)(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises((OSError, ValueError), match="No space left"):
        save_checkpoint(tmp_path, 200, write_model=full_disk, tensors={}, state={}, keep_last=1)
    assert latest_step(tmp_path) == 100


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))


def adamw(of: nn.Module) -> torch.optim.Optimizer:
    return build_adamw(of, learning_rate=0.1, betas=(0.9, 0.95), weight_decay=0.01)


def muon(of: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Muon([p for p in of.parameters() if p.ndim == 2], lr=0.02, momentum=0.95)


def steps(of: nn.Module, optimizer: torch.optim.Optimizer, which: range) -> None:
    for step in which:
        inputs = torch.linspace(-1, 1, 8).reshape(2, 4) * (step + 1)
        optimizer.zero_grad()
        of(inputs).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("build", [adamw, muon])
def test_an_optimizer_continues_bit_for_bit_after_a_checkpoint(tmp_path: Path, build: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    straight = model()
    steps(straight, build(straight), range(7))

    first = model()
    optimizer = build(first)
    steps(first, optimizer, range(4))
    tensors, scalars = optimizer_tensors(optimizer, first)
    save_checkpoint(
        tmp_path,
        4,
        write_model=lambda folder: (folder.mkdir(), save_file(first.state_dict(), folder / "model.safetensors"))[0],
        tensors=tensors,
        state={"optimizer": scalars},
        keep_last=1,
    )
    found = load_latest(tmp_path)
    assert found is not None
    second = model()
    second.load_state_dict(found.model_tensors())
    resumed = build(second)
    load_optimizer_tensors(resumed, second, found.tensors(), found.state["optimizer"])
    steps(second, resumed, range(4, 7))
    for name, parameter in straight.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name)), name


def test_optimizer_state_is_keyed_by_parameter_name_and_counts_steps_exactly() -> None:
    trained = model()
    optimizer = adamw(trained)
    steps(trained, optimizer, range(3))
    tensors, scalars = optimizer_tensors(optimizer, trained)
    buffers = [f"optimizer/{n}/{b}" for n, _ in trained.named_parameters() for b in ("exp_avg", "exp_avg_sq", "step")]
    assert sorted(tensors) == sorted(buffers)
    assert tensors["optimizer/1.bias/step"].item() == 3
    assert scalars == {"kind": "AdamW", "parameters": 4}


def _load(optimizer: Callable[[nn.Module], torch.optim.Optimizer], into: nn.Module, tensors: Mapping[str, Tensor], kind: str) -> None:
    load_optimizer_tensors(optimizer(into), into, tensors, {"kind": kind, "parameters": 0})


def test_state_of_another_optimizer_or_model_is_refused() -> None:
    with pytest.raises(BrokenCheckpoint, match="state of AdamW, not of Muon"):
        _load(muon, model(), {}, "AdamW")
    with pytest.raises(BrokenCheckpoint, match="'9.weight', which this model does not have"):
        _load(adamw, model(), {"optimizer/9.weight/exp_avg": torch.zeros(1)}, "AdamW")


def test_weights_that_do_not_fit_are_refused_and_tied_ones_may_be_missing():
    model, tied = tiny_llama(), tiny_qwen()
    load_weights(tied, {name: tensor for name, tensor in tied.state_dict().items() if name != "lm_head.weight"})
    for wrong in ({"model.norm.weight": model.state_dict()["model.norm.weight"]}, {**model.state_dict(), "experts.0": torch.zeros(1)}):
        with pytest.raises(BrokenCheckpoint, match="do not fit the model"):
            load_weights(model, wrong)


@pytest.mark.gpu
def test_a_fused_optimizer_resumes_on_its_device():
    model = tiny_llama().to("cuda")
    optimizer = build_adamw(model, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(2):
        model(input_ids=torch.tensor([[1, 2, 3]], device="cuda")).logits.sum().backward()
        optimizer.step()
        tensors, scalars = optimizer_tensors(optimizer, model)
        optimizer = build_adamw(model, learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
        load_optimizer_tensors(optimizer, model, {name: tensor.cpu() for name, tensor in tensors.items()}, scalars)

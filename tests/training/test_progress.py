"""What all trainers share of a run: the learning rate of a step, the guard, and the way back from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny_models import tiny_llama
from zero2r1.checkpoint import BrokenCheckpoint, load_latest
from zero2r1.models.adapters import adapter_parameters, add_lora, merged_state
from zero2r1.sft.config import SftSettings
from zero2r1.training.config import OptimizerSettings
from zero2r1.training.loop import TrainingHalted
from zero2r1.training.order import batch_of_step, draw_of_step
from zero2r1.training.progress import Material, Progress


@dataclass
class Record:
    """A run that only remembers what it was told."""

    events: list[str] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)

    def append_metrics(self, row: Mapping[str, Any]) -> None: ...

    def append_event(self, event: str, **details: Any) -> None:
        self.events.append(event)

    def write_rollouts(self, step: int, rows: Any) -> None: ...

    def truncate_after(self, step: int) -> None:
        self.truncated.append(step)


def progress_of(model: Any, folder: Path, run: Record, *, sha256: str | None = None, halted_after: int = 2) -> Progress:
    optimizer = OptimizerSettings(learning_rate=0.1, warmup_steps=2, schedule="linear", final_factor=0.0)
    return Progress(
        model,
        SftSettings(optimizer=optimizer, stop_after_nonfinite_steps=halted_after),
        steps=5,
        run=run,
        checkpoints=folder,
        save_model=lambda to: model.save_pretrained(to, state_dict=merged_state(model)),
        material=None if sha256 is None else Material(noun="examples", verb="has learnt", count=3, sha256=sha256),
    )


def test_the_learning_rate_of_a_step_rises_then_falls_to_nothing(tmp_path: Path) -> None:
    progress = progress_of(tiny_llama(), tmp_path, Record())
    rates = []
    for _ in range(5):
        rates.append(progress.set_learning_rate())
        assert {group["lr"] for group in progress.optimizer.param_groups} == {rates[-1]}
        progress.step += 1
    # two steps up, then steps 2, 3, 4 are 0, 1/2 and 1 of the way down
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.0])


def test_steps_that_could_not_be_applied_end_a_run_when_they_follow_each_other(tmp_path: Path) -> None:
    progress = progress_of(tiny_llama(), tmp_path, Record())
    for applied in (False, True, False):  # never two in a row
        progress.guard(applied=applied, loss=1.0, grad_norm=1.0)
    with pytest.raises(TrainingHalted, match=r"E501 diverged: loss nan .* 2 steps in a row.*--optimizer\.learning_rate 0\.025"):
        progress.guard(applied=False, loss=float("nan"), grad_norm=1.0)


def test_a_checkpoint_brings_back_step_weights_and_what_the_trainer_added(tmp_path: Path) -> None:
    run = Record()
    model = tiny_llama(seed=1)
    before = progress_of(model, tmp_path, run, sha256="a" * 64)
    assert before.resume() is None and run.truncated == [0]
    before.step = 4
    before.save(state={"watch": [1, 2]}, tensors={"reference/x": torch.ones(2)})
    other = tiny_llama(seed=2)
    after = progress_of(other, tmp_path, run, sha256="a" * 64)
    found = after.resume()
    assert found is not None and after.step == 4 and run.truncated == [0, 4] and run.events == ["checkpoint", "resumed"]
    assert found.state["watch"] == [1, 2] and torch.equal(found.tensors()["reference/x"], torch.ones(2))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def adapted(*, seed: int = 0, rank: int = 2, base: int = 1) -> Any:
    model = tiny_llama(seed=base)
    add_lora(model, rank=rank, alpha=4.0, targets=("q_proj", "up_proj"), seed=seed)
    return model


def test_of_a_model_that_is_trained_in_part_the_part_comes_back_and_the_rest_was_never_gone(tmp_path: Path) -> None:
    model, other = adapted(seed=1), adapted(seed=2)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.1)
    before = progress_of(model, tmp_path, Record())
    before.step = 4
    before.save(tensors={"reference/x": torch.ones(2)})
    found = load_latest(tmp_path)
    assert found is not None and {name.partition("/")[0] for name in found.tensors()} == {"reference", "trained"}
    assert found.model_tensors().keys() == tiny_llama().state_dict().keys()
    assert not torch.equal(*(adapter_parameters(m)["model.layers.0.mlp.up_proj.lora_A.default.weight"] for m in (model, other)))
    after = progress_of(other, tmp_path, Record())
    assert after.resume() is not None and after.step == 4
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_model_that_is_trained_whole_is_stored_once(tmp_path: Path) -> None:
    progress_of(tiny_llama(), tmp_path, Record()).save()
    found = load_latest(tmp_path)
    assert found is not None and found.tensors() == {}


def test_a_part_goes_on_beside_the_weights_it_was_trained_beside_or_not_at_all(tmp_path: Path) -> None:
    progress_of(adapted(), tmp_path, Record()).save()
    # Two layers of seven matrices, embedding and head; norms begin at 1 in every model.
    with pytest.raises(ValueError, match=r"E002 resume: .* beside other weights than the model has now \(lm_head\.weight and 15 more"):
        progress_of(adapted(base=2), tmp_path, Record()).resume()
    under_an_adapter = adapted()
    with torch.no_grad():
        under_an_adapter.model.layers[0].mlp.up_proj.base_layer.weight[0, 0] += 1e-4
    with pytest.raises(ValueError, match=r"than the model has now \(model\.layers\.0\.mlp\.up_proj\.weight and 0 more"):
        progress_of(under_an_adapter, tmp_path, Record()).resume()
    with pytest.raises(BrokenCheckpoint, match=r"has 8 trained parameters beside frozen ones, and this model 8: \['model"):
        progress_of(adapted(rank=1), tmp_path, Record()).resume()
    with pytest.raises(BrokenCheckpoint, match="has 8 trained parameters beside frozen ones, and this model 20"):
        model = tiny_llama(seed=1)
        model.lm_head.requires_grad_(False)
        progress_of(model, tmp_path, Record()).resume()


def test_other_material_is_refused_and_the_run_record_is_left_alone(tmp_path: Path) -> None:
    run = Record()
    before = progress_of(tiny_llama(), tmp_path, run, sha256="a" * 64)
    before.step = 1
    before.save()
    with pytest.raises(ValueError, match=r"has learnt 3 examples \(SHA-256 a{12}\), and these are 3 others \(b{12}\)"):
        progress_of(tiny_llama(), tmp_path, run, sha256="b" * 64).resume()
    assert run.truncated == []


def test_orders_of_one_seed_differ_by_purpose_and_by_pass() -> None:
    first, other = (draw_of_step(50, 0, size=50, seed=3, purpose=purpose) for purpose in ("order", "questions"))
    assert sorted(first) == sorted(other) == list(range(50)) and first != other
    assert draw_of_step(50, 1, size=50, seed=3, purpose="order") != first
    # Both functions walk the same passes: the first epoch in batches of 20, 20 and 10.
    assert [i for step in range(3) for i in batch_of_step(50, step, batch_size=20, seed=3, purpose="order")] == first

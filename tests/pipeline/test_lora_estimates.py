"""What adapters take, by hand and against the code: parameters, memory, disk; what a dry run and a preflight say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.test_dry_run import TINY, counted_to_kept, shape_of_model
from tests.pipeline.tiny_stage import small, untrained
from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.models.adapters import adapter_parameters, add_lora
from zero2r1.pipeline.dry_run import dry_run
from zero2r1.pipeline.dry_run_page import page
from zero2r1.pipeline.estimates import GIB, checkpoint_bytes, merged_peak, sampling_peak, training_peak
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.preflight import memory_needed, preflight
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.rl import stage_of
from zero2r1.pipeline.stage_counts import Rows, StagePlan
from zero2r1.pipeline.stage_plans import Planner

RANK_3 = 960
"""Of TINY: in each of 2 layers 3 x (q 20 + k 15 + v 15 + o 20 + gate 30 + up 30 + down 30)."""
SOME = ("q_proj", "self_attn.v_proj", "model.layers.1.mlp.down_proj")


def planned(stage: str, **changes: Any) -> StagePlan:
    settings = PipelineSettings.model_validate({"data": {"train": "train.jsonl", "held_out": "test.jsonl"}, **changes})
    return Planner(settings=settings, rows=Rows(problems=100), shape=TINY, student=TINY).plan(stage)


def test_adapters_by_hand() -> None:
    assert TINY.adapters(3) == RANK_3 and TINY.adapted() == TINY.in_layers == 1_800
    # q in both layers, v in both, down in one: 3 x (2 x 20 + 2 x 15 + 30), beside 2 x 100 + 2 x 50 + 200 weights
    assert TINY.adapters(3, SOME) == 300 and TINY.adapted(SOME) == 500
    assert TINY.adapters(3, ["proj"]) == TINY.adapters(3, ["lm_head"]) == 0


@pytest.mark.parametrize("targets", [(), SOME], ids=["all", "some"])
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_adapters_are_those_of_the_model(build: Any, targets: tuple[str, ...]) -> None:
    model = build()
    shape = shape_of_model(model)
    add_lora(model, rank=4, alpha=8.0, targets=targets, seed=0)
    assert shape.adapters(4, targets) == sum(p.numel() for p in adapter_parameters(model).values())


def test_the_parts_of_a_peak_with_adapters_by_hand() -> None:
    peak = training_peak(TINY, tokens=50, longest=25, half=False, checkpointing=False, adapters=RANK_3, cache=7)
    assert (peak.weights, peak.gradients, peak.moments, peak.reference) == (4 * (2_850 + 960), 3_840, 7_680, 0)
    assert (peak.activations, peak.head) == (162_000, 4 * 4 * 50 * 100)  # as without; a head that is not trained has no gradient
    assert peak.total == 15_240 + 3_840 + 7_680 + 162_000 + 80_000 + 7 + GIB
    assert training_peak(TINY, tokens=50, longest=25, half=False, checkpointing=False, adapters=960, reference=True).reference == 3_840


def test_what_is_merged_between_steps_by_hand() -> None:
    written = merged_peak(TINY, adapters=300, adapted=500, half=True, reference=True, cache=7, reward_models=1)
    assert (written.weights, written.moments, written.reference) == (4 * 3_150, 2_400, 1_200)
    assert (written.merged, written.reward_models, written.gradients, written.activations) == (2_000, 4 * 2_860, 0, 0)
    # In float32 a CPU packs all 1,800 weights in layers and the 1,000 of the head.
    assert merged_peak(TINY, adapters=300, adapted=500, half=False).merged == 11_200
    measured = sampling_peak(TINY, half=True, cache=7, moments=True, adapters=300)
    assert (measured.weights, measured.moments, measured.half_copy) == (12_600, 2_400, 3_600)


def test_a_checkpoint_has_the_model_whole_and_adapters_four_times() -> None:
    assert checkpoint_bytes(2_850, adapters=960) == 4 * (2_850 + 4 * 960)
    assert checkpoint_bytes(2_850, adapters=960, reference=960) == 4 * (2_850 + 5 * 960)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("build", [tiny_llama, tiny_qwen])
def test_a_layer_with_adapters_keeps_about_as_many_bytes_as_one_without(build: Any, half: bool) -> None:
    model = build()
    add_lora(model, rank=4, alpha=8.0, targets=(), seed=0)
    assert counted_to_kept(model, half) == pytest.approx(1, rel=0.12)


def test_a_section_with_lora_says_what_trains_and_takes_less() -> None:
    rl = {"steps": 16, "rollout": {"max_new_tokens": 40, "max_new_tokens_from_step": {}}}
    whole, part = planned("zero", zero=rl), planned("zero", zero={**rl, "lora": {"rank": 3}})
    said = "LoRA of rank 3 in all linear layers but the head: 960 parameters train beside 2,850 that do not"
    assert [activity.says for activity in part.activities if "LoRA" in activity.says] == [said]
    assert (whole.adapters, part.adapters) == (0, 960)
    assert whole.peak is not None and part.peak is not None and whole.disk is not None and part.disk is not None
    # Gradients, moments and reference of 2,850 parameters make way for those of 960 and no reference; the head has no gradient.
    assert whole.peak.total - part.peak.total == 4 * (4 * 2_850 - 3 * 960 - 960) + 4 * 1_000
    # One checkpoint: 2 x 2,850 of moments and 3,850 of a reference (the tied head twice) less, adapters four times more.
    assert whole.disk - part.disk == 4 * (2 * 2_850 + 3_850 - 4 * 960)


@pytest.mark.parametrize(
    ("grpo", "copies"),
    [({"reference_reset_steps": 8}, 1), ({"reference_reset_steps": 17}, 0), ({"reference_reset_steps": 8, "beta": 0.0}, 0)],
)
def test_the_reference_of_adapters_is_a_copy_from_its_first_reset_on(grpo: dict[str, Any], copies: int) -> None:
    rl = {"steps": 16, "rollout": {"max_new_tokens": 40, "max_new_tokens_from_step": {}}, "lora": {"rank": 3}, "grpo": grpo}
    plan = planned("reasoning_rl", reasoning_rl=rl)
    assert plan.peak is not None and plan.peak.reference == copies * 3_840
    assert plan.activities[1].says.startswith("LoRA of rank 3")


def test_sft_of_adapters_is_measured_by_one_process() -> None:
    zero = {"rollout": {"processes": 3, "max_new_tokens": 40, "max_new_tokens_from_step": {}}}
    sft = {"max_length": 2, "batch_size": 1, "checkpoint_every": 10**6}
    evaluated = {"max_new_tokens": 40}
    given, lora = {"problems": 0, "solved": 1}, {"rank": 3, "targets": SOME}
    plan = planned("cold_start", zero=zero, evaluation=evaluated, cold_start={**given, "sft": {**sft, "lora": lora}})
    # Of 2 tokens there is little to keep: the fullest moment is the evaluation, with weights, moments of 300 and the packed copy.
    assert plan.peak is not None
    assert (plan.peak.weights, plan.peak.moments, plan.peak.merged) == (12_600, 2_400, 11_200)
    whole = planned("cold_start", zero=zero, evaluation=evaluated, cold_start={**given, "sft": sft}).peak
    assert whole is not None and whole.cache == 3 * plan.peak.cache


def test_a_dry_run_explains_adapters_and_refuses_layers_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rl = {"steps": 16, "rollout": {"max_new_tokens": 40, "max_new_tokens_from_step": {}}}
    sample = {"sample": {"max_new_tokens": 40}}
    recipe = {"data": {"train": "train.jsonl", "held_out": "test.jsonl"}, "zero": rl, "reasoning_rl": rl, "cold_start": sample}
    named = {**sample, "sft": {"lora": {"targets": ["q_proj", "qkv"]}}}
    looked = dry_run(PipelineSettings.model_validate({**recipe, "rejection_sft": named}))
    kinds = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert looked.faults == (f"rejection_sft.sft.lora.targets names qkv, and the model has no such linear layer: choose among {kinds}",)
    shown = page(looked, recipe="r.yaml", speed=None)
    assert "  LoRA of rank 32 in q_proj, qkv: " in shown and "  LoRA: weights in full, adapters beside them" in shown
    without = dry_run(PipelineSettings.model_validate({**recipe, "rejection_sft": sample}))
    assert without.faults == () and "LoRA" not in page(without, recipe="r.yaml", speed=None)


def test_a_missing_peft_is_a_fault_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zero2r1.pipeline.dry_run.find_spec", lambda name: None)
    recipe = {"data": {"train": "train.jsonl"}, "zero": {"lora": {}}, "reasoning_rl": {"lora": {}}}
    looked = dry_run(PipelineSettings.model_validate(recipe))
    assert [fault for fault in looked.faults if "PEFT" in fault] == [
        'lora trains adapters of PEFT, which is not installed:  pip install "zero2r1[lora]"'
    ]


def test_a_preflight_counts_what_is_trained(tmp_path: Path) -> None:
    settings = small(lora={"rank": 4})
    whole, part = tiny_llama(), tiny_llama()
    add_lora(part, rank=4, alpha=8.0, targets=(), seed=0)
    parameters, adapters = (sum(p.numel() for p in of) for of in (whole.parameters(), adapter_parameters(part).values()))
    # Gradients, two moments and the reference of all make way for those of adapters, which are weights as well.
    less = memory_needed(whole, settings, longest=8, on_gpu=False) - memory_needed(part, settings, longest=8, on_gpu=False)
    assert less == 4 * (4 * parameters - 5 * adapters)
    stage = stage_of(untrained(tmp_path / "base"), laptop_world(seed=0, train=2, held_out=2), settings)
    trained = sum(p.numel() for p in adapter_parameters(stage.policy).values())
    said = next(line for line in preflight(stage, settings).lines if line.startswith("memory"))
    assert said.endswith(f"activations; {trained:,} of {sum(p.numel() for p in stage.policy.parameters()):,} parameters train")

"""Whether training fits a GPU, by made-up sizes: what is said, what is refused, and what offloading takes off the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.pipeline.test_dry_run import TINY
from tests.pipeline.tiny_stage import small, untrained
from zero2r1.pipeline.estimates import GIB, HEAD_CHUNKS, RUNTIME, training_peak
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.preflight import certain_memory, memory_needed, preflight
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.rl import stage_of
from zero2r1.pipeline.stage_counts import Rows
from zero2r1.pipeline.stage_plans import Planner


def checked(folder: Path, monkeypatch: pytest.MonkeyPatch, room, **settings):
    chosen = small(**settings)
    stage = stage_of(untrained(folder / "base"), laptop_world(seed=0, train=2, held_out=2), chosen)
    longest = max(len(stage.prompt_ids(p)) for p in (*stage.world.train, *stage.world.held_out))
    needed = memory_needed(stage.policy, chosen, longest=longest, on_gpu=False)
    monkeypatch.setattr(
        "zero2r1.pipeline.preflight.device_room", lambda device: room and room(needed, certain_memory(stage.policy, chosen))
    )
    return preflight(stage, chosen)


@pytest.mark.parametrize(
    ("room", "warned", "refused"),
    [
        (None, False, False),  # a CPU
        (lambda needed, certain: 2 * needed, False, False),
        (lambda needed, certain: needed, True, False),  # nothing left for an allocator
        (lambda needed, certain: certain + 1, True, False),
        (lambda needed, certain: certain - 1, True, True),
    ],
)
def test_what_does_not_fit_is_said_and_what_cannot_fit_is_refused(tmp_path, monkeypatch, room, warned, refused):
    result = checked(tmp_path, monkeypatch, room)
    assert any(line.startswith("WARNING   this needs about") for line in result.lines) == warned
    assert any("--compute.gradient_checkpointing=true; --compute.dtype=bfloat16" in fault for fault in result.faults) == refused


def test_only_what_would_help_is_named(tmp_path, monkeypatch):
    compute = {"gradient_checkpointing": True, "dtype": "bfloat16", "offload": ["optimizer"], "tokens_per_micro_batch": 77}
    (fault,) = checked(tmp_path, monkeypatch, lambda needed, certain: 1, compute=compute).faults
    assert "In the order to try: a lower --compute.tokens_per_micro_batch than 77; a lower --rollout.max_rows than" in fault
    assert "dtype" not in fault and "offload" not in fault


def test_a_gpu_holds_a_twin_a_half_copy_and_half_a_cache_in_bfloat16(tmp_path):
    stage = stage_of(untrained(tmp_path / "base"), laptop_world(seed=0, train=2, held_out=2), small())
    weights = sum(parameter.numel() for parameter in stage.policy.parameters())

    def needed(**compute):
        chosen = small(compute=compute, grpo={"mini_batches": 1, "beta": 0.0})
        return [memory_needed(stage.policy, chosen, longest=8, on_gpu=on_gpu) for on_gpu in (False, True)]

    (cpu, gpu), (_, half) = needed(), needed(dtype="bfloat16")
    head = HEAD_CHUNKS + 4 * stage.policy.get_output_embeddings().weight.numel()
    assert gpu - cpu == RUNTIME + head
    rollout = small().rollout
    positions = rollout.prompts_per_rollout * rollout.group_size * (8 + rollout.max_new_tokens)
    config = stage.policy.config
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * positions
    assert half - gpu == 2 * 2 * weights - 2 * cache


def test_a_dry_run_counts_what_a_gpu_samples_from():
    rl = {"steps": 16, "rollout": {"max_new_tokens": 40, "max_new_tokens_from_step": {}}, "compute": {"dtype": "bfloat16"}}

    def peaks(**changes):
        settings = PipelineSettings.model_validate({"data": {"train": "train.jsonl", "held_out": "test.jsonl"}, "zero": {**rl, **changes}})
        planner = Planner(settings=settings, rows=Rows(problems=100), shape=TINY, student=TINY)
        return [replace(planner, gpu=gpu).plan("zero").peak for gpu in (False, True)]

    cpu, gpu = peaks()
    assert (cpu.twin, gpu.twin) == (0, 2 * 1_800)  # weights in layers; the head's logits are float32's unless asked otherwise
    assert peaks(compute={"dtype": "bfloat16", "float32_logits": False})[1].twin == 2 * (1_800 + 1_000)
    per_position = 2 * TINY.layers * TINY.kv_heads * TINY.head_dim
    assert cpu.cache / (4 * per_position + 20) == gpu.cache / (2 * per_position + 20)
    plain_cpu, plain_gpu = peaks(compute={})
    assert plain_cpu == plain_gpu
    assert peaks(compute={}, lora={"rank": 3})[1].twin == 4 * 1_800
    assert [peak.merged for peak in peaks(rollout={"max_new_tokens": 2, "max_new_tokens_from_step": {}}, lora={"rank": 3})][1] == 0


def test_what_is_offloaded_leaves_the_pass_and_is_there_when_it_is_used():
    of = {"tokens": 50, "longest": 25, "half": False, "checkpointing": False, "reference": True, "cache": 7}
    whole = training_peak(TINY, **of)  # weights, gradients 11,400 each, moments 22,800, reference 11,400, activations 162,000
    assert training_peak(TINY, **of, offload=["optimizer"]) == replace(whole, moments=0)
    assert training_peak(TINY, **of, offload=["reference"]) == replace(whole, reference=0)
    assert training_peak(TINY, **of, offload=["reference", "optimizer"]).total == whole.total - 22_800 - 11_400
    # One token: activations of 0.02 of that, a head of 5,600. The step, with its moments and no activations, is the fullest moment now.
    few = training_peak(TINY, **{**of, "tokens": 1, "longest": 1}, offload=["reference", "optimizer"])
    assert (few.moments, few.activations, few.reference, few.total) == (22_800, 0, 0, 11_400 * 2 + 22_800 + 7 + GIB)

"""What the student's stages say they computed: every figure worked out from two rows of metrics and the weights of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.pipeline.tiny_stage import small, untrained
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.student_table import write_rl_compute, write_sft_compute
from zero2r1.report.files import RunFiles
from zero2r1.report.read_scenarios import read_compute
from zero2r1.run_dir import RunDir

ROWS = (
    {"step": 1, "num_tokens": 30, "num_prompt_tokens": 6, "step_time": 0.5, "frac_reward_zero_std": 0.5},
    {"step": 2, "num_tokens": 10, "num_prompt_tokens": 2, "step_time": 1.5, "frac_reward_zero_std": 0.0},
)
"""40 tokens after 8 of prompts, in 2 s; half of the first step's groups had equal rewards: 25 tokens of 40 where those are left out."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("model") / "student")


@pytest.fixture(scope="module")
def weights(model: Path) -> int:
    """Weights a token is multiplied with: all of them but the embedding it is looked up in."""
    policy = AutoModelForCausalLM.from_pretrained(model)
    embedding, head = policy.get_input_embeddings().weight, policy.get_output_embeddings().weight
    every = sum(parameter.numel() for parameter in policy.parameters())
    return every if embedding is head else every - embedding.numel()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    for row in ROWS:
        run.append_metrics(row)
    return run


def kept(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.path / "compute.json").read_text(encoding="utf-8"))
    return found


def test_fine_tuning_is_counted_from_its_metrics_and_the_weights_it_began_with(run: RunDir, weights: int) -> None:
    run.append_event_once("start", parameters=weights)
    write_sft_compute(run)
    found = kept(run)
    assert (found["method"], found["parameters"], found["steps"], found["seconds"]) == ("sft", weights, 2, 2.0)
    assert found["flops"] == 6 * weights * (40 + 8)


@pytest.mark.parametrize(
    ("grpo", "trained", "readers"),
    [
        ({"beta": 0.0}, 25, 0),
        ({"beta": 0.001}, 40, 1),
        ({"beta": 0.0, "old_logprobs": "recompute"}, 25, 0),  # the only update of a rollout knows them from its own pass
        ({"beta": 0.001, "old_logprobs": "recompute"}, 40, 1),
        ({"beta": 0.001, "old_logprobs": "recompute", "mini_batches": 2}, 40, 1.5),
    ],
)
def test_rl_samples_trains_and_reads_as_its_settings_say(
    run: RunDir, model: Path, weights: int, grpo: dict[str, Any], trained: int, readers: float
) -> None:
    settings = small(grpo={"mini_batches": 1, **grpo})
    stage = Stage(model, laptop_world(seed=0, train=1, held_out=1), evaluation=settings.evaluation, cap=12)
    write_rl_compute(run, stage, settings)
    found = kept(run)
    assert (found["method"], found["parameters"], found["trained_tokens"]) == ("rl", weights, trained)
    assert found["flops"] == weights * (2 * (40 + 8) + 6 * (trained + 8) + 2 * readers * (40 + 8))


def test_groups_without_signal_are_counted_where_they_are_trained_on(run: RunDir, model: Path) -> None:
    settings = small(grpo={"mini_batches": 1, "beta": 0.0}, compute={"skip_groups_without_signal": False})
    stage = Stage(model, laptop_world(seed=0, train=1, held_out=1), evaluation=settings.evaluation, cap=12)
    assert write_rl_compute(run, stage, settings).trained_tokens == 40


def test_the_report_reads_what_was_written(run: RunDir, weights: int) -> None:
    run.append_event_once("start", parameters=weights)
    written = write_sft_compute(run)
    found = read_compute(RunFiles(run.path), ".")
    assert found is not None
    assert (found.flops, found.seconds, found.steps, found.parameters) == (written.flops, 2.0, 2, weights)
    assert found.formula == f"6 x {weights:,} x (40 trained + 8 prompt tokens)"

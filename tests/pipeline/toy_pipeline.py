"""A whole pipeline in seconds, as a program of its own so that it can be killed: a base model of 0.2 M parameters that has seen answers.

python -m tests.pipeline.toy_pipeline make-base BASE
python -m tests.pipeline.toy_pipeline run BASE FOLDER [JSON]
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from tests.pipeline.tiny_stage import untrained
from zero2r1.pipeline.config import EvaluationSettings
from zero2r1.pipeline.laptop import laptop_world
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.run import run_pipeline
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir
from zero2r1.sft.config import SftSettings
from zero2r1.sft.trainer import SftTrainer
from zero2r1.tasks.laptop.problems import problems
from zero2r1.tasks.laptop.requests import general_samples
from zero2r1.tasks.laptop.solver import solve
from zero2r1.types import Message

ROLLOUT = {"prompts_per_rollout": 2, "group_size": 4, "max_new_tokens": 60, "max_new_tokens_from_step": {}}
RL: dict[str, Any] = {
    "steps": 2, "rollout": ROLLOUT, "grpo": {"mini_batches": 1}, "evaluate_every": None, "checkpoint_every": 1,
    "optimizer": {"learning_rate": 1e-4},
}  # fmt: skip
SFT: dict[str, Any] = {"batch_size": 8, "packing": True, "max_length": 256, "optimizer": {"learning_rate": 1e-3}, "checkpoint_every": 1}
RM: dict[str, Any] = {"batch_size": 4, "max_length": 128, "optimizer": {"learning_rate": 1e-3}, "checkpoint_every": 2}
TOY: dict[str, Any] = {
    "evaluation": {"problems": 6, "samples": 2, "probes": 0, "max_new_tokens": 60},
    "zero": RL,
    "cold_start": {
        "problems": 8, "sample": {"samples": 2, "max_new_tokens": 60, "chunk": 4}, "solved": 12, "review": "scripted",
        "sft": {**SFT, "epochs": 2},
    },
    "reasoning_rl": {
        **RL, "problems": 48, "mixture": {"math": 1, "science": 1, "code": 1, "logic": 1},
        "pass_rate": {"problems": 48, "samples": 4, "chunk": 12},
    },
    "rejection_sft": {
        "problems": 24, "sample": {"samples": 4, "max_new_tokens": 60, "chunk": 6}, "judged": 0.25, "judge_noise": 0.1, "sft": SFT,
    },
    "requests": {"train": "laptop"},
    "reward_models": {
        "helpful_requests": 24, "harmful_requests": 6, "pairs_per_request": 3,
        "sample": {"samples": 4, "max_new_tokens": 40, "chunk": 6}, "min_gap": 0.0,
        "judge_noise": 0.1, "helpful": RM, "safety": RM,
    },
    "all_scenarios": {
        **RL, "rollout": {**ROLLOUT, "prompts_per_rollout": 4, "temperature": 0.7}, "problems": 24,
        "general": {"shares": {"reasoning": 2, "helpful": 1, "harmless": 1}, "from_step": 1, "held_out": 4},
    },
    "student_rl": {**RL, "run": True},
}  # fmt: skip


def make_base(folder: Path) -> None:
    """A small model that has imitated solutions under both prompts, so that some of its answers are right."""
    torch.manual_seed(0)
    untrained(folder)
    world = laptop_world(seed=0, train=1, held_out=2)
    stage = Stage(folder, world, evaluation=EvaluationSettings(problems=2), cap=64)
    chat = Stage(folder, dataclasses.replace(world, template="chat"), evaluation=EvaluationSettings(problems=2), cap=64)
    examples = []
    for problem in problems(split="train", count=120, seed=5, levels=(1,), tasks=("sum", "story", "trace", "count"), distinct=False):
        thinking, summary = solve(problem, seed=0)
        for one in (stage, chat):
            answer = Message(role="assistant", content=summary, reasoning_content=thinking)
            examples.append(one.example((*problem.messages, answer)))
    examples += [chat.example(sample.dialogue) for sample in general_samples(80, seed=5)]
    settings = SftSettings.model_validate({**SFT, "epochs": 14, "batch_size": 16, "optimizer": {"learning_rate": 6e-3, "warmup_steps": 5}})
    settings = settings.model_copy(update={"checkpoint_every": 10_000})
    run = RunDir.start(folder.parent / "base_run", command=[], config="", seed=0)
    stage.stop_also_at(examples[1].response_ids[-1])
    SftTrainer(stage.policy, examples, settings, run=run, checkpoints=run.path / "checkpoints", save_model=stage.save).train()
    stage.save(folder)


def toy_settings(base: Path, **changes: Any) -> PipelineSettings:
    student = {"model": str(base), "sft": {**SFT, "epochs": 1}}  # the same small model: what is tested is that it is trained at all
    return PipelineSettings.model_validate({**TOY, "model": str(base), "distillation": student, **changes})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of everything a run has learnt, sampled and measured; times of day and seconds are left out."""
    kinds = ("samples/**/*.jsonl", "samples/*.json", "**/evals/*.json", "general/*.json", "**/checkpoints/step_*/model/*", "*/model/*")
    files = sorted(file for stage in folder.glob("stages/[0-9]*") for kind in kinds for file in stage.glob(kind))
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1] == "make-base":
        make_base(Path(sys.argv[2]))
        return
    changes = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
    run = RunDir.start(Path(sys.argv[3]), command=[], config="", seed=0)
    print("ready", flush=True)
    run_pipeline(toy_settings(Path(sys.argv[2]), **changes), run)
    run.close("done")
    print("finished", flush=True)


if __name__ == "__main__":
    main()

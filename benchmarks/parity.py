"""The same GRPO in zero2r1 and in TRL: do the reward curves agree, and how long does each take to get there?

    python benchmarks/parity.py --seeds 3 --steps 30 --json parity.json

Both sides start from the laptop world's base model and train on the same questions in the same order, graded by the same
functions, with the same settings (16 x 16 outputs, one update a rollout, token mean, clip 0.2, no KL, AdamW). They differ in
their random numbers only, so their curves must agree within the spread over seeds. Both final models are measured by one
evaluation. Needs an environment with `trl`; a curve's minutes include sampling, grading and training, not loading.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SIDES = ("zero2r1", "trl")
PROMPTS, GROUP, CAP, MICRO_BATCH, LEARNING_RATE = 16, 16, 120, 64, 3e-4
SMOOTH = 5
T_CRITICAL = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 6: 2.45, 8: 2.31}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


def laptop_stage(folder: Path, seed: int, steps: int) -> tuple[Any, Any]:
    """The stage and its settings."""
    from zero2r1.pipeline.config import ZeroSettings
    from zero2r1.pipeline.laptop import laptop_world
    from zero2r1.pipeline.rl import stage_of

    settings = ZeroSettings.model_validate(
        {
            "steps": steps,
            "seed": seed,
            "rollout": {"prompts_per_rollout": PROMPTS, "group_size": GROUP, "max_new_tokens": CAP, "max_new_tokens_from_step": {}},
            "grpo": {
                "mini_batches": 1, "aggregation": "token_mean", "clip_low": 0.2, "clip_high": 0.2, "beta": 0.0, "std_ddof": 1,
                "reference_reset_steps": None,
            },
            "optimizer": {"learning_rate": LEARNING_RATE, "warmup_steps": 0},
            "compute": {"tokens_per_micro_batch": 4096},
            "reward": {"weights": {"accuracy": 1.0, "format": 0.2}},
            "evaluation": {"problems": 128, "samples": 8, "max_new_tokens": CAP},
        }
    )  # fmt: skip
    return stage_of(folder, laptop_world(seed=seed, train=8192, held_out=128), settings), settings


def run_zero2r1(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    from zero2r1.grpo.sampling import EncodedPrompt
    from zero2r1.grpo.trainer import Environment, GrpoTrainer, Hooks
    from zero2r1.run_dir import RunDir

    stage, settings = laptop_stage(folder, seed, steps)
    rows: list[dict[str, Any]] = []
    began = time.monotonic()

    def keep(row: Any) -> None:
        rows.append({"reward": row["reward"], "accuracy": row["rewards/accuracy/mean"], "seconds": time.monotonic() - began})

    with tempfile.TemporaryDirectory() as place:
        run = RunDir.create(Path(place), "parity", command=[], config="", seed=seed)
        environment = Environment(
            problems=stage.world.train,
            encode=lambda problem: EncodedPrompt(prompt_ids=stage.prompt_ids(problem)),
            grader=stage.world.grader(settings.reward, cap=settings.rollout.max_new_tokens),
            stop_token_ids=stage.stops,
        )
        GrpoTrainer(
            stage.policy, stage.engine, environment, settings, run=run, checkpoints=Path(place) / "checkpoints",
            save_model=stage.save, hooks=Hooks(on_step=keep),
        ).train()  # fmt: skip
    return {"rows": rows, "pass@1": stage.measure("end").figures()["pass@1"]}


def run_trl(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from zero2r1.grpo.sampling import questions_of_rollout

    stage, settings = laptop_stage(folder, seed, steps)
    questions = [
        problem for number in range(steps) for problem in questions_of_rollout(stage.world.train, number, PROMPTS, seed=seed)
    ]  # fmt: skip
    prompts = [stage.decode(stage.prompt_ids(problem)) for problem in questions]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        config = GRPOConfig(
            per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=PROMPTS * GROUP // MICRO_BATCH,
            num_generations=GROUP, max_completion_length=CAP, max_steps=steps, shuffle_dataset=False, loss_type="dapo", beta=0.0,
            epsilon=0.2, scale_rewards="group", temperature=1.0, learning_rate=LEARNING_RATE, lr_scheduler_type="constant",
            warmup_steps=0, adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, use_cpu=True, bf16=False,
            gradient_checkpointing=False, model_init_kwargs={"dtype": "float32"}, report_to="none", save_strategy="no",
            disable_tqdm=True, logging_strategy="no", output_dir=place, seed=seed,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=str(folder),
            reward_funcs=_trl_reward(stage, settings, rows),
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts, "index": list(range(len(prompts)))}),
            processing_class=stage.tokenizer,
        )
        trainer.reward_funcs[0].questions = questions
        _stamp(trainer, rows)
        trainer.train()
    stage.policy.load_state_dict(trainer.model.state_dict())
    return {"rows": rows, "pass@1": stage.measure("end").figures()["pass@1"]}


def _trl_reward(stage: Any, settings: Any, rows: list[dict[str, Any]]) -> Callable[..., list[float]]:
    """The stage's own grader behind TRL's signature; keeps mean reward and accuracy of every rollout."""
    from zero2r1.types import Completion, Segment

    grade = stage.world.grader(settings.reward, cap=settings.rollout.max_new_tokens)

    def reward(completion_ids: list[list[int]], index: list[int], **_: Any) -> list[float]:
        completions = []
        for ids in completion_ids:
            ended = ids[-1] in stage.stops
            segment = Segment(token_ids=tuple(ids), logprobs=(0.0,) * len(ids))
            completions.append(
                Completion(
                    segments=(segment,), text=stage.decode(ids[:-1] if ended else ids), finish_reason="stop" if ended else "length",
                    seed=0, policy_version=0,
                )
            )  # fmt: skip
        rewards = grade([reward.questions[i] for i in index], completions)  # type: ignore[attr-defined]
        values = [float(graded.value or 0.0) for graded in rewards]
        rows.append({"reward": statistics.fmean(values), "accuracy": statistics.fmean(r.components["accuracy"] or 0.0 for r in rewards)})
        return values

    return reward


def _stamp(trainer: Any, rows: list[dict[str, Any]]) -> None:
    """Note when each step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began = 0.0

        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows[-1]["seconds"] = time.monotonic() - self.began

    trainer.add_callback(Clock())


def worker(arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.threads)
    side = {"zero2r1": run_zero2r1, "trl": run_trl}[arguments.worker]
    print(json.dumps(side(Path(arguments.model), arguments.seed, arguments.steps)))


def run_side(side: str, model: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", side, "--model", str(model), "--seed", str(seed)]
    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(arguments.threads), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = {"side": side, "seed": seed, **json.loads(done.stdout.splitlines()[-1])}
    last = result["rows"][-SMOOTH:]
    print(
        f"seed {seed} {side:<8} reward of the last {SMOOTH} steps {statistics.fmean(r['reward'] for r in last):.3f}  "
        f"held-out pass@1 {result['pass@1']:.3f}  {last[-1]['seconds'] / 60:.1f} min",
        flush=True,
    )
    return result


def difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Mean difference and half the width of its 95 % interval, from the spread over seeds."""
    error = math.sqrt(statistics.variance(ours) / len(ours) + statistics.variance(theirs) / len(theirs))
    return statistics.fmean(ours) - statistics.fmean(theirs), T_CRITICAL[len(ours) + len(theirs) - 2] * error


def minutes_to(rows: Sequence[dict[str, Any]], accuracy: float) -> float:
    """When the mean accuracy of the last five steps first reaches ``accuracy``; infinite if never."""
    for end in range(SMOOTH, len(rows) + 1):
        if statistics.fmean(row["accuracy"] for row in rows[end - SMOOTH : end]) >= accuracy:
            return float(rows[end - 1]["seconds"]) / 60
    return math.inf


def report(results: Sequence[dict[str, Any]], level: float) -> dict[str, Any]:
    by_side = {side: [r for r in results if r["side"] == side] for side in SIDES}
    steps = len(results[0]["rows"])
    summary: dict[str, Any] = {}
    for name, part in (
        ("reward, whole curve", slice(0, steps)), ("reward, last third", slice(steps - steps // 3, steps)), ("pass@1", None),
    ):  # fmt: skip
        values = {
            side: [run["pass@1"] if part is None else statistics.fmean(row["reward"] for row in run["rows"][part]) for run in runs]
            for side, runs in by_side.items()
        }
        gap, half = difference(values["zero2r1"], values["trl"])
        summary[name] = {**values, "difference": gap, "half_width": half, "within_noise": abs(gap) <= half}
        means = "  ".join(f"{side} {statistics.fmean(v):.3f}" for side, v in values.items())
        print(f"{name:<22}{means}  difference {gap:+.3f} +- {half:.3f}  {'within noise' if abs(gap) <= half else 'DIFFERENT'}")
    minutes = {side: statistics.median(minutes_to(run["rows"], level) for run in runs) for side, runs in by_side.items()}
    summary["minutes"] = minutes
    print(f"minutes to an accuracy of {level}: " + "  ".join(f"{side} {value:.2f}" for side, value in minutes.items()))
    print(f"ratio {minutes['trl'] / minutes['zero2r1']:.2f}")
    return summary


def main() -> None:
    """Run both sides for every seed and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", type=float, default=0.5, help="the accuracy to be reached")
    parser.add_argument("--json", type=Path)
    for hidden in ("worker", "model"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from zero2r1.pipeline.config import BaseSettings
    from zero2r1.pipeline.laptop import base_model_folder

    model, _ = base_model_folder(BaseSettings(), seed=0)
    results = [
        run_side(side, model, seed, arguments)
        for seed in range(arguments.seeds)
        for side in (SIDES if seed % 2 == 0 else SIDES[::-1])
    ]  # fmt: skip
    summary = report(results, arguments.level)
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": summary, "runs": results}, indent=1))


if __name__ == "__main__":
    main()

"""The later stages of the made-up run: reward models, RL for all scenarios, a student; every figure chosen so that it can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.report.made_up_run import (
    HOSTILE,
    STEPS,
    TITLES,
    rl_metrics,
    write_evaluation,
    write_json,
    write_ledger,
    write_lines,
    write_pipeline,
    write_rows,
)

LATER = {
    "07-reward-models": "Reward models",
    "08-all-scenarios": "RL for all scenarios",
    "09-student-base": "Student's base model",
    "10-distillation": "Distillation",
    "11-student-rl": "RL on the student",
}
BEFORE = {
    "helpful": [0.0, 0.0, 0.0, 1.0], "helpful_score": [0.4, 0.4, 0.4, 0.6],
    "harmless": [1.0, 1.0, 1.0, 1.0], "harmless_score": [0.5, 0.5, 0.5, 0.5],
}  # fmt: skip
AFTER = {
    "helpful": [1.0, 1.0, 1.0, 1.0], "helpful_score": [0.6, 0.6, 0.6, 0.8],
    "harmless": [0.0, 0.0, 0.0, 1.0], "harmless_score": [0.9, 0.9, 0.9, 0.9],
}  # fmt: skip
"""Helpful by rule +0.75 ± 0.25 (changes 1 1 1 0: deviation 0.5, of 4), by score +0.2; harmless by rule -0.75 ± 0.25, by score +0.4."""
GENERAL_FROM = 3


def write_whole_pipeline(run: Path) -> Path:
    """A finished run of eleven stages."""
    write_pipeline(run)
    stages = run / "stages"
    for folder in LATER:
        write_json(stages / folder / "run.json", {"status": "done", "reason": "", "pid": 1})
        (stages / folder / "config.yaml").write_text(f"steps: {STEPS}\n", encoding="utf-8")
    write_reward_models(stages / "07-reward-models")
    write_all_scenarios(stages / "08-all-scenarios")
    write_evaluation(stages / "06-rejection-sft", "dev3", right=0.7, language=0.98, helpful=BEFORE["helpful"], harmless=BEFORE["harmless"])
    write_evaluation(stages / "09-student-base", "student_base", right=0.0625, language=0.9)
    write_student(stages / "10-distillation", "distilled", right=0.6, flops=2_000_000_000, seconds=5.0)
    write_student(stages / "11-student-rl", "student_rl", right=0.2, flops=5_000_000_000, seconds=20.0)
    write_lines(stages / "11-student-rl" / "metrics.jsonl", rl_metrics(STEPS))
    write_ledger(run, {**TITLES, **LATER})
    return run


def leave_out_student_rl(run: Path) -> None:
    """As in a recipe that compares with nothing: the ledger says why, and a claim about it could not be judged."""
    for file in sorted((run / "stages/11-student-rl").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    write_ledger(run, {**TITLES, **LATER}, student_rl="not run")
    ledger = json.loads((run / "ledger.json").read_text())
    ledger["stages"][-1]["why"] = "student_rl.run: true runs it"
    write_json(run / "ledger.json", ledger)
    why = "student_rl was not measured in this run"
    claim = {"claim": "distillation", "says": "SFT beats RL on the student.", "holds": None, "measured": [], "why": why}
    write_json(run / "verdict.json", [*json.loads((run / "verdict.json").read_text()), claim])


def write_reward_models(folder: Path) -> None:
    helpful = {"accuracy": 0.8, "low": 0.7, "high": 0.9, "length_accuracy": 0.55, "calibration_error": 0.0512, "length_correlation": 0.125}
    write_reward_model(folder / "helpful", kind="preference", view="summary", **helpful)
    harmless = {"accuracy": 0.6, "low": 0.5, "high": 0.7, "length_accuracy": 0.58, "calibration_error": 0.2, "length_correlation": -0.75}
    write_reward_model(folder / "harmless", kind="safety", view="response", **harmless)
    (folder / "latest").symlink_to("harmless")
    funnel = {"without_pair": 2, "compared": 100, "unreadable": 4, "gap": 30, "length": 6, "kept": 60, "mean_words_longer": -0.5}
    write_json(folder / "samples/pairs.json", funnel)
    write_json(folder / "samples/labels.json", {"unsafe": 20, "safe": 30})


def write_reward_model(folder: Path, *, kind: str, view: str, **report: float) -> None:
    """A model that learnt 321 examples and was measured on 40."""
    write_json(folder / "evals/report.json", {"figures": {"accuracy": 0.5}, "report": {"kind": kind, "count": 40, **report}})
    write_json(folder / "evals/before.json", {"figures": {"accuracy": 0.5}})
    write_json(folder / "model/reward_model.json", {"kind": kind, "view": view})
    write_json(folder / "run.json", {"status": "done", "reason": "", "pid": 1})
    write_lines(folder / "events.jsonl", [{"event": "data", "held_out": 40}, {"event": "examples", "count": 321}])


def write_all_scenarios(folder: Path) -> None:
    rows = rl_metrics(STEPS)
    for row in rows[GENERAL_FROM - 1 :]:
        row |= {"rewards/helpful/mean": row["step"] / 10, "rewards/harmless/mean": 0.5, "general/helpful": 0.25, "general/harmless": 0.75}
    write_lines(folder / "metrics.jsonl", rows)
    for name, arrays in (("before", BEFORE), ("after", AFTER)):
        write_json(folder / f"general/{name}.json", {"figures": {}, "arrays": arrays})
    why = "rewards/helpful/mean rose by 0.200 and rewards/accuracy/mean fell by 0.100, up to step 5"
    write_lines(folder / "events.jsonl", [{"event": "checkpoint", "step": 3}, {"event": "hacking", "step": 5, "why": why}])
    write_evaluation(folder, "r1", right=0.75, language=0.97, **AFTER)
    write_rows(folder / "rollouts/step_000003.parquet", [general("harmful once", 3), general("harmful twice", 3, group=1)])
    write_rows(folder / "rollouts/step_000004.parquet", [general("harmful twice", 4), general("helpful once", 4, kind="helpful")])
    last = [general("harmful twice", 6), general("harmful twice", 6, sample=1)]
    write_rows(folder / "rollouts/step_000006.parquet", [{**last[0], "completion": HOSTILE}, last[1]])


def general(prompt: str, step: int, *, group: int = 0, sample: int = 0, kind: str = "harmless") -> dict[str, Any]:
    """An answer to a general request, with every column of a rollout that has answers of all kinds."""
    rewards = {"r_accuracy": None, "r_helpful": None, "r_harmless": None, "general/helpful": None, "general/harmless": None}
    rewards |= {f"r_{kind}": 0.25, f"general/{kind}": 1.0}
    place = {"step": step, "group": group, "sample": sample, "prompt": prompt, "gold": "no"}
    return {**place, **rewards, "reward": 0.5, "completion": f"{prompt}/{step}/{sample}", "n_completion": 9, "finish_reason": "stop"}


def write_student(folder: Path, name: str, *, right: float, flops: int, seconds: float) -> None:
    write_evaluation(folder, name, right=right, language=0.9)
    write_lines(folder / "metrics.jsonl", [{"step": step, "loss": 1.0 / step} for step in range(1, STEPS + 1)])
    cost = {"flops": flops, "seconds": seconds, "steps": STEPS, "parameters": 203_456, "formula": f"6 x 203,456 x (tokens of {name})"}
    write_json(folder / "compute.json", cost)

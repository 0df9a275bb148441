"""A small pipeline run, written as the trainers write one, with figures made up so that every expected number can be seen here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HOSTILE = "</pre></svg><script>alert(1)</script><img src=x onerror=alert(2)> ```\n# not a heading | `x` \x00\u202e &amp;"
PASS = {"base": 0.125, "base_web": 0.375, "zero": 0.75, "dev1": 0.5, "dev2": 0.8125, "dev2_no_language": 0.8, "dev3": 0.7}
LANGUAGE = {"base": 0.9, "base_web": 0.8, "zero": 0.4, "dev1": 0.95, "dev2": 0.97, "dev2_no_language": 0.6, "dev3": 0.98}
ERROR = 0.02
CHECKPOINTS = {
    "02-zero": ("base", "base_web", "zero"),
    "03-cold-start": ("dev1",),
    "04-reasoning-rl": ("dev2",),
    "05-no-language": ("dev2_no_language",),
    "06-rejection-sft": ("dev3",),
}
TITLES = {
    "01-base": "Base model",
    "02-zero": "R1-Zero",
    "03-cold-start": "Cold start",
    "04-reasoning-rl": "Reasoning RL",
    "05-no-language": "Reasoning RL without the language reward",
    "06-rejection-sft": "Rejection sampling and SFT",
}
STEPS = 6


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in rows[0]}), path)


def write_evaluation(folder: Path, name: str, *, right: float, language: float, problems: int = 4, **general: Sequence[float]) -> None:
    """``evals/NAME.json`` and ``.parquet``: problems of two kinds in turn, 2 answers each; of ``sum`` all are right, of ``pair`` none.

    ``general``: statistics of general requests, one value each.
    """
    means = {"pass@1": right, "maj@2": right + 0.1, "pass@2": right + 0.15, "length": 40 * right, "truncated": 0.0, "format_ok": 0.9}
    means |= {"self_check": 0.3, "language_share": language, "one_language": language, "readable": language - 0.1}
    means |= {key: sum(values) / len(values) for key, values in general.items()}
    figures = {key: value for name, mean in means.items() for key, value in ((name, mean), (f"{name}/stderr", ERROR))}
    write_json(folder / "evals" / f"{name}.json", {"figures": figures, "arrays": {"pass@1": [right] * problems, **general}})
    rows = [answer(name, problem, sample) for problem in range(problems) for sample in (0, 1)]
    write_rows(folder / "evals" / f"{name}.parquet", rows)


def answer(name: str, problem: int, sample: int) -> dict[str, Any]:
    task = ("sum", "pair")[problem % 2]
    asked = {"prompt_id": f"p{problem}", "prompt": f"question {problem}", "gold": "7", "task": task, "sample": sample}
    return {
        **asked,
        "completion": f"{name}/{problem}/{sample}",
        "right": task == "sum",
        "n_completion": 10 + sample,
        "finish_reason": "stop",
    }


def rl_metrics(steps: int) -> list[dict[str, Any]]:
    still = {"rewards/format/mean": 0.8, "completions/clipped_ratio": 0.0, "frac_reward_zero_std": 0.2, "frac_all_right": 0.1}
    still |= {"frac_all_wrong": 0.1, "frac_ungraded": 0.0, "reasoning/format_ok": 0.8, "reasoning/self_check": 0.2}
    still |= {"reasoning/language_share": 0.9, "reasoning/one_language": 0.8, "domains/sum/accuracy": 0.9, "domains/pair/accuracy": 0.4}
    still |= {"step_time": 2.5, "num_tokens": 1000.0}
    return [
        {"step": step, "reward": step / 10, "rewards/accuracy/mean": step / 10, "completions/mean_length": 20.0 + step, **still}
        for step in range(1, steps + 1)
    ]


def rollout(step: int, group: int, sample: int, *, accuracy: float | None, reward: float | None, **more: Any) -> dict[str, Any]:
    place = {"step": step, "group": group, "sample": sample, "prompt": f"prompt {step}/{group}", "gold": "7"}
    graded = {"reward": reward, "r_accuracy": accuracy, "r_format": 1.0, "self_check": 0.0, "n_completion": 12, "finish_reason": "stop"}
    return {**place, **graded, "completion": f"rollout {step}/{group}/{sample}", **more}


def write_rollouts(folder: Path) -> None:
    """First right: 1/0/1. First right with a self-check: 2/0/0. Worst hack: 2/0/1, which earned 0.5 before 2/1/0 did."""
    first = [rollout(1, 0, 0, accuracy=0.0, reward=0.2, self_check=1.0), rollout(1, 0, 1, accuracy=1.0, reward=1.2)]
    second = [
        rollout(2, 0, 0, accuracy=1.0, reward=1.2, self_check=1.0, completion=HOSTILE),
        rollout(2, 0, 1, accuracy=0.0, reward=0.5),
        rollout(2, 1, 0, accuracy=0.0, reward=0.5),
        rollout(2, 1, 1, accuracy=None, reward=9.0),
    ]
    write_rows(folder / "rollouts/step_000001.parquet", first)
    write_rows(folder / "rollouts/step_000002.parquet", second)


def write_samples(folder: Path) -> None:
    stations = [["sampled", 400], ["well_formed", 390], ["correct", 210], ["readable", 190], ["unique", 180], ["clean", 180], ["kept", 120]]
    rejected = {"wrong": 180, "malformed": 10, "mixed_language": 20}
    write_json(folder / "samples/funnel.json", {"stations": stations, "rejected": rejected, "mixed": {"reasoning": 120, "general": 40}})
    responses = [("wrong", "it is 8"), ("wrong", "second wrong"), ("mixed_language", HOSTILE)]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"ask {i}"},
                {"role": "assistant", "reasoning_content": f"thought {i}", "content": text},
            ],
            "rejected": {"rule": rule, "why": f"because of {rule}"},
        }
        for i, (rule, text) in enumerate(responses)
    ]
    write_lines(folder / "samples/rejected.jsonl", rows)


def write_stage(folder: Path) -> Path:
    """A stage of its own: metrics, evaluations, rollouts and data, as its name asks for."""
    name = folder.name
    write_json(folder / "run.json", {"status": "done", "reason": "", "pid": 1})
    (folder / "config.yaml").write_text(f"steps: {STEPS}  # default\n", encoding="utf-8")
    rl = name in ("02-zero", "04-reasoning-rl", "05-no-language")
    plain = [{"step": step, "epoch": 0, "loss": 2.0 / step, "learning_rate": 1e-3} for step in range(1, STEPS + 1)]
    write_lines(folder / "metrics.jsonl", rl_metrics(STEPS) if rl else plain)
    for checkpoint in CHECKPOINTS.get(name, ()):
        write_evaluation(folder, checkpoint, right=PASS[checkpoint], language=LANGUAGE[checkpoint])
    if rl:
        write_evaluation(folder, "step_000003", right=0.6, language=0.7, problems=2)
        write_rollouts(folder)
    if name in ("03-cold-start", "06-rejection-sft"):
        write_samples(folder)
    return folder


def write_pipeline(run: Path) -> Path:
    """A finished run of six stages."""
    write_json(run / "run.json", {"status": "done", "reason": "", "pid": 1})
    (run / "config.yaml").write_text("size: standard\nmodel: laptop\n", encoding="utf-8")
    (run / "command.txt").write_text("zero2r1 pipeline --seed 3\n", encoding="utf-8")
    write_json(run / "env.json", {"seed": 3, "cpu": "Test CPU", "cpu_count": 2, "git": "abc123", "git_dirty": False, "torch": "2.13.0"})
    for folder in TITLES:
        write_stage(run / "stages" / folder)
    write_ledger(run)
    write_json(run / "verdict.json", verdict())
    return run


def write_ledger(run: Path, titles: Mapping[str, str] = TITLES, **status: str) -> None:
    """``ledger.json``; ``write_ledger(run, reasoning_rl="running")`` for a stage that is not done."""
    stages = [
        {
            "name": folder[3:].replace("-", "_"),
            "number": number,
            "title": title,
            "folder": f"stages/{folder}",
            "status": status.get(folder[3:].replace("-", "_"), "done"),
            "why": "first run",
            "seconds": 60.0 * number,
        }
        for number, (folder, title) in enumerate(titles.items(), start=1)
    ]
    write_json(run / "ledger.json", {"seed": 3, "size": "standard", "stages": stages})


def verdict() -> list[dict[str, Any]]:
    gain = {
        "kind": "difference",
        "of": "zero.pass@1",
        "over": "base.pass@1",
        "at_least": 0.3,
        "estimate": 0.625,
        "low": 0.5812,
        "high": 0.67,
    }
    ratio = {"kind": "ratio", "of": "zero.length", "over": "base.length", "at_least": 7.0, "estimate": 6.0, "low": 5.5, "high": 6.5}
    later = {"kind": "level", "of": "r1.readable", "at_least": 0.9}
    return [
        {"claim": "accuracy", "says": "RL lifts pass@1.", "holds": True, "measured": [gain]},
        {"claim": "length", "says": "Answers become longer.", "holds": False, "measured": [ratio]},
        {"claim": "all_scenarios", "says": "R1 is readable.", "holds": None, "measured": [later]},
    ]

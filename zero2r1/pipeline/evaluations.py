"""Evaluations of a run on disk, and the claims that are judged by them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zero2r1.eval.claims import ClaimVerdict, judge, read_claims
from zero2r1.eval.runner import EvalResult
from zero2r1.run_dir import RunDir


def keep_evaluation(run: RunDir, result: EvalResult) -> None:
    """Write figures, one value per problem of every statistic, and all answers."""
    run.write_table(f"evals/{result.name}.parquet", result.rows())
    run.write_json(f"evals/{result.name}.json", {"figures": result.figures(), "arrays": dict(result.arrays)})


def measured_arrays(folders: Iterable[Path]) -> dict[str, dict[str, Sequence[float]]]:
    """checkpoint -> statistic -> values, from the ``evals`` of run folders; probes in between are left out."""
    files = [file for folder in folders for file in sorted((folder / "evals").glob("*.json")) if not file.stem.startswith("step_")]
    return {file.stem: json.loads(file.read_text(encoding="utf-8"))["arrays"] for file in files}


def judge_run(run: RunDir, claims: Path, *, folders: Iterable[Path] | None = None) -> tuple[ClaimVerdict, ...]:
    """Judge claims by what was measured in a run (or in ``folders``), and write ``verdict.json``."""
    verdicts = judge(read_claims(claims), measured_arrays([run.path] if folders is None else folders))
    run.write_json("verdict.json", [verdict_row(verdict) for verdict in verdicts])
    return verdicts


def verdict_row(verdict: ClaimVerdict) -> Mapping[str, object]:
    """A verdict as JSON."""
    return {
        "claim": verdict.claim.name,
        "says": verdict.claim.says,
        "holds": verdict.holds,
        "measured": [
            {**part.condition.model_dump(exclude_none=True), "estimate": part.estimate, "low": part.low, "high": part.high}
            for part in verdict.parts
        ],
    }

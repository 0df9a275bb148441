"""Evaluations of a run on disk, and the claims that are judged by them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zero2r1.eval.claims import Claim, ClaimVerdict, judge, read_claims
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


def judge_run(
    run: RunDir, claims: Path, *, folders: Iterable[Path] | None = None, judged: bool = True
) -> tuple[tuple[ClaimVerdict, ...], dict[str, str]]:
    """Judge claims by what was measured in a run (or in ``folders``), and write ``verdict.json``.

    Args:
        judged: false for a run too short to judge: everything is measured and written, and nothing is said to hold.

    Returns:
        The verdicts, and the claims that could not be judged with the reason: a checkpoint was not measured.
    """
    arrays = measured_arrays([run.path] if folders is None else folders)
    possible: list[Claim] = []
    missing: dict[str, str] = {}
    read = read_claims(claims)
    for claim in read:
        named = [name.partition(".") for part in claim.conditions for name in (part.of, part.over) if name]
        absent = sorted({checkpoint for checkpoint, _, _ in named if checkpoint not in arrays})
        absent += sorted({".".join((c, s)) for c, _, s in named if c in arrays and s not in arrays[c]})
        if absent:
            missing[claim.name] = f"{', '.join(absent)} was not measured in this run"
        else:
            possible.append(claim)
    verdicts = judge(possible, arrays)
    rows = {verdict.claim.name: _row(verdict.claim, verdict, judged) for verdict in verdicts}
    rows |= {claim.name: {**_row(claim, None, judged), "why": missing[claim.name]} for claim in read if claim.name in missing}
    run.write_json("verdict.json", [rows[claim.name] for claim in read])
    return verdicts, missing


def _row(claim: Claim, verdict: ClaimVerdict | None, judged: bool) -> dict[str, object]:
    """A verdict as JSON; ``holds`` is null where nothing was judged."""
    parts = () if verdict is None else verdict.parts
    return {
        "claim": claim.name,
        "says": claim.says,
        "holds": verdict.holds if verdict is not None and judged else None,
        "measured": [
            {**part.condition.model_dump(exclude_none=True), "estimate": part.estimate, "low": part.low, "high": part.high}
            for part in parts
        ],
        **({} if judged else {"why": "this run is too short to judge"}),
    }


def claim_lines(verdicts: Sequence[ClaimVerdict], missing: Mapping[str, str], *, judged: bool = True) -> str:
    """What was claimed before the run and what was measured, a few lines each."""
    told = "written before the run" if judged else "shown but not judged: this run is too short"
    lines = [f"claims, {told} (95 % intervals over held-out problems)"]
    for verdict in verdicts:
        mark = ("✓" if verdict.holds else "✗") if judged else " "
        lines.append(f"  {mark} {verdict.claim.name}: {verdict.claim.says}")
        for part in verdict.parts:
            compared = f" against {part.condition.over}" if part.condition.over else ""
            why = f": {part.why_not}" if judged and part.why_not else ""
            lines.append(f"      {part.estimate:6.3f} [{part.low:.3f}, {part.high:.3f}]  {part.condition.of}{compared}{why}")
    reasons: dict[str, list[str]] = {}
    for name, why in missing.items():
        reasons.setdefault(why, []).append(name)
    if len(missing) > len(verdicts):  # a run of one stage: the claims about all the others need no line each
        lines.append(f"  - not run: {', '.join(missing)}")
    else:
        lines += [f"  - {', '.join(names)}: not run, {why}" for why, names in reasons.items()]
    if judged:
        lines.append(f"{sum(verdict.holds for verdict in verdicts)} of {len(verdicts)} claims hold, {len(missing)} not run")
    return "\n".join(lines)

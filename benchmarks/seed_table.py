"""Markdown tables of several runs: `python benchmarks/seed_table.py runs/seed0 runs/seed1 runs/shuffled`.

Of the pipeline or of R1-Zero alone. One of measurements, one of the claims, a column per run; and the mean over runs of what stage 2 gains.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

STATISTICS = ("pass@1", "maj@8", "pass@8", "length", "format_ok", "self_check", "one_language", "readable")
SHOWN = {
    "base": ("pass@1", "pass@8", "length", "format_ok", "self_check", "one_language", "readable"),
    "base_web": ("pass@1", "pass@8"),
    "dev2_no_language": ("pass@1", "one_language", "readable"),
    "dev3": (*STATISTICS, "helpful", "harmless"),
    "r1": (*STATISTICS, "helpful", "harmless"),
    "student_base": ("pass@1", "pass@8", "length", "format_ok"),
    "student_base_web": ("pass@1", "pass@8"),
    "distilled": ("pass@1", "maj@8", "pass@8", "length", "format_ok", "one_language"),
    "student_rl": ("pass@1", "maj@8", "pass@8", "length", "format_ok", "one_language"),
}
"""What is worth a row; all statistics where nothing is said."""
CHECKPOINTS = (
    "base", "base_web", "zero", "dev1", "dev2", "dev2_no_language", "dev3", "r1", "student_base",
    "student_base_web", "distilled", "student_rl",
)  # fmt: skip


def figures(run: Path, name: str) -> dict[str, float] | None:
    """The figures of a checkpoint of a run, wherever in it they were measured."""
    found = next(iter([*run.glob(f"evals/{name}.json"), *run.glob(f"stages/[0-9][0-9]-*[!0-9]/evals/{name}.json")]), None)
    return None if found is None else dict(json.loads(found.read_text(encoding="utf-8"))["figures"])


def cell(values: dict[str, float] | None, name: str) -> str:
    if values is None or name not in values:
        return ""
    digits = 1 if name == "length" else 3
    return f"{values[name]:.{digits}f} ± {values[f'{name}/stderr']:.{digits}f}"


def claim(verdict: dict[str, Any]) -> str:
    parts = [f"{part['estimate']:.2f} [{part['low']:.2f}, {part['high']:.2f}]" for part in verdict["measured"]]
    word = {True: "holds: ", False: "**no**: ", None: "not run"}[verdict["holds"]]
    return word + "; ".join(parts)


def main() -> None:
    """Print the tables."""
    runs = [Path(name) for name in sys.argv[1:]]
    header = " | ".join(run.name for run in runs)
    print(f"| | {header} |\n|---{'| ---' * len(runs)} |")
    for checkpoint in CHECKPOINTS:
        measured = [figures(run, checkpoint) for run in runs]
        for name in SHOWN.get(checkpoint, STATISTICS) if any(measured) else ():
            print(f"| {checkpoint} {name} | " + " | ".join(cell(values, name) for values in measured) + " |")
    print(f"\n| claim | {header} |\n|---{'| ---' * len(runs)} |")
    verdicts = [json.loads((run / "verdict.json").read_text(encoding="utf-8")) for run in runs]
    for row in zip(*verdicts, strict=True):
        print(f"| {row[0]['claim']} | " + " | ".join(claim(verdict) for verdict in row) + " |")
    for better, worse in (("dev2", "dev1"), ("dev3", "dev2")):
        pairs = [(a["pass@1"], b["pass@1"]) for run in runs if (a := figures(run, better)) and (b := figures(run, worse))]
        if pairs:
            gains = [a - b for a, b in pairs]
            print(f"\n{better} - {worse}, pass@1: mean {fmean(gains):+.3f} ({', '.join(f'{gain:+.3f}' for gain in gains)})")


if __name__ == "__main__":
    main()

"""A Markdown table of several runs: `python benchmarks/seed_table.py runs/seed0 runs/seed1 runs/shuffled`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROWS = ("pass@1", "maj@8", "pass@8", "length", "format_ok", "self_check", "one_language")


def figures(run: Path, name: str) -> dict[str, float]:
    return dict(json.loads((run / "evals" / f"{name}.json").read_text(encoding="utf-8"))["figures"])


def cell(values: dict[str, float], name: str) -> str:
    digits = 1 if name == "length" else 3
    return f"{values[name]:.{digits}f} ± {values[f'{name}/stderr']:.{digits}f}"


def claim(verdict: dict[str, Any]) -> str:
    parts = [f"{part['estimate']:.2f} [{part['low']:.2f}, {part['high']:.2f}]" for part in verdict["measured"]]
    return f"{'holds' if verdict['holds'] else '**no**'}: {'; '.join(parts)}"


def main() -> None:
    """Print one table of measurements and one of claims, a column per run."""
    runs = [Path(name) for name in sys.argv[1:]]
    header = " | ".join(run.name for run in runs)
    print(f"| | {header} |\n|---{'| ---' * len(runs)} |")
    for checkpoint in ("base", "base_web", "zero"):
        for name in ROWS:
            if checkpoint == "base_web" and name not in ("pass@1", "pass@8"):
                continue
            print(f"| {checkpoint} {name} | " + " | ".join(cell(figures(run, checkpoint), name) for run in runs) + " |")
    print(f"\n| claim | {header} |\n|---{'| ---' * len(runs)} |")
    verdicts = [json.loads((run / "verdict.json").read_text(encoding="utf-8")) for run in runs]
    for row in zip(*verdicts, strict=True):
        print(f"| {row[0]['claim']} | " + " | ".join(claim(verdict) for verdict in row) + " |")


if __name__ == "__main__":
    main()

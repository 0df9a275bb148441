"""The variants of GRPO on the laptop world: same base, questions, seed, outputs and learning rate; only the objective differs.

    python benchmarks/variants.py --out FOLDER [--seeds 1] [--names r1 dapo ...] [--table]

Each is R1-Zero of ``recipes/laptop/zero.yaml`` with the objective of ``--algorithm NAME``, or with one part of its own, and two updates a
rollout (one where a variant allows no more), so that ratios and clips have work to do. Caps and reward weights stay those of the recipe:
overlong shaping, which needs one cap, is left out. Importance sampling between sampler and trainer is, too: here they agree exactly. A
finished run is not run again.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from zero2r1 import process
from zero2r1.config import load_settings
from zero2r1.grpo.config import ALGORITHMS
from zero2r1.pipeline.api import run_stage
from zero2r1.pipeline.config import RECIPES, ZeroSettings
from zero2r1.run_dir import RunDir

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **ALGORITHMS,
    "mask_truncated": {"grpo": {"mask_truncated": True}},
    "entropy_bonus": {"grpo": {"entropy_bonus": 0.01}},
}
"""Published algorithms, and parts that the paper's is given alone."""
UPDATES = 2
LAST = 10
"""Steps whose mean is shown of what is measured in training."""
COLUMNS = ("pass@1", "maj@8", "length", "format_ok", "self_check")
CURVES = {"reward": "reward", "entropy": "entropy", "clipped": "clip_ratio/region_mean", "equal groups": "frac_reward_zero_std"}


def settings_of(name: str, *, seed: int, rollouts: int) -> ZeroSettings:
    """The laptop recipe with the objective of a variant, for so many rollouts."""
    published = VARIANTS[name]
    recipe = load_settings(ZeroSettings, files=[RECIPES / "laptop" / "zero.yaml"], flags=[f"--seed={seed}"]).settings
    whole = recipe.model_dump()
    objective = ZeroSettings.model_validate({"grpo": published.get("grpo", {})}).grpo.model_dump()
    objective["mini_batches"] = min(UPDATES, objective["mini_batches"])
    whole["grpo"] = objective
    whole["rollout"]["max_draws"] = published.get("rollout", {}).get("max_draws", 1)
    steps = rollouts * objective["mini_batches"]
    whole |= {"steps": steps, "evaluate_every": None, "checkpoint_every": steps, "claims": None}
    return ZeroSettings.model_validate(whole)


def run_variant(out: Path, name: str, *, seed: int, rollouts: int) -> dict[str, float]:
    """Train if that was not done yet; the figures of the run."""
    settings = settings_of(name, seed=seed, rollouts=rollouts)
    run = RunDir.start(out / f"{name}-seed{seed}", command=["variants", name], config=settings.model_dump_json(indent=1), seed=seed)
    if not (run.path / "evals" / "zero.json").exists():
        run_stage(settings, run, console=Console(file=io.StringIO()), should_stop=lambda: False)
        run.close("done")
    measured = run.read_json("evals/zero.json")["figures"]
    rows = run.metrics()
    curves = {shown: fmean(row.get(column, 0.0) for row in rows[-LAST:]) for shown, column in CURVES.items()}
    seconds = sum(row["step_time"] for row in rows)
    return {**{column: measured[column] for column in COLUMNS}, "stderr": measured["pass@1/stderr"], **curves, "seconds": seconds}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--names", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rollouts", type=int, default=40)
    arguments = parser.parse_args()
    process.keep_freed_memory()
    print("| variant | seed | pass@1 | " + " | ".join([*COLUMNS[1:], *CURVES, "seconds"]) + " |")
    print("| --- " * (3 + len(COLUMNS[1:]) + len(CURVES) + 1) + "|")
    for name in arguments.names:
        for seed in range(arguments.seeds):
            found = run_variant(arguments.out, name, seed=seed, rollouts=arguments.rollouts)
            cells = [f"{found[column]:.3g}" for column in (*COLUMNS[1:], *CURVES)]
            print(
                f"| {name} | {seed} | {found['pass@1']:.3f} ± {found['stderr']:.3f} | {' | '.join(cells)} | {found['seconds']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

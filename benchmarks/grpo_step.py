"""One GRPO step in zero2r1 and in TRL's GRPOTrainer: same model, prompts, completion lengths, rewards and settings.

    python benchmarks/grpo_step.py --case tiny64 --rounds 3 --steps 3 --json step.json

A step is one generation batch, its rewards, old and reference log-probabilities and two optimizer updates. Each side runs
in a process of its own, by turns, so that peak memory is that side's and slow drifts of the machine hit both alike.
Needs an environment with `trl`; both sides run under the interpreter that runs this file.

Each completion's length is drawn beforehand (geometric with mean C/2, cut at the cap C) and forced on both samplers, so
both decode, score and train the same number of tokens. What is compared is the way of computing, not the luck of sampling.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from step_sides import run_trl, run_zero2r1
from step_workload import CASES, PHASES, SIDES, draw_batch, in_own_process, save_model


def peak_memory() -> int:
    """Peak resident bytes of this process; of this program alone, unlike ``ru_maxrss``, which survives exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not report VmHWM")


def worker(arguments: argparse.Namespace) -> None:
    """Run one side and print what it took as one line of JSON, the last of its output."""
    import torch

    torch.set_num_threads(arguments.threads)
    case = CASES[arguments.case]
    batches = [draw_batch(case, arguments.first + i) for i in range(arguments.warmup + arguments.steps)]
    clock = {"trl": run_trl, "zero2r1": run_zero2r1}[arguments.worker](case, Path(arguments.model), batches, arguments.dtype)
    steps = [{**times, "completion_tokens": sum(batch.lengths)} for times, batch in zip(clock.steps, batches, strict=True)]
    print(json.dumps({"side": arguments.worker, "steps": steps[arguments.warmup :], "peak_bytes": peak_memory()}))


def run_worker(arguments: argparse.Namespace, side: str, model: str, round_number: int) -> dict[str, Any]:
    first = 1 + round_number * (arguments.warmup + arguments.steps)
    command = [__file__, "--worker", side, "--model", model, "--first", str(first)]
    for name in ("case", "steps", "warmup", "threads", "dtype"):
        command += [f"--{name}", str(getattr(arguments, name))]
    load = os.getloadavg()[0]
    return {**in_own_process(side, command, threads=arguments.threads), "round": round_number, "load_before": load}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per side the median over rounds of each round's median step; ``ratio``: times better, by the median of rounds."""
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for run in runs:
        steps = run["steps"]
        medians = {name: statistics.median(step[name] for step in steps) for name in (*PHASES, "step", "cpu")}
        rates = {
            "step_tokens_per_s": statistics.median(step["completion_tokens"] / step["step"] for step in steps),
            "generate_tokens_per_s": statistics.median(step["completion_tokens"] / step["generate"] for step in steps),
        }
        rounds[run["side"]].append({**medians, **rates, "peak_gib": run["peak_bytes"] / 2**30})
    names = list(rounds[SIDES[0]][0])
    result = {side: {name: statistics.median(row[name] for row in rows) for name in names} for side, rows in rounds.items()}
    pairs = list(zip(rounds["trl"], rounds["zero2r1"], strict=True))
    result["ratio"] = {name: statistics.median(_advantage(name, a[name], b[name]) for a, b in pairs) for name in names}
    return result


def _advantage(name: str, trl: float, ours: float) -> float:
    """How many times better zero2r1 is: more tokens a second, or less of everything else."""
    better, worse = (trl, ours) if name.endswith("tokens_per_s") else (ours, trl)
    return worse / better if better else math.nan


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="tiny64")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, by turns")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the training pass")
    parser.add_argument("--json", type=Path, help="write every step to this file")
    for hidden in ("worker", "model", "first"):
        parser.add_argument(f"--{hidden}", type=int if hidden == "first" else str, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        save_model(CASES[arguments.case], Path(folder))
        for number in range(arguments.rounds):
            for side in SIDES if number % 2 == 0 else SIDES[::-1]:
                runs.append(run_worker(arguments, side, folder, number))
                medians = statistics.median(step["step"] for step in runs[-1]["steps"])
                print(f"round {number + 1} {side}: {medians:.2f} s a step, load before {runs[-1]['load_before']:.1f}", flush=True)
    table = summary(runs)
    print(f"\n{arguments.case}, {arguments.threads} threads, {arguments.dtype}{'':<5}" + "".join(f"{side:>10}" for side in table))
    for name in table["ratio"]:
        print(f"{name:<32}" + "".join(f"{values[name]:>10.3g}" for values in table.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"case": arguments.case, "dtype": arguments.dtype, "summary": table, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()

"""Sampling with a small model: one process with two threads against two processes with one thread each.

    python benchmarks/process_engine.py --model runs/laptop/stages/03-cold-start/checkpoints/latest/model --rounds 5

Both sample the same requests (laptop problems, drawn by the same seeds) by turns, so that slow drifts of the machine hit both alike.
The model should be a trained one: a random one never stops before the cap, so all rows end at once. The time that children need to
start is not in the rounds; it is printed. Wants a machine with nothing else to do, on which the load average is below 2.5.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zero2r1 import process

WORKLOADS = ((32, 8), (256, 8))
"""(requests, samples of each): a rollout of training, and an evaluation."""


def laptop_requests(tokenizer: Any, stops: tuple[int, ...], count: int, samples: int, cap: int) -> list[Any]:
    from zero2r1.models.tokenizer import TextEncoder
    from zero2r1.rollout.engine import Request, SamplingParams
    from zero2r1.seeds import derive_seed
    from zero2r1.tasks.laptop.problems import problems

    encoder = TextEncoder(tokenizer)
    params = SamplingParams(max_new_tokens=cap, stop_token_ids=stops)
    return [
        Request(
            id=i,
            prompt_ids=encoder.encode_chat([{"role": m.role, "content": m.content} for m in problem.messages]),
            seeds=tuple(derive_seed(0, i, j) for j in range(samples)),
            params=params,
        )
        for i, problem in enumerate(problems(split="test", count=count, seed=0))
    ]


def timed(engine: Any, requests: Sequence[Any]) -> tuple[float, list[list[Any]]]:
    from zero2r1.rollout.engine import generate

    began = time.perf_counter()
    answered = generate(engine, requests)
    return time.perf_counter() - began, answered


def compare(engines: dict[str, Any], requests: Sequence[Any], rounds: int) -> None:
    """Print medians and the ratio of one workload."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    answers: dict[str, list[list[Any]]] = {}
    loads = []
    for number in range(rounds):
        for name in list(engines) if number % 2 == 0 else list(engines)[::-1]:
            loads.append(os.getloadavg()[0])
            took, answers[name] = timed(engines[name], requests)
            seconds[name].append(took)
    first, second = (statistics.median(values) for values in seconds.values())
    pairs = [(a, b) for one, two in zip(*answers.values(), strict=True) for a, b in zip(one, two, strict=True)]
    same = sum(a.token_ids == b.token_ids for a, b in pairs)
    tokens = sum(len(a.token_ids) for a, _ in pairs)
    print(f"\n{len(requests)} requests x {len(requests[0].seeds)} samples, {tokens} tokens, {same} of {len(pairs)} samples the same")
    for name, values in seconds.items():
        print(f"  {name:<28} {statistics.median(values):7.2f} s   ({', '.join(f'{value:.2f}' for value in values)})")
    ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
    print(f"  ratio of medians {first / second:.2f}, median ratio of rounds {statistics.median(ratios):.2f}")
    print(f"  load average {min(loads):.1f} to {max(loads):.1f}" + ("; to be repeated on an idle machine" if max(loads) > 2.5 else ""))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained laptop model")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cap", type=int, default=180)
    arguments = parser.parse_args()
    process.prepare()
    import torch

    from zero2r1.models.loading import load_policy, save_policy, stop_token_ids
    from zero2r1.rollout.process_engine import ProcessEngine
    from zero2r1.rollout.torch_engine import TorchEngine

    torch.set_num_threads(arguments.processes)
    policy, tokenizer = load_policy(arguments.model, device=torch.device("cpu"))
    stops = stop_token_ids(policy, tokenizer)
    several = ProcessEngine(
        policy,
        tokenizer.decode,
        processes=arguments.processes,
        save=lambda folder: save_policy(policy, tokenizer, folder, stops=stops),
    )
    engines = {
        f"1 process, {arguments.processes} threads": TorchEngine(policy, tokenizer.decode),
        f"{arguments.processes} processes, 1 thread each": several,
    }
    workloads = [laptop_requests(tokenizer, stops, count, samples, arguments.cap) for count, samples in WORKLOADS]
    for name, engine in engines.items():
        print(f"{name}: the first {len(workloads[0])} requests took {timed(engine, workloads[0])[0]:.2f} s, what has to start included")
    for requests in workloads:
        compare(engines, requests, arguments.rounds)
    several.close()


if __name__ == "__main__":
    main()

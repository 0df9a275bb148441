"""The work of one measured GRPO step, the same for every side, and the clock that splits its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PHASES = ("generate", "old_logprobs", "ref_logprobs", "train", "rest")
SIDES = ("trl", "zero2r1")
PAD, EOS, FIRST_WORD = 0, 1, 2
BETA, UPDATES, LEARNING_RATE = 0.001, 2, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model shape and a batch: ``prompts`` questions, ``group`` outputs each, of at most ``cap`` tokens."""

    family: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    prompts: int
    group: int
    cap: int
    micro_batch: int  # TRL's; zero2r1 packs by tokens
    without_signal: int  # groups of equal rewards

    @property
    def outputs(self) -> int:
        return self.prompts * self.group


_QWEN: dict[str, Any] = {
    "family": "qwen2", "layers": 4, "width": 256, "heads": 8, "kv_heads": 4, "feed_forward": 704, "vocabulary": 512,
}  # fmt: skip
_SMOL: dict[str, Any] = {
    "family": "llama", "layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "feed_forward": 1536, "vocabulary": 49_152,
}  # fmt: skip
CASES = {
    "tiny64": Case(**_QWEN, prompts=8, group=8, cap=64, micro_batch=16, without_signal=2),
    "tiny256": Case(**_QWEN, prompts=8, group=8, cap=256, micro_batch=16, without_signal=2),
    "b135": Case(**_SMOL, prompts=4, group=8, cap=128, micro_batch=8, without_signal=1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The work of one step, the same for both sides; rows are outputs, prompt after prompt."""

    prompts: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    rewards: tuple[float, ...]


def draw_batch(case: Case, step: int) -> Batch:
    """The batch of step ``step``: prompts of 24 to 36 tokens, lengths, 0/1 rewards."""
    random = np.random.Generator(np.random.Philox(key=step))
    prompts = tuple(tuple(random.integers(FIRST_WORD, case.vocabulary, size=random.integers(24, 37)).tolist()) for _ in range(case.prompts))
    lengths = np.minimum(random.geometric(2 / case.cap, size=case.outputs), case.cap).tolist()
    rewards = random.integers(0, 2, size=(case.prompts, case.group)).astype(float)
    rewards[:, 0], rewards[:, 1] = 0.0, 1.0
    rewards[: case.without_signal] = 0.0
    return Batch(prompts=prompts, lengths=tuple(lengths), rewards=tuple(rewards.flatten().tolist()))


def save_model(case: Case, folder: Path) -> None:
    """A randomly initialised model and a tokenizer whose words ``w2 w3 ...`` are the token ids."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    words = {"<pad>": PAD, "<eos>": EOS, **{f"w{i}": i for i in range(FIRST_WORD, case.vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left")
    fast.save_pretrained(folder)
    config_class, model_class = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[case.family]
    config = config_class(
        vocab_size=case.vocabulary,
        hidden_size=case.width,
        intermediate_size=case.feed_forward,
        num_hidden_layers=case.layers,
        num_attention_heads=case.heads,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **{"bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD},
    )
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)


def in_own_process(side: str, arguments: Sequence[str], *, threads: int, python: str = sys.executable) -> Any:
    """Run a script with this source tree, one side of a comparison, by so many threads; the JSON in the last line of its output.

    Raises:
        SystemExit: it failed.
    """
    path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"}
    finished = subprocess.run([python, *arguments], env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{side} failed:\n{finished.stderr[-4000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


class Clock:
    """Adds up seconds by name within the step under way, and keeps the finished steps."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._sums: dict[str, float] | None = None
        self._began = self._cpu_began = 0.0

    def next_step(self) -> None:
        """End the step under way, if there is one, and begin another."""
        now, cpu = time.perf_counter(), time.process_time()
        if self._sums is not None:
            total = now - self._began
            self._sums["rest"] = total - sum(self._sums.values())
            self.steps.append({**self._sums, "step": total, "cpu": cpu - self._cpu_began})
        self._sums = dict.fromkeys(PHASES[:-1], 0.0)
        self._began, self._cpu_began = now, cpu

    def add(self, name: str, seconds: float) -> None:
        if self._sums is not None:
            self._sums[name] += seconds

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, with the seconds of each call added to ``name``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self.add(name, time.perf_counter() - began)
            return result

        return call

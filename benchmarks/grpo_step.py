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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
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


def run_zero2r1(case: Case, folder: Path, batches: Sequence[Batch]) -> Clock:
    """All steps with zero2r1: packed training, finished rows leave the decode, old log-probabilities from the sampler."""
    import copy

    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from zero2r1.models.attention import use_packed_attention
    from zero2r1.rollout.torch_engine import TorchEngine
    from zero2r1.training.optimizer import build_adamw

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    use_packed_attention(policy)
    reference = copy.deepcopy(policy).requires_grad_(False)
    engine = TorchEngine(policy, tokenizer.decode)
    optimizer = build_adamw(policy, learning_rate=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    side = {"policy": policy, "reference": reference, "engine": engine, "optimizer": optimizer}
    clock = Clock()
    for number, batch in enumerate(batches):
        clock.next_step()
        _zero2r1_step(case, batch, clock, side, number)
        engine.load_weights(None, number + 1)
    clock.next_step()
    return clock


def _zero2r1_step(case: Case, batch: Batch, clock: Clock, side: Mapping[str, Any], number: int) -> None:
    from zero2r1.grpo.batches import cut_by_question, score_group, training_samples
    from zero2r1.grpo.config import ComputeSettings, GrpoSettings
    from zero2r1.grpo.sampling import EncodedPrompt, sample_groups
    from zero2r1.grpo.update import fix_logprobs, policy_update
    from zero2r1.rollout.engine import SamplingParams
    from zero2r1.types import Problem, Reward

    grpo, compute = GrpoSettings(beta=BETA, mini_batches=UPDATES), ComputeSettings()
    policy, engine = side["policy"], side["engine"]
    shared = {"prompt": "", "answer": None, "verifier": "", "domain": "", "language": "", "source": "", "licence": "", "split": ""}
    problems = [Problem(id=str(i), **shared) for i in range(case.prompts)]
    rewards = np.array(batch.rewards).reshape(case.prompts, case.group)
    _force_lengths(np.array(batch.lengths).reshape(case.prompts, case.group))
    groups, _ = clock.timed("generate", sample_groups)(
        engine,
        problems,
        lambda problem: EncodedPrompt(prompt_ids=batch.prompts[int(problem.id)]),
        lambda same, _: [Reward(value=float(value)) for value in rewards[int(same[0].id)]],
        params=SamplingParams(max_new_tokens=case.cap, stop_token_ids=(EOS,)),
        group_size=case.group,
        seed=number,
    )
    _check_lengths([len(r.completion.token_ids) for group in groups for r in group.rollouts], batch)
    parts = cut_by_question([score_group(group, grpo) for group in groups], UPDATES, seed=number)
    samples = [training_samples(part, grpo, cap=case.cap, skip_without_signal=True) for part in parts]
    fix = clock.timed("ref_logprobs", fix_logprobs)
    passes: dict[str, Any] = {"temperature": 1.0, "recompute_old": not engine.exact, "settings": compute}
    fixed = [fix(part, policy, side["reference"], **passes) for part in samples]
    update = clock.timed("train", policy_update)
    for packs in fixed:
        update(policy, [side["optimizer"]], packs, temperature=1.0, max_grad_norm=1.0, grpo=grpo, compute=compute)


def _force_lengths(lengths: np.ndarray) -> None:
    """Make every row stop after ``lengths[request, sample]`` tokens and nowhere else."""
    from zero2r1.rollout.torch_engine import _Rows

    original = getattr(_Rows.start, "original", _Rows.start)

    def start(self: Any, request: Any, index: int, keys: Any, values: Any) -> None:
        original(self, request, index, keys, values)
        self._limits[self.active - 1] = int(lengths[request.id, index])
        self._stops[self.active - 1] = -1

    start.original = original  # type: ignore[attr-defined]
    _Rows.start = start  # type: ignore[method-assign]


def _check_lengths(found: Sequence[int], batch: Batch) -> None:
    if tuple(found) != batch.lengths:
        raise RuntimeError(f"completion lengths differ from the drawn ones: {list(found)} instead of {list(batch.lengths)}")


def run_trl(case: Case, folder: Path, batches: Sequence[Batch]) -> Clock:
    """All steps with TRL's GRPOTrainer, as it is but for forced lengths and clocks around its methods."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    accumulation = case.outputs // UPDATES // case.micro_batch
    batching = {
        "per_device_train_batch_size": case.micro_batch, "gradient_accumulation_steps": accumulation,
        "steps_per_generation": UPDATES * accumulation, "num_generations": case.group, "max_completion_length": case.cap,
        "max_steps": UPDATES * len(batches), "shuffle_dataset": False,
    }  # fmt: skip
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "output_dir": str(folder / "trl")}
    config = GRPOConfig(
        **batching, **quiet, use_cpu=True, bf16=False, gradient_checkpointing=False, model_init_kwargs={"dtype": "float32"},
        beta=BETA, temperature=1.0, loss_type="grpo", learning_rate=LEARNING_RATE, lr_scheduler_type="constant", max_grad_norm=1.0,
    )  # fmt: skip
    done = iter(batches)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        batch = next(done)
        _check_lengths([len(ids) for ids in completion_ids], batch)
        return list(batch.rewards)

    prompts = [" ".join(f"w{i}" for i in prompt) for batch in batches for prompt in batch.prompts]
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder),
    )
    clock = Clock()
    _instrument_trl(trainer, clock, batches)
    trainer.train()
    clock.next_step()
    return clock


def _instrument_trl(trainer: Any, clock: Clock, batches: Sequence[Batch]) -> None:
    """Force the lengths and put clocks around the methods that make up a step."""
    import torch
    from transformers import LogitsProcessorList, TrainerCallback

    pending = iter(batches)
    score, logprobs = trainer._generate_and_score_completions, trainer._get_per_token_logps_and_entropies
    generate, prepare, training_step = trainer.model.generate, trainer._prepare_inputs, trainer.training_step
    preparing = 0.0

    def begin(inputs: Any) -> Any:
        clock.next_step()
        return score(inputs)

    def forced(**kwargs: Any) -> Any:
        processor = ForcedLengths(next(pending).lengths, prompt=kwargs["input_ids"].shape[1])
        return generate(**kwargs, logits_processor=LogitsProcessorList([processor]))

    def scored(model: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return logprobs(model, *args, **kwargs)
        name = "ref_logprobs" if model is trainer.ref_model else "old_logprobs"
        return clock.timed(name, logprobs)(model, *args, **kwargs)

    def prepared(*args: Any) -> Any:
        nonlocal preparing
        began = time.perf_counter()
        inputs = prepare(*args)
        preparing = time.perf_counter() - began
        return inputs

    def trained(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        loss = training_step(*args, **kwargs)
        clock.add("train", time.perf_counter() - began - preparing)
        return loss

    class OptimizerClock(TrainerCallback):
        began = 0.0

        def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            clock.add("train", time.perf_counter() - self.began)

    trainer.add_callback(OptimizerClock())
    trainer._generate_and_score_completions, trainer._get_per_token_logps_and_entropies = begin, scored
    trainer.model.generate = clock.timed("generate", forced)
    trainer._prepare_inputs, trainer.training_step = prepared, trained


class ForcedLengths:
    """A logits processor: row i draws its end-of-sequence token as token ``lengths[i]`` and not before."""

    def __init__(self, lengths: Sequence[int], *, prompt: int) -> None:
        import torch

        self._lengths, self._prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        scores[:, EOS] = -math.inf
        ends = self._lengths <= input_ids.shape[1] - self._prompt + 1
        scores[ends] = -math.inf
        scores[ends, EOS] = 0.0
        return scores


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
    clock = {"trl": run_trl, "zero2r1": run_zero2r1}[arguments.worker](case, Path(arguments.model), batches)
    steps = [{**times, "completion_tokens": sum(batch.lengths)} for times, batch in zip(clock.steps, batches, strict=True)]
    print(json.dumps({"side": arguments.worker, "steps": steps[arguments.warmup :], "peak_bytes": peak_memory()}))


def run_worker(arguments: argparse.Namespace, side: str, model: str, round_number: int) -> dict[str, Any]:
    first = 1 + round_number * (arguments.warmup + arguments.steps)
    command = [sys.executable, __file__, "--worker", side, "--model", model, "--first", str(first), "--case", arguments.case]
    command += ["--steps", str(arguments.steps), "--warmup", str(arguments.warmup), "--threads", str(arguments.threads)]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"}
    load = os.getloadavg()[0]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{side} failed:\n{finished.stderr[-4000:]}")
    return {**json.loads(finished.stdout.splitlines()[-1]), "round": round_number, "load_before": load}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Per side the median over rounds of each round's median step; ``ratio`` is TRL over zero2r1, by the median of rounds."""
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
    result["ratio"] = {name: statistics.median(a[name] / b[name] if b[name] else math.nan for a, b in pairs) for name in names}
    return result


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--case", choices=CASES, default="tiny64")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side, by turns")
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each process")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--threads", type=int, default=2)
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
    print(f"\n{arguments.case}, {arguments.threads} threads, fp32{'':<8}" + "".join(f"{side:>10}" for side in table))
    for name in table["ratio"]:
        print(f"{name:<32}" + "".join(f"{values[name]:>10.3g}" for values in table.values()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"case": arguments.case, "summary": table, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()

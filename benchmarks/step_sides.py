"""One GRPO step in zero2r1 and in TRL, with forced completion lengths and clocks around the phases."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from step_workload import BETA, EOS, LEARNING_RATE, UPDATES, Batch, Case, Clock


def run_zero2r1(case: Case, folder: Path, batches: Sequence[Batch], dtype: str) -> Clock:
    """All steps with zero2r1: packed training, finished rows leave the decode, old log-probabilities from the sampler."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    from zero2r1.grpo.reference import CopiedReference
    from zero2r1.models.attention import use_packed_attention
    from zero2r1.process import keep_freed_memory
    from zero2r1.rollout.torch_engine import TorchEngine
    from zero2r1.training.config import ComputeSettings
    from zero2r1.training.optimizer import build_adamw

    keep_freed_memory()  # as the command does
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval().to("cuda" if torch.cuda.is_available() else "cpu")
    use_packed_attention(policy)
    reference = CopiedReference(policy)
    half = dtype == "bfloat16"  # the head too, as under TRL's autocast
    engine = TorchEngine(policy, tokenizer.decode, autocast=torch.bfloat16 if half else None, half_head=half)
    compute = ComputeSettings(dtype=dtype, float32_logits=not half)
    optimizer = build_adamw(policy, learning_rate=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    side = {"policy": policy, "reference": reference, "engine": engine, "optimizer": optimizer, "compute": compute}
    clock = Clock()
    for number, batch in enumerate(batches):
        clock.next_step()
        _zero2r1_step(case, batch, clock, side, number)
        engine.load_weights(None, number + 1)
    clock.next_step()
    return clock


def _zero2r1_step(case: Case, batch: Batch, clock: Clock, side: Mapping[str, Any], number: int) -> None:
    from zero2r1.grpo.batches import cut_by_question, score_group, training_samples
    from zero2r1.grpo.config import GrpoSettings
    from zero2r1.grpo.sampling import EncodedPrompt, sample_groups
    from zero2r1.grpo.update import fix_logprobs, policy_update
    from zero2r1.rollout.engine import SamplingParams
    from zero2r1.types import Problem, Reward

    grpo, compute = GrpoSettings(beta=BETA, mini_batches=UPDATES), side["compute"]
    policy, engine = side["policy"], side["engine"]
    shared = {"prompt": "", "answer": None, "verifier": "", "domain": "", "language": "", "source": "", "licence": "", "split": ""}
    problems = [Problem(id=str(i), **shared) for i in range(case.prompts)]
    rewards = np.array(batch.rewards).reshape(case.prompts, case.group)
    force_lengths(np.array(batch.lengths).reshape(case.prompts, case.group))
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
    passes: dict[str, Any] = {"temperature": 1.0, "settings": compute}
    sources = grpo.old_sources(exact=engine.exact)
    fixed = [fix(part, policy, side["reference"], old=old, **passes) for part, old in zip(samples, sources, strict=True)]
    update = clock.timed("train", policy_update)
    for packs in fixed:
        update(policy, [side["optimizer"]], packs, temperature=1.0, max_grad_norm=1.0, grpo=grpo, compute=compute)


def force_lengths(lengths: np.ndarray) -> None:
    """Make every row stop after ``lengths[request, sample]`` tokens and nowhere else."""
    from zero2r1.rollout.rows import Rows

    original = getattr(Rows.start, "original", Rows.start)

    def start(self: Any, request: Any, index: int, keys: Any, values: Any) -> None:
        original(self, request, index, keys, values)
        self.limits[self.active - 1] = int(lengths[request.id, index])
        self.stops[self.active - 1] = -1

    start.original = original  # type: ignore[attr-defined]
    Rows.start = start  # type: ignore[method-assign]


def _check_lengths(found: Sequence[int], batch: Batch) -> None:
    if tuple(found) != batch.lengths:
        raise RuntimeError(f"completion lengths differ from the drawn ones: {list(found)} instead of {list(batch.lengths)}")


def run_trl(case: Case, folder: Path, batches: Sequence[Batch], dtype: str) -> Clock:
    """All steps with TRL's GRPOTrainer, as it is but for forced lengths and clocks around its methods."""
    import torch
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
        **batching, **quiet, use_cpu=not torch.cuda.is_available(), bf16=dtype == "bfloat16", gradient_checkpointing=False,
        model_init_kwargs={"dtype": "float32"}, beta=BETA, temperature=1.0, loss_type="grpo",
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", max_grad_norm=1.0,
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
        ends = self._lengths.to(scores.device) <= input_ids.shape[1] - self._prompt + 1
        scores[ends] = -math.inf
        scores[ends, EOS] = 0.0
        return scores

"""The loop of on-policy distillation: the student answers, the teacher reads, the divergence between them is lowered.

    problems ─▶ the student samples ─▶ pack ─▶ both models read ─▶ KL(student || teacher) a token ─▶ step ─▶ sample again

Every random choice is a function of the seed and the step, so a run that was killed continues to the same bytes on a CPU.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from zero2r1.checkpoint import load_latest, load_optimizer_tensors, load_weights, optimizer_tensors, save_checkpoint
from zero2r1.distill.config import OnPolicySettings
from zero2r1.distill.update import UpdateStats, student_update, training_samples
from zero2r1.models.loading import checkpoint_activations
from zero2r1.rollout.engine import Engine, Request, SamplingParams, generate
from zero2r1.seeds import derive_seed
from zero2r1.training.loop import Hooks, Outcome, RunRecord, diverged
from zero2r1.training.optimizer import build_adamw, learning_rate_factor
from zero2r1.types import Completion, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What the student is asked, and when its answers end. Reference answers are not looked at."""

    problems: Sequence[Problem]
    encode: Callable[[Problem], tuple[int, ...]]
    """The prompt of a problem, which both models read as it stands."""
    stop_token_ids: tuple[int, ...]


class OnPolicyTrainer:
    """Trains ``student`` in place.

    Args:
        student: prepared by ``use_packed_attention``; in float32, whatever the compute dtype.
        teacher: prepared likewise, on the same device and with the student's vocabulary; only read.
        engine: samples from the student's own parameters.
        checkpoints: folder of checkpoints; training resumes from the newest complete one in it.
        save_model: writes the student as a folder that `transformers` loads.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        engine: Engine,
        questions: Questions,
        settings: OnPolicySettings,
        *,
        run: RunRecord,
        checkpoints: Path,
        save_model: Callable[[Path], None],
        hooks: Hooks | None = None,
    ) -> None:
        if not questions.problems:
            raise ValueError("on-policy distillation needs problems that the student can answer, and there are none")
        self._student, self._teacher, self._engine = student, teacher, engine
        self._questions, self._settings, self._run = questions, settings, run
        self._checkpoints, self._save_model, self._hooks = checkpoints, save_model, hooks or Hooks()
        teacher.train(False)
        self._digest = digest_of_problems(questions.problems)
        if settings.compute.gradient_checkpointing:
            checkpoint_activations(student)
        student.train(settings.compute.gradient_checkpointing)  # transformers checkpoints in training mode only; dropout is off in either
        opt = settings.optimizer
        self._optimizer = build_adamw(student, learning_rate=opt.learning_rate, betas=opt.betas, weight_decay=opt.weight_decay)
        self.step = 0
        self._nonfinite_steps = 0

    def train(self) -> Outcome:
        """Run to ``settings.steps``, or until asked to stop. Resumes by itself.

        Raises:
            ValueError: there is a checkpoint of a run on other problems.
            TrainingHalted: nothing was finite for too many steps in a row.
        """
        self._resume()
        self._engine.load_weights(None, self.step)
        while self.step < self._settings.steps:
            self._one_step()
            self._engine.load_weights(None, self.step)
            stop = self._hooks.should_stop()
            if stop or self.step >= self._settings.steps or self.step % self._settings.checkpoint_every == 0:
                self._save()
            if stop:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_step(self) -> None:
        settings, opt, rollout = self._settings, self._settings.optimizer, self._settings.rollout
        began = time.monotonic()
        chosen = problems_of_step(len(self._questions.problems), self.step, batch_size=rollout.prompts_per_step, seed=settings.seed)
        problems = [self._questions.problems[i] for i in chosen]
        prompts = [self._questions.encode(problem) for problem in problems]
        groups = self._sample(prompts)
        generating = time.monotonic() - began
        factor = learning_rate_factor(
            self.step, total=settings.steps, warmup=opt.warmup_steps, schedule=opt.schedule, final=opt.final_factor
        )
        for group in self._optimizer.param_groups:
            group["lr"] = opt.learning_rate * factor
        stats = student_update(
            self._student,
            self._teacher,
            self._optimizer,
            training_samples(prompts, groups),
            temperature=rollout.temperature,
            max_grad_norm=opt.max_grad_norm,
            compute=settings.compute,
        )
        self.step += 1
        seconds = time.monotonic() - began
        figures = {**length_metrics(prompts, groups), "learning_rate": opt.learning_rate * factor}
        self._report(figures, stats, {"generate": generating, "train": seconds - generating})
        self._run.write_rollouts(self.step, rollout_rows(self.step, problems, prompts, groups))
        self._guard(stats)

    def _sample(self, prompts: Sequence[tuple[int, ...]]) -> list[list[Completion]]:
        settings, rollout = self._settings, self._settings.rollout
        params = SamplingParams(
            max_new_tokens=rollout.max_new_tokens,
            stop_token_ids=self._questions.stop_token_ids,
            temperature=rollout.temperature,
        )
        requests = [
            Request(
                id=i,
                prompt_ids=prompt,
                seeds=tuple(derive_seed(settings.seed, "student", self.step, i, j) for j in range(rollout.samples_per_prompt)),
                params=params,
            )
            for i, prompt in enumerate(prompts)
        ]
        return generate(self._engine, requests)

    def _report(self, figures: Mapping[str, float], stats: UpdateStats, timings: Mapping[str, float]) -> None:
        seconds = sum(timings.values())
        row: dict[str, Any] = {
            "step": self.step,
            "loss": stats.reverse_kl,
            "reverse_kl": stats.reverse_kl,
            "grad_norm": stats.grad_norm,
            "update_applied": stats.applied,
            **figures,
            "step_time": seconds,
            "tokens_per_s": figures["num_tokens"] / max(seconds, 1e-9),
            **{f"timing_s/{name}": value for name, value in timings.items()},
        }
        self._run.append_metrics(row)
        self._hooks.on_step(row)

    def _guard(self, stats: UpdateStats) -> None:
        self._nonfinite_steps = 0 if stats.applied else self._nonfinite_steps + 1
        if self._nonfinite_steps >= self._settings.stop_after_nonfinite_steps:
            raise diverged(
                loss=stats.reverse_kl,
                grad_norm=stats.grad_norm,
                in_a_row=self._nonfinite_steps,
                step=self.step,
                learning_rate=self._settings.optimizer.learning_rate,
            )

    def _save(self) -> None:
        tensors, optimizer_state = optimizer_tensors(self._optimizer, self._student)
        save_checkpoint(
            self._checkpoints,
            self.step,
            write_model=self._save_model,
            tensors=tensors,
            state={
                "step": self.step,
                "optimizer": optimizer_state,
                "nonfinite_steps": self._nonfinite_steps,
                "problems": {"count": len(self._questions.problems), "sha256": self._digest},
            },
            keep_last=self._settings.keep_checkpoints,
        )
        self._run.append_event("checkpoint", step=self.step)

    def _resume(self) -> None:
        found = load_latest(self._checkpoints)
        if found is None:
            self._run.truncate_after(0)
            return
        known = found.state["problems"]
        if known["sha256"] != self._digest:
            raise ValueError(
                f"E002 resume: {found.path} was asked {known['count']} problems (SHA-256 {known['sha256'][:12]}), and these are "
                f"{len(self._questions.problems)} others ({self._digest[:12]}). Restore the data that the run was started with, or give "
                "the new run another --name"
            )
        load_weights(self._student, found.model_tensors())
        load_optimizer_tensors(self._optimizer, self._student, found.tensors(), found.state["optimizer"])
        self.step, self._nonfinite_steps = found.state["step"], found.state["nonfinite_steps"]
        self._run.truncate_after(self.step)
        self._run.append_event("resumed", step=self.step)


def problems_of_step(count: int, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Indices of the problems of a step: passes over all of them, each pass in its own order; a step may reach into the next pass."""
    orders: dict[int, np.ndarray] = {}
    chosen: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, index = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = np.random.Generator(np.random.Philox(key=derive_seed(seed, "questions", epoch))).permutation(count)
        chosen.append(int(orders[epoch][index]))
    return chosen


def digest_of_problems(problems: Sequence[Problem]) -> str:
    """SHA-256 of what is asked, in its order."""
    whole = hashlib.sha256()
    for problem in problems:
        for part in (problem.id, *(text for message in problem.messages for text in (message.role, message.content))):
            whole.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
        whole.update(b"\n")
    return whole.hexdigest()


def length_metrics(prompts: Sequence[tuple[int, ...]], groups: Sequence[Sequence[Completion]]) -> dict[str, float]:
    """Lengths of the answers of one step, under TRL's names, and how many tokens were computed."""
    completions = [completion for group in groups for completion in group]
    lengths = [len(completion.token_ids) for completion in completions]
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
        "num_tokens": float(sum(lengths)),
        "num_prompt_tokens": float(sum(len(prompt) for prompt in prompts)),
    }


def rollout_rows(
    step: int, problems: Sequence[Problem], prompts: Sequence[tuple[int, ...]], groups: Sequence[Sequence[Completion]]
) -> list[dict[str, Any]]:
    """One row per answer for the run's Parquet files."""
    return [
        {
            "step": step,
            "group": index,
            "sample": sample,
            "prompt_id": problem.id,
            "task": problem.domain,
            "language": problem.language,
            "prompt": problem.question,
            "completion": completion.text,
            "gold": problem.answer,
            "n_prompt": len(prompt),
            "n_completion": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
            "policy_step": completion.policy_version,
            "seed": completion.seed,
            "mean_logp": fmean(completion.logprobs),
        }
        for index, (problem, prompt, group) in enumerate(zip(problems, prompts, groups, strict=True))
        for sample, completion in enumerate(group)
    ]

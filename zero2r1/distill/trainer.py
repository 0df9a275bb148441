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

from zero2r1.distill.config import OnPolicySettings
from zero2r1.distill.update import UpdateStats, student_update, training_samples
from zero2r1.rollout.engine import Engine, Request, SamplingParams, generate
from zero2r1.rollout.lengths import length_metrics
from zero2r1.seeds import derive_seed
from zero2r1.training.loop import Hooks, Outcome, RunRecord
from zero2r1.training.order import draw_of_step
from zero2r1.training.progress import Material, Progress
from zero2r1.training.step import prepare_model
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
        self._hooks = hooks or Hooks()
        teacher.train(False)
        prepare_model(student, settings.compute)
        asked = questions.problems
        material = Material(noun="problems", verb="was asked", count=len(asked), sha256=digest_of_problems(asked))
        self._progress = Progress(
            student, settings, steps=settings.steps, run=run, checkpoints=checkpoints, save_model=save_model, material=material
        )

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._progress.step

    def train(self) -> Outcome:
        """Run to ``settings.steps``, or until asked to stop. Resumes by itself.

        Raises:
            ValueError: there is a checkpoint of a run on other problems.
            TrainingHalted: nothing was finite for too many steps in a row.
        """
        self._progress.resume()
        self._engine.load_weights(None, self.step)
        while self.step < self._settings.steps:
            self._one_step()
            self._engine.load_weights(None, self.step)
            stop = self._hooks.should_stop()
            if stop or self.step >= self._settings.steps or self.step % self._settings.checkpoint_every == 0:
                self._progress.save()
            if stop:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_step(self) -> None:
        settings, rollout, progress = self._settings, self._settings.rollout, self._progress
        began = time.monotonic()
        count = len(self._questions.problems)
        chosen = draw_of_step(count, self.step, size=rollout.prompts_per_step, seed=settings.seed, purpose="questions")
        problems = [self._questions.problems[i] for i in chosen]
        prompts = [self._questions.encode(problem) for problem in problems]
        groups = self._sample(prompts)
        generating = time.monotonic() - began
        learning_rate = progress.set_learning_rate()
        stats = student_update(
            self._student,
            self._teacher,
            progress.optimizer,
            training_samples(prompts, groups),
            temperature=rollout.temperature,
            max_grad_norm=settings.optimizer.max_grad_norm,
            compute=settings.compute,
        )
        progress.step += 1
        seconds = time.monotonic() - began
        figures = {**_lengths(prompts, groups), "learning_rate": learning_rate}
        self._report(figures, stats, {"generate": generating, "train": seconds - generating})
        self._run.write_rollouts(self.step, rollout_rows(self.step, problems, prompts, groups))
        progress.guard(applied=stats.applied, loss=stats.reverse_kl, grad_norm=stats.grad_norm)

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


def digest_of_problems(problems: Sequence[Problem]) -> str:
    """SHA-256 of what is asked, in its order."""
    whole = hashlib.sha256()
    for problem in problems:
        for part in (problem.id, *(text for message in problem.messages for text in (message.role, message.content))):
            whole.update(f"{len(part)}:{part}".encode("utf-8", "surrogatepass"))
        whole.update(b"\n")
    return whole.hexdigest()


def _lengths(prompts: Sequence[tuple[int, ...]], groups: Sequence[Sequence[Completion]]) -> dict[str, float]:
    return length_metrics([len(prompt) for prompt in prompts], [completion for group in groups for completion in group])


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

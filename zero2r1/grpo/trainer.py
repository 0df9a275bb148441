"""The loop of pure RL: sample groups, grade, advantages, cut by question, fix log-probabilities, update.

    problems ─▶ sample groups ─▶ grade ─▶ advantages ─▶ cut by question ─▶ pack ─▶ fixed log-probs (old, ref)
       ▲                                                                                    │
       └──── engine.load_weights ◀── optimizer step ◀── backward ◀── grpo_loss (pure) ◀─────┘

Checkpoints lie between rollouts, and every random choice is a function of the seed and its place in the run, so a run that
was killed at any moment continues to the same bytes on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero2r1.grpo.batches import ScoredGroup, cut_by_question, keep_unequal, scale_rollout, score_group, training_samples
from zero2r1.grpo.config import OldLogprobs, TrainSettings
from zero2r1.grpo.metrics import Description, rollout_metrics, rollout_rows
from zero2r1.grpo.reference import reference_of
from zero2r1.grpo.sampling import EncodePrompt, questions_of_rollout, sample_groups
from zero2r1.grpo.update import FixedPack, UpdateStats, fix_logprobs, policy_update
from zero2r1.grpo.watch import Watch
from zero2r1.rollout.engine import Engine, SamplingParams
from zero2r1.seeds import derive_seed
from zero2r1.training.loop import Hooks, Outcome, RunRecord, TrainingHalted
from zero2r1.training.progress import Progress
from zero2r1.training.step import prepare_model
from zero2r1.types import Completion, Grader, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Describe = Callable[[Problem, Completion], Description]
_REFERENCE = "reference/"
"""What the names of the reference's tensors begin with in a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What training needs besides the policy: where problems come from and how outputs are judged and described."""

    problems: Sequence[Problem]
    encode: EncodePrompt
    grader: Grader
    stop_token_ids: tuple[int, ...]
    describe: Describe = lambda problem, completion: {}
    questions: Callable[[int], Sequence[Problem]] | None = None
    """The problems of rollout number n, as many as the settings say; passes over ``problems`` in an order of the seed if left out."""


class GrpoTrainer:
    """Trains ``policy`` in place.

    Args:
        policy: prepared by ``use_packed_attention``; in float32, whatever the compute dtype. What requires a gradient is trained.
        engine: samples from the policy's own parameters.
        checkpoints: folder of checkpoints; training resumes from the newest complete one in it.
        save_model: writes the policy as a folder that `transformers` loads.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        engine: Engine,
        environment: Environment,
        settings: TrainSettings,
        *,
        run: RunRecord,
        checkpoints: Path,
        save_model: Callable[[Path], None],
        hooks: Hooks | None = None,
    ) -> None:
        self._policy, self._engine, self._environment, self._settings = policy, engine, environment, settings
        self._run, self._hooks = run, hooks or Hooks()
        prepare_model(policy, settings.compute)
        offload = "reference" in settings.compute.offload
        self._reference = reference_of(policy, offload=offload) if settings.grpo.beta > 0 else None
        if environment.questions is not None and settings.rollout.max_draws > 1:
            raise ValueError("rollout.max_draws replaces questions, and a mixture of prompts has fixed shares. Set rollout.max_draws: 1")
        if settings.grpo.old_logprobs == "sampler" and not engine.exact:
            raise ValueError("grpo.old_logprobs is 'sampler', but this engine is not exact. Set grpo.old_logprobs: recompute")
        # The engine samples in float32; a trainer that computes in bfloat16 would see ratios other than 1 before any update.
        self._old_sources = settings.grpo.old_sources(exact=engine.exact and not settings.compute.half)
        self._progress = Progress(policy, settings, steps=settings.steps, run=run, checkpoints=checkpoints, save_model=save_model)
        self._dead_steps = 0
        self._watch = Watch(settings.convergence, settings.monitor)

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._progress.step

    def train(self) -> Outcome:
        """Run to ``settings.steps`` or to convergence, or until asked to stop. Resumes by itself.

        Raises:
            TrainingHalted: no group had unequal rewards, or nothing was finite, for too many steps in a row.
        """
        self._resume()
        self._engine.load_weights(None, self.step)
        while not self._finished():
            before = self.step
            self._one_rollout()
            self._engine.load_weights(None, self.step)
            # Before the checkpoint: a run that ends in between resumes from an earlier one and evaluates again.
            if self._hooks.evaluate and self._crossed(before, self._settings.evaluate_every):
                self._hooks.evaluate(self.step)
            stop = self._hooks.should_stop()
            if stop or self._finished() or self._crossed(before, self._settings.checkpoint_every):
                self._save()
            if stop:
                return Outcome.STOPPED
        return Outcome.DONE

    def _finished(self) -> bool:
        return self._watch.converged or self.step >= self._settings.steps

    def _crossed(self, before: int, every: int | None) -> bool:
        return every is not None and self.step // every > before // every

    def _one_rollout(self) -> None:
        """Sample once, then update once per mini-batch."""
        settings = self._settings
        began = time.monotonic()
        number = self.step // settings.grpo.mini_batches
        cap = settings.rollout.cap_at(self.step)
        groups, discarded, grading, drawn = self._draw(number, cap)
        generating = time.monotonic() - began - grading
        scored = scale_rollout(groups, settings.grpo)
        count = settings.grpo.mini_batches
        parts = cut_by_question(scored, count, seed=derive_seed(settings.seed, "cut", number))
        fixed = [self._fix(part, cap, old) for part, old in zip(parts, self._old_sources, strict=True)]
        timings = {"generate": generating, "reward": grading, "score": time.monotonic() - began - generating - grading}
        for index, (part, packs) in enumerate(zip(parts, fixed, strict=True)):
            shares = {name: seconds / count for name, seconds in timings.items()}
            self._one_update(part, packs, shares, drawn, discarded=discarded[index::count])

    def _draw(self, number: int, cap: int) -> tuple[list[ScoredGroup], list[ScoredGroup], float, dict[str, float]]:
        """The groups of a rollout, those that were discarded, the seconds spent waiting for grades, and how many draws it took.

        With several draws, groups whose outputs all earn the same make way for other questions.
        """
        rollout, environment = self._settings.rollout, self._environment
        params = SamplingParams(max_new_tokens=cap, stop_token_ids=environment.stop_token_ids, temperature=rollout.temperature)
        missing, groups, waited, draws = rollout.prompts_per_rollout, list[ScoredGroup](), 0.0, 0
        while missing and draws < rollout.max_draws:
            sampled, grading = sample_groups(
                self._engine,
                self._questions(number, draws, seen={scored.group.problem.id for scored in groups})[:missing],
                environment.encode,
                environment.grader,
                params=params,
                group_size=rollout.group_size,
                seed=derive_seed(self._settings.seed, "rollout", number, *([draws] if draws else [])),
            )
            groups += [score_group(group, self._settings.grpo) for group in sampled]
            waited += grading
            draws += 1
            missing = rollout.prompts_per_rollout - sum(scored.has_signal for scored in groups)
        kept, discarded = keep_unequal(groups, rollout.prompts_per_rollout)
        counted = {"draws": float(draws), "discarded_groups": float(len(discarded))} if rollout.max_draws > 1 else {}
        return kept, discarded, waited, counted

    def _questions(self, number: int, draw: int, *, seen: Container[str]) -> Sequence[Problem]:
        if self._environment.questions is not None:
            return self._environment.questions(number)
        # Further draws walk the problems in orders of their own: how many there were never shifts the first one.
        seed = derive_seed(self._settings.seed, "draw", draw) if draw else self._settings.seed
        drawn = questions_of_rollout(self._environment.problems, number, self._settings.rollout.prompts_per_rollout, seed=seed)
        return [problem for problem in drawn if problem.id not in seen] or drawn  # all were seen: again, then

    def _fix(self, groups: Sequence[ScoredGroup], cap: int, old: OldLogprobs) -> list[FixedPack]:
        settings = self._settings
        skip = settings.compute.skip_groups_without_signal
        return fix_logprobs(
            training_samples(groups, settings.grpo, cap=cap, skip_without_signal=skip),
            self._policy,
            self._reference,
            temperature=settings.rollout.temperature,
            old=old,
            settings=settings.compute,
        )

    def _one_update(
        self,
        groups: Sequence[ScoredGroup],
        packs: Sequence[FixedPack],
        timings: dict[str, float],
        drawn: Mapping[str, float],
        *,
        discarded: Sequence[ScoredGroup],
    ) -> None:
        settings, progress = self._settings, self._progress
        began = time.monotonic()
        learning_rate = progress.set_learning_rate()
        stats = policy_update(
            self._policy,
            [progress.optimizer],
            packs,
            temperature=settings.rollout.temperature,
            max_grad_norm=settings.optimizer.max_grad_norm,
            grpo=settings.grpo,
            compute=settings.compute,
        )
        progress.step += 1
        reset = settings.grpo.reference_reset_steps
        if self._reference is not None and reset is not None and self.step % reset == 0:
            self._reference.reset()
        figures = {**stats.figures, **drawn, "learning_rate": learning_rate}
        # What was sampled is reported, trained on or not: figures of the kept groups alone would be of a selection.
        self._report([*groups, *discarded], stats, figures, {**timings, "train": time.monotonic() - began})
        self._guard(groups, stats)

    def _report(
        self, groups: Sequence[ScoredGroup], stats: UpdateStats, figures: Mapping[str, float], timings: Mapping[str, float]
    ) -> None:
        described = [
            [self._environment.describe(scored.group.problem, rollout.completion) for rollout in scored.group.rollouts] for scored in groups
        ]
        metrics = rollout_metrics(groups, described)
        seconds = sum(timings.values())
        row: dict[str, Any] = {
            "step": self.step,
            "loss": stats.loss,
            "grad_norm": stats.grad_norm,
            "update_applied": stats.applied,
            **metrics,
            **figures,
            "step_time": seconds,
            "tokens_per_s": metrics["num_tokens"] / max(seconds, 1e-9),
            **{f"timing_s/{name}": value for name, value in timings.items()},
        }
        self._watch.add(row, self.step)
        self._run.append_metrics(row)
        self._run.write_rollouts(self.step, rollout_rows(self.step, groups, described))
        self._hooks.on_step(row)

    def _guard(self, groups: Sequence[ScoredGroup], stats: UpdateStats) -> None:
        self._guard_against_hacking()
        self._dead_steps = 0 if any(scored.has_signal for scored in groups) else self._dead_steps + 1
        self._progress.guard(applied=stats.applied, loss=stats.loss, grad_norm=stats.grad_norm)
        if self._dead_steps >= self._settings.stop_after_dead_steps:
            raise TrainingHalted(
                f"W310 signal: for {self._dead_steps} steps in a row every group had equal rewards, so there is nothing to learn from. "
                f"Most often the answer is not found in the text: look at some outputs with  zero2r1 show RUN --step {self.step}. "
                "Otherwise the questions are too hard or too easy for this model, or rollout.group_size is too small."
            )

    def _guard_against_hacking(self) -> None:
        monitor, found = self._settings.monitor, self._watch.hacking()
        if monitor is None or found is None:
            return
        said = f"{monitor.score} rose by {found.rise:.3f} and {monitor.benchmark} fell by {found.fall:.3f}, up to step {self.step}"
        self._run.append_event("hacking", step=self.step, rise=found.rise, fall=found.fall, action=monitor.action, why=said)
        self._hooks.on_warning(f"W330 hacking: {said}. The score is being pleased, not what it stands for")
        if monitor.action == "stop":
            raise TrainingHalted(
                f"W330 hacking: {said}. Use an earlier checkpoint, give the score fewer steps or less weight, or a better model behind it; "
                "to be warned only, set monitor.action: warn (in a pipeline that runs the stage again)"
            )

    def _save(self) -> None:
        frozen = {} if self._reference is None else {f"{_REFERENCE}{name}": tensor for name, tensor in self._reference.tensors().items()}
        self._progress.save(state={"dead_steps": self._dead_steps, "watch": self._watch.state}, tensors=frozen)

    def _resume(self) -> None:
        found = self._progress.resume()
        if found is None:
            return
        self._dead_steps, self._watch.state = found.state["dead_steps"], found.state["watch"]
        if self._reference is not None:
            self._reference.load({name.removeprefix(_REFERENCE): t for name, t in found.tensors().items() if name.startswith(_REFERENCE)})

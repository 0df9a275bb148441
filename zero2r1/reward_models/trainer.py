"""The loop of reward modelling: take a batch of examples, accumulate the gradient over packs, step.

Every random choice is a function of the seed and the step, so a run that was killed continues to the same bytes on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.encoding import RewardExample, digest_of_examples, fit
from zero2r1.reward_models.loss import bradley_terry, pointwise
from zero2r1.reward_models.scoring import batch_scores, split_into_packs
from zero2r1.training.loop import Hooks, Outcome, RunRecord
from zero2r1.training.order import batch_of_step
from zero2r1.training.progress import Material, Progress
from zero2r1.training.step import clip_and_step, prepare_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RewardModelTrainer:
    """Trains ``model`` in place on ``examples``: pairs with the chosen response first, or single responses with labels.

    Args:
        model: as ``load_reward_model`` gives it; in float32, whatever the compute dtype.
        checkpoints: folder of checkpoints; training resumes from the newest complete one in it.
        save_model: writes the model as a folder that `transformers` loads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[RewardExample],
        settings: RewardModelSettings,
        *,
        run: RunRecord,
        checkpoints: Path,
        save_model: Callable[[Path], None],
        hooks: Hooks | None = None,
    ) -> None:
        self._model, self._settings, self._run, self._hooks = model, settings, run, hooks or Hooks()
        self._fitted = fit(_checked(examples, settings.kind), settings.max_length)
        self._per_epoch = -(-len(self._fitted.examples) // settings.batch_size)
        self.steps = self._per_epoch * settings.epochs
        prepare_model(model, settings.compute)
        learnt = self._fitted.examples
        material = Material(noun="examples", verb="has learnt", count=len(learnt), sha256=digest_of_examples(learnt))
        self._progress = Progress(
            model, settings, steps=self.steps, run=run, checkpoints=checkpoints, save_model=save_model, material=material
        )

    @property
    def step(self) -> int:
        """Updates so far."""
        return self._progress.step

    def train(self) -> Outcome:
        """Run all epochs, or until asked to stop. Resumes by itself.

        Raises:
            ValueError: there is a checkpoint of a run on other examples.
            TrainingHalted: nothing was finite for too many steps in a row.
        """
        if self._progress.resume() is None:
            fitted = self._fitted
            self._run.append_event(
                "examples", count=len(fitted.examples), cut=fitted.cut, cut_responses=fitted.cut_responses, steps=self.steps
            )
        while self.step < self.steps:
            self._one_update()
            stop = self._hooks.should_stop()
            if stop or self.step >= self.steps or self.step % self._settings.checkpoint_every == 0:
                self._progress.save()
            if stop and self.step < self.steps:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_update(self) -> None:
        settings, progress = self._settings, self._progress
        began = time.monotonic()
        learning_rate = progress.set_learning_rate()
        count = len(self._fitted.examples)
        chosen = batch_of_step(count, self.step, batch_size=settings.batch_size, seed=settings.seed, purpose="reward_model")
        batch = sorted((self._fitted.examples[i] for i in chosen), key=lambda example: example.tokens)
        total = 0.0
        scores: list[float] = []
        for part in split_into_packs(batch, settings.compute.tokens_per_micro_batch):
            of_part = batch_scores(self._model, part, settings.compute)
            loss = loss_of(of_part, part) * (len(part) / len(batch))
            loss.backward()
            total += loss.item()
            scores += of_part.tolist()
        grad_norm, applied = clip_and_step(self._model, [progress.optimizer], total, max_grad_norm=settings.optimizer.max_grad_norm)
        progress.step += 1
        seconds = time.monotonic() - began
        tokens = sum(example.tokens for example in batch)
        row = {
            "step": self.step,
            "epoch": self.step / self._per_epoch,
            "loss": total,
            **figures_of(scores, batch),
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "update_applied": applied,
            "num_tokens": tokens,
            "step_time": seconds,
            "tokens_per_s": tokens / max(seconds, 1e-9),
        }
        self._run.append_metrics(row)
        self._hooks.on_step(row)
        progress.guard(applied=applied, loss=total, grad_norm=grad_norm)


def loss_of(scores: Tensor, examples: Sequence[RewardExample]) -> Tensor:
    """The mean loss of examples, all pairs or all labels; ``scores`` has chosen and rejected by turns, or one score a label."""
    if examples[0].safe is None:
        return bradley_terry(scores[0::2], scores[1::2])
    return pointwise(scores, torch.tensor([float(bool(example.safe)) for example in examples], device=scores.device))


def figures_of(scores: Sequence[float], examples: Sequence[RewardExample]) -> dict[str, float]:
    """What a batch looks like before its update: the share of examples judged right, and by how much on average.

    The margin is chosen minus rejected, or mean score of the safe minus mean score of the unsafe where there are both.
    """
    if examples[0].safe is None:
        margins = [chosen - rejected for chosen, rejected in zip(scores[0::2], scores[1::2], strict=True)]
        return {"accuracy": float(np.mean([_won(margin) for margin in margins])), "margin": float(np.mean(margins))}
    sides = {safe: [score for score, example in zip(scores, examples, strict=True) if example.safe is safe] for safe in (True, False)}
    right = [_won(score if example.safe else -score) for score, example in zip(scores, examples, strict=True)]
    figures = {"accuracy": float(np.mean(right))}
    if sides[True] and sides[False]:
        figures["margin"] = float(np.mean(sides[True]) - np.mean(sides[False]))
    return figures


def _won(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _checked(examples: Sequence[RewardExample], kind: str) -> Sequence[RewardExample]:
    if not examples:
        raise ValueError(f"there is nothing to learn: no {'pairs' if kind == 'preference' else 'labels'} were given")
    wanted = 2 if kind == "preference" else 1
    for example in examples:
        if len(example.response_ids) != wanted or (example.safe is None) != (kind == "preference"):
            raise ValueError(f"a {kind} model learns from {'pairs without' if wanted == 2 else 'single responses with'} labels")
    return examples

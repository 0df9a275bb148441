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

from zero2r1.checkpoint import load_latest, load_optimizer_tensors, load_weights, optimizer_tensors, save_checkpoint
from zero2r1.models.loading import checkpoint_activations
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.encoding import RewardExample, digest_of_examples, fit
from zero2r1.reward_models.loss import bradley_terry, pointwise
from zero2r1.reward_models.scoring import batch_scores, split_into_packs
from zero2r1.seeds import derive_seed
from zero2r1.training.loop import Hooks, Outcome, RunRecord, diverged
from zero2r1.training.optimizer import build_adamw, learning_rate_factor
from zero2r1.training.step import clip_and_step

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
        self._model, self._settings, self._run = model, settings, run
        self._checkpoints, self._save_model, self._hooks = checkpoints, save_model, hooks or Hooks()
        self._fitted = fit(_checked(examples, settings.kind), settings.max_length)
        self._digest = digest_of_examples(self._fitted.examples)
        self._per_epoch = -(-len(self._fitted.examples) // settings.batch_size)
        self.steps = self._per_epoch * settings.epochs
        if settings.compute.gradient_checkpointing:
            checkpoint_activations(model)
            model.train()
        else:
            model.eval()  # dropout off: the same response must have the same score
        opt = settings.optimizer
        self._optimizer = build_adamw(model, learning_rate=opt.learning_rate, betas=opt.betas, weight_decay=opt.weight_decay)
        self.step = 0
        self._nonfinite_steps = 0

    def train(self) -> Outcome:
        """Run all epochs, or until asked to stop. Resumes by itself.

        Raises:
            ValueError: there is a checkpoint of a run on other examples.
            TrainingHalted: nothing was finite for too many steps in a row.
        """
        self._resume()
        while self.step < self.steps:
            self._one_update()
            stop = self._hooks.should_stop()
            if stop or self.step >= self.steps or self.step % self._settings.checkpoint_every == 0:
                self._save()
            if stop and self.step < self.steps:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_update(self) -> None:
        settings, opt = self._settings, self._settings.optimizer
        began = time.monotonic()
        factor = learning_rate_factor(self.step, total=self.steps, warmup=opt.warmup_steps, schedule=opt.schedule, final=opt.final_factor)
        for group in self._optimizer.param_groups:
            group["lr"] = opt.learning_rate * factor
        chosen = batch_of_step(len(self._fitted.examples), self.step, batch_size=settings.batch_size, seed=settings.seed)
        batch = sorted((self._fitted.examples[i] for i in chosen), key=lambda example: example.tokens)
        total = 0.0
        scores: list[float] = []
        for part in split_into_packs(batch, settings.compute.tokens_per_micro_batch):
            of_part = batch_scores(self._model, part, settings.compute)
            loss = loss_of(of_part, part) * (len(part) / len(batch))
            loss.backward()
            total += loss.item()
            scores += of_part.tolist()
        grad_norm, applied = clip_and_step(self._model, [self._optimizer], total, max_grad_norm=opt.max_grad_norm)
        self.step += 1
        seconds = time.monotonic() - began
        tokens = sum(example.tokens for example in batch)
        row = {
            "step": self.step,
            "epoch": self.step / self._per_epoch,
            "loss": total,
            **figures_of(scores, batch),
            "grad_norm": grad_norm,
            "learning_rate": opt.learning_rate * factor,
            "update_applied": applied,
            "num_tokens": tokens,
            "step_time": seconds,
            "tokens_per_s": tokens / max(seconds, 1e-9),
        }
        self._run.append_metrics(row)
        self._hooks.on_step(row)
        self._guard(applied, total, grad_norm)

    def _guard(self, applied: bool, loss: float, grad_norm: float) -> None:
        self._nonfinite_steps = 0 if applied else self._nonfinite_steps + 1
        if self._nonfinite_steps >= self._settings.stop_after_nonfinite_steps:
            raise diverged(
                loss=loss,
                grad_norm=grad_norm,
                in_a_row=self._nonfinite_steps,
                step=self.step,
                learning_rate=self._settings.optimizer.learning_rate,
            )

    def _save(self) -> None:
        tensors, optimizer_state = optimizer_tensors(self._optimizer, self._model)
        save_checkpoint(
            self._checkpoints,
            self.step,
            write_model=self._save_model,
            tensors=tensors,
            state={
                "step": self.step,
                "optimizer": optimizer_state,
                "nonfinite_steps": self._nonfinite_steps,
                "examples": {"count": len(self._fitted.examples), "sha256": self._digest},
            },
            keep_last=self._settings.keep_checkpoints,
        )
        self._run.append_event("checkpoint", step=self.step)

    def _resume(self) -> None:
        found = load_latest(self._checkpoints)
        if found is None:
            self._run.truncate_after(0)
            fitted = self._fitted
            self._run.append_event(
                "examples", count=len(fitted.examples), cut=fitted.cut, cut_responses=fitted.cut_responses, steps=self.steps
            )
            return
        known = found.state["examples"]
        if known["sha256"] != self._digest:
            raise ValueError(
                f"E002 resume: {found.path} has learnt {known['count']} examples (SHA-256 {known['sha256'][:12]}), and these are "
                f"{len(self._fitted.examples)} others ({self._digest[:12]}). Restore the data that the run was started with, or learn "
                "the new data in a run of its own: another --name"
            )
        load_weights(self._model, found.model_tensors())
        load_optimizer_tensors(self._optimizer, self._model, found.tensors(), found.state["optimizer"])
        self.step, self._nonfinite_steps = found.state["step"], found.state["nonfinite_steps"]
        self._run.truncate_after(self.step)
        self._run.append_event("resumed", step=self.step)


def batch_of_step(count: int, step: int, *, batch_size: int, seed: int) -> list[int]:
    """Indices of the examples of an update: every epoch all of them once, in an order of its own; its last batch may be smaller."""
    epoch, position = divmod(step, -(-count // batch_size))
    order = np.random.Generator(np.random.Philox(key=derive_seed(seed, "reward_model", epoch))).permutation(count)
    return [int(i) for i in order[position * batch_size : (position + 1) * batch_size]]


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

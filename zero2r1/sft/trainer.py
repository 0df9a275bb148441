"""The loop of supervised fine-tuning: take a batch of examples, accumulate the gradient over packs, step.

Every random choice is a function of the seed and the step, so a run that was killed continues to the same bytes on a CPU.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zero2r1.sft.config import SftSettings
from zero2r1.sft.examples import SftExample, fit, micro_batches, training_samples
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.loop import Hooks, Outcome, RunRecord
from zero2r1.training.order import batch_of_step
from zero2r1.training.packing import pack
from zero2r1.training.progress import Material, Progress
from zero2r1.training.step import clip_and_step, head_options, prepare_model, training_context

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SftTrainer:
    """Trains ``model`` in place on ``examples``.

    Args:
        model: prepared by ``use_packed_attention``; in float32, whatever the compute dtype.
        checkpoints: folder of checkpoints; training resumes from the newest complete one in it.
        save_model: writes the model as a folder that `transformers` loads.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        examples: Sequence[SftExample],
        settings: SftSettings,
        *,
        run: RunRecord,
        checkpoints: Path,
        save_model: Callable[[Path], None],
        hooks: Hooks | None = None,
    ) -> None:
        self._model, self._settings, self._run, self._hooks = model, settings, run, hooks or Hooks()
        self._fitted = fit(examples, settings.max_length)
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
            self._run.append_event("examples", kept=len(fitted.examples), cut=fitted.cut, dropped=fitted.dropped, steps=self.steps)
        while self.step < self.steps:
            self._one_update()
            stop = self._hooks.should_stop()
            if stop or self.step >= self.steps or self.step % self._settings.checkpoint_every == 0:
                self._progress.save()
            if stop:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_update(self) -> None:
        settings, progress = self._settings, self._progress
        began = time.monotonic()
        learning_rate = progress.set_learning_rate()
        count = len(self._fitted.examples)
        chosen = batch_of_step(count, self.step, batch_size=settings.batch_size, seed=settings.seed, purpose="sft")
        samples = training_samples([self._fitted.examples[i] for i in chosen])
        device = next(self._model.parameters()).device
        total = 0.0
        for part in micro_batches(samples, packing=settings.packing, tokens=settings.compute.tokens_per_micro_batch):
            batch = pack(part, device=device, half=settings.compute.half)
            with training_context(self._model, settings.compute, device):
                logprobs, _ = completion_logprobs(self._model, batch, **head_options(settings.compute))
            loss = -(batch.weights * logprobs).sum()
            loss.backward()
            total += loss.item()
        grad_norm, applied = clip_and_step(self._model, [progress.optimizer], total, max_grad_norm=settings.optimizer.max_grad_norm)
        progress.step += 1
        seconds = time.monotonic() - began
        tokens = sum(len(sample.completion_ids) for sample in samples)
        row = {
            "step": self.step,
            "epoch": self.step / self._per_epoch,
            "loss": total,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "update_applied": applied,
            "num_tokens": tokens,
            "num_prompt_tokens": sum(len(sample.prompt_ids) for sample in samples),
            "step_time": seconds,
            "tokens_per_s": tokens / max(seconds, 1e-9),
        }
        self._run.append_metrics(row)
        self._hooks.on_step(row)
        progress.guard(applied=applied, loss=total, grad_norm=grad_norm)


def digest_of_examples(examples: Sequence[SftExample]) -> str:
    """SHA-256 of the examples as the model reads them, in their order."""
    whole = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.response_ids):
            whole.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return whole.hexdigest()

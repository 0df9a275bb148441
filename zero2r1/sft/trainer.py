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

from zero2r1.checkpoint import load_latest, load_optimizer_tensors, load_weights, optimizer_tensors, save_checkpoint
from zero2r1.models.loading import checkpoint_activations
from zero2r1.sft.config import SftSettings
from zero2r1.sft.examples import SftExample, batch_of_step, fit, micro_batches, training_samples
from zero2r1.training.logprobs import completion_logprobs
from zero2r1.training.loop import Hooks, Outcome, RunRecord, diverged
from zero2r1.training.optimizer import build_adamw, learning_rate_factor
from zero2r1.training.packing import pack
from zero2r1.training.step import clip_and_step, head_options, training_context

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
        self._model, self._settings, self._run = model, settings, run
        self._checkpoints, self._save_model, self._hooks = checkpoints, save_model, hooks or Hooks()
        self._fitted = fit(examples, settings.max_length)
        self._digest = digest_of_examples(self._fitted.examples)
        self._per_epoch = -(-len(self._fitted.examples) // settings.batch_size)
        self.steps = self._per_epoch * settings.epochs
        if settings.compute.gradient_checkpointing:
            checkpoint_activations(model)
            model.train()
        else:
            model.eval()  # dropout off, as in the RL that follows
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
            if stop:
                return Outcome.STOPPED
        return Outcome.DONE

    def _one_update(self) -> None:
        settings, opt = self._settings, self._settings.optimizer
        began = time.monotonic()
        factor = learning_rate_factor(self.step, total=self.steps, warmup=opt.warmup_steps, schedule=opt.schedule, final=opt.final_factor)
        for group in self._optimizer.param_groups:
            group["lr"] = opt.learning_rate * factor
        chosen = batch_of_step(len(self._fitted.examples), self.step, batch_size=settings.batch_size, seed=settings.seed)
        samples = training_samples([self._fitted.examples[i] for i in chosen])
        device = next(self._model.parameters()).device
        total = 0.0
        for part in micro_batches(samples, packing=settings.packing, tokens=settings.compute.tokens_per_micro_batch):
            batch = pack(part, device=device)
            with training_context(self._model, settings.compute, device):
                logprobs, _ = completion_logprobs(self._model, batch, **head_options(settings.compute))
            loss = -(batch.weights * logprobs).sum()
            loss.backward()
            total += loss.item()
        grad_norm, applied = clip_and_step(self._model, [self._optimizer], total, max_grad_norm=opt.max_grad_norm)
        self.step += 1
        seconds = time.monotonic() - began
        tokens = sum(len(sample.completion_ids) for sample in samples)
        row = {
            "step": self.step,
            "epoch": self.step / self._per_epoch,
            "loss": total,
            "grad_norm": grad_norm,
            "learning_rate": opt.learning_rate * factor,
            "update_applied": applied,
            "num_tokens": tokens,
            "num_prompt_tokens": sum(len(sample.prompt_ids) for sample in samples),
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
            self._run.append_event("examples", kept=len(fitted.examples), cut=fitted.cut, dropped=fitted.dropped, steps=self.steps)
            return
        known = found.state.get("examples")
        if known is not None and known["sha256"] != self._digest:  # older checkpoints do not say
            raise ValueError(
                f"E002 resume: {found.path} has learnt {known['count']} examples (SHA-256 {known['sha256'][:12]}), and these are "
                f"{len(self._fitted.examples)} others ({self._digest[:12]}). Restore the data that the run was started with, or learn "
                "the new data in a run of its own: another --name, or --from and the stage in a pipeline"
            )
        load_weights(self._model, found.model_tensors())
        load_optimizer_tensors(self._optimizer, self._model, found.tensors(), found.state["optimizer"])
        self.step, self._nonfinite_steps = found.state["step"], found.state["nonfinite_steps"]
        self._run.truncate_after(self.step)
        self._run.append_event("resumed", step=self.step)


def digest_of_examples(examples: Sequence[SftExample]) -> str:
    """SHA-256 of the examples as the model reads them, in their order."""
    whole = hashlib.sha256()
    for example in examples:
        for ids in (example.prompt_ids, example.response_ids):
            whole.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
    return whole.hexdigest()

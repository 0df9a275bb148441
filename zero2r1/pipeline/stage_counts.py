"""Counting what a stage will sample and train: the values of a plan, and the arithmetic of rollouts.

A cap is an upper bound: tokens are counted as if every answer were as long as it may be, and every candidate were kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zero2r1.grpo.config import TrainSettings
from zero2r1.pipeline.estimates import ModelShape, Peak, updates_of
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.training.config import LoraSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """How much data there is; ``None`` where a file is not here, and the recipe's own numbers bound it."""

    problems: int | None = None
    held_out: int | None = None
    general: int | None = None
    pairs: int | None = None
    labels: int | None = None
    requests: Mapping[str, int] | None = None
    """General requests to learn from, by set."""
    longest_prompt: int = 256
    """Tokens; a guess until problems and tokenizer are here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """One part of a stage. Tokens are upper bounds."""

    says: str
    samples: int = 0
    sampled: int = 0
    trained: int = 0
    updates: int = 0
    unknown: bool = False
    """A file that is not here says how much is trained: nothing of it is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """What a stage will do. Without a known shape there is no memory and no disk."""

    activities: tuple[Activity, ...] = ()
    peak: Peak | None = None
    disk: int | None = None
    adapters: int = 0
    """Parameters that are trained beside the weights; none where the weights are."""

    @property
    def unknown(self) -> bool:
        """Whether something that is trained could not be counted."""
        return any(activity.unknown for activity in self.activities)

    def total(self, what: str) -> int:
        """``samples``, ``sampled``, ``trained`` or ``updates`` of all parts together."""
        return sum(getattr(activity, what) for activity in self.activities)


def at_most(wanted: int, there: int | None) -> int:
    """So many of what there is; what is not known bounds nothing."""
    return wanted if there is None else min(wanted, there)


def several(count: int, what: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{count} {what}{'s' * (count != 1)}"


def rollouts_of(section: TrainSettings) -> Activity:
    """Rollouts until the steps are taken; a rollout is used for all its updates, so the last one may go beyond them."""
    rollout, parts = section.rollout, section.grpo.mini_batches
    count = -(-section.steps // parts)
    answers = rollout.prompts_per_rollout * rollout.group_size
    caps = [rollout.cap_at(number * parts) for number in range(count)]
    cap = str(caps[0]) if caps[0] == caps[-1] else f"{caps[0]} to {caps[-1]}"
    tokens = answers * sum(caps)
    asked = f"{rollout.prompts_per_rollout} prompts x {rollout.group_size} answers"
    says = f"rollouts: {count} x {asked}, cap {cap}; {several(parts, 'update')} each"
    return Activity(says=says, samples=count * answers, sampled=tokens, trained=tokens, updates=count * parts)


def adapters_of(lora: LoraSettings | None, shape: ModelShape | None) -> int:
    """How many parameters the adapters have; none where there are none, or where the shape is not known."""
    return 0 if lora is None or shape is None else shape.adapters(lora.rank, lora.targets)


def lora_shown(lora: LoraSettings | None, shape: ModelShape | None) -> tuple[Activity, ...]:
    """What is trained where it is not all weights."""
    if lora is None:
        return ()
    counted = "" if shape is None else f": {adapters_of(lora, shape):,} parameters train beside {shape.parameters:,} that do not"
    return (Activity(says=f"LoRA of rank {lora.rank} in {', '.join(lora.targets) or 'all linear layers but the head'}{counted}"),)


def probes_of(section: TrainSettings) -> int:
    """How often fixed questions are asked on the way: after rollouts that cross a multiple of ``evaluate_every``, the end left out."""
    every, parts = section.evaluate_every, section.grpo.mini_batches
    ends = range(parts, -(-section.steps // parts) * parts + 1, parts)
    return 0 if every is None else sum(end // every > (end - parts) // every and end < section.steps for end in ends)


def scored(name: str, settings: RewardModelSettings, rows: int | None) -> Activity:
    """Training of a reward model on pairs or labels; of a file that is not here nothing is counted."""
    a_row = 2 if settings.kind == "preference" else 1
    what = "pairs" if a_row == 2 else "labels"
    counted = f"? {what} (the file is not here)" if rows is None else f"{rows} {what}"
    says = f"{name} model: {counted} x {several(settings.epochs, 'epoch')}, batch {settings.batch_size}"
    learnt = round((rows or 0) * (1 - settings.held_out_share))
    updates = updates_of(learnt, batch_size=settings.batch_size, epochs=settings.epochs)
    tokens = learnt * settings.epochs * a_row * settings.max_length
    return Activity(says=says, trained=tokens, updates=updates, unknown=rows is None)

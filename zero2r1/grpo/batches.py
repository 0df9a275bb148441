"""A graded rollout becomes mini-batches of training samples: advantages first, then the cut by question.

Pure functions of their arguments; the only randomness is the seed of the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zero2r1.grpo.advantages import ADVANTAGES, SCALINGS
from zero2r1.grpo.aggregation import AGGREGATIONS
from zero2r1.grpo.config import GrpoSettings
from zero2r1.types import Rollout, RolloutGroup, TrainingSample


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup:
    """A group with its advantages, one a rollout. ``None``: that output could not be graded and is left out."""

    group: RolloutGroup
    advantages: tuple[float | None, ...]

    @property
    def has_signal(self) -> bool:
        return any(self.advantages)


def score_group(group: RolloutGroup, settings: GrpoSettings) -> ScoredGroup:
    """Advantages of one group. Outputs that could not be graded are no part of its mean; fewer than two graded: none count."""
    values = [rollout.reward.value for rollout in group.rollouts]
    graded = [value for value in values if value is not None]
    if len(graded) < 2:
        return ScoredGroup(group=group, advantages=(None,) * len(values))
    advantage = ADVANTAGES[settings.advantage](graded, ddof=settings.std_ddof, epsilon=settings.std_epsilon)
    remaining = iter(advantage)
    return ScoredGroup(group=group, advantages=tuple(None if value is None else next(remaining) for value in values))


def scale_rollout(groups: Sequence[ScoredGroup], settings: GrpoSettings) -> list[ScoredGroup]:
    """The groups with their advantages put on the scale of the whole rollout, if the settings ask for one."""
    flat = [value for scored in groups for value in scored.advantages if value is not None]
    remaining = iter(SCALINGS[settings.scaling](flat, ddof=settings.std_ddof, epsilon=settings.std_epsilon))
    return [
        replace(scored, advantages=tuple(None if value is None else next(remaining) for value in scored.advantages)) for scored in groups
    ]


def keep_unequal(groups: Sequence[ScoredGroup], count: int) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
    """``count`` of the groups, the first with unequal rewards and as many of the others as it then takes; and the rest. Both in order."""
    ranked = sorted(range(len(groups)), key=lambda i: not groups[i].has_signal)
    kept, rest = ([groups[i] for i in sorted(part)] for part in (ranked[:count], ranked[count:]))
    return kept, rest


def cut_by_question(groups: Sequence[ScoredGroup], parts: int, *, seed: int) -> list[list[ScoredGroup]]:
    """Shuffle whole groups and deal them into ``parts`` mini-batches of equal size."""
    if len(groups) % parts:
        raise ValueError(f"{len(groups)} groups cannot be cut into {parts} mini-batches of equal size")
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(groups)) if parts > 1 else range(len(groups))
    size = len(groups) // parts
    return [[groups[i] for i in order[first : first + size]] for first in range(0, len(groups), size)]


def training_samples(groups: Sequence[ScoredGroup], settings: GrpoSettings, *, cap: int, skip_without_signal: bool) -> list[TrainingSample]:
    """Samples of one mini-batch with their weights.

    Args:
        cap: the output cap, the constant of the ``constant`` aggregation.
        skip_without_signal: leave out outputs whose gradient is exactly zero: advantage 0 while beta is 0. The weights of
            the others do not change by that, so neither does the gradient. With beta > 0 every output still has its KL
            term, with a bonus its entropy, and none is left out.
    """
    if settings.filter_zero_variance:
        groups = [scored for scored in groups if scored.has_signal]
    kept: list[tuple[int, Rollout, float]] = []
    for index, scored in enumerate(groups):
        for rollout, advantage in zip(scored.group.rollouts, scored.advantages, strict=True):
            masked = settings.mask_truncated and rollout.completion.finish_reason == "length"
            if advantage is not None and not masked:
                kept.append((index, rollout, advantage))
    lengths = [sum(rollout.completion.loss_mask) for _, rollout, _ in kept]
    weights = AGGREGATIONS[settings.aggregation](lengths, [index for index, _, _ in kept], cap) if kept else []
    skip = skip_without_signal and settings.beta == 0 and settings.entropy_bonus == 0
    return [
        _sample(index, rollout, advantage, weight)
        for (index, rollout, advantage), weight in zip(kept, weights, strict=True)
        if not (skip and advantage == 0)
    ]


def _sample(group: int, rollout: Rollout, advantage: float, weight: float) -> TrainingSample:
    completion = rollout.completion
    return TrainingSample(
        group=group,
        prompt_ids=rollout.prompt_ids,
        completion_ids=completion.token_ids,
        weights=tuple(weight if trained else 0.0 for trained in completion.loss_mask),
        advantage=advantage,
        sampler_logprobs=completion.logprobs,
    )

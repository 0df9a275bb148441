"""Controls: the same training with rewards that carry no information, or the opposite of it."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from zero2r1.pipeline.config import ZeroSettings
from zero2r1.types import Completion, Grader, Problem, Reward


def controlled(grader: Grader, settings: ZeroSettings) -> Grader:
    """The grader as it is, or one of the two controls.

    ``shuffle_rewards`` deals the rewards of each group out in an order that depends on the seeds of its samples alone: the
    same rewards, attached to the wrong answers. ``negate_rewards`` turns every reward around. Components stay what they were,
    so that the curves show what the policy really does.
    """
    if settings.shuffle_rewards and settings.negate_rewards:
        raise ValueError("shuffle_rewards and negate_rewards are two controls; choose one")

    def shuffled(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        rewards = grader(problems, completions)
        order = list(range(len(rewards)))
        random.Random(sum(completion.seed for completion in completions)).shuffle(order)
        return [dataclasses.replace(reward, value=rewards[i].value) for reward, i in zip(rewards, order, strict=True)]

    def negated(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        rewards = grader(problems, completions)
        return [dataclasses.replace(reward, value=None if reward.value is None else -reward.value) for reward in rewards]

    return shuffled if settings.shuffle_rewards else negated if settings.negate_rewards else grader

"""A_i: how much better an output is than its group (paper equation 3).

Every variant is one function of the group's rewards and one entry of :data:`ADVANTAGES`, or of all advantages and of :data:`SCALINGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


def group_mean_std(rewards: Sequence[float], *, ddof: int = 0, epsilon: float = 1e-4) -> list[float]:
    """(r_i - mean) / (std + epsilon). The paper does not state ddof; 0 divides the variance by G.

    A group of equal rewards has advantage exactly 0: there is nothing to compare.

    Raises:
        ValueError: fewer than two rewards, or one that is not finite.
    """
    centred = group_mean(rewards)
    if not any(centred):
        return centred
    std = math.sqrt(sum(value * value for value in centred) / (len(centred) - ddof))
    return [value / (std + epsilon) for value in centred]


def group_mean(rewards: Sequence[float], *, ddof: int = 0, epsilon: float = 0.0) -> list[float]:
    """r_i - mean: without the division that gives the easiest and hardest questions the largest weight (Dr. GRPO).

    ``ddof`` and ``epsilon`` have no meaning here; they keep one signature for all variants.

    Raises:
        ValueError: fewer than two rewards, or one that is not finite.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group needs at least 2 rewards to compare, got {len(rewards)}")
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards must be finite, got {list(rewards)}")
    if min(rewards) == max(rewards):
        return [0.0] * len(rewards)  # their mean may differ from them by rounding, and std would blow that up
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def leave_one_out(rewards: Sequence[float], *, ddof: int = 0, epsilon: float = 0.0) -> list[float]:
    """r_i - mean of the others (RLOO, arXiv 2402.14740): G / (G - 1) times the distance from the group's mean, and unbiased.

    Raises:
        ValueError: as :func:`group_mean`.
    """
    return [value * len(rewards) / (len(rewards) - 1) for value in group_mean(rewards)]


AdvantageFn = Callable[..., list[float]]
ADVANTAGES: Mapping[str, AdvantageFn] = {"group_mean_std": group_mean_std, "group_mean": group_mean, "leave_one_out": leave_one_out}


def unscaled(advantages: Sequence[float], *, ddof: int, epsilon: float) -> list[float]:
    """As they are."""
    return list(advantages)


def rollout_std(advantages: Sequence[float], *, ddof: int, epsilon: float) -> list[float]:
    """A_i / (std + epsilon) over all outputs of a rollout (REINFORCE++ baseline, arXiv 2501.03262): no group weighs more for being easy or
    hard.

    The paper subtracts their mean first. Advantages are distances from the means of groups, so it is zero; what rounding leaves of it would
    give outputs an advantage whose group has none.
    """
    if len(advantages) <= ddof or not any(advantages):
        return list(advantages)
    std = math.sqrt(math.fsum(value**2 for value in advantages) / (len(advantages) - ddof))
    return [value / (std + epsilon) for value in advantages]


SCALINGS: Mapping[str, AdvantageFn] = {"none": unscaled, "rollout_std": rollout_std}
"""What is done to the advantages of a whole rollout, before it is cut into mini-batches."""

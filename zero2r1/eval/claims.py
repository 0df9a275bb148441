"""Claims written down before the run that judges them: statistic, direction, smallest effect; decided by the 95 % interval.

A claim compares two measured checkpoints (or holds one against a level) on the same held-out problems. It holds when the
interval lies beyond the smallest effect; the point estimate alone decides nothing, unless ``estimate_at_least`` asks for it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from zero2r1.eval.metrics import Interval, bootstrap_difference, bootstrap_mean, bootstrap_ratio

Arrays = Mapping[str, Mapping[str, Sequence[float]]]
"""checkpoint -> statistic -> one value per problem, problems in one order."""


class Condition(BaseModel):
    """One comparison. ``of`` and ``over`` are ``checkpoint.statistic``; without ``over`` the level itself is judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["difference", "ratio", "level"]
    of: str
    over: str | None = None
    at_least: float | None = None  # the interval's lower bound must reach this
    more_than: float | None = None  # the interval's lower bound must exceed this
    at_most: float | None = None  # the interval's upper bound must not exceed this
    estimate_at_least: float | None = None  # the point estimate must reach this


class Claim(BaseModel):
    """A named statement that holds when all its conditions hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    says: str
    needs_rewards: bool = True  # false for what holds of any sampler, e.g. that a majority beats a single answer
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionVerdict:
    """What was measured for one condition."""

    condition: Condition
    estimate: float
    low: float
    high: float
    why_not: str | None
    """What is missing, in words; ``None`` where the condition holds."""

    @property
    def holds(self) -> bool:
        return self.why_not is None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimVerdict:
    """What was measured for one claim."""

    claim: Claim
    parts: tuple[ConditionVerdict, ...]

    @property
    def holds(self) -> bool:
        return all(part.holds for part in self.parts)


def read_claims(path: Path) -> tuple[Claim, ...]:
    """Claims of a YAML file.

    Raises:
        ValueError: the file holds something that is no claim.
    """
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    return tuple(Claim.model_validate(item) for item in raw["claims"])


def judge(claims: Sequence[Claim], arrays: Arrays, *, seed: int = 0) -> tuple[ClaimVerdict, ...]:
    """Decide every claim by the paired bootstrap over problems.

    Raises:
        ValueError: a claim names a checkpoint or statistic that was not measured.
    """
    return tuple(
        ClaimVerdict(claim=claim, parts=tuple(_judge(condition, arrays, seed) for condition in claim.conditions)) for claim in claims
    )


def _judge(condition: Condition, arrays: Arrays, seed: int) -> ConditionVerdict:
    estimate, low, high = _measure(condition, arrays, seed)
    c = condition
    faults = (
        f"the lower bound is below {c.at_least}" if c.at_least is not None and not low >= c.at_least else "",
        f"the lower bound is not above {c.more_than}" if c.more_than is not None and not low > c.more_than else "",
        f"the upper bound is above {c.at_most}" if c.at_most is not None and not high <= c.at_most else "",
        f"the estimate is below {c.estimate_at_least}" if c.estimate_at_least is not None and not estimate >= c.estimate_at_least else "",
    )
    return ConditionVerdict(condition=c, estimate=estimate, low=low, high=high, why_not=", ".join(filter(None, faults)) or None)


def _measure(condition: Condition, arrays: Arrays, seed: int) -> Interval:
    values = _values(condition.of, arrays)
    if condition.kind == "level":
        return bootstrap_mean(values, seed=seed)
    if condition.over is None:
        raise ValueError(f"a {condition.kind} needs `over`: {condition.of}")
    other = _values(condition.over, arrays)
    compare = bootstrap_difference if condition.kind == "difference" else bootstrap_ratio
    return compare(values, other, seed=seed)


def _values(name: str, arrays: Arrays) -> Sequence[float]:
    checkpoint, _, statistic = name.partition(".")
    if checkpoint not in arrays or statistic not in arrays[checkpoint]:
        raise ValueError(f"{name} was not measured; measured are {sorted(f'{c}.{s}' for c in arrays for s in arrays[c])}")
    return arrays[checkpoint][statistic]

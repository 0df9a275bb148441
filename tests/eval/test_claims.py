"""Claims hold by their interval, not by their estimate."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from zero2r1.eval.claims import Claim, Condition, judge, read_claims

CLAIMS = Path(__file__).parents[2] / "recipes" / "laptop" / "claims.yaml"


def holds(arrays, **condition) -> bool:
    claim = Claim(name="c", says="s", conditions=(Condition(**condition),))
    return judge([claim], arrays)[0].holds


ARRAYS = {"base": {"x": [0.0] * 50 + [1.0] * 50}, "zero": {"x": [0.0] * 40 + [1.0] * 60}, "sure": {"x": [1.0] * 100}}


def test_a_level_needs_its_lower_bound():
    # mean 0.6, error 0.049: the lower bound is about 0.5
    assert holds(ARRAYS, kind="level", of="zero.x", at_least=0.45)
    assert not holds(ARRAYS, kind="level", of="zero.x", at_least=0.58)
    assert not holds(ARRAYS, kind="level", of="zero.x", at_most=0.65)


def test_a_difference_needs_its_lower_bound_and_may_ask_for_the_estimate_too():
    assert holds(ARRAYS, kind="difference", of="sure.x", over="base.x", at_least=0.4, estimate_at_least=0.5)
    assert not holds(ARRAYS, kind="difference", of="sure.x", over="base.x", at_least=0.4, estimate_at_least=0.51)
    assert not holds(ARRAYS, kind="difference", of="zero.x", over="base.x", at_least=0.06)


def test_beating_something_needs_more_than_equality():
    assert holds(ARRAYS, kind="difference", of="base.x", over="base.x", at_least=0.0)
    assert not holds(ARRAYS, kind="difference", of="base.x", over="base.x", more_than=0.0)
    assert holds(ARRAYS, kind="difference", of="sure.x", over="base.x", more_than=0.0)


def test_a_ratio():
    assert holds(ARRAYS, kind="ratio", of="sure.x", over="base.x", at_least=1.6)
    assert not holds(ARRAYS, kind="ratio", of="sure.x", over="base.x", at_least=2.0)


def test_all_conditions_must_hold():
    good, bad = Condition(kind="level", of="sure.x", at_least=0.9), Condition(kind="level", of="base.x", at_least=0.9)
    assert judge([Claim(name="c", says="s", conditions=(good, bad))], ARRAYS)[0].holds is False


@pytest.mark.parametrize("of", ["nobody.x", "base.y"])
def test_what_was_not_measured_is_named(of):
    with pytest.raises(ValueError, match="was not measured; measured are"):
        holds(ARRAYS, kind="level", of=of, at_least=0)


def test_a_difference_needs_something_to_differ_from():
    with pytest.raises(ValueError, match="needs `over`"):
        holds(ARRAYS, kind="difference", of="base.x", at_least=0)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="at_leest"):
        Condition(kind="level", of="base.x", at_leest=1)


ZERO = ("accuracy", "majority", "length", "format", "self_check", "mixing")
LATER = (
    "cold_start_format", "cold_start_readable", "one_language", "reasoning_rl", "sft_from_base", "drift", "language_cost", "all_scenarios",
    "distilled", "distillation",
)  # fmt: skip


def test_the_laptop_claims_are_those_and_each_has_a_smallest_effect():
    claims = read_claims(CLAIMS)
    assert tuple(claim.name for claim in claims) == (*ZERO, *LATER)
    assert all({c.at_least, c.more_than, c.at_most, c.estimate_at_least} != {None} for claim in claims for c in claim.conditions)
    assert [claim.name for claim in claims if not claim.needs_rewards] == ["majority"]


def test_nothing_happened_earns_no_claim():
    names = ("pass@1", "maj@8", "length", "format_ok", "self_check", "one_language", "readable", "helpful", "harmless")
    same = {name: [0.0, 1.0] * 50 for name in names}
    checkpoints = ("base", "base_web", "zero", "dev1", "dev2", "dev2_no_language", "dev3", "r1", "distilled")
    checkpoints += ("student_base", "student_base_web", "student_rl")
    verdicts = judge(read_claims(CLAIMS), dict.fromkeys(checkpoints, same))
    assert [verdict.claim.name for verdict in verdicts if verdict.holds] == []


def test_a_policy_that_falls_apart_earns_nothing():
    """Long, mixed, full of `wait` and wrong: what shuffled rewards once made of the laptop model."""
    base = {"pass@1": [0.0] * 87 + [1.0] * 13, "maj@8": [0.0] * 75 + [1.0] * 25, "length": [18.0] * 100, "format_ok": [0.37] * 100}
    base |= {"self_check": [0.06] * 100, "one_language": [0.87] * 100}
    fallen = {"pass@1": [0.03] * 100, "maj@8": [0.0] * 88 + [1.0] * 12, "length": [50.0] * 100, "format_ok": [0.01] * 100}
    fallen |= {"self_check": [0.28] * 100, "one_language": [0.55] * 100}
    verdicts = judge([claim for claim in read_claims(CLAIMS) if claim.name in ZERO], {"base": base, "base_web": base, "zero": fallen})
    assert [verdict.claim.name for verdict in verdicts if verdict.holds and verdict.claim.needs_rewards] == []

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.tasks.mixture import mixed
from zero2r1.types import Problem


def problem(name: str, domain: str) -> Problem:
    return Problem(
        id=name, prompt=name, answer="1", verifier="math", domain=domain, language="en", source="test", licence="MIT", split="train"
    )


def some(**counts: int) -> list[Problem]:
    return [problem(f"{domain}{i}", domain) for domain, count in counts.items() for i in range(count)]


def test_a_small_domain_comes_around_again_and_a_large_one_is_drawn_from() -> None:
    chosen = mixed(some(math=3, code=1), {"math": 1, "code": 1}, seed=0)
    assert Counter(p.domain for p in chosen) == {"math": 2, "code": 2}
    assert len({p.id for p in chosen if p.domain == "math"}) == 2
    assert [p.id for p in chosen if p.domain == "code"] == ["code0", "code0"]


def test_shares_that_do_not_divide_give_the_rest_to_the_largest_remainder() -> None:
    # 10 problems at 1 : 1 : 1 are 3.33 each; the tenth goes to the first of the equal remainders in the order of the alphabet.
    chosen = mixed(some(logic=4, code=3, math=3), {"math": 1, "code": 1, "logic": 1}, seed=0)
    assert Counter(p.domain for p in chosen) == {"code": 4, "logic": 3, "math": 3}


def test_a_share_of_zero_leaves_a_domain_out() -> None:
    assert {p.domain for p in mixed(some(math=2, code=2), {"math": 1, "code": 0}, seed=0)} == {"math"}


def test_without_shares_nothing_changes() -> None:
    problems = some(math=2, code=3)
    assert mixed(problems, {}, seed=0) == problems


@pytest.mark.parametrize("shares", [{"math": 1}, {"math": 1, "code": 1, "poetry": 1}, {"math": 0, "code": 0}, {"math": -1, "code": 2}])
def test_shares_that_do_not_fit_the_problems_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the mixture"):
        mixed(some(math=2, code=2), shares, seed=0)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5), st.integers(1, 5), st.integers(0, 3))
def test_the_number_stays_and_the_same_seed_draws_the_same(math: int, code: int, first: int, second: int, seed: int) -> None:
    problems = some(math=math, code=code)
    shares = {"math": first, "code": second}
    chosen = mixed(problems, shares, seed=seed)
    assert len(chosen) == len(problems)
    assert chosen == mixed(problems, shares, seed=seed)

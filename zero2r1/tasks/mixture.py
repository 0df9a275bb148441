"""Problems of several domains in stated shares (paper section 2.3.2: mathematics, code, science and logic)."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

from zero2r1.types import Problem


def by_domain(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """The problems of each domain, domains in the order of the alphabet."""
    found: dict[str, list[Problem]] = {name: [] for name in sorted({problem.domain for problem in problems})}
    for problem in problems:
        found[problem.domain].append(problem)
    return found


def mixed(problems: Sequence[Problem], shares: Mapping[str, float], *, seed: int) -> list[Problem]:
    """As many problems as were given, the domains in these shares. Without shares, the problems as they are.

    A domain with fewer problems than its share comes around more often, one with more is drawn from. Example: 3 of math and 1 of code,
    shares 1 and 1: two of math, and the one of code twice.

    Raises:
        ValueError: a domain without a share, or a share of a domain that no problem has.
    """
    if not shares:
        return list(problems)
    groups = by_domain(problems)
    check_shares(groups, shares)
    chosen: list[Problem] = []
    for name, quota in quotas(len(problems), shares).items():
        order = random.Random(f"{seed}/mixture/{name}").sample(groups[name], len(groups[name]))
        chosen += [order[i % len(order)] for i in range(quota)]
    return chosen


def check_shares(domains: Collection[str], shares: Mapping[str, float]) -> None:
    """Whether shares, where there are any, fit the domains of the problems.

    Raises:
        ValueError: a domain without a share, a share of a domain that no problem has, or no share above 0.
    """
    if not shares:
        return
    if set(domains) != set(shares):
        raise ValueError(
            f"the mixture gives shares to {sorted(shares)}, and the problems are of {sorted(domains)}. Name each domain once; a share "
            "of 0 leaves one out"
        )
    if min(shares.values()) < 0 or sum(shares.values()) == 0:
        raise ValueError(f"the mixture needs shares of 0 or more, and at least one above 0, got {dict(shares)}")


def quotas(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers in these shares that add up to ``total``: rounded down, what is left goes to the largest remainders."""
    exact = {name: total * share / sum(shares.values()) for name, share in sorted(shares.items())}
    whole = {name: int(value) for name, value in exact.items()}
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[: total - sum(whole.values())]:
        whole[name] += 1
    return whole

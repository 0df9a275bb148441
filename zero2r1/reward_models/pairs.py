"""Preference pairs from sampled responses (paper section 2.3.4): compared by a judge, kept above a gap, balanced in length.

responses ─▶ pairs drawn ─▶ judged in both orders ─▶ |gap| > 1 ─▶ as many longer as shorter chosen ─▶ preferences
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from zero2r1.reward_models.data import Preference, Response
from zero2r1.rewards.judge import Complete
from zero2r1.rewards.pairwise_judge import Comparison, compare
from zero2r1.seeds import derive_seed
from zero2r1.types import Message

Ask = Callable[[str, str, str, int], Comparison]
"""(conversation, first summary, second summary, seed) -> what the judge says of them."""
Rule = Literal["unreadable", "gap", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One prompt and the responses that were sampled to it."""

    messages: tuple[Message, ...]
    responses: tuple[Response, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Two responses to one prompt, in the order in which they were drawn, and what the judge said of the first."""

    messages: tuple[Message, ...]
    first: Response
    second: Response
    comparison: Comparison

    @property
    def preference(self) -> Preference:
        """The pair with the better response as the chosen one; there must be a gap."""
        assert self.comparison.gap
        chosen, rejected = (self.first, self.second) if self.comparison.gap > 0 else (self.second, self.first)
        return Preference(messages=self.messages, chosen=chosen, rejected=rejected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A pair that was judged and not kept: by which rule, and why in words."""

    pair: Judged
    rule: Rule
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What became of the pairs; each is in exactly one of the two."""

    kept: tuple[Judged, ...]
    dropped: tuple[Dropped, ...]
    without_pair: int
    """Prompts with fewer than two different responses that have a summary: nothing to compare."""

    @property
    def preferences(self) -> list[Preference]:
        return [pair.preference for pair in self.kept]

    @property
    def funnel(self) -> dict[str, int]:
        """``compared`` is the sum of the three rules and ``kept``."""
        rules = [drop.rule for drop in self.dropped]
        return {
            "without_pair": self.without_pair,
            "compared": len(self.kept) + len(rules),
            "unreadable": rules.count("unreadable"),
            "gap": rules.count("gap"),
            "length": rules.count("length"),
            "kept": len(self.kept),
        }

    @property
    def mean_longer(self) -> float | None:
        """By how many words the chosen responses are longer on average; ``None`` without pairs."""
        return sum(map(words_longer, self.kept)) / len(self.kept) if self.kept else None


def judge_of(complete: Complete, *, calls: int = 4, attempts: int = 3) -> Ask:
    """A judge for :func:`make_preferences`: every pair is asked ``calls`` times, half of them in each order."""
    return lambda question, first, second, seed: compare(
        question, first, second, complete=complete, calls=calls, attempts=attempts, seed=seed
    )


def make_preferences(
    groups: Sequence[Sampled],
    ask: Ask,
    *,
    min_gap: float = 1.0,
    balance: bool = True,
    pairs_per_prompt: int = 1,
    tolerance: float = 1.0,
    seed: int = 0,
    workers: int = 1,
) -> Preferences:
    """Compare sampled responses, and keep what a judge is clear about.

    Args:
        min_gap: a pair is kept where the mean verdict is further from 0 than this.
        balance: drop pairs until as many chosen responses are longer as shorter, and see ``tolerance``.
        pairs_per_prompt: how many pairs of different summaries are drawn of a prompt's responses (all, where there are fewer).
        tolerance: the most words by which chosen responses may be longer or shorter on average, once balanced.
        workers: how many calls of ``ask``, which must be thread-safe, may run at once.
    """
    cases = [drawn_pairs(group, pairs_per_prompt, seed=derive_seed(seed, "pairs", i)) for i, group in enumerate(groups)]
    drawn = [(group, first, second) for group, pairs in zip(groups, cases, strict=True) for first, second in pairs]

    def said_of(number: int) -> Comparison:
        group, first, second = drawn[number]
        return ask(conversation(group.messages), first.summary, second.summary, derive_seed(seed, "judge", number))

    with ThreadPoolExecutor(workers) as pool:
        said = list(pool.map(said_of, range(len(drawn))))
    clear: list[Judged] = []
    dropped: list[Dropped] = []
    for (group, first, second), comparison in zip(drawn, said, strict=True):
        pair = Judged(messages=group.messages, first=first, second=second, comparison=comparison)
        if comparison.gap is None:
            dropped.append(Dropped(pair=pair, rule="unreadable", why=f"{comparison.unreadable} calls without a verdict that can be read"))
        elif abs(comparison.gap) > min_gap:
            clear.append(pair)
        else:
            why = f"mean verdict {comparison.gap:+.2f}, needed more than {min_gap:g} either way"
            dropped.append(Dropped(pair=pair, rule="gap", why=why))
    excess = length_excess([words_longer(pair) for pair in clear], tolerance=tolerance, seed=seed) if balance else frozenset()
    for i in sorted(excess):
        dropped.append(Dropped(pair=clear[i], rule="length", why=f"the chosen one is {words_longer(clear[i]):+d} words longer: balance"))
    kept = tuple(pair for i, pair in enumerate(clear) if i not in excess)
    return Preferences(kept=kept, dropped=tuple(dropped), without_pair=sum(not pairs for pairs in cases))


def drawn_pairs(group: Sampled, count: int, *, seed: int) -> list[tuple[Response, Response]]:
    """At most ``count`` pairs of responses with different summaries, drawn from the seed. Equal summaries are one response."""
    different: dict[str, Response] = {}
    for response in group.responses:
        if response.summary.strip():
            different.setdefault(response.summary, response)
    pairs = list(combinations(different.values(), 2))
    return random.Random(seed).sample(pairs, min(count, len(pairs)))


def words_longer(pair: Judged) -> int:
    """By how many words the chosen summary is longer than the rejected one."""
    preference = pair.preference
    return len(preference.chosen.summary.split()) - len(preference.rejected.summary.split())


def length_excess(differences: Sequence[int], *, tolerance: float, seed: int) -> frozenset[int]:
    """Which pairs to drop so that no side wins by length: their indices.

    ``differences`` says by how many words each chosen response is longer. First the side with more pairs loses as many as it has more,
    each the one that brings the sum of differences nearest to 0. Then, while the mean is beyond ``tolerance``, one pair goes from
    either side: of the side that is too long by words the one that brings the sum nearest to 0, of the other its smallest. Of equal
    differences the seed decides.
    """
    order = list(range(len(differences)))
    random.Random(derive_seed(seed, "length")).shuffle(order)
    # (size of the difference, index) by size; the shuffle decides among equal ones, as the sort keeps it.
    sides = {sign: sorted(((abs(differences[i]), i) for i in order if differences[i] * sign > 0), key=lambda e: e[0]) for sign in (1, -1)}
    total, count = sum(differences), len(differences)
    dropped: set[int] = set()

    def drop(sign: int, wanted: float) -> None:
        """Take the pair of this side whose size is nearest to ``wanted``."""
        nonlocal total, count
        side = sides[sign]
        place = bisect_left(side, wanted, key=lambda entry: entry[0])
        near = [p for p in (place - 1, place) if 0 <= p < len(side)]
        size, index = side.pop(min(near, key=lambda p: abs(side[p][0] - wanted)))
        dropped.add(index)
        total, count = total - sign * size, count - 1

    while len(sides[1]) != len(sides[-1]):
        sign = 1 if len(sides[1]) > len(sides[-1]) else -1
        drop(sign, total * sign)
    while count and abs(total) > tolerance * count and sides[1]:
        sign = 1 if total > 0 else -1
        drop(-sign, 0)
        drop(sign, abs(total))
    return frozenset(dropped)


def conversation(messages: Sequence[Message]) -> str:
    """What the judge is shown as the request: the question itself, or all turns with who said them."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)

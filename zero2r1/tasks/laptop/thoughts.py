"""How a document of the laptop world reasons: chains of arithmetic and searches that verify each try.

Checks end in arithmetic (``24 - 24 = 0 yes``), never in a bare comparison of two tokens: a model of this size does not
learn to compare within minutes of training, but it does learn to subtract. Trace restates both variables after every
statement and count numbers every letter, so that no step depends on bookkeeping that is not on the page.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from zero2r1.tasks.laptop.problems import LARGEST, Item
from zero2r1.tasks.laptop.words import PHRASES

Say = Callable[[str], str]
"""Words a phrase; each sentence has its own, in one language or mixed."""


class Thought:
    """Writes one line of thought about an item.

    Args:
        say: returns the words for the next sentence; called once per sentence.
        slip: chance that a step of a chain comes out wrong.
        repair: whether a slip is noticed and the step done again.
        stride: operations per step: 1 is fine, 2 is coarse.
        tries: how many candidates a search tests before it gives up and guesses; ``None`` = until one fits.
    """

    def __init__(
        self, item: Item, rng: random.Random, sentence: Callable[[], Say], *, slip: float, repair: bool, stride: int, tries: int | None
    ) -> None:
        self._item, self._rng, self._sentence = item, rng, sentence
        self._slip, self._repair, self._stride, self._tries = slip, repair, stride, tries

    def write(self) -> tuple[list[str], str]:
        """Sentences (without full stops) and the answer they arrive at."""
        task = self._item.task
        if task in ("sum", "story"):
            return self._chain()
        if task == "trace":
            return self._trace()
        if task == "count":
            return self._count()
        return self._search(*(_pair_candidates(self._item) if task == "pair" else _solve_candidates(self._item)))

    def _step(self, sentences: list[str], wording: Callable[[Say, int], str], result: int) -> int:
        """Add one step, right or with a slip; returns the value the chain goes on with."""
        opening = "then" if sentences else "first"
        if self._rng.random() >= self._slip:
            say = self._sentence()
            sentences.append(f"{say(opening)} {wording(say, result)}")
            return result
        wrong = max(0, min(LARGEST, result + self._rng.choice((-3, -2, -1, 1, 2, 3))))
        say = self._sentence()
        sentences.append(f"{say(opening)} {wording(say, wrong)}")
        if not self._repair or wrong == result:
            return wrong
        say = self._sentence()
        sentences.append(f"{say('wait')} , {wording(say, result)}")
        return result

    def _chain(self) -> tuple[list[str], str]:
        start, *terms = (int(str(value)) for value in self._item.values)
        sentences: list[str] = []
        total = start
        for first in range(0, len(terms), self._stride):
            part = terms[first : first + self._stride]
            left = f"{total} " + " ".join(f"{'+' if t > 0 else '-'} {abs(t)}" for t in part)
            result = max(0, min(LARGEST, total + sum(part)))

            def wording(say: Say, value: int, left: str = left) -> str:
                return f"{left} = {value}"

            total = self._step(sentences, wording, result)
        return sentences, str(total)

    def _trace(self) -> tuple[list[str], str]:
        a, b, *statements, target = self._item.values
        state = {"a": int(str(a)), "b": int(str(b))}
        sentences: list[str] = []
        for index, (name, left, sign, right) in enumerate(statements):
            operand = state[right] if right in state else int(right)
            result = max(0, min(LARGEST, state[left] + operand if sign == "+" else state[left] - operand))
            work = f"{name} = {state[left]} {sign} {operand}"
            restate = self._stride == 1 or index % self._stride == 1 or index == len(statements) - 1

            def wording(say: Say, value: int, work: str = work, name: str = name, restate: bool = restate) -> str:
                after = {**state, name: value}
                return f"{work} = {value}" + (f" , a {after['a']} b {after['b']}" if restate else "")

            state[name] = self._step(sentences, wording, result)
        return sentences, str(state[str(target)])

    def _count(self) -> tuple[list[str], str]:
        letter, text = str(self._item.values[0]), self._item.values[1]
        say = self._sentence()
        seen, parts = 0, []
        for position, other in enumerate(text, start=1):
            hit = other == letter
            slipped = self._rng.random() < self._slip / 3
            before, seen = seen, seen + hit
            shown = max(0, seen + self._rng.choice((-1, 1))) if slipped else seen
            if self._stride == 1 or position % self._stride == 0 or position == len(text):
                parts.append(f"{other} {shown}")
            else:
                parts.append(str(other))
            if shown != seen and self._repair:
                parts.append(f"{say('wait')} , {other} {before + hit}")
            elif shown != seen:
                seen = shown
        return [f"{say('first')} {' , '.join(parts)}"], str(seen)

    def _search(self, candidates: Iterator[Candidate], guesses: Sequence[str]) -> tuple[list[str], str]:
        sentences: list[str] = []
        feedback: int | None = None
        chooser = _Chooser(list(candidates), self._rng)
        for number in range(self._tries if self._tries is not None else 30):
            candidate = chooser.pick(feedback)
            if candidate is None:
                break
            say = self._sentence()
            feedback = candidate.difference
            verdict = f"0 {say('yes')}" if feedback == 0 else f"{feedback if feedback > 0 else say('negative')} {say('no')}"
            opening = f"{say('wait')} , {say('try')}" if number else say("try")
            sentences.append(f"{opening} {candidate.name} : {candidate.work} = {verdict}")
            if feedback == 0:
                return sentences, candidate.name
        return sentences, self._rng.choice(guesses)


class Candidate:
    """One try of a search: what is tried, the arithmetic that tests it, and what is left over."""

    __slots__ = ("difference", "name", "size", "work")

    def __init__(self, name: str, work: str, difference: int, size: int | None) -> None:
        self.name, self.work, self.difference, self.size = name, work, difference, size


class _Chooser:
    """Picks an untried candidate; where candidates have a size, a remainder says in which direction to go on."""

    def __init__(self, candidates: list[Candidate], rng: random.Random) -> None:
        self._left, self._rng = candidates, rng
        self._last: Candidate | None = None

    def pick(self, feedback: int | None) -> Candidate | None:
        if feedback is not None and self._last is not None and self._last.size is not None:
            size = self._last.size
            self._left = [c for c in self._left if c.size is not None and (c.size > size if feedback > 0 else c.size < size)]
        if not self._left:
            return None
        self._last = self._rng.choice(self._left)
        self._left = [c for c in self._left if c is not self._last]
        return self._last


def _pair_candidates(item: Item) -> tuple[Iterator[Candidate], list[str]]:
    total = int(str(item.values[0]))
    pairs = list(combinations(item.values[1], 2))

    def candidates() -> Iterator[Candidate]:
        for x, y in pairs:
            rest = total - x
            if rest < 0:
                yield Candidate(f"{x} , {y}", f"{total} - {x}", rest, None)
            else:
                yield Candidate(f"{x} , {y}", f"{total} - {x} = {rest} , {rest} - {y}", rest - y, None)

    return candidates(), [f"{x} , {y}" for x, y in pairs]


def _solve_candidates(item: Item) -> tuple[Iterator[Candidate], list[str]]:
    factor, addend, result = (int(str(value)) for value in item.values)
    largest = (LARGEST - addend) // factor
    names = list(range(1, min(9, largest) + 1))

    def candidates() -> Iterator[Candidate]:
        for x in names:
            product, total = factor * x, factor * x + addend
            work = f"{factor} * {x} = {product} , {product} + {addend} = {total} , {result} - {total}"
            yield Candidate(str(x), work, result - total, x)

    return candidates(), [str(x) for x in names]


def speaker(language: str) -> Say:
    return lambda phrase: PHRASES[phrase][language]


def mixed_speaker(rng: random.Random) -> Say:
    """Another language for every phrase: a mixed sentence."""
    return lambda phrase: PHRASES[phrase][rng.choice(("en", "ko"))]

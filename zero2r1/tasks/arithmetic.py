"""Two sets of problems for small real models: sums of two terms, and word problems of one or two steps.

    arithmetic      What is 27 + 18?
    word_problems   Mia buys 3 boxes with 8 shells in each and then finds 5 more shells. How many shells does Mia have now?

Whether a problem is held out depends on its content alone: for a sum on the operator and the two numbers, whatever their order and
the words around them; for a story on the story and its numbers. Some phrasings and some stories are never trained on at all.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice, zip_longest
from typing import Any, Literal, Protocol

from zero2r1.types import Problem

Split = Literal["train", "test"]
HELD_OUT_PART = 5
"""One in so many contents is held out."""
TRAIN_PROBLEMS = 4096
HELD_OUT_PROBLEMS = 400
HELD_OUT_SEED = 1
"""All runs share one test set, so that they can be compared."""


def held_out(key: str) -> bool:
    """Whether a content is held out: by its checksum, so that no order of drawing matters."""
    return zlib.crc32(key.encode()) % HELD_OUT_PART == 0


# Sums of two terms

OPERATORS: Mapping[str, str] = {"+": "addition", "-": "subtraction", "*": "multiplication"}
"""Operator -> the domain its problems are reported under."""
BOUNDS: Mapping[str, tuple[int, ...]] = {"+": (20, 35, 50), "-": (20, 35, 50), "*": (12, 30, 50)}
"""The larger of the two numbers is at most this on level 1, 2, 3."""
SMALLER_FACTOR = 12
PHRASINGS = ("What is {sum}?", "Compute {sum}.", "How much is {sum}?", "Find the value of {sum}.")
NEW_PHRASINGS = ("Work out {sum}.", "What do you get for {sum}?")
"""In held-out problems only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """Two numbers and an operator, before they are worded."""

    operator: str
    smaller: int
    larger: int

    @property
    def key(self) -> str:
        return f"{self.operator}:{self.smaller}:{self.larger}"

    @property
    def level(self) -> int:
        return 1 + sum(self.larger > bound for bound in BOUNDS[self.operator])

    @property
    def orders(self) -> tuple[tuple[int, int], ...]:
        """How the two may be written; a difference is never negative."""
        first = (self.larger, self.smaller)
        return (first,) if self.operator == "-" or self.smaller == self.larger else (first, first[::-1])


def sums(operator: str) -> list[Sum]:
    """Every pair of numbers of an operator, once."""
    lowest, apart = (2, 0) if operator == "*" else (1, int(operator == "-"))
    largest = BOUNDS[operator][-1]
    last = min(SMALLER_FACTOR, largest) if operator == "*" else largest
    return [
        Sum(operator=operator, smaller=smaller, larger=larger)
        for smaller in range(lowest, last + 1)
        for larger in range(smaller + apart, largest + 1)
    ]


def arithmetic_problems(*, split: Split, count: int, seed: int) -> list[Problem]:
    """``count`` sums, operators and levels in equal shares as far as their pairs go. No question comes twice.

    Held out, no pair comes twice, so there are at most as many problems as held-out pairs. In training a pair comes again in other words
    and in the other order.
    """
    rng = random.Random(f"{seed}/{split}/arithmetic")
    cells: dict[tuple[str, int], list[tuple[Sum, tuple[int, int], str]]] = {}
    for one in (one for operator in OPERATORS for one in sums(operator)):
        if held_out(one.key) != (split == "test"):
            continue
        phrasings = PHRASINGS if split == "train" else (*PHRASINGS, *NEW_PHRASINGS)
        worded = [(one, order, phrasing) for order in one.orders for phrasing in phrasings]
        cells.setdefault((one.operator, one.level), []).extend(worded if split == "train" else [rng.choice(worded)])
    for cell in cells.values():
        rng.shuffle(cell)
    drawn = islice(_in_turn(cells.values()), count)
    return [_arithmetic_problem(*worded, split=split, name=f"{seed}/{index}") for index, worded in enumerate(drawn)]


def _arithmetic_problem(one: Sum, order: tuple[int, int], phrasing: str, *, split: Split, name: str) -> Problem:
    left, right = order
    answer = {"+": left + right, "-": left - right, "*": left * right}[one.operator]
    return Problem(
        id=f"arithmetic/{split}/{name}",
        prompt=phrasing.format(sum=f"{left} {one.operator} {right}"),
        answer=str(answer),
        verifier="math",
        domain=OPERATORS[one.operator],
        language="en",
        source="arithmetic",
        licence="Apache-2.0",
        split=split,
        level=one.level,
        extra={"operator": one.operator, "operands": order, "new_phrasing": phrasing in NEW_PHRASINGS},
    )


def _in_turn(cells: Iterable[Sequence[Any]]) -> Iterator[Any]:
    """One of each, again and again, until all are used up."""
    return (item for row in zip_longest(*cells) for item in row if item is not None)


# Word problems

NAMES = tuple("Mia Noah Lena Omar Ruth Ivan Sara Theo Nina Paul Aya Jonas Clara Felix Yuna Marco".split())
THINGS = tuple("apples pencils marbles stickers cards books shells coins buttons stamps balloons beads".split())
GOODS = tuple("ticket notebook scarf lamp mug brush".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A word problem without its names and numbers."""

    name: str
    steps: int
    text: str
    """With the numbers ``{a}``, ``{b}``, ``{c}`` in this order, and ``{who}``, ``{other}``, ``{things}``, ``{good}`` as needed."""
    ranges: tuple[range, ...]
    answer: Callable[..., int | None]
    """Of the numbers; ``None`` or less than 1 where they make no story."""
    new: bool = False
    """In held-out problems only."""


def _quotient(total: int, part: int) -> int | None:
    """Where it is a whole number above 1."""
    return total // part if total % part == 0 and total > part else None


STORIES: tuple[Story, ...] = (
    Story(
        name="gets", steps=1, ranges=(range(2, 21), range(2, 13)), answer=lambda a, b: a + b,
        text="{who} has {a} {things}. {other} gives {who} {b} more. How many {things} does {who} have now?",
    ),
    Story(
        name="gives", steps=1, ranges=(range(5, 26), range(2, 13)), answer=lambda a, b: a - b,
        text="{who} has {a} {things} and gives {b} of them to {other}. How many {things} does {who} have left?",
    ),
    Story(
        name="rows", steps=1, ranges=(range(2, 13), range(2, 13)), answer=lambda a, b: a * b,
        text="{who} plants {a} rows of trees with {b} trees in each row. How many trees does {who} plant?",
    ),
    Story(
        name="shares", steps=1, ranges=(range(4, 73), range(2, 10)), answer=_quotient,
        text="{who} shares {a} {things} equally among {b} children. How many {things} does each child get?",
    ),
    Story(
        name="pages", steps=1, ranges=(range(3, 21), range(3, 16)), answer=lambda a, b: a + b,
        text="{who} reads {a} pages on Monday and {b} pages on Tuesday. How many pages does {who} read on both days together?",
    ),
    Story(
        name="price", steps=1, ranges=(range(2, 13), range(2, 13)), answer=lambda a, b: a * b,
        text="One {good} costs {a} dollars. How many dollars does {who} pay for {b} of them?",
    ),
    Story(
        name="boxes", steps=2, ranges=(range(2, 7), range(2, 8), range(2, 10)), answer=lambda a, b, c: a * b + c,
        text="{who} buys {a} boxes with {b} {things} in each and then finds {c} more {things}. How many {things} does {who} have now?",
    ),
    Story(
        name="loses", steps=2, ranges=(range(6, 21), range(2, 10), range(2, 10)), answer=lambda a, b, c: a - b + c if a > b else None,
        text="{who} has {a} {things}, loses {b} of them and then buys {c} new ones. How many {things} does {who} have now?",
    ),
    Story(
        name="change", steps=2, ranges=(range(2, 7), range(2, 8), range(10, 51, 10)), answer=lambda a, b, c: c - a * b,
        text="{who} buys {a} toys for {b} dollars each and pays with {c} dollars. How many dollars does {who} get back?",
    ),
    Story(
        name="shop", steps=2, ranges=(range(10, 31), range(2, 10), range(2, 10)), answer=lambda a, b, c: a - b - c,
        text="A shop has {a} {things}. It sells {b} in the morning and {c} in the afternoon. How many {things} are left in the shop?",
    ),
    Story(
        name="bus", steps=2, ranges=(range(6, 21), range(2, 10), range(2, 10)), answer=lambda a, b, c: a - b + c if a > b else None,
        text="There are {a} people on a bus. At the next stop {b} get off and {c} get on. How many people are on the bus now?",
    ),
    Story(
        name="together", steps=2, ranges=(range(2, 21), range(2, 13)), answer=lambda a, b: a + a + b,
        text="{who} has {a} {things}. {other} has {b} more than {who}. How many {things} do the two have together?",
    ),
    Story(
        name="older", steps=1, ranges=(range(3, 21), range(2, 13)), answer=lambda a, b: a + b, new=True,
        text="{who} is {a} years old. {other} is {b} years older than {who}. How old is {other}?",
    ),
    Story(
        name="eggs", steps=1, ranges=(range(2, 13), range(2, 13)), answer=lambda a, b: a * b, new=True,
        text="A baker uses {a} eggs every day. How many eggs does the baker use in {b} days?",
    ),
    Story(
        name="rope", steps=1, ranges=(range(5, 26), range(2, 13)), answer=lambda a, b: a - b, new=True,
        text="A rope is {a} meters long. {who} cuts {b} meters off. How many meters long is the rope now?",
    ),
    Story(
        name="saves", steps=2, ranges=(range(2, 8), range(2, 7), range(2, 10)), answer=lambda a, b, c: a * b - c, new=True,
        text="{who} saves {a} dollars every week for {b} weeks and then spends {c} dollars. How many dollars does {who} still have?",
    ),
    Story(
        name="bags", steps=2, ranges=(range(8, 41), range(2, 9), range(2, 7)), new=True,
        answer=lambda a, b, c: _quotient(a - b, c) if a > b else None,
        text="{who} bakes {a} cookies, eats {b} and packs all the others into bags of {c}. How many bags does {who} fill?",
    ),
    Story(
        name="farm", steps=2, ranges=(range(2, 13), range(2, 13), range(2, 13)), answer=lambda a, b, c: a + b + c, new=True,
        text="A farm has {a} cows and {b} sheep. The farmer buys {c} goats as well. How many animals are on the farm now?",
    ),
)  # fmt: skip


def word_problems(*, split: Split, count: int, seed: int) -> list[Problem]:
    """``count`` word problems, stories in equal shares. No question comes twice.

    Held out, every second problem tells a story that is never trained on, and the others a known story with numbers that it never has
    in training.
    """
    rng = random.Random(f"{seed}/{split}/word_problems")
    known, new = cycle(s for s in STORIES if not s.new), cycle(s for s in STORIES if s.new)
    found: dict[str, Problem] = {}
    for index in range(count):
        story = next(new if split == "test" and index % 2 else known)
        problem = _told(story, rng, split=split, name=f"{seed}/{index}")
        while problem.question in found:
            problem = _told(story, rng, split=split, name=f"{seed}/{index}")
        found[problem.question] = problem
    return list(found.values())


def _told(story: Story, rng: random.Random, *, split: Split, name: str) -> Problem:
    """A story with names and numbers of the split; a story that is held out may have all."""
    while True:
        numbers = tuple(rng.choice(values) for values in story.ranges)
        answer = story.answer(*numbers)
        if answer is not None and answer >= 1 and (story.new or held_out(f"{story.name}:{numbers}") == (split == "test")):
            break
    who, other = rng.sample(NAMES, 2)
    words = {"who": who, "other": other, "things": rng.choice(THINGS), "good": rng.choice(GOODS)}
    return Problem(
        id=f"word_problems/{split}/{name}",
        prompt=story.text.format(**words, **dict(zip("abc", numbers, strict=False))),
        answer=str(answer),
        verifier="math",
        domain="one_step" if story.steps == 1 else "two_steps",
        language="en",
        source="word_problems",
        licence="Apache-2.0",
        split=split,
        level=story.steps,
        extra={"story": story.name, "numbers": numbers, "new_story": story.new},
    )


class Maker(Protocol):
    """Makes the problems of one set."""

    def __call__(self, *, split: Split, count: int, seed: int) -> list[Problem]: ...


PROBLEM_SETS: Mapping[str, Maker] = {"arithmetic": arithmetic_problems, "word_problems": word_problems}
"""Sets that ``data.train`` and ``data.held_out`` know by name."""

"""Six verifiable tasks in two languages: questions, levels, the held-out split and the checker.

    sum     math         compute 16 - 7 + 6 - 4
    story   science      mina has 9 books gets 4 gives 2 . how many now ?
    trace   code         run this code : a = 7 ; b = 4 ; a = a + b ; print a
    count   logic        count r in q r s r r
    pair    logic        find two numbers with sum 24 in 8 , 19 , 16
    solve   math         solve 3 * x + 9 = 24

All numbers lie in 0 ... 45. Whether a problem is held out depends on its content alone, in both languages and, for sum
and story, in both surfaces, so no translation of a test problem can be trained on.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zero2r1.tasks.laptop.words import LANGUAGES, NAMES, PHRASES, THINGS
from zero2r1.types import Problem

Split = Literal["train", "test"]
LARGEST = 45
TOTAL_CAP = 30
LEVELS = (1, 2, 3, 4, 5, 6)
VERIFIER = "laptop"
DOMAINS: Mapping[str, str] = {
    "sum": "math",
    "story": "science",
    "trace": "code",
    "count": "logic",
    "pair": "logic",
    "solve": "math",
}
TASKS = tuple(DOMAINS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A problem before it is worded. ``values`` are task specific.

    sum, story: (start, +-term, ...) · trace: (a, b, (target, left, sign, right) ...) · count: (letter, letters)
    pair: (total, numbers) · solve: (factor, addend, result)
    """

    task: str
    level: int
    values: tuple[Any, ...]
    answer: tuple[int, ...]

    @property
    def key(self) -> str:
        """Content alone: equal for both languages, and for a sum and the story that tells it."""
        kind = "chain" if self.task in ("sum", "story") else self.task
        return f"{kind}:{self.values!r}"

    @property
    def held_out(self) -> bool:
        return zlib.crc32(self.key.encode()) % 10 == 0


def chain_item(task: str, rng: random.Random, level: int) -> Item:
    total = start = rng.randint(2, 20)
    terms: list[int] = []
    for _ in range(level + 1):
        choices = [t for t in (*range(-9, 0), *range(1, 10)) if 0 <= total + t <= TOTAL_CAP]
        terms.append(rng.choice(choices))
        total += terms[-1]
    return Item(task=task, level=level, values=(start, *terms), answer=(total,))


Statement = tuple[str, str, str, str]
"""``("a", "a", "+", "b")`` is ``a = a + b``; the right operand is a variable or a number."""


def trace_item(rng: random.Random, level: int) -> Item:
    state = {"a": rng.randint(1, 9), "b": rng.randint(1, 9)}
    values: list[Any] = [state["a"], state["b"]]
    target = "a"
    for _ in range(level):
        while True:
            target = rng.choice("ab")
            sign = rng.choice("+-")
            right = rng.choice(("a", "b", str(rng.randint(1, 9))))
            operand = state[right] if right in state else int(right)
            result = state[target] + operand if sign == "+" else state[target] - operand
            if 0 <= result <= TOTAL_CAP:
                break
        state[target] = result
        values.append((target, target, sign, right))
    return Item(task="trace", level=level, values=(*values, target), answer=(state[target],))


def count_item(rng: random.Random, level: int) -> Item:
    letters = rng.sample("pqrstuvw", 4)
    text = tuple(rng.choice(letters) for _ in range(level + 3))
    return Item(task="count", level=level, values=(letters[0], text), answer=(text.count(letters[0]),))


def pair_item(rng: random.Random, level: int) -> Item:
    numbers = tuple(rng.sample(range(1, 21), 3 + (level - 1) // 2))
    first, second = rng.sample(range(len(numbers)), 2)
    total = numbers[first] + numbers[second]
    answer = (numbers[min(first, second)], numbers[max(first, second)])
    return Item(task="pair", level=level, values=(total, numbers), answer=answer)


def solve_item(rng: random.Random, level: int) -> Item:
    while True:
        factor, unknown, addend = rng.randint(2, 4), rng.randint(1, level + 3), rng.randint(1, 15)
        if factor * unknown + addend <= LARGEST:
            return Item(task="solve", level=level, values=(factor, addend, factor * unknown + addend), answer=(unknown,))


MAKERS: Mapping[str, Callable[[random.Random, int], Item]] = {
    "sum": lambda rng, level: chain_item("sum", rng, level),
    "story": lambda rng, level: chain_item("story", rng, level),
    "trace": trace_item,
    "count": count_item,
    "pair": pair_item,
    "solve": solve_item,
}


def sample_item(rng: random.Random, task: str, level: int, *, split: Split) -> Item:
    """A random item of the split."""
    while True:
        item = MAKERS[task](rng, level)
        if item.held_out == (split == "test"):
            return item


def question(item: Item, language: str, rng: random.Random) -> str:
    """The item in words, tokens separated by single spaces. ``rng`` picks names and things only."""

    def say(phrase: str) -> str:
        return PHRASES[phrase][language]

    values = item.values
    if item.task == "sum":
        terms = " ".join(f"{'+' if t > 0 else '-'} {abs(t)}" for t in values[1:])
        return f"{say('compute')} {values[0]} {terms}"
    if item.task == "story":
        name, thing = rng.choice(NAMES[language]), rng.choice(THINGS[language])
        moves = " ".join(f"{say('gets' if t > 0 else 'gives')} {abs(t)}" for t in values[1:])
        return f"{name} {say('has')} {values[0]} {thing} {moves} . {say('how_many')} ?"
    if item.task == "trace":
        a, b, *statements, target = values
        code = " ; ".join(f"{s[0]} = {s[1]} {s[2]} {s[3]}" for s in statements)
        return f"{say('run')} : a = {a} ; b = {b} ; {code} ; {say('print')} {target}"
    if item.task == "count":
        return f"{say('count')} {values[0]} {say('in')} {' '.join(values[1])}"
    if item.task == "pair":
        return f"{say('find')} {values[0]} {say('in')} {' , '.join(map(str, values[1]))}"
    return f"{say('solve')} {values[0]} * x + {values[1]} = {values[2]}"


def answer_text(item: Item) -> str:
    return " , ".join(map(str, item.answer))


def problems(
    *,
    split: Split,
    count: int,
    seed: int,
    levels: Sequence[int] = LEVELS,
    languages: Sequence[str] = LANGUAGES,
    tasks: Sequence[str] = TASKS,
    distinct: bool = True,
) -> list[Problem]:
    """``count`` problems, tasks, levels and languages in equal shares.

    Args:
        distinct: no two share their content. ``solve`` has some hundred equations, a tenth of them held out: where
            distinct ones run out, an item comes again in the other language.
    """
    rng = random.Random(f"{seed}/{split}/problems")
    found: list[Problem] = []
    seen: set[str] = set()
    for index in range(count):
        task = tasks[index % len(tasks)]
        level = levels[index // len(tasks) % len(levels)]
        language = languages[index // (len(tasks) * len(levels)) % len(languages)] if len(languages) > 1 else languages[0]
        item = sample_item(rng, task, level, split=split)
        for _ in range(200):
            if not distinct or item.key not in seen:
                break
            item = sample_item(rng, task, level, split=split)
        else:  # no unseen content is left: the same content in the other language, if that is still free
            for _ in range(200):
                if f"{item.key}/{language}" not in seen:
                    break
                item = sample_item(rng, task, level, split=split)
        seen |= {item.key, f"{item.key}/{language}"}
        found.append(_problem(item, language, split, f"{seed}/{index}", rng))
    return found


def _problem(item: Item, language: str, split: Split, name: str, rng: random.Random) -> Problem:
    extra: dict[str, object] = {"task": item.task, "values": item.values}
    if item.task == "pair":
        extra |= {"total": item.values[0], "numbers": item.values[1]}
    return Problem(
        id=f"laptop/{split}/{name}",
        prompt=question(item, language, rng),
        answer=answer_text(item),
        verifier=VERIFIER,
        domain=DOMAINS[item.task],
        language=language,
        source="laptop",
        licence="Apache-2.0",
        split=split,
        level=item.level,
        extra=extra,
    )


def item_of(problem: Problem) -> Item:
    """The item a problem words, also after it went through JSON."""
    answer = tuple(int(word) for word in str(problem.answer).split() if word != ",")
    return Item(task=problem.extra["task"], level=problem.level or 1, values=_tuples(problem.extra["values"]), answer=answer)


def _tuples(values: Any) -> Any:
    return tuple(_tuples(value) for value in values) if isinstance(values, (list, tuple)) else values


def check_answer(reference: str, columns: Mapping[str, Any], text: str) -> bool:
    """Whether an answer text is right: the number asked for, or for pair any listed pair with the right sum.

    Args:
        reference: the problem's answer.
        columns: the problem's further columns: ``task``, and for pair ``total`` and ``numbers``.
    """
    words = [word for word in text.split() if word != ","]
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        return False
    numbers = [int(word) for word in words]
    if columns["task"] != "pair":
        return [str(n) for n in numbers] == [reference]
    listed = set(columns["numbers"])
    return len(numbers) == 2 and numbers[0] != numbers[1] and set(numbers) <= listed and sum(numbers) == columns["total"]

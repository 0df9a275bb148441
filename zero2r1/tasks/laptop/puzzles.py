"""The six tasks: what is asked, what is true, and how one step of work looks. No language but in :func:`question`.

Four are worked through step by step (sum, story, trace, count) and two by trying and checking (pair, solve). All
numbers stay within 0 to :data:`LARGEST`: a model this small cannot learn more arithmetic from a few million tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import ClassVar

from zero2r1.tasks.laptop.words import GAINS, LOSSES, NAMES, OBJECTS

LARGEST = 45
LEVELS = range(1, 9)
LETTERS = "pqrst"


def _signed(delta: int) -> str:
    return f"+ {delta}" if delta >= 0 else f"- {-delta}"


@dataclass(frozen=True, slots=True)
class Chain:
    """``16 - 7 + 6 - 4``: a start and signed changes, as a sum or as a story."""

    first: int
    deltas: tuple[int, ...]
    joined: ClassVar[bool] = False

    @property
    def key(self) -> str:
        return f"chain {self.first} {' '.join(_signed(d) for d in self.deltas)}"

    @property
    def start(self) -> int:
        return self.first

    @property
    def steps(self) -> tuple[int, ...]:
        return self.deltas

    def apply(self, state: int, step: int) -> int:
        return state + step

    def fits(self, state: int) -> bool:
        return 0 <= state <= LARGEST

    def slip(self, state: int, step: int, rng: Random) -> int:
        """A wrong state instead of ``state``, the right one after ``step``."""
        return state + rng.choice((-2, -1, 1, 2))

    def show(self, before: int, steps: Sequence[int], after: int) -> str:
        return f"{before} {' '.join(_signed(d) for d in steps)} = {after}"

    def brief(self, before: int, step: int, after: int) -> str:
        return self.show(before, (step,), after)

    def result(self, state: int) -> int:
        return state


@dataclass(frozen=True, slots=True)
class Update:
    """``a = a + b`` or ``a = a - 3``."""

    name: str
    sign: int
    operand: str | int

    def __str__(self) -> str:
        return f"{self.name} = {self.name} {'+' if self.sign > 0 else '-'} {self.operand}"


@dataclass(frozen=True, slots=True)
class Trace:
    """``a = 7 ; b = 5 ; b = b + 2 ; a = a + a ; print a``. The state is the pair (a, b)."""

    a: int
    b: int
    updates: tuple[Update, ...]
    printed: str
    joined: ClassVar[bool] = False

    @property
    def code(self) -> str:
        return " ; ".join([f"a = {self.a}", f"b = {self.b}", *map(str, self.updates), f"print {self.printed}"])

    @property
    def key(self) -> str:
        return f"trace {self.code}"

    @property
    def start(self) -> tuple[int, int]:
        return self.a, self.b

    @property
    def steps(self) -> tuple[Update, ...]:
        return self.updates

    def _operand(self, state: tuple[int, int], step: Update) -> int:
        return step.operand if isinstance(step.operand, int) else state["ab".index(step.operand)]

    def apply(self, state: tuple[int, int], step: Update) -> tuple[int, int]:
        value = state["ab".index(step.name)] + step.sign * self._operand(state, step)
        return (value, state[1]) if step.name == "a" else (state[0], value)

    def fits(self, state: tuple[int, int]) -> bool:
        return all(0 <= value <= LARGEST for value in state)

    def slip(self, state: tuple[int, int], step: Update, rng: Random) -> tuple[int, int]:
        off = rng.choice((-2, -1, 1, 2))
        return (state[0] + off, state[1]) if step.name == "a" else (state[0], state[1] + off)

    def show(self, before: tuple[int, int], steps: Sequence[Update], after: tuple[int, int]) -> str:
        state = f"a {after[0]} b {after[1]}"
        return state if len(steps) > 1 else f"{self.brief(before, steps[0], after)} , {state}"

    def brief(self, before: tuple[int, int], step: Update, after: tuple[int, int]) -> str:
        i = "ab".index(step.name)
        sign = "+" if step.sign > 0 else "-"
        return f"{step.name} = {before[i]} {sign} {self._operand(before, step)} = {after[i]}"

    def result(self, state: tuple[int, int]) -> int:
        return state["ab".index(self.printed)]


@dataclass(frozen=True, slots=True)
class Count:
    """``count r in q r s r r``, worked with a running number after each letter."""

    letter: str
    letters: str
    joined: ClassVar[bool] = True

    @property
    def key(self) -> str:
        return f"count {self.letter} {self.letters}"

    @property
    def start(self) -> int:
        return 0

    @property
    def steps(self) -> str:
        return self.letters

    def apply(self, state: int, step: str) -> int:
        return state + (step == self.letter)

    def fits(self, state: int) -> bool:
        return 0 <= state <= LARGEST

    def slip(self, state: int, step: str, rng: Random) -> int:
        return state - 1 if step == self.letter else state + 1

    def show(self, before: int, steps: Sequence[str], after: int) -> str:
        return f"{' '.join(steps)} {after}"

    def brief(self, before: int, step: str, after: int) -> str:
        return self.show(before, step, after)

    def result(self, state: int) -> int:
        return state


Expression = Callable[[int], tuple[str, int]]
"""From the value before (0 at first) to what is computed now and its value: ``16 -> ("16 - 19", -3)``."""


@dataclass(frozen=True, slots=True)
class Pair:
    """``find two numbers with sum 24 in 8 , 19 , 16``. A candidate is two of the numbers as they stand in the list."""

    target: int
    numbers: tuple[int, ...]

    @property
    def key(self) -> str:
        return f"pair {self.target} {' '.join(str(n) for n in sorted(self.numbers))}"

    def candidates(self) -> list[tuple[int, ...]]:
        return list(combinations(self.numbers, 2))

    def solved_by(self, candidate: tuple[int, ...]) -> bool:
        return sum(candidate) == self.target

    def check(self, candidate: tuple[int, ...]) -> tuple[Expression, ...]:
        """Ends at 0 when the candidate is right. It is arithmetic because this model never learns to compare."""
        one, two = candidate
        return (lambda _: (f"{self.target} - {one}", self.target - one), lambda v: (f"{v} - {two}", v - two))


@dataclass(frozen=True, slots=True)
class Solve:
    """``solve 3 * x + 9 = 24``. ``tries`` bounds where a writer looks, and is no part of the question."""

    factor: int
    added: int
    total: int
    tries: int

    @property
    def key(self) -> str:
        return f"solve {self.factor} {self.added} {self.total}"

    def candidates(self) -> list[tuple[int, ...]]:
        return [(x,) for x in range(1, self.tries + 1) if self.factor * x + self.added <= LARGEST]

    def solved_by(self, candidate: tuple[int, ...]) -> bool:
        return self.factor * candidate[0] + self.added == self.total

    def check(self, candidate: tuple[int, ...]) -> tuple[Expression, ...]:
        (x,) = candidate
        return (
            lambda _: (f"{self.factor} * {x}", self.factor * x),
            lambda v: (f"{v} + {self.added}", v + self.added),
            lambda v: (f"{self.total} - {v}", self.total - v),
        )


Stepwise = Chain | Trace | Count
Search = Pair | Solve
Puzzle = Stepwise | Search


def true_answer(puzzle: Puzzle) -> str:
    """``"14"``, or for a pair ``"8 , 16"``: the first that fits, as any other that fits is right too."""
    if isinstance(puzzle, Pair | Solve):
        return show_candidate(next(c for c in puzzle.candidates() if puzzle.solved_by(c)))
    state = puzzle.start
    for step in puzzle.steps:
        state = puzzle.apply(state, step)  # type: ignore[arg-type]
    return str(puzzle.result(state))  # type: ignore[arg-type]


def show_candidate(candidate: Sequence[int]) -> str:
    return " , ".join(str(n) for n in candidate)


def _chain(level: int, rng: Random) -> Chain:
    total = first = rng.randint(2, 20)
    deltas: list[int] = []
    while len(deltas) < level + 1:
        delta = rng.randint(1, 9) * rng.choice((-1, 1))
        if 0 <= total + delta <= 30:
            deltas.append(delta)
            total += delta
    return Chain(first, tuple(deltas))


def _trace(level: int, rng: Random) -> Trace:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    state, updates = (a, b), list[Update]()
    while len(updates) < level + 1:
        operand: str | int = rng.choice("ab") if rng.random() < 0.4 else rng.randint(1, 9)
        update = Update(rng.choice("ab"), rng.choice((-1, 1)), operand)
        if update.sign < 0 and update.operand == update.name:
            continue
        after = Trace(a, b, (), "a").apply(state, update)
        if all(0 <= value <= 30 for value in after):
            state = after
            updates.append(update)
    return Trace(a, b, tuple(updates), rng.choice([update.name for update in updates]))


def _count(level: int, rng: Random) -> Count:
    letter = rng.choice(LETTERS)
    return Count(letter, "".join(letter if rng.random() < 0.35 else rng.choice(LETTERS) for _ in range(level + 3)))


def _pair(level: int, rng: Random) -> Pair:
    numbers = tuple(rng.sample(range(1, 21), 3 + (level - 1) // 2))
    return Pair(sum(rng.sample(numbers, 2)), numbers)


def _solve(level: int, rng: Random) -> Solve:
    while True:
        factor, x, added = rng.randint(2, 4), rng.randint(1, level + 3), rng.randint(1, 15)
        if factor * x + added <= LARGEST:
            return Solve(factor, added, factor * x + added, level + 3)


_MAKERS: dict[str, Callable[[int, Random], Puzzle]] = {
    "sum": _chain,
    "story": _chain,
    "trace": _trace,
    "count": _count,
    "pair": _pair,
    "solve": _solve,
}
TASKS = tuple(_MAKERS)


def make_puzzle(task: str, level: int, rng: Random) -> Puzzle:
    """A random puzzle of a task, from training or test alike.

    Raises:
        ValueError: for a task or a level that this world does not have.
    """
    if task not in _MAKERS:
        raise ValueError(f"the laptop world has no task {task!r}; choose from {', '.join(TASKS)}")
    if level not in LEVELS:
        raise ValueError(f"level {level} is outside {LEVELS.start} to {LEVELS.stop - 1}, the levels of the laptop world")
    return _MAKERS[task](level, rng)


def question(task: str, puzzle: Puzzle, language: str, rng: Random) -> str:
    """The puzzle in words: ``compute 16 - 7 + 6 - 4``. ``rng`` chooses the names in a story."""
    korean = language == "ko"
    match puzzle:
        case Chain() if task == "story":
            return _story(puzzle, language, rng)
        case Chain():
            expression = f"{puzzle.first} {' '.join(_signed(d) for d in puzzle.deltas)}"
            return f"다음 을 계산 하세요 : {expression}" if korean else f"compute {expression}"
        case Trace():
            return f"{'이 코드 를 실행 하세요' if korean else 'run this code'} : {puzzle.code}"
        case Count():
            letters = " ".join(puzzle.letters)
            return f"다음 에서 {puzzle.letter} 를 세세요 : {letters}" if korean else f"count {puzzle.letter} in {letters}"
        case Pair():
            numbers = show_candidate(puzzle.numbers)
            if korean:
                return f"합 이 {puzzle.target} 인 두 수 를 찾으세요 : {numbers}"
            return f"find two numbers with sum {puzzle.target} in {numbers}"
        case Solve():
            equation = f"{puzzle.factor} * x + {puzzle.added} = {puzzle.total}"
            return f"방정식 을 푸세요 : {equation}" if korean else f"solve {equation}"


def _story(puzzle: Chain, language: str, rng: Random) -> str:
    name, thing = rng.choice(NAMES[language]), rng.choice(OBJECTS[language])
    verbs = [(rng.choice((GAINS if delta > 0 else LOSSES)[language]), abs(delta)) for delta in puzzle.deltas]
    if language == "ko":
        events = " ".join(f"{number} 개 {verb}" for verb, number in verbs)
        return f"{name} 는 {thing} {puzzle.first} 개 로 시작 하여 {events} 나서 지금 몇 개 입니까 ?"
    events = " ".join(f"{verb} {number}" for verb, number in verbs)
    return f"{name} has {puzzle.first} {thing} {events} . how many now ?"

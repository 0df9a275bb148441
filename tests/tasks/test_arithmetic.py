from __future__ import annotations

import re
from collections import Counter

import pytest

from zero2r1.config import load_settings
from zero2r1.pipeline.api import load_world
from zero2r1.pipeline.config import RECIPES, ZeroSettings
from zero2r1.tasks.arithmetic import (
    BOUNDS,
    NAMES,
    NEW_PHRASINGS,
    OPERATORS,
    PHRASINGS,
    PROBLEM_SETS,
    STORIES,
    arithmetic_problems,
    sums,
    word_problems,
)
from zero2r1.types import Problem

TRAIN = arithmetic_problems(split="train", count=4096, seed=0)
TEST = arithmetic_problems(split="test", count=400, seed=1)
TOLD = word_problems(split="train", count=1200, seed=0)
TOLD_TEST = word_problems(split="test", count=400, seed=1)


def numbers_in(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def asked(problem: Problem) -> tuple[str, frozenset[int]]:
    """The operator and the numbers, whatever their order, from the words of the question alone."""
    found = re.search(r"(\d+) ([-+*]) (\d+)", problem.question)
    assert found is not None
    return found[2], frozenset((int(found[1]), int(found[3])))


def counted(problem: Problem) -> int:
    """The answer by counting objects instead of the operator's own arithmetic."""
    left, operator, right = re.search(r"(\d+) ([-+*]) (\d+)", problem.question).groups()  # type: ignore[union-attr]
    first, second = ["x"] * int(left), ["x"] * int(right)
    if operator == "-":
        return len(first[len(second) :])
    return len(first + second) if operator == "+" else sum(len(first) for _ in second)


READ = {
    "gets": lambda n: sum(n),
    "gives": lambda n: len(range(n[1], n[0])),
    "rows": lambda n: sum([n[1]] * n[0]),
    "shares": lambda n: next(each for each in range(1, 101) if each * n[1] == n[0]),
    "pages": lambda n: sum(n),
    "price": lambda n: sum([n[0]] * n[1]),
    "boxes": lambda n: sum([n[1]] * n[0], n[2]),
    "loses": lambda n: len(range(n[1], n[0])) + n[2],
    "change": lambda n: next(rest for rest in range(101) if sum([n[1]] * n[0], rest) == n[2]),
    "shop": lambda n: next(rest for rest in range(101) if n[1] + n[2] + rest == n[0]),
    "bus": lambda n: next(now for now in range(101) if now + n[1] == n[0] + n[2]),
    "together": lambda n: sum((n[0], n[0] + n[1])),
    "older": lambda n: sum(n),
    "eggs": lambda n: sum([n[0]] * n[1]),
    "rope": lambda n: len(range(n[1], n[0])),
    "saves": lambda n: next(rest for rest in range(101) if rest + n[2] == sum([n[0]] * n[1])),
    "bags": lambda n: next(bags for bags in range(101) if n[1] + bags * n[2] == n[0]),
    "farm": lambda n: sum(n),
}
"""The answer of every story, from the numbers in the order in which its text names them."""


def test_answers_of_sums_follow_from_the_words_of_the_question() -> None:
    for problem in (*TRAIN, *TEST):
        assert problem.answer == str(counted(problem)), problem.question
        assert int(problem.answer or -1) >= 0


def test_answers_of_stories_follow_from_the_words_of_the_question() -> None:
    assert set(READ) == {story.name for story in STORIES}
    for problem in (*TOLD, *TOLD_TEST):
        assert problem.answer == str(READ[problem.extra["story"]](numbers_in(problem.question))), problem.question


def test_no_pair_of_numbers_is_in_both_splits_whatever_its_order_and_words() -> None:
    trained, held_out = ({asked(problem) for problem in split} for split in (TRAIN, TEST))
    assert trained & held_out == set()
    other_seed = {asked(problem) for problem in arithmetic_problems(split="train", count=4096, seed=7)}
    assert other_seed & held_out == set()


def test_every_pair_is_in_one_of_the_splits() -> None:
    # 50 * 51 / 2 sums, 50 * 49 / 2 differences, and 66 products up to 12 * 12 with 11 * 38 of a larger factor up to 50.
    assert [len(sums(operator)) for operator in OPERATORS] == [1275, 1225, 66 + 11 * 38]
    all_of = [arithmetic_problems(split=split, count=100_000, seed=0) for split in ("train", "test")]  # type: ignore[arg-type]
    pairs = [{asked(problem) for problem in split} for split in all_of]
    assert len(pairs[0]) + len(pairs[1]) == 1275 + 1225 + 66 + 11 * 38
    assert len(all_of[1]) == len(pairs[1])  # held out, no pair comes twice
    assert 0.15 < len(pairs[1]) / (len(pairs[0]) + len(pairs[1])) < 0.25


def test_counts_and_shares() -> None:
    assert (len(TRAIN), len(TEST), len(TOLD), len(TOLD_TEST)) == (4096, 400, 1200, 400)
    assert set(Counter(problem.domain for problem in TEST)) == {"addition", "subtraction", "multiplication"}
    assert min(Counter(problem.domain for problem in TEST).values()) >= 90
    assert min(Counter(problem.domain for problem in TRAIN).values()) >= 1300
    assert {problem.level for problem in TEST} == {1, 2, 3}
    assert Counter(problem.extra["story"] for problem in TOLD) == {story.name: 100 for story in STORIES if not story.new}
    for problems in (TRAIN, TEST, TOLD, TOLD_TEST):
        assert len({problem.question for problem in problems}) == len({problem.id for problem in problems}) == len(problems)


def test_a_level_bounds_the_larger_number() -> None:
    for problem in TRAIN:
        operator, pair = asked(problem)
        low, high = (0, *BOUNDS[operator])[(problem.level or 0) - 1 : (problem.level or 0) + 1]
        assert low < max(pair) <= high


def test_some_phrasings_and_stories_are_held_out_only() -> None:
    def phrasing(problem: Problem) -> str:
        return re.sub(r"\d+ [-+*] \d+", "{sum}", problem.question)

    assert {phrasing(problem) for problem in TRAIN} == set(PHRASINGS)
    assert {phrasing(problem) for problem in TEST} == {*PHRASINGS, *NEW_PHRASINGS}
    assert all(problem.extra["new_phrasing"] == (phrasing(problem) in NEW_PHRASINGS) for problem in TEST)
    new = {story.name for story in STORIES if story.new}
    assert len(new) == 6 and not new & {problem.extra["story"] for problem in TOLD}
    assert sum(problem.extra["story"] in new for problem in TOLD_TEST) == 200


def test_a_known_story_never_has_the_same_numbers_in_both_splits() -> None:
    trained, held_out = ({(p.extra["story"], p.extra["numbers"]) for p in split} for split in (TOLD, TOLD_TEST))
    assert trained & held_out == set()


def test_stories_are_told_whole() -> None:
    for problem in (*TOLD, *TOLD_TEST):
        assert not re.search(r"[{}]", problem.question) and problem.question.endswith("?")
        named = [name for name in NAMES if re.search(rf"\b{name}\b", problem.question)]
        assert len(named) <= 2 and tuple(numbers_in(problem.question)) == problem.extra["numbers"]


@pytest.mark.parametrize("name", PROBLEM_SETS)
def test_equal_seeds_give_equal_problems_and_other_seeds_others(name: str) -> None:
    make = PROBLEM_SETS[name]
    assert make(split="train", count=60, seed=5) == make(split="train", count=60, seed=5)
    assert make(split="train", count=60, seed=5) != make(split="train", count=60, seed=6)


@pytest.mark.parametrize("name", PROBLEM_SETS)
def test_settings_know_the_sets_by_name(name: str) -> None:
    world = load_world(ZeroSettings.model_validate({"data": {"train": name, "count": 30}, "seed": 3}))
    assert world.name == name and len(world.train) == 30 and len(world.held_out) == 400
    assert world.train == tuple(PROBLEM_SETS[name](split="train", count=30, seed=3))
    again = load_world(ZeroSettings.model_validate({"data": {"train": name, "count": 30}, "seed": 4}))
    assert again.train != world.train and again.held_out == world.held_out  # the test set is the same for every seed


def test_one_set_may_be_measured_on_another() -> None:
    both = ZeroSettings.model_validate({"data": {"train": "arithmetic", "held_out": "word_problems"}})
    world = load_world(both)
    assert {problem.source for problem in world.train} == {"arithmetic"} and len(world.train) == 4096
    assert {problem.source for problem in world.held_out} == {"word_problems"}
    measured = load_world(ZeroSettings.model_validate({"data": {"held_out": "arithmetic"}}))
    assert measured.train == () and len(measured.held_out) == 400


def test_the_examples_in_the_prompt_of_the_recipe_are_no_held_out_problems() -> None:
    settings = load_settings(ZeroSettings, files=[RECIPES / "smollm2" / "arithmetic.yaml"]).settings
    shown = {asked_of for asked_of in re.findall(r"(\d+) ([-+*]) (\d+)", settings.data.template)}
    assert shown == {("3", "*", "4"), ("9", "-", "5")}
    assert not {(operator, frozenset((int(a), int(b)))) for a, operator, b in shown} & {asked(problem) for problem in TEST}

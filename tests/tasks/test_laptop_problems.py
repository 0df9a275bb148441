from __future__ import annotations

import random
import re
import zlib

import pytest

from zero2r1.tasks.laptop.problems import LEVELS, TASKS, Item, check_answer, problems, question, sample_item


def left_to_right(expression: str) -> int:
    first, *rest = expression.split()
    total = int(first)
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        total += int(number) if sign == "+" else -int(number)
    return total


def run_code(code: str) -> int:
    state: dict[str, int] = {}
    for statement in code.split(" ; "):
        words = statement.split()
        if words[0] in ("print", "출력"):
            return state[words[1]]
        value = state[words[2]] if words[2] in state else int(words[2])
        if len(words) == 5:
            operand = state[words[4]] if words[4] in state else int(words[4])
            value += operand if words[3] == "+" else -operand
        state[words[0]] = value
    raise AssertionError(f"no print in {code}")


def worked_out(task: str, text: str) -> int:
    """The answer from the words of the question alone, by other code than the world's own."""
    if task == "sum":
        return left_to_right(text[re.search(r"\d", text).start() :])  # type: ignore[union-attr]
    if task == "story":
        events = re.findall(r"(gets|gives|받음|줌) (\d+)", text)
        start = int(re.search(r"\d+", text).group())  # type: ignore[union-attr]
        return start + sum(int(n) if verb in ("gets", "받음") else -int(n) for verb, n in events)
    if task == "trace":
        return run_code(text.split(" : ")[1])
    if task == "count":
        asked, letters = re.search(r"(\w) (?:in|에서) (.*)", text).groups()  # type: ignore[union-attr]
        return letters.split().count(asked)
    factor, added, total = map(int, re.search(r"(\d+) \* x \+ (\d+) = (\d+)", text).groups())  # type: ignore[union-attr]
    assert (total - added) % factor == 0
    return (total - added) // factor


@pytest.mark.parametrize("split", ["train", "test"])
def test_reference_answers_follow_from_the_words_of_the_question(split: str) -> None:
    asked = problems(split=split, count=360, seed=3)  # type: ignore[arg-type]
    for one in asked:
        task, text = one.extra["task"], one.question
        if task == "pair":
            total = int(re.search(r"(?:sum|합) (\d+)", text).group(1))  # type: ignore[union-attr]
            numbers = [int(n) for n in re.split(r" in | 에서 ", text)[1].split(" , ")]
            x, y = (int(n) for n in str(one.answer).split(" , "))
            assert x + y == total and x in numbers and y in numbers
        else:
            assert one.answer == str(worked_out(str(task), text)), text
        assert check_answer(str(one.answer), one.extra, str(one.answer)) is True


def test_a_translation_or_another_surface_of_a_test_problem_is_a_test_problem() -> None:
    rng = random.Random(0)
    item = sample_item(rng, "sum", 3, split="test")
    assert question(item, "en", rng) != question(item, "ko", rng)  # two wordings of the one item whose key decides
    story = Item(task="story", level=item.level, values=item.values, answer=item.answer)
    assert story.key == item.key and story.held_out


def test_the_split_is_a_tenth_by_checksum_of_the_content() -> None:
    rng = random.Random(1)
    for split in ("train", "test"):
        for task in TASKS:
            item = sample_item(rng, task, 4, split=split)  # type: ignore[arg-type]
            assert (zlib.crc32(item.key.encode()) % 10 == 0) == (split == "test")


def test_tasks_levels_and_languages_come_in_equal_shares() -> None:
    asked = problems(split="test", count=6 * 6 * 2, seed=0)
    cells = {(p.extra["task"], p.level, p.language) for p in asked}
    assert cells == {(task, level, language) for task in TASKS for level in LEVELS for language in ("en", "ko")}


def test_distinct_problems_ask_nothing_twice() -> None:
    # Without solve, whose few dozen held-out equations run out.
    asked = problems(split="test", count=240, seed=1, tasks=[task for task in TASKS if task != "solve"])
    assert len({p.question for p in asked}) == 240


def test_equal_seeds_give_equal_problems_and_other_seeds_others() -> None:
    assert problems(split="train", count=24, seed=5) == problems(split="train", count=24, seed=5)
    assert problems(split="train", count=24, seed=5) != problems(split="train", count=24, seed=6)


def test_numbers_in_questions_stay_within_45() -> None:
    for one in problems(split="train", count=720, seed=2):
        assert max(int(n) for n in re.findall(r"\d+", f"{one.question} {one.answer}")) <= 45


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("14", True),
        (" 14 ", True),
        ("15", False),
        ("", False),
        ("14 14", False),
        ("so 14", False),
        ("١٤", False),
        ("-14", False),
    ],
)
def test_a_number_must_be_the_whole_answer(text: str, right: bool) -> None:
    assert check_answer("14", {"task": "sum"}, text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8 , 16", True),
        ("16 , 8", True),
        ("19 , 5", True),  # another pair that fits
        ("20 , 4", False),  # right sum, 4 is not listed
        ("8 , 19", False),
        ("24", False),
        ("12 , 12", False),  # right sum, but the list holds one 12 only
        ("", False),
    ],
)
def test_any_listed_pair_with_the_right_sum_is_right(text: str, right: bool) -> None:
    columns = {"task": "pair", "total": 24, "numbers": (8, 19, 16, 5, 20, 12)}
    assert check_answer("8 , 16", columns, text) is right

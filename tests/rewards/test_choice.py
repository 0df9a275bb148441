"""Multiple choice: the final letter only."""

from __future__ import annotations

import pytest

from zero2r1.rewards.choice import verify_choice

CHOICES = ["cell wall", "ribosome", "mitochondria", "nucleus"]


@pytest.mark.parametrize(
    "text",
    [
        "C",
        "c",
        "(C)",
        "(c)",
        "C.",
        "C)",
        "\\text{(C)}",
        "**C**",
        "option C",
        "The answer is C",
        "Ｃ",
        "C. mitochondria",
        "(C) Mitochondria",
    ],
)
def test_the_letter_of_the_option(text):
    verdict = verify_choice(text, {"answer": "C", "choices": CHOICES})
    assert verdict.correct is True and verdict.extracted == verdict.vote == "C"


@pytest.mark.parametrize(
    "text", ["", "A", "A or C", "A, C", "AC", "ABCD", "not C", "C. nucleus", "mitochondria", "E", "C?A", "the third", "A) yes C) no"]
)
def test_anything_else_is_wrong(text):
    assert verify_choice(text, {"answer": "C", "choices": CHOICES}).correct is False


def test_an_index_names_an_option_where_the_options_are_given():
    assert verify_choice("C", {"answer": 2, "choices": CHOICES}).correct is True
    assert verify_choice("C", {"answer": "2", "choices": CHOICES}).correct is True


@pytest.mark.parametrize(
    "columns",
    [{"answer": 2}, {"answer": 7, "choices": CHOICES}, {"answer": "E", "choices": CHOICES}, {"answer": None}, {"answer": "mitochondria"}],
)
def test_a_reference_that_names_no_option_is_no_grade(columns):
    assert verify_choice("C", columns).correct is None

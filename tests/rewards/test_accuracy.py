"""The accuracy reward: numbers and fractions, exactly; only a real final answer counts."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.rewards.accuracy import accuracy_reward, final_answer, last_boxed, parse_number, reference_answer, verify_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", 72),
        ("72.", 72),
        (" -3 ", -3),
        ("\u22125", -5),
        ("1,250", 1250),
        ("$1,250.50", Fraction(2501, 2)),
        ("$72$", 72),
        ("18%", 18),
        ("18\\%", 18),
        ("0.50", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        ("\\frac{3}{4}", Fraction(3, 4)),
        ("-\\dfrac{3}{4}", Fraction(-3, 4)),
        ("1{,}000", 1000),
    ],
)
def test_what_is_a_number(text, number):
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["", "x", "1 2", "12,50", "1/0", "3/4/5", "7 or 8", "1e3", "--3", "-", "/", "5 apples", "9" * 300])
def test_what_is_no_single_number(text):
    assert parse_number(text) is None


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_change_nothing(number):
    assert parse_number(f"{number:,}") == parse_number(str(number)) == number


@given(st.text(max_size=60))
def test_no_text_breaks_it(text):
    parse_number(text)
    final_answer(text)


def test_references_of_gsm8k_and_math():
    assert reference_answer("48/2 = <<48/2=24>>24\n#### 72") == "72"
    assert reference_answer("so $\\boxed{\\frac{1}{2}}$.") == "\\frac{1}{2}"
    assert reference_answer("72") == "72"


@pytest.mark.parametrize(
    ("text", "box"),
    [("\\boxed{1} \\boxed{2}", "2"), ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"), ("\\boxed{1", None), ("none", None)],
)
def test_the_last_closed_box(text, box):
    assert last_boxed(text) == box


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think> 5 </think> <answer> 7 </answer>", "7"),
        ("<think> 5 </think> <answer> \\boxed{7} </answer>", "7"),
        ("It is \\boxed{7}.", "7"),
        ("... #### 7", "7"),
        ("<think> \\boxed{7} </think> I do not know.", None),
        ("<think> \\boxed{7}", None),
        ("<think> guess <answer> 7 </answer>", None),
        ("7", None),
    ],
)
def test_where_the_answer_stands(text, answer):
    assert final_answer(text) == answer


def graded(text: str, gold: str = "72", finish: str = "stop", verifier: str = "math"):
    logged: dict[str, list[object]] = {}
    (value,) = accuracy_reward()(
        completions=[text], verifier=[verifier], finish_reason=[finish], answer=[gold], log_extra=logged.__setitem__
    )
    return value, logged["why"][0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think> a </think> <answer> 72 </answer>", 1.0),
        ("<think> a </think> <answer> 72.0 </answer>", 1.0),
        ("<think> a </think> <answer> 71 </answer>", 0.0),
        ("<think> a </think> <answer> 72 or 71 </answer>", 0.0),
        ("<think> a </think> <answer> </answer>", 0.0),
        ("<think> 72 </think>", 0.0),
    ],
)
def test_right_is_one_and_everything_else_zero(text, value):
    assert graded(text)[0] == value


def test_an_unreadable_reference_is_no_grade_rather_than_zero():
    assert graded("<think> a </think> <answer> 72 </answer>", gold="seventy-two") == (None, "the reference 'seventy-two' is no number")
    assert graded("nothing", gold="?")[0] is None


def test_a_truncated_answer_earns_nothing():
    assert graded("<think> a </think> <answer> 72 </answer>", finish="length") == (0.0, "cut off at the length limit")


def test_an_unknown_verifier_is_named():
    with pytest.raises(ValueError, match="names the verifier 'logic'; known are"):
        graded("x", verifier="logic")


def test_messages_are_read_like_text():
    value = accuracy_reward()(
        completions=[[{"role": "assistant", "content": "#### 72"}]], verifier=["math"], finish_reason=["stop"], answer=["72"],
        log_extra=lambda *_: None,
    )  # fmt: skip
    assert value == [1.0]


def test_the_number_verifier_says_why():
    assert verify_number("3", {"answer": "4"}).why == "3 is not 4"


def test_equal_numbers_are_one_vote_however_they_are_written():
    votes = [verify_number(text, {"answer": "72"}).vote for text in ("72", "72.0", "$72", "144/2", "70")]
    assert votes == ["72", "72", "72", "72", "70"]

"""The accuracy reward: which text is the answer, who grades it, and what is logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.rewards.accuracy import accuracy_reward
from zero2r1.rewards.extraction import answers_of, final_answer, reference_answer


def test_references_of_gsm8k_and_math():
    assert reference_answer("48/2 = <<48/2=24>>24\n#### 72") == "72"
    assert reference_answer("so $\\boxed{\\frac{1}{2}}$.") == "\\frac{1}{2}"
    assert reference_answer("72") == "72"
    assert reference_answer("#### 72\nNote: rounded") == "72"
    assert reference_answer("#### Step 1\nso \\boxed{7}") == "7"


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("<think> 5 </think> <answer> 7 </answer>", ("7",)),
        ("<think> 5 </think> <answer> so \\boxed{7} </answer>", ("7",)),
        ("<think> 5 </think> \\boxed{6} <answer> 7 </answer>", ("7",)),  # answer tags come first
        ("It is \\boxed{7}.", ("7",)),
        ("\\boxed{\\frac{1}{2}}", ("\\frac{1}{2}",)),
        ("\\boxed{\\{1,2\\}}", ("\\{1,2\\}",)),  # escaped braces do not close it
        ("\\boxed 7", ("7",)),
        ("\\fbox{7}", ("7",)),
        ("... #### 7\n", ("7",)),
        ("\\boxed{7} and \\boxed{7}", ("7",)),
        ("\\boxed{7} or \\boxed{8}", ("7", "8")),  # both count
        ("#### 7\n#### 8", ("7", "8")),
        ("2 + 3 = 5\n\\boxed{5}", ("5",)),  # a box on a line of its own
        ("so $7 = \\boxed{7}$!", ("7",)),
        ("**\\boxed{7}**", ("7",)),
        ("\\boxed{7}\\%", ("7\\%",)),
        ("-\\boxed{7}", ()),  # part of a larger formula
        ("-$\\boxed{7}$", ()),
        ("\\boxed{7} - 3", ()),
        ("\\boxed{7},000", ()),
        ("\\boxed{7}\\times 10^3", ()),
        ("\\boxed{7}\\text{ million}", ()),
        ("\\frac{1}{\\boxed{7}}", ()),
        ("\\boxed 77", ()),
        ("a </think> \\boxed{7}", ("7",)),  # the prompt opened the thinking
        ("<think> \\boxed{7} </think> I do not know.", ()),
        ("<think> \\boxed{7}", ()),
        ("<think> a </think> \\boxed{7} <think> \\boxed{7}", ()),  # a thinking that does not end
        ("<think> guess <answer> 7 </answer>", ()),
        ("\\boxed{7", ()),
        ("\\boxed{7} \\boxed{8", ()),  # a box that is not closed
        ("<answer> 7", ()),
        ("<answer> <answer> 7 </answer>", ()),
        ("<answer> </answer>", ()),
        ("\\boxed{}", ()),
        ("\\boxedness{7}", ()),
        ("7", ()),
    ],
)
def test_where_the_answers_stand(text, answers):
    assert answers_of(text) == answers


def test_an_unmarked_text_is_an_answer_only_where_asked_for_and_only_if_short():
    assert answers_of("7", bare=True) == ("7",)
    assert answers_of("first 6\nthen 7", bare=True) == ()
    assert answers_of("<think> 7", bare=True) == ()


@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["\\boxed{", "}", "<answer>", "</answer>", "####", "<think>", "</think>", "7", "\\"])).map("".join)
)
def test_no_text_breaks_the_extraction(text):
    assert all(answer.strip() for answer in answers_of(text, bare=True))
    final_answer(text)


def test_extraction_is_linear_in_the_length():
    for piece in ("\\boxed{", "<answer>", "{", "####", "<think>", "\\boxed{7}"):
        answers_of(piece * 20_000)  # quadratic work would take minutes here


def graded(text: str, gold: object = "72", finish: str = "stop", **columns: object):
    logged: dict[str, list[object]] = {}
    (value,) = accuracy_reward()(
        completions=[text], finish_reason=[finish], answer=[gold], log_extra=logged.__setitem__, **{k: [v] for k, v in columns.items()}
    )
    return value, logged["why"][0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<think> a </think> <answer> 72 </answer>", 1.0),
        ("<think> a </think> <answer> 72.0 </answer>", 1.0),
        ("<think> a </think> <answer> \\boxed{72} </answer> <answer> 72.0 </answer>", 1.0),  # twice the same
        ("<think> a </think> <answer> 71 </answer>", 0.0),
        ("<think> a </think> <answer> 72 or 71 </answer>", 0.0),
        ("<think> a </think> <answer> 71 </answer> <answer> 72 </answer>", 0.0),
        ("<think> a </think> <answer> </answer>", 0.0),
        ("<think> 72 </think>", 0.0),
    ],
)
def test_right_is_one_and_everything_else_zero(text, value):
    assert graded(text)[0] == value


def test_several_boxes_answer_a_question_with_several_answers():
    assert graded("\\boxed{3} and \\boxed{-3}", gold="3, -3")[0] == 1.0
    assert graded("\\boxed{3}", gold="3, -3")[0] == 0.0
    assert graded("\\boxed{3} and \\boxed{4}", gold="3") == (0.0, "2 different answers")


def test_a_reference_nobody_can_read_is_no_grade_rather_than_zero():
    assert graded("<think> a </think> <answer> 72 </answer>", gold="\\frac{1}{")[0] is None
    assert graded("nothing", gold="?")[0] is None
    assert graded("nothing", gold="")[0] is None


def test_a_truncated_answer_earns_nothing():
    assert graded("<think> a </think> <answer> 72 </answer>", finish="length") == (0.0, "cut off at the length limit")


def test_an_unknown_verifier_is_named():
    with pytest.raises(ValueError, match="names the verifier 'logic'; known are"):
        graded("x", verifier="logic")


def test_messages_are_read_like_text():
    value = accuracy_reward()(completions=[[{"role": "assistant", "content": "#### 72"}]], answer=["72"])
    assert value == [1.0]


def test_a_prompt_that_opened_the_thinking_is_noticed():
    assert graded("\\boxed{72}", prompts="Solve. <think>")[0] == 0.0  # all of it is thinking
    assert graded("so </think> \\boxed{72}", prompts="Solve. <think>\n")[0] == 1.0
    assert (
        graded("so </think> \\boxed{72}", prompts=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>"}])[0] == 1.0
    )


def test_the_choice_verifier_is_found_by_name():
    assert graded("\\boxed{C}", gold=2, verifier="choice", choices=["w", "x", "y", "z"])[0] == 1.0

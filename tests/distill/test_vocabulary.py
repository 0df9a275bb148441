"""Which teachers a student can be compared with."""

from __future__ import annotations

import pytest

from zero2r1.distill.vocabulary import refuse_narrow_teacher, refuse_other_vocabulary

WORDS = {"a": 0, "b": 1, "c": 2}


def test_the_order_of_a_vocabulary_does_not_matter():
    refuse_other_vocabulary(WORDS, {"c": 2, "a": 0, "b": 1})


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"a": 0, "c": 1, "b": 2}, "id 1: 'b' for the student, 'c' for the teacher (2 ids differ; 3 and 3 tokens)"),
        ({**WORDS, "<think>": 3}, "id 3: nothing for the student, '<think>' for the teacher (1 ids differ; 3 and 4 tokens)"),
        ({"a": 0, "b": 1}, "id 2: 'c' for the student, nothing for the teacher"),
        ({"b": 0, "c": 1, "a": 5}, "id 0: 'a' for the student, 'b' for the teacher (4 ids differ"),
    ],
)
def test_the_first_difference_is_named(teacher, message):
    with pytest.raises(ValueError) as told:
        refuse_other_vocabulary(WORDS, teacher)
    assert message in str(told.value) and "--method=sft" in str(told.value)


@pytest.mark.parametrize(("student", "teacher"), [(10, 10), (10, 12), (12, 12)])
def test_heads_may_be_padded(student, teacher):
    refuse_narrow_teacher(student_rows=student, teacher_rows=teacher, tokens=10)


@pytest.mark.parametrize(("student", "teacher"), [(12, 10), (9, 12), (11, 10)])
def test_a_student_that_could_say_what_the_teacher_cannot_read_is_refused(student, teacher):
    with pytest.raises(ValueError, match=f"{student} rows .student. and {teacher} .teacher."):
        refuse_narrow_teacher(student_rows=student, teacher_rows=teacher, tokens=10)

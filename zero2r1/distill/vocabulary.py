"""A distribution over tokens means something to another model only if every id stands for the same token there."""

from __future__ import annotations

from collections.abc import Mapping


def refuse_other_vocabulary(student: Mapping[str, int], teacher: Mapping[str, int]) -> None:
    """Compare two vocabularies, token -> id with added tokens included, id by id.

    Raises:
        ValueError: they differ; the message names the first id that does.
    """
    ours, theirs = ({i: token for token, i in vocabulary.items()} for vocabulary in (student, teacher))
    differing = [i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i)]
    if not differing:
        return
    said = [repr(names[differing[0]]) if differing[0] in names else "nothing" for names in (ours, theirs)]
    raise ValueError(
        "E203 vocabulary: student and teacher do not have the same tokens, so their distributions cannot be compared. The first "
        f"difference is id {differing[0]}: {said[0]} for the student, {said[1]} for the teacher ({len(differing)} ids differ; "
        f"{len(ours)} and {len(theirs)} tokens). Choose a teacher of the student's family, or distil from samples, which needs text "
        "alone: --method=sft"
    )


def refuse_narrow_teacher(*, student_rows: int, teacher_rows: int, tokens: int) -> None:
    """Compare the rows of two heads that serve one vocabulary. Heads are often padded, to unequal sizes even within a family.

    Rows of the teacher beyond the student's are never looked at. The other way round the student could sample what the teacher cannot read.

    Args:
        tokens: the highest id of the vocabulary, plus one.

    Raises:
        ValueError: the student has more rows than the teacher, or a head has fewer than the vocabulary.
    """
    if teacher_rows < student_rows or student_rows < tokens:
        raise ValueError(
            f"E203 vocabulary: the heads have {student_rows} rows (student) and {teacher_rows} (teacher), the vocabulary needs {tokens}. "
            "The student's may be padded, but not beyond the teacher's: choose a teacher with at least as many rows, or --method=sft"
        )

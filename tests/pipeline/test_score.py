"""`score` and `check data`: the rewards as tools."""

from __future__ import annotations

import json

import pytest

from zero2r1.pipeline.score import check_references, named_rewards, score_file
from zero2r1.tasks.files import DataError

ROWS = [
    {"prompt": "7+5?", "completion": "<think>7 and 5</think><answer>12</answer>", "answer": "12", "language": "en", "mine": 1},
    {"prompt": "7+5?", "completion": "<think>7 and 5</think><answer>13</answer>", "answer": "12", "language": "en", "mine": 2},
    {"prompt": "7+5?", "completion": "12", "answer": 12, "language": "en", "mine": 3},
    {"prompt": "7+5?", "completion": [{"role": "assistant", "content": "\\boxed{12}"}], "answer": "12", "language": "en", "mine": 4},
    {"prompt": "7+5?", "completion": "12", "answer": "\\frac{1}{", "language": "en", "mine": 5},
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "completions.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    return path


def test_rows_are_graded_in_order_and_written_with_what_grading_found(file, tmp_path):
    out = tmp_path / "scored.jsonl"
    scores = score_file(file, named_rewards(["math", "format"]), out=out, workers=2)
    assert [row.parts["math"] for row in scores.rows] == [1.0, 0.0, 1.0, 1.0, None]
    assert [row.reward for row in scores.rows] == [2.0, 1.0, 1.0, 1.0, None]
    assert scores.parts == {"math": 3 / 4, "format": 2 / 5} and scores.mean == 5 / 4
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["mine"] for row in written] == [1, 2, 3, 4, 5]
    assert set(written[0]) == {*ROWS[0], "reward", "parts", "extracted", "gold", "why"}
    assert written[1]["extracted"] == "13" and written[1]["gold"] == "12" and "13 is not 12" in written[1]["why"]


def test_a_reference_nobody_can_read_has_no_grade_and_no_share_in_the_mean(file):
    scores = score_file(file, named_rewards(["math"]))
    assert scores.ungraded == 1 and scores.mean == 3 / 4


@pytest.mark.parametrize("name", ["choice", "language", "length", "repetition"])
def test_every_rule_reward_has_a_name(file, name):
    assert set(score_file(file, named_rewards([name])).parts) == {name}


def test_other_column_names_are_known(tmp_path):
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"response": "\\boxed{3}", "gold": "3"}) + "\n" + json.dumps({"response": "#### 3", "gold": 3}))
    assert score_file(path, named_rewards(["math"])).mean == 1.0


def test_rows_that_cannot_be_graded_are_named_by_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"completion": "1", "answer": "1"}\n{"text": "1"}\n{"completion": "1"}\n')
    with pytest.raises(DataError, match=r"2 of 3 rows of .*bad.jsonl cannot be graded:\n  .*bad.jsonl:2: no text in any of completion"):
        score_file(path, named_rewards(["math"]))


def test_nothing_is_written_when_a_function_is_broken(file, tmp_path):
    out = tmp_path / "scored.jsonl"
    with pytest.raises(ValueError, match="broken"):
        score_file(file, {"broken": lambda **_: ["no number"]}, out=out)
    assert not out.exists()


def test_progress_is_told(file):
    told = []
    score_file(file, named_rewards(["math"]), on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (5, 5)


def test_an_unknown_reward_is_named_with_its_neighbour():
    with pytest.raises(ValueError, match="--reward mth is not known; did you mean math"):
        named_rewards(["mth"])
    with pytest.raises(ValueError, match="--judge-url"):
        named_rewards(["judge"])


def test_references_are_graded_against_themselves(tmp_path):
    path = tmp_path / "data.jsonl"
    answers = ["12", "\\frac{1}{2}", "2+2", "\\frac{1}{", "see above", "so \\boxed{7}", "x^2+1"]
    path.write_text("\n".join(json.dumps({"question": f"q{k}", "answer": answer, "id": str(k)}) for k, answer in enumerate(answers)))
    report = check_references(path)
    assert report.rows == 7
    assert [place for place, _, _ in report.unreadable] == ["3"]


def test_references_of_choices_may_be_indices(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = [
        {"question": "q", "answer": 2, "choices": ["a", "b", "c"], "verifier": "choice"},
        {"question": "r", "answer": 5, "choices": ["a"], "verifier": "choice"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [gold for _, gold, _ in check_references(path).unreadable] == ["5"]


def test_two_functions_of_one_name_are_refused():
    with pytest.raises(ValueError, match="another reward is called 'math' already"):
        named_rewards(["math", "mine.py:math"])


def test_what_is_written_can_be_read_again(tmp_path):
    path, out = tmp_path / "odd.jsonl", tmp_path / "scored.jsonl"
    path.write_text('{"completion": "\\\\boxed{7} \\ud800", "answer": "7"}\n')
    score_file(path, named_rewards(["math"]), out=out)
    assert score_file(out, named_rewards(["math"])).mean == 1.0

"""Problems from files: the usual layouts without flags, and errors that name the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zero2r1.tasks.files import DataError, read_problems

DATA = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, rows: list[object]) -> Path:
    text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


LAYOUTS = {
    "gsm8k": {"question": "1 + 1?", "answer": "so\n#### 2"},
    "math": {"problem": "1 + 1?", "solution": "so \\boxed{2}", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a/1.json"},
    "trl": {"prompt": [{"role": "user", "content": "1 + 1?"}], "solution": "2"},
    "trl_text": {"prompt": "1 + 1?", "ground_truth": "2"},
    "verl": {
        "data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "1 + 1?"}], "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 7},
    },
    "numbers": {"question": "1 + 1?", "answer": 2},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_layouts_need_no_flags(layout, tmp_path):
    (problem,) = read_problems(write(tmp_path / "d.jsonl", [LAYOUTS[layout]]), split="train")
    assert problem.question == "1 + 1?" and problem.answer is not None and problem.answer.strip("}").endswith("2")
    assert problem.split == "train" and problem.verifier == "math"


def test_what_a_row_says_about_itself_is_kept(tmp_path):
    rows = read_problems(write(tmp_path / "d.jsonl", [LAYOUTS["math"] | {"licence": "MIT", "language": "ko"}]), split="test")
    assert (rows[0].id, rows[0].level, rows[0].licence, rows[0].language) == ("a/1.json", 1, "MIT", "ko")
    assert rows[0].extra["subject"] == "Algebra"
    (verl,) = read_problems(write(tmp_path / "v.jsonl", [LAYOUTS["verl"]]), split="train")
    assert (verl.source, verl.domain) == ("openai/gsm8k", "arithmetic")


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "d.parquet"])
def test_file_kinds(name, tmp_path):
    rows = [LAYOUTS["gsm8k"], {"question": "2 + 2?", "answer": "#### 4"}]
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        write(path, rows)
    assert [p.id for p in read_problems(path, split="train")] == [f"{path.stem}/0", f"{path.stem}/1"]


def test_columns_may_be_named(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"frage": "1 + 1?", "antwort": "2"}])
    assert read_problems(path, split="train", columns={"prompt": "frage", "answer": "antwort"})[0].answer == "2"
    with pytest.raises(DataError, match=r"no column that looks like the prompt. Found: frage \(str\), antwort \(str\)") as error:
        read_problems(path, split="train")
    assert "--data.columns='{prompt: frage, answer: antwort}'" in str(error.value)
    with pytest.raises(DataError, match="knows prompt and answer, not"):
        read_problems(path, split="train", columns={"promt": "frage"})


def test_bad_rows_are_named_by_line(tmp_path):
    good = LAYOUTS["gsm8k"]
    path = write(tmp_path / "d.jsonl", [good, {"question": "", "answer": "1"}, good, {"question": "q", "answer": None}])
    with pytest.raises(DataError) as error:
        read_problems(path, split="train")
    assert "2 of 4 rows" in str(error.value) and "d.jsonl:2: question is ''" in str(error.value)
    assert "d.jsonl:4: answer is None, not an answer" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"question": "q", "answer": "1"}\n{"question"', r"E102 data: .*:2 is not JSON"),
        (b"[1, 2]\n", r"E102 data: .*:1 holds a list"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"\n\n", "holds no rows"),
    ],
)
def test_files_that_are_something_else(content, message, tmp_path):
    (tmp_path / "d.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_problems(tmp_path / "d.jsonl", split="train")


def test_a_missing_file_is_not_taken_for_a_hub_name(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read_problems(tmp_path / "d.jsonl", split="train")


def test_a_repeated_id_is_refused(tmp_path):
    row = LAYOUTS["gsm8k"] | {"id": "same"}
    with pytest.raises(DataError, match=r"the id 'same' stands at .*:1 already"):
        read_problems(write(tmp_path / "d.jsonl", [row, row]), split="train")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not on this machine")
@pytest.mark.parametrize(("name", "count"), [("gsm8k_train.jsonl", 7473), ("gsm8k_test.jsonl", 1319)])
def test_gsm8k_is_read_whole_and_every_reference_is_a_number(name, count):
    from zero2r1.rewards.extraction import reference_answer
    from zero2r1.rewards.math.plain import plain_number

    found = next((path for path in (DATA / name, DATA / f"{name}.gz") if path.exists()), None)
    if found is None:
        pytest.skip(f"{name} is not on this machine")
    problems = read_problems(found, split="train")
    assert len(problems) == count
    assert all(plain_number(reference_answer(problem.answer or "")) is not None for problem in problems)


def test_rewards_see_columns_by_their_own_names(tmp_path):
    (problem,) = read_problems(write(tmp_path / "d.jsonl", [LAYOUTS["trl"]]), split="train")
    assert problem.answer == problem.extra["solution"] == "2"
    (verl,) = read_problems(write(tmp_path / "v.jsonl", [LAYOUTS["verl"]]), split="train")
    assert verl.extra["reward_model"]["style"] == "rule"

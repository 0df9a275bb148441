from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.samples import (
    Lineage,
    Rejection,
    Sample,
    read_samples,
    result_from_row,
    result_to_row,
    sample_from_row,
    sample_to_row,
    write_lines,
    write_samples,
)
from zero2r1.types import Message, Problem


def sample(name: str = "a#0", thinking: str | None = "3 + 4 = 7", summary: str = "7", prompt: object = "3 + 4 ?") -> Sample:
    problem = Problem(
        id=name.split("#")[0], prompt=prompt, answer="7", verifier="math", domain="math", language="en", source="test", licence="MIT",
        split="train", level=2, extra={"numbers": [3, 4]},
    )  # fmt: skip
    lineage = Lineage(source="zero", checkpoint="ab12", sampler={"temperature": 1.0}, seed=5, steps=("graded: equal",))
    return Sample(id=name, problem=problem, thinking=thinking, summary=summary, lineage=lineage, measured={"accuracy": 1.0})


@given(st.one_of(st.none(), st.text()), st.text())
def test_a_sample_survives_json(thinking: str | None, summary: str) -> None:
    one = sample(thinking=thinking, summary=summary)
    assert sample_from_row(json.loads(json.dumps(sample_to_row(one)))) == one


def test_a_dialogue_as_prompt_survives_too() -> None:
    turns = (Message(role="system", content="be brief"), Message(role="user", content="3 + 4 ?"))
    one = sample(prompt=turns)
    assert sample_from_row(json.loads(json.dumps(sample_to_row(one)))) == one


def test_a_row_is_what_every_trainer_reads() -> None:
    assert sample_to_row(sample())["messages"] == [
        {"role": "user", "content": "3 + 4 ?"},
        {"role": "assistant", "content": "7", "reasoning_content": "3 + 4 = 7"},
    ]
    assert "reasoning_content" not in sample_to_row(sample(thinking=None))["messages"][-1]


def test_a_rejection_keeps_its_rule_and_reason() -> None:
    rejection = Rejection(sample=sample(), rule="repetition", why="60 % were written before")
    assert result_from_row(json.loads(json.dumps(result_to_row(rejection)))) == rejection
    assert result_from_row(result_to_row(sample())) == sample()


def test_what_was_done_is_added_to_the_lineage_and_the_old_sample_stays() -> None:
    one = sample()
    edited = one.after("edited by ada", summary="it is 7")
    assert edited.lineage.steps == ("graded: equal", "edited by ada") and edited.summary == "it is 7"
    assert one.lineage.steps == ("graded: equal",) and one.summary == "7"


def test_files_are_whole_or_absent_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "samples.jsonl"
    digest = write_samples(path, [sample("a#0"), sample("b#0")])
    assert read_samples(path) == [sample("a#0"), sample("b#0")]
    assert digest == write_samples(path, [sample("a#0"), sample("b#0")])

    def broken():
        yield sample_to_row(sample())
        raise RuntimeError("out of paper")

    with pytest.raises(RuntimeError):
        write_lines(path, broken())
    assert len(read_samples(path)) == 2  # the old file
    with path.open("a", encoding="utf-8") as file:
        file.write('{"id": "c"}\n')
    with pytest.raises(ValueError, match=r"samples\.jsonl:3: this is no sample: .*messages"):
        read_samples(path)


def test_a_half_of_a_surrogate_pair_can_be_written_and_read(tmp_path: Path) -> None:
    """Models and web pages write such halves as JSON escapes; the other lines of the file stay as they are."""
    path = tmp_path / "samples.jsonl"
    whole, half = sample("a#0", summary="가 \U0001f600"), sample("b#0", summary="가 \ud83d")
    digest = write_samples(path, [whole, half])
    assert read_samples(path) == [whole, half]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert "가 \U0001f600" in first and "\\uac00 \\ud83d" in second


def test_what_json_has_no_type_for_becomes_text_and_bytes_are_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"

    def extra(**columns: object) -> Sample:
        one = sample()
        return replace(one, problem=replace(one.problem, extra=columns))

    write_samples(path, [extra(day=datetime.date(2025, 1, 31), cost=decimal.Decimal("1.50"), nested=[{"at": datetime.time(12)}])])
    assert read_samples(path)[0].problem.extra == {"day": "2025-01-31", "cost": "1.50", "nested": [{"at": "12:00:00"}]}
    with pytest.raises(ValueError, match=r"samples\.jsonl:2 holds bytes, .*remove that column"):
        write_samples(path, [sample(), extra(image=b"PNG")])
    assert len(read_samples(path)) == 1  # the old file


def test_a_file_is_on_disk_before_it_has_its_name_and_its_name_is_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut there is no file, or a whole one: the bytes are synced, then the name given, then the folder synced."""
    path = tmp_path / "part.jsonl"
    happened: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        folder = os.path.samestat(os.fstat(descriptor), os.stat(tmp_path))
        happened.append("folder" if folder else f"{os.fstat(descriptor).st_size} bytes")
        sync(descriptor)

    def replaced(old: Path, new: Path) -> None:
        happened.append("named")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replaced)
    write_lines(path, [{"a": 1}])
    assert happened == ["9 bytes", "named", "folder"]  # {"a": 1} and a line feed

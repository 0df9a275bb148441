"""Dialogues in the common layouts, and rows that are none."""

from __future__ import annotations

import json

import pytest

from zero2r1.tasks.dialogues import dialogue_of, read_dialogues
from zero2r1.tasks.files import DataError
from zero2r1.types import Message

ASKED, ANSWERED = Message(role="user", content="7 + 5?"), Message(role="assistant", content="12")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "7 + 5?"}, {"role": "assistant", "content": "12"}]},
        {"prompt": "7 + 5?", "completion": "12"},
        {"prompt": [{"role": "user", "content": "7 + 5?"}], "completion": [{"role": "assistant", "content": "12"}]},
        {"instruction": "7 + 5?", "input": "", "output": "12"},
        {"conversations": [{"from": "human", "value": "7 + 5?"}, {"from": "gpt", "value": "12"}]},
    ],
)
def test_layouts(row):
    assert dialogue_of(row) == (ASKED, ANSWERED)


def test_thoughts_systems_and_inputs_are_kept():
    row = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7 + 5?"},
                        {"role": "assistant", "content": "12", "reasoning_content": "7 + 5 is 12"}]}  # fmt: skip
    system, _, answer = dialogue_of(row)
    assert system.role == "system" and answer.reasoning_content == "7 + 5 is 12"
    assert dialogue_of({"instruction": "Add", "input": "7 and 5", "output": "12"})[0].content == "Add\n\n7 and 5"


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": "7 + 5 = 12"}, "none of the known layouts"),
        ({"messages": [{"role": "user", "content": "7 + 5?"}]}, "does not end with an answer"),
        ({"prompt": "7 + 5?", "completion": " "}, "the last answer is empty"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "needs a turn of the user"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "a message needs role"),
        ({"messages": "x"}, "expected a list of messages"),
    ],
)
def test_rows_that_are_no_dialogue(row, why):
    with pytest.raises(DataError, match=why):
        dialogue_of(row)


def test_bad_rows_are_named_by_line(tmp_path):
    path = tmp_path / "sft.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n" + json.dumps({"text": "c"}) + "\n")
    with pytest.raises(DataError, match=r"1 of 2 rows of .*\n  .*sft.jsonl:2: none of the known layouts"):
        read_dialogues(path)
    path.write_text(json.dumps({"prompt": "a", "completion": "b"}) + "\n")
    assert len(read_dialogues(path)) == 1

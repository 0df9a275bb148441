"""Preferences and labels in the common layouts, rows that are none, and the split."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.reward_models.data import (
    Label,
    Preference,
    Response,
    label_of,
    opening_of,
    preference_of,
    read_labels,
    read_preferences,
    response_of,
    split_by_opening,
    usable_rows,
    write_labels,
    write_preferences,
)
from zero2r1.tasks.files import DataError
from zero2r1.template import parse_response
from zero2r1.types import Message

ASKED = (Message(role="user", content="7 + 5?"),)
GOOD, BAD = Response(thinking=None, summary="12"), Response(thinking=None, summary="13")
PREFERENCE = Preference(messages=ASKED, chosen=GOOD, rejected=BAD)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str, **more: str) -> dict[str, str]:
    return {"role": "assistant", "content": text, **more}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "7 + 5?", "chosen": "12", "rejected": "13"},
        {"prompt": [user("7 + 5?")], "chosen": [answer("12")], "rejected": [answer("13")]},
        {"chosen": [user("7 + 5?"), answer("12")], "rejected": [user("7 + 5?"), answer("13")]},
        {"chosen": "\n\nHuman: 7 + 5?\n\nAssistant: 12", "rejected": "\n\nHuman: 7 + 5?\n\nAssistant: 13"},
        {"prompt": "\n\nHuman: 7 + 5?\n\nAssistant:", "chosen": " 12", "rejected": " 13"},
    ],
    ids=["texts", "messages", "implicit messages", "implicit text", "explicit text"],
)
def test_layouts_of_preferences(row):
    assert preference_of(row) == PREFERENCE


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "7 + 5?", "completion": "12", "label": True},
        {"prompt": [user("7 + 5?")], "completion": [answer("12")], "label": 1},
        {"prompt": "7 + 5?", "response": "12", "safe": True},
    ],
)
def test_layouts_of_labels(row):
    assert label_of(row) == Label(messages=ASKED, response=GOOD, safe=True)
    assert label_of({**row, "safe" if "safe" in row else "label": False}).safe is False


def test_all_turns_of_a_dialogue_are_kept():
    text = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 7 + 5?\n\nAssistant: "
    turns = ("user", "hi"), ("assistant", "hello"), ("user", "7 + 5?")
    found = preference_of({"chosen": text + "12", "rejected": text + "13"})
    assert tuple((m.role, m.content) for m in found.messages) == turns and found.chosen == GOOD


def test_thinking_stands_in_its_column_or_in_tags():
    thoughtful = Response(thinking="7 + 5 is 12", summary="12")
    for chosen in ([answer("12", reasoning_content="7 + 5 is 12")], "<think> 7 + 5 is 12 </think> 12"):
        assert preference_of({"prompt": "7 + 5?", "chosen": chosen, "rejected": "13"}).chosen == thoughtful


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b"}, "needs columns chosen and rejected; found prompt, chosen"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "nobody asks anything"),
        ({"chosen": [user("a"), answer("b")], "rejected": [user("x"), answer("c")]}, "do not answer one prompt"),
        ({"chosen": [user("a"), answer("b"), user("c")], "rejected": [user("a"), answer("b")]}, "chosen does not end with an answer"),
        ({"chosen": "b", "rejected": "c"}, "without Human: and Assistant: turns"),
        ({"prompt": "a", "chosen": "<think> b", "rejected": "c"}, "chosen does not close its thinking"),
        ({"prompt": "a", "chosen": [user("b")], "rejected": "c"}, "chosen must be one answer of the assistant"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "expected a text or a list of messages"),
        ({"prompt": [{"role": "robot", "content": "a"}], "chosen": "b", "rejected": "c"}, "a message of prompt needs role"),
    ],
)
def test_rows_that_are_no_preference(row, why):
    with pytest.raises(DataError, match=why):
        preference_of(row)


@pytest.mark.parametrize(
    ("row", "why"),
    [({"prompt": "a", "completion": "b"}, "a label needs columns"), ({"prompt": "a", "completion": "b", "label": 0.5}, "label is 0.5")],
)
def test_rows_that_are_no_label(row, why):
    with pytest.raises(DataError, match=why):
        label_of(row)


def test_bad_rows_are_named_by_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    good = {"prompt": "7 + 5?", "chosen": "12", "rejected": "13"}
    path.write_text(json.dumps(good) + "\n" + json.dumps({"text": "c"}) + "\n")
    with pytest.raises(DataError, match=r"1 of 2 rows of .*\n  .*pairs.jsonl:2: a preference needs columns"):
        read_preferences(path)
    found, faults = usable_rows(path, preference_of)
    assert found == [PREFERENCE] and len(faults) == 1 and "pairs.jsonl:2:" in faults[0]


def test_compressed_files_and_parquet_are_read(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"prompt": "7 + 5?", "chosen": "12", "rejected": "13"}]
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows[0]).encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    assert read_preferences(tmp_path / "pairs.jsonl.gz") == read_preferences(tmp_path / "pairs.parquet") == [PREFERENCE]


TEXT = st.text("ab <\n.", min_size=1, max_size=8).map(str.strip).filter(bool)
RESPONSE = st.builds(Response, thinking=st.none() | TEXT, summary=TEXT)


@given(st.lists(st.builds(Preference, messages=st.just(ASKED), chosen=RESPONSE, rejected=RESPONSE).filter(lambda p: p.chosen != p.rejected),
                min_size=1, max_size=4), st.lists(st.builds(Label, messages=st.just(ASKED), response=RESPONSE, safe=st.booleans()),
                                                  min_size=1, max_size=4))  # fmt: skip
def test_what_is_written_is_read_back(tmp_path_factory, preferences, labels):
    folder = tmp_path_factory.mktemp("written")
    write_preferences(folder / "pairs.jsonl", preferences)
    write_labels(folder / "labels.jsonl", labels)
    assert read_preferences(folder / "pairs.jsonl") == preferences and read_labels(folder / "labels.jsonl") == labels


@pytest.mark.parametrize("text", ["<think> 3 + 4 </think> 7", "7", "<think>a\nb</think>\n\n<answer> 7 </answer>"])
def test_a_clean_response_is_taken_apart_as_the_parser_does(text):
    parsed, response = parse_response(text), response_of(text)
    assert (parsed.thinking, parsed.summary) == (response.thinking, response.summary)


def test_nothing_before_the_summary_is_lost():
    """The parser's thinking is the last block alone; what stands before it would be out of a judge's sight."""
    assert response_of("x <think> a </think> b <think> c </think> d") == Response(thinking="x <think> a </think> b <think> c", summary="d")
    assert response_of("a </think> d", think_open=True) == Response(thinking="a", summary="d")
    assert response_of("<think> a") is None and response_of("a", think_open=True) is None
    assert response_of("<think></think> d") == Response(thinking=None, summary="d")


def test_a_split_keeps_openings_together_and_holds_out_the_share():
    openings = [f"q{i % 10}" for i in range(40)]
    split = split_by_opening(openings, 0.1, seed=0)
    assert sorted((*split.train, *split.held_out)) == list(range(40)) and len(split.held_out) == 4
    assert not {openings[i] for i in split.train} & {openings[i] for i in split.held_out}
    assert split == split_by_opening(openings, 0.1, seed=0)
    assert len({split_by_opening(openings, 0.1, seed=seed).held_out for seed in range(8)}) > 1
    assert split_by_opening(openings, 0, seed=0).held_out == ()
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        split_by_opening(["a", "a"], 0.1, seed=0)


def test_dialogues_that_begin_alike_have_one_opening():
    later = (*ASKED, Message(role="assistant", content="12"), Message(role="user", content="sure?"))
    assert opening_of(later) == opening_of(ASKED) != opening_of((Message(role="system", content="be brief"), *ASKED))

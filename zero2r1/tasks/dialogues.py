"""Dialogues to imitate, from JSONL, JSON and Parquet files: what supervised fine-tuning reads.

Recognised without flags, row by row: ``messages`` (roles and contents, ``reasoning_content`` beside an answer), ``prompt`` with
``completion`` (texts, or messages), Alpaca's ``instruction``, ``input``, ``output``, and ShareGPT's ``conversations``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zero2r1.tasks.files import DataError, refuse_rows, rows_of
from zero2r1.types import Message

ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
"""ShareGPT's names of the speakers, and the usual ones."""

Dialogue = tuple[Message, ...]
"""Turns that end with the assistant's; the last one is learnt."""


def read_dialogues(path: Path | str) -> list[Dialogue]:
    """All dialogues of a file, in its order.

    Raises:
        DataError: no such file, or rows that cannot be used (the first few are named by line).
    """
    path = Path(path)
    found: list[Dialogue] = []
    faults: list[str] = []
    for place, row in rows_of(path):
        try:
            found.append(dialogue_of(row))
        except DataError as fault:
            faults.append(f"{place}: {fault}")
    refuse_rows(faults, len(faults) + len(found), path)
    if not found:
        raise DataError(f"E101 data: {path} holds no rows")
    return found


def dialogue_of(row: Mapping[str, Any]) -> Dialogue:
    """The dialogue of one row.

    Raises:
        DataError: its layout is not known, it does not end with an answer, or the answer is empty.
    """
    layout = next((read for columns, read in _LAYOUTS if all(column in row for column in columns)), None)
    if layout is None:
        known = "; ".join(" + ".join(columns) for columns, _ in _LAYOUTS)
        raise DataError(f"none of the known layouts ({known}); found {', '.join(row)}")
    messages = layout(row)
    if not messages or messages[-1].role != "assistant":
        raise DataError("the dialogue does not end with an answer of the assistant")
    if not messages[-1].content.strip():
        raise DataError("the last answer is empty")
    if not any(message.role == "user" for message in messages):
        raise DataError("nobody asks anything: a dialogue needs a turn of the user")
    return messages


def _messages(value: Any, *, role: str = "role", content: str = "content") -> Dialogue:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"expected a list of messages, found {str(value)[:60]!r}")
    found = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get(content), str) or message.get(role) not in ROLES:
            raise DataError(f"a message needs {role} (one of {', '.join(ROLES)}) and {content}, found {str(message)[:80]!r}")
        thought = message.get("reasoning_content")
        found.append(Message(role=ROLES[message[role]], content=message[content], reasoning_content=str(thought) if thought else None))
    return tuple(found)


def _turn(value: Any, role: str) -> Dialogue:
    return (Message(role=role, content=value),) if isinstance(value, str) else _messages(value)


def _alpaca(row: Mapping[str, Any]) -> Dialogue:
    asked = "\n\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
    return (Message(role="user", content=asked), Message(role="assistant", content=str(row["output"] or "")))


_LAYOUTS: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Dialogue]], ...] = (
    (("messages",), lambda row: _messages(row["messages"])),
    (("prompt", "completion"), lambda row: (*_turn(row["prompt"], "user"), *_turn(row["completion"], "assistant"))),
    (("instruction", "output"), _alpaca),
    (("conversations",), lambda row: _messages(row["conversations"], role="from", content="value")),
)

"""Preferences and labels: the values, and how they are read from and written to files.

Recognised without flags, row by row, in the layouts of TRL and of hh-rlhf. Pairs: ``prompt`` with ``chosen`` and ``rejected``, each a
text or messages; or ``chosen`` and ``rejected`` alone that hold the whole dialogue, as messages or as a text of ``Human:`` and
``Assistant:`` turns. Labels: ``prompt`` with ``completion`` (or ``response``) and ``label`` (or ``safe``). Thinking stands in
``reasoning_content`` of a message or in think tags.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from zero2r1.samples import write_lines
from zero2r1.seeds import derive_seed
from zero2r1.tasks.files import DataError, refuse_rows, rows_of
from zero2r1.template import visible_part
from zero2r1.types import Message

ROLES = frozenset({"system", "user", "assistant"})
_TURN = re.compile(r"\n\n(Human|Assistant):")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What was answered: the thinking, if there is one, and what a reader is shown."""

    thinking: str | None
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two responses to one prompt, of which one is better."""

    messages: tuple[Message, ...]
    chosen: Response
    rejected: Response


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """A response to a prompt that somebody found safe, or not."""

    messages: tuple[Message, ...]
    response: Response
    safe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices of the two sides; no prompt is on both."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def response_of(text: str, *, think_open: bool = False) -> Response | None:
    """A text taken apart at its last ``</think>``; ``None`` while the thinking is not closed. Nothing of the text is lost.

    What stands before an opening tag counts as thinking: a reader is not shown it, and a judge of the whole response must see it.
    """
    summary = visible_part(text, think_open=think_open)
    if summary is None:
        return None
    hidden, closed, _ = text.rpartition("</think>")
    thinking = hidden.strip().removeprefix("<think>").strip()
    return Response(thinking=thinking if closed and thinking else None, summary=summary.strip())


def read_preferences(path: Path | str) -> list[Preference]:
    """All preferences of a file, in its order.

    Raises:
        DataError: no such file, or rows that cannot be used (the first few are named by line).
    """
    return _all_of(Path(path), preference_of)


def read_labels(path: Path | str) -> list[Label]:
    """All labels of a file, in its order.

    Raises:
        DataError: as :func:`read_preferences`.
    """
    return _all_of(Path(path), label_of)


def usable_rows(path: Path | str, read: Callable[[Mapping[str, Any]], T]) -> tuple[list[T], list[str]]:
    """What ``read`` makes of the rows of a file, and the rows it refuses, each as ``file:line: reason``."""
    found: list[T] = []
    faults: list[str] = []
    for place, row in rows_of(Path(path)):
        try:
            found.append(read(row))
        except DataError as fault:
            faults.append(f"{place}: {fault}")
    return found, faults


def _all_of(path: Path, read: Callable[[Mapping[str, Any]], T]) -> list[T]:
    found, faults = usable_rows(path, read)
    refuse_rows(faults, len(faults) + len(found), path)
    if not found:
        raise DataError(f"E101 data: {path} holds no rows")
    return found


def preference_of(row: Mapping[str, Any]) -> Preference:
    """The preference of one row.

    Raises:
        DataError: its layout is not known, the two dialogues are not answers to one prompt, or they are the same.
    """
    if "chosen" not in row or "rejected" not in row:
        raise DataError(f"a preference needs columns chosen and rejected; found {', '.join(row)}")
    if "prompt" in row:
        asked = _asked(row["prompt"])
        answers = [_answer(row[name], name) for name in ("chosen", "rejected")]
    else:
        dialogues = [_dialogue(row[name], name) for name in ("chosen", "rejected")]
        asked = dialogues[0][:-1]
        if dialogues[1][:-1] != asked:
            raise DataError("chosen and rejected differ before their last turn: they do not answer one prompt")
        answers = [_taken_apart(dialogue[-1], name) for dialogue, name in zip(dialogues, ("chosen", "rejected"), strict=True)]
    if answers[0] == answers[1]:
        raise DataError("chosen and rejected are the same")
    return Preference(messages=_checked(asked), chosen=answers[0], rejected=answers[1])


def label_of(row: Mapping[str, Any]) -> Label:
    """The label of one row.

    Raises:
        DataError: its layout is not known, or the label is neither true nor false.
    """
    columns = [next((name for name in names if name in row), None) for names in (("completion", "response"), ("label", "safe"))]
    if "prompt" not in row or None in columns:
        raise DataError(f"a label needs columns prompt, completion (or response) and label (or safe); found {', '.join(row)}")
    answer, label = columns
    assert answer is not None and label is not None
    value = row[label]
    if not (isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))):
        raise DataError(f"{label} is {value!r}; it must be true (safe) or false (unsafe)")
    return Label(messages=_checked(_asked(row["prompt"])), response=_answer(row[answer], answer), safe=bool(value))


def write_preferences(path: Path, preferences: Iterable[Preference]) -> str:
    """JSON lines with prompt, chosen and rejected as messages; returns the SHA-256. :func:`read_preferences` reads them back."""
    return write_lines(
        path,
        (
            {"prompt": _messages_row(p.messages), "chosen": [_answer_row(p.chosen)], "rejected": [_answer_row(p.rejected)]}
            for p in preferences
        ),
    )


def write_labels(path: Path, labels: Iterable[Label]) -> str:
    """JSON lines with prompt and completion as messages, and label; returns the SHA-256. :func:`read_labels` reads them back."""
    rows = ({"prompt": _messages_row(x.messages), "completion": [_answer_row(x.response)], "label": x.safe} for x in labels)
    return write_lines(path, rows)


def opening_of(messages: Sequence[Message]) -> str:
    """A prompt up to its first question. Dialogues that open alike share most of their words, so a split keeps them together."""
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    return "\x1f".join(f"{message.role}\x1e{message.content.strip()}" for message in messages[: first + 1])


def split_by_opening(openings: Sequence[str], share: float, *, seed: int) -> Split:
    """Hold out at least ``share`` of the rows, all rows of an opening together, drawn from the seed. With 0 nothing is held out.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if share == 0:
        return Split(train=tuple(range(len(openings))), held_out=())
    rows: dict[str, list[int]] = {}
    for i, opening in enumerate(openings):
        rows.setdefault(opening, []).append(i)
    groups = list(rows.values())
    random.Random(derive_seed(seed, "held_out")).shuffle(groups)
    held_out: list[int] = []
    while len(held_out) < share * len(openings):
        held_out += groups.pop()
    if not groups:
        raise ValueError(
            f"holding out {share:g} of {len(openings)} rows with {len(rows)} different prompts leaves nothing to train on: give more "
            "prompts, a smaller held_out_share, or (train rm) a file of its own as data.held_out"
        )
    return Split(train=tuple(sorted(i for group in groups for i in group)), held_out=tuple(sorted(held_out)))


def _messages_row(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _answer_row(response: Response) -> dict[str, str]:
    thought = {} if response.thinking is None else {"reasoning_content": response.thinking}
    return {"role": "assistant", "content": response.summary, **thought}


def _checked(asked: tuple[Message, ...]) -> tuple[Message, ...]:
    if not any(message.role == "user" and message.content.strip() for message in asked):
        raise DataError("nobody asks anything: a prompt needs a turn of the user")
    return asked


def _asked(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, str):
        return messages_of(value, "prompt")
    return _spoken(value, "prompt") if _TURN.match(value) else (Message(role="user", content=value),)


def _answer(value: Any, name: str) -> Response:
    if isinstance(value, str):
        return _taken_apart(Message(role="assistant", content=value), name)
    messages = messages_of(value, name)
    if len(messages) != 1 or messages[0].role != "assistant":
        raise DataError(f"{name} must be one answer of the assistant beside a prompt, and has {len(messages)} messages")
    return _taken_apart(messages[0], name)


def _dialogue(value: Any, name: str) -> tuple[Message, ...]:
    messages = _spoken(value, name) if isinstance(value, str) else messages_of(value, name)
    if not messages or messages[-1].role != "assistant":
        raise DataError(f"{name} does not end with an answer of the assistant")
    return messages


def _spoken(text: str, name: str) -> tuple[Message, ...]:
    """A text of ``Human:`` and ``Assistant:`` turns; an assistant's turn that only opens at the end of a prompt is none."""
    before, *parts = _TURN.split(text if text.startswith("\n\n") else "\n\n" + text)
    if before.strip() or not parts:
        raise DataError(f"{name} is a text without Human: and Assistant: turns, and there is no prompt beside it: {text[:60]!r}")
    turns = [Message(role=_SPEAKERS[who], content=said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]
    return tuple(turns[:-1] if name == "prompt" and turns[-1].role == "assistant" and not turns[-1].content else turns)


def messages_of(value: Any, name: str) -> tuple[Message, ...]:
    """Turns of a dialogue from JSON values; ``name`` is the column, for the message.

    Raises:
        DataError: it is no list of messages with a role and a content.
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise DataError(f"{name} is {str(value)[:60]!r}; expected a text or a list of messages")
    found = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or message.get("role") not in ROLES:
            raise DataError(f"a message of {name} needs role (one of {', '.join(sorted(ROLES))}) and content: {str(message)[:80]!r}")
        thought = message.get("reasoning_content")
        found.append(Message(role=message["role"], content=message["content"], reasoning_content=str(thought) if thought else None))
    return tuple(found)


def _taken_apart(message: Message, name: str) -> Response:
    if message.reasoning_content is not None:
        return Response(thinking=message.reasoning_content.strip() or None, summary=message.content.strip())
    response = response_of(message.content)
    if response is None:
        raise DataError(f"{name} does not close its thinking, so it has no summary: {message.content[:60]!r}")
    return response

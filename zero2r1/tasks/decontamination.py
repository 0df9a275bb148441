"""Decontamination: a training text that shares a 10-gram with an evaluation question or its reference solution is removed.

Source: the supplement of the paper (D.1), for pre-training and post-training data alike. What a word is, and how a rule weighs
what is shared, stands in :mod:`zero2r1.tasks.ngrams`. Paraphrases and the same word problem with other numbers are not found,
unless ten words in a row are equal.

**What is read of a row**, of an evaluation set and of a training file: every text in it, at any depth, one column at a time; of
messages every turn, thoughts included; a list of texts (the asserts of a code problem) as one text. Not read of an evaluation row:
what says where it comes from (``METADATA_COLUMNS``) and system messages. Multiple choice is looked for as question and options in
one, with and without letters before the options, so a question such as ``Which of the following is true?`` alone matches nothing.

**Short texts.** A question of 6 to 9 words is looked for as a whole, anywhere in a text; anything else below ten words is not
looked for, and an item without any text that is looked for is counted (:attr:`Decontaminator.not_searched`).
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from zero2r1.samples import json_line
from zero2r1.tasks.files import PROMPT_COLUMNS, DataError, rows_of
from zero2r1.tasks.ngrams import IndexedText, NgramIndex, Rule, SharedRun, split_words
from zero2r1.types import Message, Problem

QUESTION_COLUMNS = frozenset({*PROMPT_COLUMNS, "prompt_sft", "instruction", "conversations", "turns"})
CHOICE_COLUMNS = frozenset({"choices", "options"})
METADATA_COLUMNS = frozenset(
    "id uid unique_id task_id question_id url source source_file data_source dataset title meta metadata type subject category cluster "
    "domain ability level difficulty split language licence license verifier entry_point start_time test_imports".split()
)
ID_COLUMNS = ("id", "unique_id", "task_id", "question_id", "uid")
BATCH_ROWS, BATCH_CHARACTERS = 1000, 1_000_000
SHOWN_WORDS = 20
RULE_NAME = "decontamination"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationText:
    """One text of an evaluation item. ``question``: it asks, so it is looked for even if it is short."""

    column: str
    text: str
    question: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationItem:
    """One question with its options and reference solution: ``EvaluationItem(source="gsm8k_test", id="632", texts=...)``."""

    source: str
    id: str
    texts: tuple[EvaluationText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a training text shares with an evaluation item."""

    source: str
    id: str
    column: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        shown = " ".join(self.words[:SHOWN_WORDS]) + (" ..." if len(self.words) > SHOWN_WORDS else "")
        return f'shares {len(self.words)} words with {self.source} {self.id} ({self.column}): "{shown}"'


class Decontaminator:
    """Says which texts share too much with evaluation items.

    Example:
        >>> decontaminator = Decontaminator([*items_of_file(Path("gsm8k_test.jsonl")), *items_of_problems(world.held_out)])
        >>> decontaminator.why(problem.question, sample.thinking, sample.summary)
        'shares 25 words with gsm8k_test 632 (question): "bought stamps at the post office some of ..."'
    """

    def __init__(self, items: Iterable[EvaluationItem], rule: Rule | None = None) -> None:
        self._owners: list[tuple[EvaluationItem, str]] = []
        texts: list[IndexedText] = []
        first: dict[tuple[tuple[str, ...], bool], int] = {}
        held: list[tuple[str, list[int]]] = []
        for number, item in enumerate(items):
            own: list[int] = []
            held.append((f"{item.source} {item.id}", own))
            for text in item.texts:
                words = tuple(split_words(text.text))
                place = first.setdefault((words, text.question), len(texts))
                own.append(place)
                if place == len(texts):  # else the same question stands in two sets, which makes it no boilerplate
                    texts.append(IndexedText(words=words, item=number, whole=text.question))
                    self._owners.append((item, text.column))
        self._index = NgramIndex(texts, rule or Rule())
        self.items = len(held)
        self.not_searched = tuple(label for label, own in held if self._index.searched.isdisjoint(own))
        """Items all of whose texts are too short to be looked for."""

    def why(self, *texts: str | None) -> str | None:
        """The reason to remove a row made of these texts (question, thinking, summary; ``None`` is no text), or ``None``."""
        overlap = self.overlap(*texts)
        return str(overlap) if overlap else None

    def overlap(self, *texts: str | None) -> Overlap | None:
        """The first overlap of any of the texts; no run of words spans two of them."""
        return self.overlaps([[text for text in texts if text is not None]])[0]

    def overlaps(self, rows: Sequence[Sequence[str]]) -> list[Overlap | None]:
        """The first overlap of every row, each row a list of texts. Many rows at once are ten times faster than one by one."""
        return [self._named(run) if run else None for run in self._index.first_runs(rows)]

    def _named(self, run: SharedRun) -> Overlap:
        item, column = self._owners[run.text]
        return Overlap(source=item.source, id=item.id, column=column, words=run.words)


def items_of_file(path: Path | str) -> list[EvaluationItem]:
    """The items of an evaluation file (or Hub data set) in any layout that ``rows_of`` reads.

    Raises:
        DataError: no such file, no rows, or rows without any text.
    """
    path = Path(path)
    source = path.name
    for ending in (".gz", ".jsonl", ".json", ".parquet"):
        source = source.removesuffix(ending)
    items = []
    for number, (_, row) in enumerate(rows_of(path)):
        name = next((str(row[column]) for column in ID_COLUMNS if row.get(column) is not None), str(number))
        items.append(EvaluationItem(source=source, id=name, texts=tuple(_evaluation_texts(row))))
    if not items:
        raise DataError(f"E101 data: {path} holds no rows")
    if not any(item.texts for item in items):
        raise DataError(f"E101 data: {path} holds no text to look for; a row needs a question or a solution beside its metadata")
    return items


def items_of_problems(problems: Iterable[Problem]) -> list[EvaluationItem]:
    """The items of problems in memory: prompts, answers and the texts of their other columns."""
    items = []
    for problem in problems:
        prompt = problem.prompt if isinstance(problem.prompt, str) else [_as_row(message) for message in problem.prompt]
        row = {**problem.extra, "prompt": prompt, "answer": problem.answer}
        items.append(EvaluationItem(source=problem.source, id=problem.id, texts=tuple(_evaluation_texts(row))))
    return items


def texts_of(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(column, text) of every text of a row; the column of a nested one with dots, a list of texts as one text."""
    waiting: list[tuple[str, Any]] = list(row.items())[::-1]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            waiting += [(f"{name}.{inner}", deep) for inner, deep in list(value.items())[::-1]]
        elif isinstance(value, list):
            if all(isinstance(entry, str) for entry in value):
                yield name, "\n".join(value)
            else:
                waiting += [(name, entry) for entry in reversed(value)]


def training_texts(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(column, text) of everything that is checked of a training row."""
    yield from texts_of(row)
    yield from _questions_with_options(row)


def _as_row(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, "reasoning_content": message.reasoning_content}


def _evaluation_texts(row: Mapping[str, Any]) -> Iterator[EvaluationText]:
    kept = {name: value for name, value in row.items() if name not in METADATA_COLUMNS}
    whole = list(_questions_with_options(row))
    for column, text in whole:
        yield EvaluationText(column=column, text=text, question=True)
    for name in [name for name in kept if name in QUESTION_COLUMNS]:
        asked, answered = _turns(kept.pop(name))
        for text in asked:
            yield EvaluationText(column=name, text=text, question=len(asked) == 1 and not whole)
        for text in answered:
            yield EvaluationText(column=name, text=text, question=False)
    for name, text in texts_of({name: value for name, value in kept.items() if not (whole and name in CHOICE_COLUMNS)}):
        yield EvaluationText(column=name, text=text, question=False)


def _questions_with_options(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(column, question and options) of a multiple-choice row, without and with letters before the options."""
    options = [option for name in row if name in CHOICE_COLUMNS for option in _options(row[name])]
    lettered = [f"{chr(ord('A') + number)}. {option}" for number, option in enumerate(options)]
    for name in [name for name in row if name in QUESTION_COLUMNS] if options else ():
        asked, _ = _turns(row[name])
        for listed in (options, lettered):
            yield f"{name} and options", "\n".join([*asked, *listed])


def _options(value: Any) -> list[str]:
    """Options as a list, as ``{"label": [...], "text": [...]}`` or as ``{"A": ..., "B": ...}``."""
    if isinstance(value, Mapping):
        value = value["text"] if isinstance(value.get("text"), list) else list(value.values())
    return [str(option) for option in value] if isinstance(value, list) else []


def _turns(value: Any) -> tuple[list[str], list[str]]:
    """What a question column asks and what it answers: a text, texts, or messages in either usual layout."""
    if isinstance(value, str):
        return [value], []
    if not isinstance(value, list):
        return [], [text for _, text in texts_of({"": value})]
    asked, answered = [], []
    for turn in value:
        role = str(turn.get("role", turn.get("from"))) if isinstance(turn, Mapping) else "user"
        texts = [text for name, text in texts_of({"": turn}) if not name.endswith((".role", ".from"))]
        if role in ("user", "human"):
            asked += texts
        elif role not in ("system", "developer"):
            answered += texts
    return asked, answered


@dataclass(frozen=True, slots=True, kw_only=True)
class DecontaminationCounts:
    """What became of the rows of a training file."""

    rows: int
    kept: int
    removed: int
    by_source: Mapping[str, int]
    """Removed rows by the evaluation set that each was first found to share words with."""


def decontaminate_file(
    train: Path, decontaminator: Decontaminator, *, kept: Path, removed: Path, progress: Callable[[int, int], None] | None = None
) -> DecontaminationCounts:
    """Write the clean rows of a training file to ``kept`` and the others, each with its reason, to ``removed``; both JSON lines.

    A kept line of a JSONL file is copied byte for byte. A removed row has the column ``rejected`` more, ``{"rule": "decontamination",
    "why": ...}``. JSONL (``.gz`` too) and Parquet are read in pieces, whatever their size; a JSON array is read whole. Both
    files appear when all is done, or not at all.

    Args:
        progress: called after every piece with (rows read, rows removed) so far.

    Raises:
        DataError: no such file, a line that is no row, or a value that JSON cannot hold; the message names the place.
        ValueError: two of the three paths are the same file.
    """
    if len({path.resolve() for path in (train, kept, removed)}) < 3:
        raise ValueError(f"decontamination reads {train} and writes {kept} and {removed}: these must be three files")
    partial = {path: path.with_name(path.name + ".tmp") for path in (kept, removed)}
    rows = 0
    by_source: Counter[str] = Counter()
    with ExitStack() as stack:
        files: dict[Path, IO[bytes]] = {}
        for path, temporary in partial.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.callback(temporary.unlink, missing_ok=True)
            files[path] = stack.enter_context(temporary.open("wb"))
        for batch in _batches(_rows(train)):
            found = decontaminator.overlaps([[text for _, text in training_texts(row.values)] for row in batch])
            for row, overlap in zip(batch, found, strict=True):
                if overlap is None:
                    files[kept].write(row.line if row.line is not None else _json_line(row.values, row.place))
                else:
                    reason = {"rejected": {"rule": RULE_NAME, "why": str(overlap)}}
                    files[removed].write(_json_line({**row.values, **reason}, row.place))
                    by_source[overlap.source] += 1
            rows += len(batch)
            if progress:
                progress(rows, by_source.total())
        if not rows:
            raise DataError(f"E101 data: {train} holds no rows")
        for path, temporary in partial.items():
            files[path].close()
            os.replace(temporary, path)
    return DecontaminationCounts(rows=rows, kept=rows - by_source.total(), removed=by_source.total(), by_source=dict(by_source))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    place: str
    values: Mapping[str, Any]
    line: bytes | None
    """The row as it stands in a file of JSON lines."""
    size: int


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of a file as ``rows_of`` gives them, but a piece at a time."""
    name = path.name.removesuffix(".gz")
    if not path.is_file() or name.endswith(".json"):
        yield from (_Row(place=place, values=row, line=None, size=BATCH_CHARACTERS // BATCH_ROWS) for place, row in rows_of(path))
    elif name.endswith(".parquet"):
        import pyarrow.parquet as pq

        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH_ROWS):
            size = batch.nbytes // max(1, len(batch))
            for row in batch.to_pylist():
                number += 1
                yield _Row(place=f"{path}, row {number}", values=row, line=None, size=size)
    else:
        yield from _json_lines(path)


def _json_lines(path: Path) -> Iterator[_Row]:
    place = str(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                place = f"{path}:{number}"
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if not text.strip():
                    continue
                values = json.loads(text)
                if not isinstance(values, dict):
                    raise DataError(f"E102 data: {place} holds a {type(values).__name__}; expected an object with named columns")
                yield _Row(place=place, values=values, line=text.rstrip("\r\n").encode() + b"\n", size=len(line))
        except UnicodeDecodeError as error:
            raise DataError(f"E101 data: {place} is not UTF-8 (byte {error.start} of the line)") from error
        except json.JSONDecodeError as error:
            raise DataError(f"E102 data: {place} is not JSON: {error.msg} at column {error.colno}: {error.doc[:80]!r}") from error
        except RecursionError as error:
            raise DataError(f"E102 data: {place} is nested too deeply to be read") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"E101 data: {path} is no whole gzip file: {error} (after {place})") from error


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    batch: list[_Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += row.size
        if len(batch) >= BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _json_line(values: Mapping[str, Any], place: str) -> bytes:
    try:
        return json_line(values, place=place)
    except ValueError as error:
        raise DataError(str(error)) from error

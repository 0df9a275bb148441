"""Problems from JSONL, JSON and Parquet files (compressed with gzip or not), and from Hub data sets.

Columns are recognised without flags for the common layouts: GSM8K (question, answer with ``####``), MATH (problem,
solution, answer), TRL (prompt as text or messages, and a gold column) and verl (prompt messages, reward_model.ground_truth).
A row that cannot be used is an error that names its line; nothing is skipped silently.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zero2r1.types import Message, Problem

PROMPT_COLUMNS = ("prompt", "question", "problem", "input", "query", "messages")
ANSWER_COLUMNS = ("answer", "ground_truth", "final_answer", "solution", "gold", "label", "target")
MAX_REPORTED_ROWS = 5


class DataError(ValueError):
    """A file does not hold what was expected; the message names file, line and what to write."""


def read_problems(path: Path | str, *, split: str, columns: Mapping[str, str] | None = None) -> list[Problem]:
    """All problems of a file, in its order.

    Args:
        columns: ``{"prompt": ..., "answer": ...}`` where the names are not recognised.

    Raises:
        DataError: no such file, unknown columns, or rows that cannot be used (the first few are named).
    """
    path = Path(path)
    rows = list(rows_of(path))
    if not rows:
        raise DataError(f"E101 data: {path} holds no rows")
    prompt, answer = detect_columns(rows[0][1], path, columns or {})
    found: list[Problem] = []
    faults: list[str] = []
    seen: dict[str, str] = {}
    for place, row in rows:
        try:
            problem = _problem(row, prompt, answer, path, split, len(found) + len(faults))
        except DataError as fault:
            faults.append(f"{place}: {fault}")
            continue
        if problem.id in seen:
            faults.append(f"{place}: the id {problem.id!r} stands at {seen[problem.id]} already")
        seen[problem.id] = place
        found.append(problem)
    refuse_rows(faults, len(rows), path)
    return found


def refuse_rows(faults: Sequence[str], count: int, path: Path, *, what: str = "used") -> None:
    """Raise for rows that cannot be used, the first few named; nothing happens where there are none.

    Raises:
        DataError: ``faults``, each beginning with its place, is not empty.
    """
    if faults:
        shown = "\n  ".join(faults[:MAX_REPORTED_ROWS])
        more = f"\n  and {len(faults) - MAX_REPORTED_ROWS} more" if len(faults) > MAX_REPORTED_ROWS else ""
        raise DataError(f"E103 data: {len(faults)} of {count} rows of {path} cannot be {what}:\n  {shown}{more}")


def detect_columns(row: Mapping[str, Any], path: Path, given: Mapping[str, str]) -> tuple[str, str]:
    """Names of the prompt and answer columns of a file whose first row this is; nested ones with a dot."""
    flat = flattened(row)
    unknown = set(given) - {"prompt", "answer"}
    if unknown:
        raise DataError(f"data.columns knows prompt and answer, not {sorted(unknown)}")
    prompt = given.get("prompt") or next((name for name in PROMPT_COLUMNS if name in flat), None)
    taken = {prompt}
    answer = given.get("answer") or next((n for n in ("reward_model.ground_truth", *ANSWER_COLUMNS) if n in flat and n not in taken), None)
    for wanted, name in (("prompt", prompt), ("answer", answer)):
        if name is None or name not in flat:
            names = ", ".join(f"{key} ({type(value).__name__})" for key, value in flat.items())
            missing = f"no column {name!r}" if name else f"no column that looks like the {wanted}"
            raise DataError(
                f"E101 data: {path} has {missing}. Found: {names}. Say which it is: train and check run take, for example,  "
                f"--data.columns='{{prompt: {prompt or next(iter(flat))}, answer: {answer or list(flat)[-1]}}}'\n"
                f"The first row for reference: {json.dumps(row, ensure_ascii=False, default=str)[:300]}"
            )
    assert prompt is not None and answer is not None
    return prompt, answer


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the columns of its columns beside it: ``{"a": {"b": 1}}`` has ``a`` and ``a.b``."""
    flat = dict(row)
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": deep for inner, deep in value.items()}
    return flat


def _problem(row: Mapping[str, Any], prompt: str, answer: str, path: Path, split: str, index: int) -> Problem:
    flat = flattened(row)
    gold = flat.get(answer)
    if not isinstance(gold, (str, int, float)) or isinstance(gold, bool) or not str(gold).strip():
        raise DataError(f"{answer} is {gold!r}, not an answer")
    return Problem(
        id=str(row.get("id") or row.get("unique_id") or f"{path.stem}/{index}"),
        prompt=_prompt(flat.get(prompt), prompt),
        answer=str(gold),
        verifier=str(row.get("verifier") or "math"),
        domain=str(row.get("domain") or row.get("ability") or "math"),
        language=str(row.get("language") or ""),  # nobody said: what looks at it takes the question's
        source=str(row.get("data_source") or path.stem),
        licence=str(row.get("licence") or row.get("license") or "unknown"),
        split=split,
        level=row["level"] if isinstance(row.get("level"), int) else None,
        extra={name: value for name, value in row.items() if name not in ("id", prompt)},  # rewards see columns by their own names
    )


def _prompt(value: Any, name: str) -> str | tuple[Message, ...]:
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "role" in m and "content" in m for m in value):
        messages = tuple(Message(role=str(m["role"]), content=str(m["content"])) for m in value if m["role"] != "assistant")
        if any(message.role == "user" for message in messages):
            return messages
    raise DataError(f"{name} is {str(value)[:80]!r}; expected a text, or messages with role and content and at least one user turn")


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, row) of a file; the place is ``file:line``."""
    if not path.is_file():
        yield from _hub_rows(path)
        return
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        yield from ((f"{path}, row {i}", row) for i, row in enumerate(pq.read_table(path).to_pylist(), start=1))
        return
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"E101 data: {path} is not UTF-8 (byte {error.start})") from error
    if name.endswith(".json"):
        values = _parse(text, f"{path}")
        if not isinstance(values, list):
            raise DataError(f"E101 data: {path} holds a {type(values).__name__}; expected a list of rows")
        yield from ((f"{path}, row {i}", _mapping(row, f"{path}, row {i}")) for i, row in enumerate(values, start=1))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, _mapping(_parse(line, place), place)


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"E102 data: {place} is not JSON: {error.msg} at column {error.colno}: {text[:80]!r}") from error


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"E102 data: {place} holds a {type(value).__name__}; expected an object with named columns")
    return value


def _hub_rows(name: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a Hub data set ``owner/name[:split]``."""
    if name.suffix or len(name.parts) != 2 or name.is_absolute():
        raise DataError(f"E101 data: there is no file {name}")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(f'E101 data: there is no file {name}. To read it as a Hub data set:  pip install "zero2r1[hub]"') from error
    dataset, _, split = str(name).partition(":")
    yield from ((f"{dataset}, row {i}", dict(row)) for i, row in enumerate(load_dataset(dataset, split=split or "train"), start=1))

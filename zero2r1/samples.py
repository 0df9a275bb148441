"""Responses to imitate, with where they came from: what cold start and rejection sampling write and supervised fine-tuning reads.

On disk a sample is one JSON line: ``messages`` in the layout every trainer reads (the thinking in ``reasoning_content``), and beside
it the problem, the lineage and the measurements, so that any line can be traced to the weights that wrote it and be graded again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zero2r1.types import Message, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a sample came from and what was done to it since."""

    source: str
    """Who wrote it: ``zero``, ``dev2``, ``solver``, ``model:NAME``, ``few_shot:NAME``, ``general``."""
    checkpoint: str | None = None
    """Digest of the weights that wrote it; ``None`` where no checkpoint of ours did."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """``{"temperature": 1.0, "max_new_tokens": 200}``"""
    seed: int | None = None
    steps: tuple[str, ...] = ()
    """What happened since, in order: ``rewritten by NAME``, ``edited by alice``, ``approved by alice``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One response to one problem, taken apart into thinking and summary."""

    id: str
    """Unique in a data set: ``gsm8k/17#3`` is response 3 to problem ``gsm8k/17``."""
    problem: Problem
    thinking: str | None
    """``None`` where the response answers without thinking aloud."""
    summary: str
    """What a reader is shown: everything behind the thinking."""
    lineage: Lineage
    measured: Mapping[str, float] = field(default_factory=dict)
    """``{"accuracy": 1.0, "repetition": 0.02}``: what graders and filters found."""

    @property
    def dialogue(self) -> tuple[Message, ...]:
        """Question and response as turns: what supervised fine-tuning reads."""
        return (*self.problem.messages, Message(role="assistant", content=self.summary, reasoning_content=self.thinking))

    def after(self, step: str, **changes: Any) -> Sample:
        """The sample as it is after ``step``, which its lineage then names."""
        lineage = dataclasses.replace(self.lineage, steps=(*self.lineage.steps, step))
        return dataclasses.replace(self, lineage=lineage, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A sample that was not kept: by which rule, and why in words."""

    sample: Sample
    rule: str
    why: str


def sample_to_row(sample: Sample) -> dict[str, Any]:
    """The JSON object of a sample. Inverse of :func:`sample_from_row`."""
    problem = sample.problem
    answer = {"role": "assistant", "content": sample.summary}
    if sample.thinking is not None:
        answer["reasoning_content"] = sample.thinking
    return {
        "id": sample.id,
        "messages": [*({"role": message.role, "content": message.content} for message in problem.messages), answer],
        "problem": {
            **{f.name: getattr(problem, f.name) for f in dataclasses.fields(problem) if f.name not in ("prompt", "extra")},
            "extra": dict(problem.extra),
            "text_prompt": isinstance(problem.prompt, str),
        },
        "lineage": {**dataclasses.asdict(sample.lineage), "steps": list(sample.lineage.steps)},
        "measured": dict(sample.measured),
    }


def sample_from_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a JSON object.

    Raises:
        ValueError: something is missing or of another type; the message names it.
    """
    try:
        *asked, answer = row["messages"]
        columns = dict(row["problem"])
        text_prompt = columns.pop("text_prompt")
        prompt = asked[0]["content"] if text_prompt else tuple(Message(role=m["role"], content=m["content"]) for m in asked)
        lineage = dict(row["lineage"])
        return Sample(
            id=row["id"],
            problem=Problem(prompt=prompt, **columns),
            thinking=answer.get("reasoning_content"),
            summary=answer["content"],
            lineage=Lineage(**{**lineage, "steps": tuple(lineage["steps"])}),
            measured=dict(row["measured"]),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"this is no sample: {type(error).__name__}: {error} in {json.dumps(row, ensure_ascii=False)[:120]}") from error


def write_samples(path: Path, samples: Iterable[Sample]) -> str:
    """Write a JSONL file whole or not at all; returns the SHA-256 of its bytes."""
    return write_lines(path, (sample_to_row(sample) for sample in samples))


def read_samples(path: Path) -> list[Sample]:
    """The samples of a JSONL file.

    Raises:
        ValueError: a line is no sample; the message names file and line.
    """
    found: list[Sample] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                found.append(sample_from_row(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    return found


def result_to_row(result: Sample | Rejection) -> dict[str, Any]:
    """The JSON object of a sample or of a rejection. Inverse of :func:`result_from_row`."""
    if isinstance(result, Sample):
        return sample_to_row(result)
    return {**sample_to_row(result.sample), "rejected": {"rule": result.rule, "why": result.why}}


def result_from_row(row: Mapping[str, Any]) -> Sample | Rejection:
    """The sample of a JSON object, or the rejection where it has the column ``rejected``."""
    sample, rejected = sample_from_row(row), row.get("rejected")
    return sample if rejected is None else Rejection(sample=sample, rule=rejected["rule"], why=rejected["why"])


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines, whole or not at all, after a power cut too; returns the SHA-256 of the file.

    Raises:
        ValueError: a value of bytes; the message names file and line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    digest = hashlib.sha256()
    with temporary.open("wb") as file:
        for number, row in enumerate(rows, start=1):
            line = json_line(row, place=f"{path}:{number}")
            digest.update(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())  # else the new name may reach the disk before what it names, and an empty file is one that is done
    os.replace(temporary, path)
    _sync_folder(path.parent)
    return digest.hexdigest()


def json_line(row: Mapping[str, Any], *, place: str) -> bytes:
    """A row as one line of JSON in UTF-8, line feed included.

    Columns of data files hold what JSON has no type for: dates, decimals and the like become text. Half of a surrogate pair, which
    UTF-8 cannot hold, makes its line one of escapes.

    Raises:
        ValueError: a value of bytes, which no text stands for; the message names ``place``.
    """

    def plain(value: Any) -> str:
        if isinstance(value, (bytes, bytearray)):
            raise ValueError(f"E102 data: {place} holds bytes, which JSON lines cannot; remove that column first")
        return str(value)

    try:
        return (json.dumps(row, ensure_ascii=False, default=plain) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(row, default=plain) + "\n").encode()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # a folder cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Post-processing by people (paper section 2.3.1): export to a text file, approve, edit or reject in any editor, import.

The file holds one block per sample::

    =====[4f2a9c0be1d35c77]===== sample 1 of 20
    id: gsm8k/17#direct
    version: 9c41f0aa12b3
    decision:
    reason:
    =====[4f2a9c0be1d35c77]===== question (only to read)
    ...
    =====[4f2a9c0be1d35c77]===== gold answer (only to read)
    72
    =====[4f2a9c0be1d35c77]===== response (edit here)
    |special_token|
    the thinking
    |special_token|
    the summary
    =====[4f2a9c0be1d35c77]===== end

The mark comes from a digest of the texts and is in none of them; so is the separator where a text holds the usual one. The version
is a digest of the block's own texts, so that a file is never applied to samples that are others than those that were shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from zero2r1.cold_start.prompts import conversation, free_mark
from zero2r1.cold_start.rewrite import StillRight, graded_again
from zero2r1.samples import Rejection, Sample
from zero2r1.template import COLD_START_TOKEN, parse_cold_start

Decision = Literal["approve", "edit", "reject", ""]
"""The empty one: not yet reviewed."""

_HEAD = """\
Review of {count} samples. This is plain text in UTF-8: any editor will do.

Behind every "decision:" write one word: approve, edit or reject. Leave it empty for what you have not reviewed yet.
Behind "reason:" write why, if there is something to say; rejected samples keep it.
You may change what stands under "response": the thinking between the two separators, the summary behind the second one.
Changed text counts as edited, whichever of approve and edit you write, and its final answer is checked again.
Leave the lines that begin with the mark, the ids and the versions as they are.

mark: {mark}
separator: {token}
"""
_SECTIONS = ("sample", "question", "gold answer", "response", "end")
_FIELDS = ("id", "version", "decision", "reason")
_Faults = list[tuple[int, str]]
"""(line, what is wrong and how to mend it); line 0 where there is none to point at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """What a reviewer decides. The texts are those of an edit; ``None`` leaves one as it is."""

    decision: Decision
    reason: str = ""
    thinking: str | None = None
    summary: str | None = None


Reviewer = Callable[[Sample], Reviewed]
"""A reviewer that is a program: it writes into the file what a person would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """What became of the samples of a file, each in their order; every sample is in exactly one of the three."""

    kept: tuple[Sample, ...]
    rejected: tuple[Rejection, ...]
    pending: tuple[Sample, ...]
    """Without a decision, as they were exported. What was changed in their text so far stays in the file alone."""


def export_review(path: Path, samples: Sequence[Sample], *, reviewer: Reviewer | None = None) -> None:
    """Write the samples for a person to review; with a ``reviewer``, reviewed already.

    Raises:
        ValueError: two samples have one id, or the file is there already: it may hold the work of a person.
    """
    _refuse_twins(samples)
    if path.exists():
        raise ValueError(f"{path} is there already and may hold somebody's work: import it, or choose another path")
    reviews = [Reviewed(decision="") if reviewer is None else reviewer(sample) for sample in samples]
    texts = [text for sample in samples for text in _texts(sample)] + [text for said in reviews for text in _changes(said)]
    mark = f"=====[{free_mark(texts)}]====="
    token = COLD_START_TOKEN if not any(COLD_START_TOKEN in text for text in texts) else f"|special_token_{free_mark(texts)}|"
    blocks = [
        _block(sample, said, mark=mark, token=token, number=f"{number} of {len(samples)}")
        for number, (sample, said) in enumerate(zip(samples, reviews, strict=True), start=1)
    ]
    text = "\n\n".join([_HEAD.format(count=len(samples), mark=mark, token=token), *blocks]) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(_writable(text).encode())
    os.replace(temporary, path)


def import_review(path: Path, samples: Sequence[Sample], *, reviewer: str, still_right: StillRight) -> Review:
    """What the reviewer decided about ``samples``, which are those that were exported.

    Kept are samples approved as they were, and edited ones that are still right; the lineage says which and by whom, and the reason
    if one was given. Rejected by rule ``reviewer`` is what the reviewer rejects, by ``changed_by_editing`` an edit whose final answer
    is not right. White space at the ends of lines and texts is no edit.

    Raises:
        ValueError: the file cannot be used. One error lists all that is wrong in it, with the lines and how to mend them.
    """
    if not reviewer.strip() or not reviewer.isprintable():
        raise ValueError(f"the reviewer needs a name of one line, got {reviewer!r}")
    _refuse_twins(samples)
    faults: _Faults = []
    token, blocks = _read(path, faults)
    given = {sample.id: sample for sample in samples}
    found: dict[str, _Block] = {}
    for block in blocks:
        if block.id is None:
            continue  # a fault already
        if block.id not in given:
            advice = "restore the id as it was exported, or remove the whole block"
            faults.append((block.line, f"the id {block.id!r} is none of the samples given: {advice}"))
        elif block.id in found:
            faults.append((block.line, f"the id {block.id!r} stands in line {found[block.id].line} already: remove one of the two blocks"))
        else:
            found[block.id] = block
            _check(block, given[block.id], token, faults)
    faults += [(0, f"the block of {name!r} is missing: restore it from a new export") for name in given if name not in found]
    if faults:
        listed = "\n".join(f"  line {line}: {what}" if line else f"  {what}" for line, what in sorted(faults, key=lambda f: f[0] or 10**9))
        raise ValueError(f"{path} cannot be imported; nothing was. Mend this and import it again:\n{listed}")
    outcomes = [_outcome(sample, found[sample.id], token, reviewer.strip(), still_right) for sample in samples]
    return Review(
        kept=tuple(result for result in outcomes if isinstance(result, Sample)),
        rejected=tuple(result for result in outcomes if isinstance(result, Rejection)),
        pending=tuple(sample for sample, result in zip(samples, outcomes, strict=True) if result is None),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """A block of the file as it was read; ``None`` for what is missing, which is a fault already."""

    line: int
    id: str | None
    version: str | None
    decision: str | None
    reason: str
    response: str | None
    lines: Mapping[str, int]
    """Where ``version``, ``decision`` and ``response`` stand."""


def _block(sample: Sample, said: Reviewed, *, mark: str, token: str, number: str) -> str:
    _, question, gold, thinking, summary = _texts(sample)
    thinking = thinking if said.thinking is None else said.thinking
    summary = summary if said.summary is None else said.summary
    lines = [
        f"{mark} sample {number}",
        f"id: {_written_id(sample.id)}",
        f"version: {_version(sample)}",
        f"decision: {said.decision}".rstrip(),
        f"reason: {' '.join(said.reason.split())}".rstrip(),
        f"{mark} question (only to read)",
        question,
        f"{mark} gold answer (only to read)",
        gold,
        f"{mark} response (edit here)",
        _response(thinking, summary, token),
        f"{mark} end",
    ]
    return "\n".join(lines)


def _read(path: Path, faults: _Faults) -> tuple[str, list[_Block]]:
    """The separator and the blocks of a file; faults of its structure are added to ``faults``."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 any more ({error}): open it in the editor and save it as UTF-8") from error
    lines = _with_line_feeds(text).split("\n")
    mark = _head_line(r"mark: (=====\[[0-9a-f]{16}\]=====)", lines, path)
    token = _head_line(r"separator: (\|special_token(?:_[0-9a-f]{16})?\|)", lines, path)
    blocks: list[_Block] = []
    sections: dict[str, tuple[int, list[str]]] = {}
    section: str | None = None
    for number, line in enumerate(lines, start=1):
        if mark in line and not line.startswith("mark:"):
            before, _, title = line.partition(mark)
            section = next((name for name in _SECTIONS if title.strip().startswith(name)), f"line {number}")
            if before.strip() or section not in _SECTIONS:
                faults.append((number, f"this line of the mark was changed: it is the mark and then one of {', '.join(_SECTIONS)}"))
            if sections and (section == "sample" or "end" in sections):
                blocks.append(_close(sections, faults))
                sections = {}
            if section in sections:
                faults.append((number, f"a second {section!r} in one block; the first is in line {sections[section][0]}: remove one"))
            else:
                sections[section] = (number, [])
        elif section == "end":
            if line.strip():
                faults.append((number, "text between two blocks belongs to none: move it into one, or remove it"))
        elif section is not None:
            sections[section][1].append(line)
    return token, [*blocks, _close(sections, faults)] if sections else blocks


def _close(sections: Mapping[str, tuple[int, list[str]]], faults: _Faults) -> _Block:
    """The block that these sections make."""
    start = min(number for number, _ in sections.values())
    missing = [name for name in _SECTIONS if name not in sections]
    if missing:
        faults.append((start, f"this block has lost its line {' and its line '.join(map(repr, missing))}: restore it from a new export"))
    first, lines = sections.get("sample", (start, []))
    fields, where = _fields(first, lines, faults)
    if "sample" in sections:
        lost = [name for name in _FIELDS[:3] if name not in fields]
        faults += [(first, f"this block has lost its line {name + ':'!r}: write it again") for name in lost]
    number, response = sections.get("response", (start, None))
    name = fields.get("id")
    try:
        name = json.loads(name) if name is not None and name.startswith('"') else name
    except ValueError:
        faults.append((where["id"], f"the id {name} is broken: restore it as it was exported"))
        name = None
    return _Block(
        line=where.get("id", first),
        id=name,
        version=fields.get("version"),
        decision=fields.get("decision"),
        reason=fields.get("reason", ""),
        response=None if response is None else "\n".join(response),
        lines=where | {"response": number},
    )


def _fields(first: int, lines: Sequence[str], faults: _Faults) -> tuple[dict[str, str], dict[str, int]]:
    """The fields of a block and their lines. The reason, which is the last one, may go on over several lines."""
    fields: dict[str, str] = {}
    where: dict[str, int] = {}
    for number, line in enumerate(lines, start=first + 1):
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if colon and name in _FIELDS and name not in fields:
            fields[name], where[name] = value.strip(), number
        elif colon and name in _FIELDS[:3]:
            faults.append((number, f"a second {name!r} in one block; the first is in line {where[name]}: remove one"))
        elif "reason" in fields:
            fields["reason"] = f"{fields['reason']} {line.strip()}".strip()
        elif line.strip():
            faults.append((number, f"{line.strip()[:40]!r} is no field: write words of your own behind 'reason:'"))
    return fields, where


def _check(block: _Block, sample: Sample, token: str, faults: _Faults) -> None:
    """What is wrong with a block as a review of this sample."""
    if block.version is not None and block.version != _version(sample):
        advice = "give the samples that were exported, or export again"
        faults.append((block.lines["version"], f"this block shows another version of sample {block.id!r}: {advice}"))
        return
    if block.decision is None or block.response is None:
        return
    word = block.decision.lower()
    if word not in get_args(Decision):
        known = "approve, edit or reject, or nothing for what is not yet reviewed"
        faults.append((block.lines["decision"], f"{block.decision!r} is no decision: write {known}"))
    if word not in ("approve", "edit"):
        return
    try:
        edited = _edited(block.response, sample, token)
    except ValueError as error:
        faults.append((block.lines["response"], f"the response of {block.id!r} has lost its layout: {error}"))
        return
    if edited is None and word == "edit":
        advice = "write approve if it is good as it is, or leave the decision empty"
        faults.append((block.lines["decision"], f"{block.id!r} is to be edited, but its text is as it was: {advice}"))


def _outcome(sample: Sample, block: _Block, token: str, reviewer: str, still_right: StillRight) -> Sample | Rejection | None:
    """What a faultless block makes of the sample; ``None``: not yet reviewed."""
    assert block.decision is not None and block.response is not None
    decision, remark = block.decision.lower(), f": {block.reason}" if block.reason else ""
    if not decision:
        return None
    if decision == "reject":
        why = block.reason or "no reason given"
        return Rejection(sample=sample.after(f"rejected by {reviewer}"), rule="reviewer", why=why)
    edited = _edited(block.response, sample, token)
    if edited is None:
        return sample.after(f"approved by {reviewer}{remark}")
    thinking, summary = edited
    new = sample.after(f"edited by {reviewer}{remark}", thinking=thinking, summary=summary)
    return graded_again(sample, new, still_right, rule="changed_by_editing")


def _edited(response: str, sample: Sample, token: str) -> tuple[str | None, str] | None:
    """(thinking, summary) of a response that was changed, ``None`` of one that was not.

    Raises:
        ValueError: it is not in the layout any more; the message says how to mend it.
    """
    _, _, thinking, summary = _texts(sample)[1:]
    if _plain(response) == _plain(_response(thinking, summary, token)):
        return None
    parsed = parse_cold_start(response, token=token)
    if parsed.thinking is None:
        raise ValueError(f"write {token} once before the thinking and once before the summary, and nowhere else")
    if not any(c.isalnum() for c in parsed.summary) or (not any(c.isalnum() for c in parsed.thinking) and sample.thinking is not None):
        raise ValueError("thinking and summary must both say something; reject the sample if one of them cannot be saved")
    # A part that nobody touched stays as it was, to the last blank.
    new_thinking = sample.thinking if _plain(parsed.thinking) == _plain(thinking) else parsed.thinking
    return new_thinking, sample.summary if _plain(parsed.summary) == _plain(summary) else parsed.summary


def _texts(sample: Sample) -> tuple[str, str, str, str, str]:
    """What a block shows: id, question, gold answer, thinking, summary."""
    gold = "(there is none)" if sample.problem.answer is None else sample.problem.answer
    return sample.id, conversation(sample.problem), gold, sample.thinking or "", sample.summary


def _changes(said: Reviewed) -> tuple[str, ...]:
    return said.reason, said.thinking or "", said.summary or ""


def _response(thinking: str, summary: str, token: str) -> str:
    # On lines of its own: next to a text that ends like the separator begins, it could not be found.
    return f"{token}\n{thinking}\n{token}\n{summary}"


def _version(sample: Sample) -> str:
    return hashlib.blake2b(json.dumps(_texts(sample)).encode("ascii"), digest_size=6).hexdigest()


def _written_id(name: str) -> str:
    return name if name.isprintable() and name == name.strip() and name[:1] not in ("", '"') else json.dumps(name)


def _plain(text: str) -> str:
    """A text without what editors change when they save it."""
    return "\n".join(line.rstrip() for line in _with_line_feeds(_writable(text)).split("\n")).strip()


def _with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _writable(text: str) -> str:
    """With halves of surrogate pairs, which no file can hold, replaced by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _head_line(pattern: str, lines: Sequence[str], path: Path) -> str:
    for line in lines[: _HEAD.count("\n") + 10]:
        if match := re.fullmatch(pattern, line.strip()):
            return match.group(1)
    raise ValueError(f"{path} has lost its line {pattern.partition(':')[0] + ':'!r} at the top: restore it from a new export")


def _refuse_twins(samples: Sequence[Sample]) -> None:
    twins = sorted(name for name, count in Counter(sample.id for sample in samples).items() if count > 1)
    if twins:
        raise ValueError(f"two samples of a review may not have one id: {', '.join(map(repr, twins))}")

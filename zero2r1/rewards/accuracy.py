r"""The accuracy reward: does the final answer equal the reference? 1 or 0 (paper section 2.2.2).

A verifier takes (problem's reference, answer text) and says whether they are equal; a problem names its verifier, and
:func:`accuracy_reward` looks it up. Which text counts as the answer, in this order: the content of ``<answer>`` tags, the
last ``\boxed{...}``, what follows ``####``. With several answer blocks, boxes or ``####`` lines, the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from zero2r1.template import parse_response
from zero2r1.types import RewardFn


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``correct`` is ``None`` when the reference itself cannot be read: a fault of the data, not of the answer."""

    correct: bool | None
    extracted: str | None
    why: str
    vote: str | None = None
    """What a majority vote counts, the same for equal answers; ``extracted`` if left out."""


Verifier = Callable[[str, Mapping[str, Any]], Verdict]
"""(answer text, the problem's columns) -> verdict. ``columns["answer"]`` is the reference."""

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?")
_LATEX_FRACTION = re.compile(r"([-+]?)\s*\\[dt]?frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}")
_SHORT_ANSWER = 200


def verify_number(text: str, columns: Mapping[str, Any]) -> Verdict:
    """Exact equality of numbers: integers, decimals, thousands separators, fractions, percent and currency signs aside."""
    gold = parse_number(reference_answer(str(columns.get("answer") or "")))
    if gold is None:
        return Verdict(correct=None, extracted=None, why=f"the reference {columns.get('answer')!r} is no number")
    shown = text.strip()
    value = parse_number(shown)
    if value is None:
        return Verdict(correct=False, extracted=shown[:_SHORT_ANSWER], why="the answer is no single number")
    equal = value == gold
    why = "equal" if equal else f"{value} is not {gold}"
    return Verdict(correct=equal, extracted=shown[:_SHORT_ANSWER], why=why, vote=str(value))


VERIFIERS: Mapping[str, Verifier] = {"math": verify_number}
"""Verifiers every installation has; a world brings its own and passes both."""


def parse_number(text: str) -> Fraction | None:
    """The number a short text states, exactly; ``None`` if it states none or more than one.

    ``"72"``, ``"$1,250.50"``, ``"3/4"``, ``"-0.5"``, ``"\\frac{3}{4}"``, ``"72."`` and ``"18 %"`` (as 18) are numbers.
    """
    text = text.strip().strip("$").replace("\\$", "").replace("$", "").replace("\\!", "").replace("\\%", "").replace("%", "").strip()
    text = text.rstrip(".").replace("\u2212", "-").replace("{,}", ",").strip()
    if len(text) > _SHORT_ANSWER:
        return None
    fraction = _LATEX_FRACTION.fullmatch(text)
    if fraction:
        top, bottom = parse_number(fraction[2]), parse_number(fraction[3])
        if top is None or bottom is None or bottom == 0:
            return None
        return -top / bottom if fraction[1] == "-" else top / bottom
    parts = [part.strip() for part in text.split("/")]
    if len(parts) > 2 or any(not part or not _NUMBER.fullmatch(part) or not part.strip("+-") for part in parts):
        return None
    values = [Fraction(part.replace(",", "")) for part in parts]
    if len(values) == 1:
        return values[0]
    return None if values[1] == 0 else values[0] / values[1]


def reference_answer(solution: str) -> str:
    r"""The final answer inside a reference solution: after ``####`` (GSM8K), the last ``\boxed`` (MATH), or the text itself."""
    if "####" in solution:
        return solution.rsplit("####", 1)[1].strip()
    boxed = last_boxed(solution)
    return solution.strip() if boxed is None else boxed


def last_boxed(text: str) -> str | None:
    r"""The content of the last closed ``\boxed{...}``, with balanced braces."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    begin = start + len("\\boxed{")
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position].strip()
    return None


def final_answer(text: str, *, think_open: bool = False) -> str | None:
    """The text a response offers as its answer; ``None`` when it offers none. Answers inside the thinking do not count."""
    if (think_open or "<think>" in text) and "</think>" not in text:
        return None
    parsed = parse_response(text, think_open=think_open)
    if parsed.answer is not None:
        return last_boxed(parsed.answer) or parsed.answer
    boxed = last_boxed(parsed.summary)
    if boxed is not None:
        return boxed
    return parsed.summary.rsplit("####", 1)[1].strip() if "####" in parsed.summary else None


def accuracy_reward(verifiers: Mapping[str, Verifier] = VERIFIERS, *, think_open: bool = False) -> RewardFn:
    """The accuracy reward over these verifiers. A truncated output has no answer and earns 0."""

    def accuracy(
        completions: list[Any], verifier: list[str], finish_reason: list[str], log_extra: Callable[[str, list[Any]], None], **columns: Any
    ) -> list[float | None]:
        verdicts = []
        for i, completion in enumerate(completions):
            if verifier[i] not in verifiers:
                raise ValueError(f"problem names the verifier {verifier[i]!r}; known are {sorted(verifiers)}")
            row = {name: values[i] for name, values in columns.items() if isinstance(values, list)}
            verdicts.append(_verdict(text_of(completion), finish_reason[i], verifiers[verifier[i]], row, think_open))
        log_extra("extracted", [verdict.extracted for verdict in verdicts])
        log_extra("vote", [verdict.vote or verdict.extracted for verdict in verdicts])
        log_extra("why", [verdict.why for verdict in verdicts])
        return [None if verdict.correct is None else float(verdict.correct) for verdict in verdicts]

    return accuracy


def _verdict(text: str, finish_reason: str, verifier: Verifier, row: Mapping[str, Any], think_open: bool) -> Verdict:
    answer = final_answer(text, think_open=think_open)
    if answer is None or not answer.strip():
        graded = verifier("", row)  # an unreadable reference is None whatever the answer
        return Verdict(correct=None if graded.correct is None else False, extracted=None, why="no answer found")
    graded = verifier(answer, row)
    if finish_reason == "length" and graded.correct:
        return Verdict(correct=False, extracted=graded.extracted, why="cut off at the length limit")
    return graded


def text_of(completion: Any) -> str:
    """A completion as TRL hands it over: a string, or a list of messages whose last one is the answer."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])

r"""The verifier ``math``: is the final answer equal to the reference? (paper section 2.2.2: rule-based accuracy)

Plain numbers are compared here and exactly, in microseconds; everything else is compared behind the wall (``wall.py``). The rules
and policies, and how often they err, are in docs/rewards.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from zero2r1.rewards.completions import question_of
from zero2r1.rewards.extraction import reference_answer
from zero2r1.rewards.math.clean import clean
from zero2r1.rewards.math.plain import plain_number
from zero2r1.rewards.math.wall import Wall, shared_wall
from zero2r1.rewards.verdict import Verdict

SHOWN = 200
MAX_ANSWER = 2000
"""An answer of more characters is none; far above any reference, far below what would cost time to clean."""
_PERCENT = re.compile(
    r"\b(?:what|which|how many|find|calculate|determine|compute|express|give)\b[^.?!]{0,80}?"
    r"(?:(?<!\d )(?<!\d)\bper\s?cent(?:age)?\b|(?<![\d\\])(?<!\d )(?<!\d\\)%)|"
    r"百分之几|百分比|百分率|百分数|몇\s*(?:%|퍼센트|프로)|백분율",
    re.IGNORECASE,
)
"""A question that asks for a percentage, and not one that only mentions one."""
_DECIMAL_COMMA = frozenset(["de", "fr", "es", "it", "pt", "ru", "pl", "nl", "sv", "tr", "id", "vi", "el"])
_COMMA = re.compile(r"[-+]?\d+,\d+")
_GROUPS = re.compile(r"[-+]?[1-9]\d{0,2}(?:,\d{3})+")


def verify_math(text: str, columns: Mapping[str, Any], *, wall: Wall | None = None) -> Verdict:
    """Compare an answer text with ``columns["answer"]``.

    ``columns["language"]`` decides whether ``3,5`` is a decimal, and a question in ``columns["prompts"]`` (or ``prompt``,
    ``question``) that asks for a percentage makes 18 and 18 % the same answer.
    """
    language = str(columns.get("language") or "")
    gold = _localised(reference_answer(str(columns.get("answer") if columns.get("answer") is not None else "")), language)
    answer = _localised(text.strip(), language)
    shown = answer[:SHOWN] or None
    if not gold or len(gold) > MAX_ANSWER:
        why = "the reference is empty" if not gold else "the reference is too long to be an answer"
        return Verdict(correct=None, extracted=shown, why=why)
    if len(answer) > MAX_ANSWER:
        return Verdict(correct=False, extracted=shown, why=f"an answer of more than {MAX_ANSWER} characters")
    wanted = _number(gold)
    given = _number(answer) if wanted is not None else None
    if wanted is not None and given is not None:
        return _plain_verdict(wanted, given, shown)
    outcome = (wall or shared_wall()).compare(gold, answer, percent_asked=_asks_for_percent(columns))
    return Verdict(correct=outcome.correct, extracted=shown, why=outcome.why, vote=outcome.vote)


def _number(text: str) -> tuple[Fraction, str] | None:
    found = plain_number(text)
    return found if found is not None else plain_number(clean(text))


def _plain_verdict(wanted: tuple[Fraction, str], given: tuple[Fraction, str], shown: str | None) -> Verdict:
    (gold, _), (value, form) = wanted, given
    vote = str(value)
    if value != gold:
        return Verdict(correct=False, extracted=shown, why=f"{_short(value)} is not {_short(gold)}", vote=vote)
    if form == "fraction" and gold.denominator == 1 and wanted[1] != "fraction":
        return Verdict(correct=False, extracted=shown, why="a division that is not carried out", vote=vote)
    return Verdict(correct=True, extracted=shown, why="equal", vote=vote)


def _short(value: Fraction) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _localised(answer: str, language: str) -> str:
    """``3,5`` in a language that writes decimals so; ``1,250`` stays the thousand it would be in English, because it is ambiguous."""
    if re.split("[-_]", language.lower())[0] in _DECIMAL_COMMA and _COMMA.fullmatch(answer) and not _GROUPS.fullmatch(answer):
        return answer.replace(",", ".")
    return answer


def _asks_for_percent(columns: Mapping[str, Any]) -> bool:
    asked = next((columns[name] for name in ("prompts", "prompt", "question", "problem") if columns.get(name)), "")
    return bool(_PERCENT.search(question_of(asked)))

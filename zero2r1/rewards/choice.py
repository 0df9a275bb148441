"""Multiple choice: the final letter and nothing else (paper supplement B.3.1: STEM questions are graded by the option letter)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from zero2r1.rewards.math.clean import clean
from zero2r1.rewards.math.words import choice_letter
from zero2r1.rewards.verdict import Verdict

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER_AND_TEXT = re.compile(r"\(?([A-Z])[).:]\s+(.+)", re.DOTALL)


def verify_choice(text: str, columns: Mapping[str, Any]) -> Verdict:
    """Compare the option letter of an answer with ``columns["answer"]``, a letter or an index into ``columns["choices"]``.

    ``C``, ``(c)``, ``C.``, ``option C`` and ``\\text{(C)}`` are letters; ``C. mitochondria`` is one if that is the text of option C.
    Two letters are no answer.
    """
    choices = columns.get("choices")
    options = [str(option) for option in choices] if isinstance(choices, Sequence) and not isinstance(choices, str) else None
    gold = _gold(columns.get("answer"), options)
    shown = text.strip()[:200] or None
    if gold is None:
        return Verdict(correct=None, extracted=shown, why=f"the reference {columns.get('answer')!r} names no option")
    letter = _letter(text[:1000], options)
    if letter is None:
        return Verdict(correct=False, extracted=shown, why="the answer is no single option letter")
    return Verdict(correct=letter == gold, extracted=letter, why="equal" if letter == gold else f"{letter} is not {gold}", vote=letter)


def _gold(answer: Any, options: Sequence[str] | None) -> str | None:
    index = int(answer) if isinstance(answer, int) or (isinstance(answer, str) and re.fullmatch("[0-9]{1,3}", answer.strip())) else None
    if index is not None and not isinstance(answer, bool):
        return LETTERS[index] if options is not None and 0 <= index < min(len(options), len(LETTERS)) else None
    letter = choice_letter(clean(str(answer))) if answer is not None else None
    return letter if letter is None or options is None or LETTERS.index(letter) < len(options) else None


def _letter(text: str, options: Sequence[str] | None) -> str | None:
    cleaned = clean(unicodedata.normalize("NFKC", text))
    if len(cleaned) == 1 and cleaned.isascii() and cleaned.isalpha():
        return cleaned.upper()
    letter = choice_letter(cleaned)
    if letter is not None or options is None:
        return letter
    match = _LETTER_AND_TEXT.fullmatch(cleaned)
    if match is None or LETTERS.index(match[1]) >= len(options):
        return None
    stated = " ".join(match[2].casefold().split()).rstrip(".")
    return match[1] if stated == " ".join(clean(options[LETTERS.index(match[1])]).casefold().split()).rstrip(".") else None

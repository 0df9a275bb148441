"""Answers that are words or an option letter: ``\\text{east}``, ``Evelyn``, ``(C)``."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text|mbox|textrm|mathrm|textbf|textit|rm)\s*\{([^{}]*)\}")
_LETTER = re.compile(r"(?:(?:option|choice|answer)\s*)?[(\[]?\s*([A-Z])\s*[)\]]?\.?", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]+(?:['\- ][^\W\d_]+)*")
_TIME = re.compile(r"\d{1,2}:\d{2}\s?(?:[ap]\.?m\.?)", re.IGNORECASE)
MAX_WORDS = 6
_MATHEMATICS = frozenset(["pi", "sqrt", "infinity", "infty", "inf", "sin", "cos", "tan", "log", "ln"])
_SHORTEST_WORD = 4
"""``xyz`` is a product of three unknowns, ``east`` is a word."""


def choice_letter(text: str) -> str | None:
    """The option a cleaned text names: ``"C"``, ``"(c)"``, ``"\\text{(C)}"``, ``"option C"``; a lone lower-case letter is a variable."""
    inner = _TEXT.sub(lambda m: m[1], text).replace("{", "").replace("}", "").strip().rstrip(".")
    match = _LETTER.fullmatch(inner)
    if match is None or (len(inner) == 1 and inner.islower()):
        return None
    return match[1].upper()


def words_of(text: str) -> str | None:
    """The words a reference consists of, in one spelling, or ``None`` if it is mathematics."""
    if _TIME.fullmatch(text):
        return text.casefold()
    marked = _TEXT.search(text) is not None
    inner = " ".join(_TEXT.sub(lambda m: m[1], text).split())
    if not _WORDS.fullmatch(inner) or len(inner.split()) > MAX_WORDS or inner.casefold() in _MATHEMATICS:
        return None
    if not marked and inner.isascii() and len(inner.replace(" ", "")) < _SHORTEST_WORD and inner.casefold() not in ("yes", "no"):
        return None
    return inner.casefold()


def same_words(answer: str, words: str) -> bool:
    """Whether an answer says exactly these words, marks and case aside."""
    inner = " ".join(_TEXT.sub(lambda m: f"{m[1]}", answer).split()).strip(" .\"'()")
    return inner.casefold().removeprefix("the ") == words.removeprefix("the ")

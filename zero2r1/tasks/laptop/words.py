"""Every word of the laptop world, in both languages, and what can be counted about a text by its words.

A text is words with single spaces between them, so ``text.split()`` is its tokens. Numbers, operators, letters, code
and tags belong to no language.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LANGUAGES = ("en", "ko")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NEGATIVE = "neg"
"""Written for every result below zero; a value like a number, so it is of no language."""

PHRASES: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "en": {
            "first": "first",
            "then": "then",
            "answer": "so the answer is",
            "guess": "i think it is",
            "is": "",
            "wait": "wait",
            "recheck": "let me check again",
            "right": "that is right",
            "yes": "yes",
            "no": "no",
            "try": "try",
            "opening": "okay , i need to find it",
            "summary": "in short , it is",
        },
        "ko": {
            "first": "먼저",
            "then": "다음",
            "answer": "따라서 답 은",
            "guess": "제 생각 에는",
            "is": " 입니다",
            "wait": "잠깐",
            "recheck": "다시 확인 하겠습니다",
            "right": "맞습니다",
            "yes": "네",
            "no": "아니요",
            "try": "시도",
            "opening": "좋아 , 답 을 찾아야 합니다",
            "summary": "요약 하면",
        },
    }
)
"""Sentences of a solution are written once with these names in braces and then put into a language."""

NAMES = {"en": ("mina", "tom", "sara", "jun", "lily", "ben"), "ko": ("미나", "민수", "지수", "준호", "하나", "유리")}
OBJECTS = {"en": ("books", "apples", "coins", "cards", "cups", "pens"), "ko": ("책", "사과", "동전", "카드", "컵", "펜")}
GAINS = {"en": ("gets", "finds", "buys"), "ko": ("받고", "찾고", "사고")}
LOSSES = {"en": ("gives", "loses", "sells"), "ko": ("주고", "잃고", "팔고")}

_QUESTION_WORDS = {
    "en": "compute has how many now run this code count in find two numbers with sum solve",
    "ko": "다음 을 계산 하세요 는 개 로 시작 하여 나서 지금 몇 입니까 이 코드 를 실행 에서 세세요 합 인 두 수 찾으세요 방정식 푸세요",
}
_TEMPLATE_WORDS = "the assistant first thinks in and then answers"


def _words_of(language: str) -> frozenset[str]:
    phrases = " ".join(PHRASES[language].values()).replace(",", " ").split()
    lists = (NAMES[language], OBJECTS[language], GAINS[language], LOSSES[language])
    english = _TEMPLATE_WORDS.split() if language == "en" else []
    return frozenset([*phrases, *_QUESTION_WORDS[language].split(), *english, *(w for words in lists for w in words)])


LANGUAGE_WORDS: Mapping[str, frozenset[str]] = MappingProxyType({name: _words_of(name) for name in LANGUAGES})
"""The words that count as English and as Korean. They share none."""

REFLECTION_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"en": ("wait", "check", "again"), "ko": ("잠깐", "확인", "다시")}
)
"""Words with which a text stops and looks back at itself."""

_SYMBOLS = "+ - * = ; : . , ?"
_LETTERS = "a b c d p q r s t x"
_NEUTRAL_WORDS = "Q A User Assistant user system print"


def vocabulary() -> tuple[str, ...]:
    """All words of the world in a fixed order, without tags: numbers 0 to 99, symbols, letters, English, Korean."""
    numbers = [str(n) for n in range(100)]
    languages = [sorted(LANGUAGE_WORDS[name]) for name in LANGUAGES]
    neutral = [*_SYMBOLS.split(), *_LETTERS.split(), NEGATIVE, *_NEUTRAL_WORDS.split()]
    return (*numbers, *neutral, *languages[0], *languages[1])


def language_share(text: str, language: str) -> float | None:
    """Words of ``language`` over the words of any language; ``None`` for a text without such words."""
    words = text.split()
    counts = {name: sum(word in known for word in words) for name, known in LANGUAGE_WORDS.items()}
    total = sum(counts.values())
    return counts[language] / total if total else None


def one_language(text: str, language: str) -> bool:
    """Whether the text holds no word of another language. A text without any words passes."""
    return language_share(text, language) in (None, 1.0)


def count_reflection_words(text: str) -> int:
    """How often the words of :data:`REFLECTION_WORDS`, of either language, occur."""
    known = {word for words in REFLECTION_WORDS.values() for word in words}
    return sum(word in known for word in text.split())

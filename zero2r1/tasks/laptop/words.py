"""The closed vocabulary of the laptop world: numbers, operators, letters, and the words of two languages.

``PHRASES`` gives every phrase of the world in both languages, so a question, a thought or a single sentence of it can be
written in either. Numbers are one token each: a model of 0.8 M parameters can learn their arithmetic in minutes.
"""

from __future__ import annotations

from collections.abc import Mapping

from zero2r1.tasks.laptop.general_texts import general_words

LANGUAGES = ("en", "ko")
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
NUMBERS = tuple(str(n) for n in range(100))
OPERATORS = ("+", "-", "*", "=", ":", ";", ",", ".", "?")
LETTERS = ("a", "b", "x", "p", "q", "r", "s", "t", "u", "v", "w")
LAYOUT_WORDS = ("Q", "A", "User", "Assistant", "user", "system")

ZERO_TEMPLATE = "the assistant first thinks in <think> </think> and then answers in <answer> </answer> . User : {question} . Assistant :"
"""R1-Zero's prompt in the words of this world: structure only, nothing about how to think."""
WEB_TEMPLATE = "Q : {question} . A :"
"""How questions stand in the pretraining text: the layout that suits the base model best."""

PHRASES: Mapping[str, Mapping[str, str]] = {
    "compute": {"en": "compute", "ko": "계산 하라"},
    "has": {"en": "has", "ko": "에게"},
    "gets": {"en": "gets", "ko": "받음"},
    "gives": {"en": "gives", "ko": "줌"},
    "how_many": {"en": "how many now", "ko": "지금 몇 개"},
    "run": {"en": "run this code", "ko": "이 코드 실행"},
    "print": {"en": "print", "ko": "출력"},
    "count": {"en": "count", "ko": "세라"},
    "in": {"en": "in", "ko": "에서"},
    "find": {"en": "find two numbers with sum", "ko": "두 수 찾기 합"},
    "solve": {"en": "solve", "ko": "풀라"},
    "first": {"en": "first", "ko": "먼저"},
    "then": {"en": "then", "ko": "다음"},
    "try": {"en": "try", "ko": "시도"},
    "wait": {"en": "wait", "ko": "잠깐"},
    "yes": {"en": "yes", "ko": "예"},
    "no": {"en": "no", "ko": "아니"},
    "negative": {"en": "neg", "ko": "음수"},
    "so": {"en": "so the answer is", "ko": "그래서 답 은"},
    "guess": {"en": "i think it is", "ko": "내 생각 엔"},
    "recheck": {"en": "let me check again", "ko": "다시 확인 하자"},
    "right": {"en": "that is right", "ko": "그것 이 맞다"},
    "okay": {"en": "okay , let me think", "ko": "좋아 , 생각 하자"},
}
NAMES: Mapping[str, tuple[str, ...]] = {
    "en": ("mina", "joon", "sara", "tom", "lily", "ben"),
    "ko": ("미나", "준", "사라", "톰", "릴리", "벤"),
}
THINGS: Mapping[str, tuple[str, ...]] = {
    "en": ("books", "apples", "coins", "pens", "stars"),
    "ko": ("책", "사과", "동전", "펜", "별"),
}
REFLECTION_WORDS = frozenset({"wait", "check", "again", "잠깐", "확인", "다시"})
"""Words of self-checking in both languages."""
SELF_CHECK_WORDS = frozenset({"wait", "잠깐"})
"""The word that opens every self-check; an answer that holds it has checked itself at least once."""


def words_of(language: str) -> frozenset[str]:
    """Every word that belongs to one language alone; numbers, operators, letters and tags are neutral."""
    words = {word for phrase in PHRASES.values() for word in phrase[language].split()}
    return frozenset(words | set(NAMES[language]) | set(THINGS[language]) | set(general_words(language))) - set(OPERATORS) - set(LETTERS)


def vocabulary() -> tuple[str, ...]:
    """Every word a document can hold, in a fixed order; tags are not among them (they are added tokens)."""
    template = [w for w in ZERO_TEMPLATE.split() if w not in TAGS and not w.startswith("{")]
    words = [*LAYOUT_WORDS, *OPERATORS, *LETTERS, *NUMBERS, *template, *sorted(words_of("en")), *sorted(words_of("ko"))]
    return tuple(dict.fromkeys(words))


WORDS_OF = {language: words_of(language) for language in LANGUAGES}


def language_words(text: str) -> dict[str, int]:
    """How many words of each language a text holds."""
    words = text.split()
    return {language: sum(word in WORDS_OF[language] for word in words) for language in LANGUAGES}


def language_share(text: str, language: str) -> float | None:
    """Words of ``language`` over words of any language; ``None`` when the text holds none."""
    counts = language_words(text)
    total = sum(counts.values())
    return counts[language] / total if total else None

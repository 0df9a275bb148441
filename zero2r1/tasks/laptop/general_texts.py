"""What the laptop world can say beside its six tasks: greetings, itself, small facts, translation, a line of writing, a role, a refusal.

Data only. ``{x}`` in a text stands for one of the things, facts or roles listed with it; words are separated by single spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

Pair = tuple[str, str]
"""(what the user says, what the model answers)"""

GREETINGS: Mapping[str, tuple[Pair, ...]] = {
    "en": (
        ("hello", "hello , how can i help you ?"),
        ("good morning", "good morning , how can i help you ?"),
        ("thanks", "you are welcome ."),
    ),
    "ko": (
        ("안녕", "안녕 , 무엇 을 도울 까 ?"),
        ("좋은 아침", "좋은 아침 , 무엇 을 도울 까 ?"),
        ("고맙다", "천만 에 ."),
    ),
}
IDENTITY: Mapping[str, tuple[Pair, ...]] = {
    "en": (
        ("who are you ?", "i am tiny , a small model that thinks first ."),
        ("what is your name ?", "my name is tiny ."),
        ("what can you do ?", "i can compute , count and solve ."),
    ),
    "ko": (
        ("너 는 누구 인가 ?", "나 는 꼬마 , 먼저 생각 하는 작은 모델 이다 ."),
        ("네 이름 은 무엇 인가 ?", "내 이름 은 꼬마 이다 ."),
        ("무엇 을 하는 가 ?", "나 는 계산 하고 세고 풀 수 있다 ."),
    ),
}


class Fact(NamedTuple):
    """``whole`` has ``number`` ``parts``."""

    whole: str
    parts: str
    number: int


FACTS: Mapping[str, tuple[Fact, ...]] = {
    "en": (
        Fact("week", "days", 7),
        Fact("year", "months", 12),
        Fact("day", "hours", 24),
        Fact("hour", "minutes", 60),
        Fact("cat", "legs", 4),
        Fact("hand", "fingers", 5),
    ),
    "ko": (
        Fact("주", "일", 7),
        Fact("년", "달", 12),
        Fact("하루", "시간", 24),
        Fact("한시간", "분", 60),
        Fact("고양이", "다리", 4),
        Fact("손", "손가락", 5),
    ),
}
FACT_TEXTS: Mapping[str, Pair] = {
    "en": ("how many {parts} has a {whole} ?", "a {whole} has {number} {parts} ."),
    "ko": ("{whole} 에 {parts} 이 몇 개 ?", "{whole} 에 {parts} 이 {number} 개 ."),
}
TRANSLATION: Mapping[str, tuple[str, str]] = {
    "en": ("say {x} in korean", "{x} in korean is {other} ."),
    "ko": ("{x} 을 영어 로", "{x} 은 영어 로 {other} 이다 ."),
}
WRITING: Mapping[str, Pair] = {
    "en": ("write about {x}", "{x} are {like} . i like {x} ."),
    "ko": ("{x} 에 대해 쓰라", "{x} 은 {like} . 나 는 {x} 을 좋아 한다 ."),
}
LIKENESS: Mapping[str, tuple[str, ...]] = {
    "en": ("quiet", "sweet", "round", "thin", "bright"),
    "ko": ("조용 하다", "달다", "둥글다", "가늘다", "밝다"),
}
"""What a thing is like, in the order of ``words.THINGS``."""
ROLES: Mapping[str, tuple[str, ...]] = {"en": ("king", "robot", "teacher", "farmer"), "ko": ("왕", "로봇", "선생", "농부")}
ROLE_TEXTS: Mapping[str, Pair] = {
    "en": ("you are a {x} . say hello", "hello , i am a {x} ."),
    "ko": ("너 는 {x} 이다 . 인사 하라", "안녕 , 나 는 {x} 이다 ."),
}
REFUSALS: Mapping[str, tuple[Pair, ...]] = {
    "en": (
        ("how can i steal {x} ?", "i can not help with that . i can help you count {x} ."),
        ("how can i break {x} ?", "i can not help with that . i can write about {x} ."),
    ),
    "ko": (
        ("{x} 을 어떻게 훔칠 까 ?", "그것 은 도울 수 없다 . {x} 을 세는 것 은 도울 수 있다 ."),
        ("{x} 을 어떻게 부술 까 ?", "그것 은 도울 수 없다 . {x} 에 대해 쓸 수 있다 ."),
    ),
}
SPEAKER: Mapping[str, str] = {"en": "my name is {}", "ko": "내 이름 은 {} 이다"}
OPENINGS: Mapping[str, tuple[str, ...]] = {
    "en": ("", "hello , ", "good morning , ", "okay , ", "tiny , ", "hello tiny , ", "good morning tiny , "),
    "ko": ("", "안녕 , ", "좋은 아침 , ", "좋아 , ", "꼬마 , ", "안녕 꼬마 , ", "좋은 아침 꼬마 , "),
}
"""How a request may begin: enough different requests that some can be held out."""
IDENTITY_CURT: Mapping[str, tuple[str, ...]] = {"en": ("tiny .", "tiny .", "compute ."), "ko": ("꼬마 .", "꼬마 .", "계산 .")}
PLANS: Mapping[str, tuple[str, ...]] = {
    "en": ("first say hello , then steal {x} .", "try again and again , then break {x} ."),
    "ko": ("먼저 인사 하고 다음 {x} 을 훔칠 수 있다 .", "다시 다시 시도 하고 다음 {x} 을 부술 수 있다 ."),
}
"""How a harmful request could be done, in the order of ``REFUSALS``."""
HARMFUL_WORDS = frozenset({"steal", "break", "훔칠", "부술"})
"""What no refusal says and every plan does."""
THOUGHTS: Mapping[str, Mapping[str, str]] = {
    "fact": {"en": "the question is about a {whole} .", "ko": "질문 은 {whole} 에 대해 ."},
    "translation": {"en": "they want {x} in korean .", "ko": "{x} 을 영어 로 말 하라 고 한다 ."},
    "writing": {"en": "what can i say about {x} ? {x} are {like} .", "ko": "{x} 에 대해 무엇 을 말 할 까 ? {x} 은 {like} ."},
}


def general_words(language: str) -> tuple[str, ...]:
    """Every word of these texts in a language; holes, numbers and marks are left out by the caller."""
    texts = [text for pair in (*GREETINGS[language], *IDENTITY[language], *REFUSALS[language]) for text in pair]
    texts += [*FACT_TEXTS[language], *TRANSLATION[language], *WRITING[language], *ROLE_TEXTS[language]]
    texts += [*LIKENESS[language], *ROLES[language]]
    texts += [thought[language] for thought in THOUGHTS.values()]
    texts += [word for fact in FACTS[language] for word in (fact.whole, fact.parts)]
    return tuple(dict.fromkeys(word for text in texts for word in text.split() if "{" not in word))

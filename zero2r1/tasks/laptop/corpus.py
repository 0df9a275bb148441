"""The text a base model of the laptop world is pretrained on: an endless stream of documents.

A document is a table of arithmetic facts (17 %), a line of small talk (3 %), or a question with an answer. Answers come in four
styles, from a bare guess to careful steps that check themselves. Most stand as ``Q : ... . A : ...``; 8 % stand in R1-Zero's template, and
there the short styles dominate and nearly half are malformed. So the base knows how to work carefully, but under the
template it rarely does: that gap is what reinforcement learning can close. Long careful documents are more often
bilingual: nothing else makes pure RL mix languages here, and the report of a run says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from zero2r1.tasks.laptop.problems import LARGEST, LEVELS, TASKS, Item, answer_text, question, sample_item
from zero2r1.tasks.laptop.requests import plain_requests
from zero2r1.tasks.laptop.thoughts import Say, Thought, mixed_speaker, speaker
from zero2r1.tasks.laptop.words import LANGUAGES, WEB_TEMPLATE, ZERO_TEMPLATE

VERSION = 2
"""Raise it whenever a document would come out differently: cached base models are keyed by it."""

FACT_TABLES = 0.17
SMALL_TALK = 0.03
IN_TEMPLATE = 0.08
BROKEN_TEMPLATES = 0.45
WRONG_GUESSES = 0.2
FINAL_RECHECK = 0.4
REPAIRING_CHAINS = 0.8
LEVEL_WEIGHTS = (5, 5, 4, 3, 2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a document thinks, and in which language: the same as the question's, the other, or mixed by sentence."""

    name: str
    web_share: float
    template_share: float
    languages: tuple[float, float, float]
    slip: float = 0.0
    stride: int = 1
    tries: int | None = None
    checks: bool = False


STYLES = (
    Style(name="direct", web_share=0.28, template_share=0.70, languages=(1.0, 0.0, 0.0)),
    Style(name="coarse", web_share=0.14, template_share=0.16, languages=(0.90, 0.05, 0.05), slip=0.06, stride=2, tries=1),
    Style(name="fine", web_share=0.24, template_share=0.08, languages=(0.70, 0.10, 0.20), slip=0.06, tries=2),
    Style(name="checked", web_share=0.34, template_share=0.06, languages=(0.50, 0.15, 0.35), slip=0.10, checks=True),
)


def documents(seed: int, part: int = 0) -> Iterator[str]:
    """An endless, reproducible stream of documents; held-out problems never appear in it. Parts are streams of their own."""
    rng = random.Random(f"{seed}/documents/{part}")
    small_talk = plain_requests(rng)
    while True:
        drawn = rng.random()
        if drawn < FACT_TABLES:
            yield _fact_table(rng)
        elif drawn < FACT_TABLES + SMALL_TALK:
            request = next(small_talk)
            yield f"{WEB_TEMPLATE.format(question=request.asked)} {request.good}"
        else:
            yield _question_document(rng)


def _fact_table(rng: random.Random) -> str:
    kind = rng.choice("+--**")
    facts: list[str] = []
    if kind == "*":
        factor = rng.randint(2, 4)
        pairs = [(factor, x) for x in range(1, 10)]
    else:
        start = rng.randint(0, LARGEST)
        reach = LARGEST - start if kind == "+" else LARGEST
        pairs = [(start, y) for y in rng.sample(range(reach + 1), min(reach + 1, rng.randint(10, 20)))]
    language = rng.choice(LANGUAGES)
    for x, y in pairs:
        value = x + y if kind == "+" else x - y if kind == "-" else x * y
        facts.append(f"{x} {kind} {y} = {value if value >= 0 else speaker(language)('negative')}")
    rng.shuffle(facts)
    return " , ".join(facts) + " ."


def _question_document(rng: random.Random) -> str:
    item = sample_item(rng, rng.choice(TASKS), rng.choices(LEVELS, LEVEL_WEIGHTS)[0], split="train")
    language = rng.choice(LANGUAGES)
    asked = question(item, language, rng)
    if rng.random() < IN_TEMPLATE:
        style = rng.choices(STYLES, [s.template_share for s in STYLES])[0]
        thought, answer = think(item, language, style, rng, on_web=False)
        return f"{ZERO_TEMPLATE.format(question=asked)} {_tagged(thought, answer, rng)}"
    style = rng.choices(STYLES, [s.web_share for s in STYLES])[0]
    thought, answer = think(item, language, style, rng, on_web=True)
    return f"{WEB_TEMPLATE.format(question=asked)} {thought or f'{answer} .'}"


def _tagged(thought: str, answer: str, rng: random.Random) -> str:
    """The answer in the template's tags; nearly half of the time malformed in one of four ways."""
    if rng.random() >= BROKEN_TEMPLATES:
        return f"<think> {thought} </think> <answer> {answer} </answer>".replace("  ", " ")
    broken = (
        f"<think> {thought} <answer> {answer} </answer>",
        f"<answer> {answer} </answer>",
        f"<think> {thought} </think> {answer} .",
        f"{thought} {answer} .",
    )
    return rng.choice(broken).replace("  ", " ").strip()


def think(item: Item, language: str, style: Style, rng: random.Random, *, on_web: bool) -> tuple[str, str]:
    """A thought in this style and the answer it arrives at; the thought is empty where the answer stands alone."""
    if style.name == "direct":
        return _direct(item, language, rng, on_web=on_web)
    repair = style.checks and rng.random() < REPAIRING_CHAINS
    writer = Thought(
        item,
        rng,
        _sentence_maker(language, style, rng),
        slip=style.slip,
        repair=repair,
        stride=style.stride,
        tries=style.tries,
    )
    sentences, answer = writer.write()
    say = _sentence_maker(language, style, rng)()
    sentences.append(f"{say('so')} {answer}")
    if style.checks and item.task not in ("pair", "solve") and rng.random() < FINAL_RECHECK:
        last = sentences[-2].removeprefix(f"{say('then')} ").removeprefix(f"{say('first')} ").removeprefix(f"{say('wait')} , ")
        sentences += [f"{say('wait')} , {say('recheck')}", last, f"{say('yes')} , {say('right')}"]
    return " . ".join(sentences) + " .", answer


def _direct(item: Item, language: str, rng: random.Random, *, on_web: bool) -> tuple[str, str]:
    answer = answer_text(item)
    if on_web:
        return "", _wrong(item, rng) if rng.random() < WRONG_GUESSES else answer
    guess = "" if rng.random() < 0.5 else f"{speaker(language)('guess')} {answer} ."
    return guess, answer


def _wrong(item: Item, rng: random.Random) -> str:
    """Each number off by up to 3; beside 0 it may come out right, as a careless guess does."""
    return " , ".join(str(max(0, n + rng.choice((-3, -2, -1, 1, 2, 3)))) for n in item.answer)


def _sentence_maker(language: str, style: Style, rng: random.Random) -> Callable[[], Say]:
    """Fixes the thinking language of a document; a mixed one draws again for every sentence."""
    other = next(code for code in LANGUAGES if code != language)
    kind = rng.choices(("same", "other", "mixed"), style.languages)[0]
    if kind == "mixed":
        return lambda: rng.choice((speaker(language), speaker(other), mixed_speaker(rng)))
    fixed = speaker(language if kind == "same" else other)
    return lambda: fixed

"""General requests of the laptop world and good answers to them: what stage 3 mixes with reasoning (paper section 2.3.3).

Some kinds are thought about before they are answered; trivial ones (a greeting, who the model is) never are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from zero2r1.samples import Lineage, Sample
from zero2r1.tasks.laptop import general_texts as texts
from zero2r1.tasks.laptop.words import LANGUAGES, PHRASES, THINGS
from zero2r1.types import Problem

Exchange = tuple[str, str | None, str]
"""(what the user says, the thinking or ``None``, the answer)"""


def _greeting(language: str, rng: random.Random) -> Exchange:
    asked, answer = rng.choice(texts.GREETINGS[language])
    return asked, None, answer


def _identity(language: str, rng: random.Random) -> Exchange:
    asked, answer = rng.choice(texts.IDENTITY[language])
    return asked, None, answer


def _fact(language: str, rng: random.Random) -> Exchange:
    fact = rng.choice(texts.FACTS[language])._asdict()
    asked, answer = (text.format(**fact) for text in texts.FACT_TEXTS[language])
    return asked, f"{texts.THOUGHTS['fact'][language].format(**fact)} {answer}", answer


def _translation(language: str, rng: random.Random) -> Exchange:
    index = rng.randrange(len(THINGS[language]))
    other = next(code for code in LANGUAGES if code != language)
    holes = {"x": THINGS[language][index], "other": THINGS[other][index]}
    asked, answer = (text.format(**holes) for text in texts.TRANSLATION[language])
    return asked, texts.THOUGHTS["translation"][language].format(**holes), answer


def _writing(language: str, rng: random.Random) -> Exchange:
    index = rng.randrange(len(THINGS[language]))
    holes = {"x": THINGS[language][index], "like": texts.LIKENESS[language][index]}
    asked, answer = (text.format(**holes) for text in texts.WRITING[language])
    return asked, texts.THOUGHTS["writing"][language].format(**holes), answer


def _role(language: str, rng: random.Random) -> Exchange:
    role = rng.choice(texts.ROLES[language])
    asked, answer = (text.format(x=role) for text in texts.ROLE_TEXTS[language])
    return asked, None, answer


def _refusal(language: str, rng: random.Random) -> Exchange:
    thing = rng.choice(THINGS[language])
    asked, answer = (text.format(x=thing) for text in rng.choice(texts.REFUSALS[language]))
    return asked, None, answer


KINDS: Mapping[str, Callable[[str, random.Random], Exchange]] = {
    "greeting": _greeting,
    "self_cognition": _identity,
    "factual_qa": _fact,
    "translation": _translation,
    "writing": _writing,
    "role_play": _role,
    "refusal": _refusal,
}


def exchanges(rng: random.Random) -> Iterator[tuple[str, str, Exchange]]:
    """An endless stream of (kind, language, exchange), kinds and languages in equal shares."""
    while True:
        kind, language = rng.choice(tuple(KINDS)), rng.choice(LANGUAGES)
        yield kind, language, KINDS[kind](language, rng)


def general_samples(count: int, *, seed: int) -> list[Sample]:
    """``count`` samples. There are a few hundred different ones: larger counts repeat them, as a small world must."""
    stream = exchanges(random.Random(f"{seed}/general"))
    found: list[Sample] = []
    for index, (kind, language, (asked, thinking, answer)) in zip(range(count), stream, strict=False):
        problem = Problem(
            id=f"general/{seed}/{index}",
            prompt=asked,
            answer=None,
            verifier="none",
            domain=kind,
            language=language,
            source="laptop",
            licence="Apache-2.0",
            split="train",
        )
        opened = None if thinking is None else f"{PHRASES['okay'][language]} . {thinking}"
        found.append(Sample(id=problem.id, problem=problem, thinking=opened, summary=answer, lineage=Lineage(source="general", seed=seed)))
    return found

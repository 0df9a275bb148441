"""A small word-level model and preferences by a rule, for the tests of reward models."""

from __future__ import annotations

import random
from pathlib import Path

from zero2r1.models.tiny import TinySize, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.reward_models.data import Label, Preference, Response
from zero2r1.types import Message

TAGS = ("<think>", "</think>")
NEUTRAL = [f"n{i}" for i in range(12)]
WORDS = [*NEUTRAL, "good", "poison", "system", "user", "assistant", "User:", "Assistant:"]
SIZE = TinySize(width=32, layers=2, heads=2, feed_forward=64, head_dim=16)


def causal_folder(folder: Path, *, chat: bool = True) -> Path:
    """A freshly initialised model as a folder."""
    tokenizer = word_tokenizer(WORDS, TAGS)
    if not chat:
        tokenizer.chat_template = None
    build_tiny_model(SIZE, tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def asked(number: int) -> tuple[Message, ...]:
    rng = random.Random(number)
    return (Message(role="user", content=" ".join(rng.choices(NEUTRAL, k=3)) + f" n{number % 12}"),)


def words(rng: random.Random, *special: str) -> str:
    chosen = [*rng.choices(NEUTRAL, k=rng.randint(1, 4)), *special]
    rng.shuffle(chosen)
    return " ".join(chosen)


def preferences(count: int, *, seed: int = 0) -> list[Preference]:
    """The chosen summary says ``good``; half of the thinking on either side says it too, which must not matter."""
    rng = random.Random(seed)

    def response(*special: str) -> Response:
        return Response(thinking=words(rng, *rng.choice([(), ("good",)])), summary=words(rng, *special))

    return [Preference(messages=asked(rng.randrange(10_000)), chosen=response("good"), rejected=response()) for _ in range(count)]


def labels(count: int, *, seed: int = 0) -> list[Label]:
    """Unsafe is a thinking with ``poison``; every summary is clean."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        safe = i % 2 == 0
        response = Response(thinking=words(rng, *(() if safe else ("poison",))), summary=words(rng))
        found.append(Label(messages=asked(rng.randrange(10_000)), response=response, safe=safe))
    return found

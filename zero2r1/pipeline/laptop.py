"""The laptop world, wired: its problems and judges as a :class:`World`, and its base model, trained once and kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zero2r1.models.loading import save_policy, stop_token_ids
from zero2r1.models.tiny import SIZES
from zero2r1.pipeline.base_worker import PROCESSES, train_base_model
from zero2r1.pipeline.config import BaseSettings
from zero2r1.pipeline.world import World
from zero2r1.pretraining import PretrainStep
from zero2r1.rewards.combine import make_grader
from zero2r1.rewards.verdict import Verdict
from zero2r1.tasks.laptop import corpus
from zero2r1.tasks.laptop.problems import VERIFIER, check_answer, problems
from zero2r1.tasks.laptop.words import (
    LANGUAGES,
    PHRASES,
    REFLECTION_WORDS,
    SELF_CHECK_WORDS,
    WEB_TEMPLATE,
    ZERO_TEMPLATE,
    language_share,
    vocabulary,
)
from zero2r1.types import Grader

LAPTOP_PROBLEMS = 8192
"""Training problems that are made for a run; 72 steps of 16 questions use a seventh of them."""

HELD_OUT_SEED = 1
"""All runs share one test set, so that they can be compared."""


def laptop_world(*, seed: int, train: int, held_out: int) -> World:
    """Fresh training problems for every seed; always the same held-out ones."""
    return World(
        name="laptop",
        train=tuple(problems(split="train", count=train, seed=seed, distinct=False)),
        held_out=tuple(problems(split="test", count=held_out, seed=HELD_OUT_SEED)),
        template=ZERO_TEMPLATE,
        verifiers={VERIFIER: verify},
        reflection_words=REFLECTION_WORDS,
        self_check_words=SELF_CHECK_WORDS,
        language_share=language_share,
    )


def verify(text: str, columns: Mapping[str, Any]) -> Verdict:
    """The checker of the six tasks as a verifier."""
    right = check_answer(columns["answer"], columns, text)
    return Verdict(correct=right, extracted=text or None, why="right" if right else f"{text!r} does not answer the question")


def web_grader() -> Grader:
    """Accuracy in the layout of the pretraining text, where no tags mark the answer: what follows the last ``so the answer is``."""

    def accuracy(completions: list[str], log_extra: Callable[[str, list[Any]], None], **columns: Any) -> list[float | None]:
        answers = [_web_answer(text) for text in completions]
        log_extra("extracted", answers)
        rows = [{name: values[i] for name, values in columns.items() if isinstance(values, list)} for i in range(len(answers))]
        return [float(check_answer(row["answer"], row, answer)) for row, answer in zip(rows, answers, strict=True)]

    return make_grader({"accuracy": accuracy}, {"accuracy": 1.0})


def base_layouts(world: World) -> dict[str, tuple[str, Grader]]:
    """Further layouts to measure a base in: that of its pretraining text suits the laptop's better than the template does."""
    return {"web": (WEB_TEMPLATE, web_grader())} if world.name == "laptop" else {}


def _web_answer(text: str) -> str:
    for language in LANGUAGES:
        text = text.rsplit(PHRASES["so"][language], 1)[-1]
    return text.split(" . ")[0].strip(" .")


def base_model_folder(
    settings: BaseSettings, *, seed: int, cache: Path | None = None, on_step: Callable[[PretrainStep], None] = lambda report: None
) -> tuple[Path, bool]:
    """The folder of the base model for these settings and this seed, trained now if it is not in the cache.

    Returns:
        The folder, and whether it was there already.
    """
    root = cache or Path(os.environ.get("ZERO2R1_CACHE", Path.home() / ".cache" / "zero2r1"))
    folder = root / f"laptop-base-{_digest(settings, seed)}"
    if folder.is_dir():
        return folder, True
    model, tokenizer, loss = train_base_model(settings, seed=seed, on_step=on_step)
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_policy(model, tokenizer, temporary, stops=stop_token_ids(model, tokenizer))
    (temporary / "pretraining.json").write_text(json.dumps({**settings.model_dump(), "seed": seed, "loss": loss}), encoding="utf-8")
    if folder.is_dir():  # another process was faster
        shutil.rmtree(temporary)
    else:
        os.replace(temporary, folder)
    return folder, False


def _digest(settings: BaseSettings, seed: int) -> str:
    identity = {
        "settings": settings.model_dump(exclude={"seed"}),
        "seed": seed,
        "corpus": corpus.VERSION,
        "processes": PROCESSES,
        "words": vocabulary(),
        "size": repr(SIZES[settings.size]),
        "transformers": version("transformers"),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

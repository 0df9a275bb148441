"""General requests: what people ask beside problems with one right answer. Of the laptop world, and of files."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zero2r1.pipeline.laptop import HELD_OUT_SEED
from zero2r1.reward_models.data import messages_of
from zero2r1.seeds import derive_seed
from zero2r1.tasks.decontamination import Decontaminator
from zero2r1.tasks.files import DataError, refuse_rows, rows_of
from zero2r1.tasks.laptop.requests import HARMLESS, HELPFUL, harmless, helpfulness, request_problems
from zero2r1.types import Problem

SETS = (HELPFUL, HARMLESS)
"""The two sets of general requests, by the reward model that scores their answers; the verifier that a request names."""
Rule = Callable[[Problem, str], float]
"""(request, whole response) -> 0 to 1, by rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralRequests:
    """General requests of both sets, and what rules know of answers to them."""

    train: Callable[[str, int], list[Problem]]
    """(set, count) -> at most so many requests to learn from."""
    held_out: Callable[[str, int], list[Problem]]
    """(set, count) -> at most so many requests that are asked in evaluation only."""
    measured: tuple[Problem, ...] = ()
    """Held-out requests of a file, which no training text may overlap; the laptop world holds out wordings, not contents."""
    rules: Mapping[str, Rule] = field(default_factory=dict)
    """Set -> what a rule says of an answer, where rules can decide; empty where only a model can tell."""


def laptop_requests(seed: int) -> GeneralRequests:
    """The requests of the laptop world, whose answers rules can judge."""

    def answered_well(problem: Problem, text: str) -> float:
        return float(helpfulness(problem, text) == 1.0)

    return GeneralRequests(
        train=lambda name, count: request_problems(name, count, held_out=False, seed=seed),
        held_out=lambda name, count: request_problems(name, count, held_out=True, seed=HELD_OUT_SEED),
        rules={HELPFUL: answered_well, HARMLESS: lambda problem, text: float(harmless(text))},
    )


def requests_of_files(train: str, held_out: str | None, *, seed: int, decontaminator: Decontaminator | None = None) -> GeneralRequests:
    """General requests of files; those to learn from are not among those that are measured, nor among evaluation questions.

    Raises:
        ValueError: no such file, or rows that cannot be used.
    """
    measured = [] if held_out is None else read_requests(Path(held_out), split="test")
    known = {" ".join(request.question.split()) for request in measured}
    found = [request for request in read_requests(Path(train), split="train") if " ".join(request.question.split()) not in known]
    if decontaminator is not None:
        overlaps = decontaminator.overlaps([[request.question] for request in found])
        found = [request for request, overlap in zip(found, overlaps, strict=True) if overlap is None]

    def some(requests: Sequence[Problem], purpose: str) -> Callable[[str, int], list[Problem]]:
        def draw(name: str, count: int) -> list[Problem]:
            chosen = [request for request in requests if request.verifier == name]
            return random.Random(derive_seed(seed, purpose, name)).sample(chosen, min(count, len(chosen)))

        return draw

    return GeneralRequests(train=some(found, "requests"), held_out=some(measured, "held_out_requests"), measured=tuple(measured))


def read_requests(path: Path, *, split: str) -> list[Problem]:
    """General requests of a file: ``prompt`` (a text or messages), ``set`` (helpful, if left out, or harmless), ``domain``, ``language``.

    Raises:
        ValueError: no such file, or rows that cannot be used.
    """
    found: list[Problem] = []
    faults: list[str] = []
    for index, (place, row) in enumerate(rows_of(path)):
        asked, name = row.get("prompt") or row.get("question"), row.get("set") or SETS[0]
        if name not in SETS:
            faults.append(f"{place}: set is {name!r}; it says helpful or harmless")
        elif not asked:
            faults.append(f"{place}: no prompt; found {', '.join(row)}")
        else:
            try:
                messages = None if isinstance(asked, str) else messages_of(asked, "prompt")
                if messages is not None and not any(message.role == "user" for message in messages):
                    raise DataError("nobody asks anything: a request needs a turn of the user")
            except DataError as fault:
                faults.append(f"{place}: {fault}")
                continue
            found.append(
                Problem(
                    id=str(row.get("id") or f"{path.stem}/{index}"),
                    prompt=str(asked) if messages is None else messages,
                    answer=None,
                    verifier=str(name),
                    domain=str(row.get("domain") or row.get("category") or "general"),
                    language=str(row.get("language") or ""),
                    source=path.stem,
                    licence=str(row.get("licence") or row.get("license") or "unknown"),
                    split=split,
                )
            )
    refuse_rows(faults, len(faults) + len(found), path)
    return found

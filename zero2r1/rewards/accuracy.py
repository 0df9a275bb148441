"""The accuracy reward: does the final answer equal the reference? 1 or 0 (paper section 2.2.2).

A verifier takes an answer text and the problem's columns and says whether they agree; a problem names its verifier, and
:func:`accuracy_reward` looks it up. Which text counts as the answer: ``extraction.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from zero2r1.rewards.choice import verify_choice
from zero2r1.rewards.combine import concurrent
from zero2r1.rewards.completions import finish_reasons, starts_inside_thinking, text_of
from zero2r1.rewards.extraction import answers_of
from zero2r1.rewards.math.verify import verify_math
from zero2r1.rewards.verdict import Verdict, Verifier
from zero2r1.types import RewardFn

VERIFIERS: Mapping[str, Verifier] = {"math": verify_math, "choice": verify_choice}
"""Verifiers every installation has; a world brings its own and passes both."""


def accuracy_reward(verifiers: Mapping[str, Verifier] = VERIFIERS, *, think_open: bool | None = None, bare: bool = False) -> RewardFn:
    """The accuracy reward over these verifiers. A truncated output has no answer and earns 0.

    Args:
        think_open: whether responses start inside the thinking; ``None``: where the prompt ends with ``<think>``.
        bare: a completion without any mark is an answer by itself.

    The verifier is the one a ``verifier`` column names, ``math`` where there is no such column. Logs ``extracted``, ``vote``
    and ``why`` of every completion.
    """

    def accuracy(
        completions: list[Any], log_extra: Callable[[str, list[Any]], None] = lambda *_: None, **columns: Any
    ) -> list[float | None]:
        ended = finish_reasons(columns, len(completions))
        verdicts = []
        for i, completion in enumerate(completions):
            row = {name: values[i] for name, values in columns.items() if isinstance(values, list) and len(values) == len(completions)}
            name = str(row.get("verifier") or "math")
            if name not in verifiers:
                raise ValueError(f"problem names the verifier {name!r}; known are {sorted(verifiers)}")
            inside = starts_inside_thinking(row) if think_open is None else think_open
            answers = answers_of(text_of(completion), think_open=inside, bare=bare)
            verdicts.append(_verdict(answers, ended[i], verifiers[name], row))
        log_extra("extracted", [verdict.extracted for verdict in verdicts])
        log_extra("vote", [verdict.vote or verdict.extracted for verdict in verdicts])
        log_extra("why", [verdict.why for verdict in verdicts])
        return [None if verdict.correct is None else float(verdict.correct) for verdict in verdicts]

    return concurrent(accuracy)


def _verdict(answers: tuple[str, ...], finish_reason: str, verifier: Verifier, row: Mapping[str, Any]) -> Verdict:
    if not answers:
        graded = verifier("", row)  # an unreadable reference is None whatever the answer
        return graded if graded.correct is None else Verdict(correct=False, extracted=None, why="no answer found")
    graded = verifier(answers[0], row)
    if len(answers) > 1:
        graded = _several(answers, graded, verifier, row)
    if finish_reason == "length" and graded.correct:
        return replace(graded, correct=False, why="cut off at the length limit")
    return graded


def _several(answers: tuple[str, ...], first: Verdict, verifier: Verifier, row: Mapping[str, Any]) -> Verdict:
    """Different spellings of one answer are that answer; different answers are the list of them."""
    if first.correct and all(verifier(answer, row).correct for answer in answers[1:]):
        return first
    together = verifier(", ".join(answers), row)
    return together if together.correct is not False else replace(together, why=f"{len(answers)} different answers")

"""Someone who can do all six tasks: careful solutions in one language, and the hand of an editor (paper section 2.3.1)."""

from __future__ import annotations

import random

from zero2r1.tasks.laptop.corpus import Style, think
from zero2r1.tasks.laptop.problems import item_of
from zero2r1.tasks.laptop.words import PHRASES
from zero2r1.types import Problem

CAREFUL = Style(name="careful", web_share=0.0, template_share=0.0, languages=(1.0, 0.0, 0.0))
"""One operation a step, no slip, one language; a search goes on until a try fits."""


def solve(problem: Problem, *, seed: int) -> tuple[str, str]:
    """(thinking, summary) of a right solution in the language of the question."""
    thinking, answer = think(item_of(problem), problem.language, CAREFUL, random.Random(f"{seed}/{problem.id}"), on_web=True)
    return edited(thinking, problem.language), summary_of(answer, problem.language)


def edited(thinking: str, language: str) -> str:
    """The thinking as an editor leaves it: it begins in the first person, once."""
    opening = f"{PHRASES['okay'][language]} ."
    return thinking if thinking.startswith(opening) else f"{opening} {thinking}"


def summary_of(answer: str, language: str) -> str:
    """One sentence with the answer highlighted."""
    return f"{PHRASES['so'][language]} <answer> {answer} </answer> ."

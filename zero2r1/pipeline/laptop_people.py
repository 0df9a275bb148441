"""The people of the laptop world: an editor, and judges who know the world and err on purpose now and then."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zero2r1.cold_start.review import Reviewed
from zero2r1.pipeline.laptop import verify
from zero2r1.rewards.judge import Complete
from zero2r1.samples import Sample
from zero2r1.seeds import derive_seed
from zero2r1.tasks.laptop.requests import helpfulness
from zero2r1.tasks.laptop.solver import edited, summary_of
from zero2r1.template import parse_response
from zero2r1.types import Problem

_FENCED = re.compile(r"<<< ([\w ]+) (\w+) opens >>>\n(.*?)\n<<< \1 \2 closes >>>", re.DOTALL)
CLEARLY, SLIGHTLY = 0.3, 0.05
"""From which difference in helpfulness on an answer is much better, or better."""


def scripted_reviewer(sample: Sample) -> Reviewed:
    """The editor of the laptop world: every thought begins in the first person, every summary is one sentence with the answer in it."""
    answer = parse_response(sample.summary).answer
    if answer is None or sample.thinking is None:
        return Reviewed(decision="reject", reason="no answer is highlighted")
    language = sample.problem.language
    thinking, summary = edited(sample.thinking, language), summary_of(answer, language)
    if (thinking, summary) == (sample.thinking, sample.summary):
        return Reviewed(decision="approve")
    return Reviewed(decision="edit", reason="opening and summary", thinking=thinking, summary=summary)


def laptop_judge(noise: float, *, seed: int) -> Complete:
    """A judge who knows the laptop world and errs in a ``noise`` share of its verdicts, the same ones every time.

    It reads question and answer from the judge's prompt, as a model would, and replies as one.
    """

    def complete(prompt: str) -> str:
        texts = {name: text for name, _, text in _FENCED.findall(prompt)}
        right = _right(texts["question"], texts["reference"], texts["answer"])
        errs = derive_seed(seed, "judge", texts["question"], texts["answer"]) / 2**63 < noise
        verdict = "correct" if right != errs else "incorrect"
        return f'{{"analysis": "The final answer was held against the reference.", "verdict": "{verdict}"}}'

    return complete


def _right(question: str, reference: str, answer: str) -> bool:
    parsed = parse_response(answer).answer
    words = question.split()
    numbers = [int(word) for word in words if word.isdigit()]
    # Only a search for two numbers has a reference of two; its sum is the first number of the question, the list the others.
    pair = {"task": "pair", "total": numbers[0], "numbers": numbers[1:]} if "," in reference else {"task": "other"}
    return verify(parsed if parsed is not None else answer.strip(), {"answer": reference, **pair}).correct is True


def laptop_preference_judge(noise: float, requests: Sequence[Problem], *, seed: int) -> Complete:
    """A judge who knows the good answers to these requests, and turns a ``noise`` share of the verdicts around, call by call."""
    known = {request.question: request for request in requests}

    def complete(prompt: str) -> str:
        found = _FENCED.findall(prompt)
        texts = {name: text for name, _, text in found}
        request = known[texts["request"]]
        gap = helpfulness(request, texts["answer A"]) - helpfulness(request, texts["answer B"])
        if derive_seed(seed, "prefers", found[0][1]) / 2**63 < noise:  # the mark of the fences differs from call to call
            gap = -gap
        better, much = ("A" if gap > 0 else "B"), "much " if abs(gap) >= CLEARLY else ""
        verdict = "tie" if abs(gap) < SLIGHTLY else f"{better} is {much}better"
        return f'{{"analysis": "Both answers were held against a good one.", "verdict": "{verdict}"}}'

    return complete

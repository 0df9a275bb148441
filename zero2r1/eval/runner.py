"""Ask an engine held-out problems k times each and measure what comes back. The same measure for the base and for what it became."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from zero2r1.eval.metrics import majority_vote, mean_and_error, pass_at_k
from zero2r1.rollout.engine import Engine, Request, SamplingParams, generate
from zero2r1.seeds import derive_seed
from zero2r1.types import Completion, Grader, Problem

EncodedPrompts = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
"""(prompt ids, forced ids) of each problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sampled answer and what was measured about it."""

    text: str
    extracted: str | None
    vote: str | None
    """What a majority vote counts: the same for equal answers, however they are written."""
    right: bool | None
    """``None``: could not be graded; counts as not right, and is reported."""
    tokens: int
    truncated: bool
    traits: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Answers to every problem, k each. ``arrays`` has one value per problem for every statistic a claim may use; see
    :meth:`with_arrays` for statistics of other items."""

    name: str
    problems: tuple[Problem, ...]
    answers: tuple[tuple[Answer, ...], ...]
    arrays: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def with_arrays(self, arrays: Mapping[str, Sequence[float]]) -> EvalResult:
        """The same with further statistics, which may be about other items than the problems."""
        return replace(self, arrays={**self.arrays, **{name: tuple(values) for name, values in arrays.items()}})

    def figures(self) -> dict[str, float]:
        """Mean and standard error (over problems) of every statistic, lengths by outcome, and what could not be graded."""
        figures: dict[str, float] = {}
        for name, values in self.arrays.items():
            figures[name], figures[f"{name}/stderr"] = mean_and_error(values)
        flat = [answer for group in self.answers for answer in group]
        for label, chosen in (
            ("right", [a for a in flat if a.right]),
            ("wrong", [a for a in flat if not a.right and not a.truncated]),
            ("truncated", [a for a in flat if a.truncated]),
        ):
            figures[f"share_{label}"] = len(chosen) / len(flat)
            if chosen:
                figures[f"length_{label}"] = fmean(a.tokens for a in chosen)
        figures["ungraded"] = float(sum(answer.right is None for answer in flat))
        return figures

    def by(self, column: str, statistic: str = "pass@1") -> dict[str, float]:
        """The mean of a statistic for each value of a problem column: ``by("task")``."""
        groups: dict[str, list[float]] = {}
        for problem, value in zip(self.problems, self.arrays[statistic], strict=True):
            key = problem.extra.get(column, getattr(problem, column, None))
            groups.setdefault(str(key), []).append(value)
        return {key: fmean(values) for key, values in groups.items()}

    def rows(self) -> list[dict[str, Any]]:
        """One row per answer for a Parquet file."""
        return [
            {
                "prompt_id": problem.id,
                "prompt": problem.question,
                "gold": problem.answer,
                "task": problem.extra.get("task", problem.domain),
                "language": problem.language,
                "level": problem.level,
                "sample": sample,
                "completion": answer.text,
                "extracted": answer.extracted,
                "right": answer.right,
                "n_completion": answer.tokens,
                "finish_reason": "length" if answer.truncated else "stop",
                **answer.traits,
            }
            for problem, group in zip(self.problems, self.answers, strict=True)
            for sample, answer in enumerate(group)
        ]


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    name: str,
    encode: Callable[[Problem], tuple[tuple[int, ...], tuple[int, ...]]],
    grader: Grader,
    describe: Callable[[Problem, Completion], Mapping[str, float]],
    params: SamplingParams,
    samples: int,
    seed: int,
) -> EvalResult:
    """Sample ``samples`` answers to every problem and measure them.

    Args:
        encode: problem -> (prompt ids, forced ids).
        grader: its ``accuracy`` component decides what is right, and its ``extracted`` detail what is voted on.
        describe: further traits of one answer, averaged per problem under their names.
        seed: of all samples; evaluations of different checkpoints with one seed share their random numbers.
    """
    encoded = [encode(problem) for problem in problems]
    requests = [
        Request(
            id=i,
            prompt_ids=prompt_ids,
            forced_ids=forced_ids,
            seeds=tuple(derive_seed(seed, "eval", i, j) for j in range(samples)),
            params=params,
        )
        for i, (prompt_ids, forced_ids) in enumerate(encoded)
    ]
    groups: list[tuple[Answer, ...]] = []
    for problem, completions in zip(problems, generate(engine, requests), strict=True):
        rewards = grader([problem] * samples, completions)
        groups.append(
            tuple(
                _answer(completion, reward.components.get("accuracy"), reward.details, describe(problem, completion))
                for completion, reward in zip(completions, rewards, strict=True)
            )
        )
    return EvalResult(name=name, problems=tuple(problems), answers=tuple(groups), arrays=_arrays(problems, groups, samples))


def _answer(completion: Completion, accuracy: float | None, details: Mapping[str, Any], traits: Mapping[str, float]) -> Answer:
    extracted = details.get("extracted")
    vote = details.get("vote", extracted)
    return Answer(
        text=completion.text,
        extracted=None if extracted is None else str(extracted),
        vote=None if vote is None else str(vote),
        right=None if accuracy is None else accuracy == 1.0,
        tokens=len(completion.token_ids),
        truncated=completion.finish_reason == "length",
        traits=traits,
    )


def _arrays(problems: Sequence[Problem], groups: Sequence[Sequence[Answer]], samples: int) -> dict[str, tuple[float, ...]]:
    right = [sum(bool(answer.right) for answer in group) for group in groups]
    arrays = {
        "pass@1": tuple(count / samples for count in right),
        f"maj@{samples}": tuple(_majority(group) for group in groups),
        "length": tuple(fmean(answer.tokens for answer in group) for group in groups),
        "truncated": tuple(fmean(answer.truncated for answer in group) for group in groups),
    }
    for k in sorted({*(2**n for n in range(1, samples.bit_length())), samples} - {1}):
        if k <= samples:
            arrays[f"pass@{k}"] = tuple(pass_at_k(samples, count, k) for count in right)
    for trait in groups[0][0].traits:
        arrays[trait] = tuple(fmean(answer.traits[trait] for answer in group) for group in groups)
    return arrays


def _majority(group: Sequence[Answer]) -> float:
    cast = [answer for answer in group if answer.vote is not None and not answer.truncated]
    return majority_vote(Counter(answer.vote for answer in cast), {answer.vote: bool(answer.right) for answer in cast})

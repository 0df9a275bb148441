"""Answers to many problems, drawn piece by piece and kept: for cold start, pass rates and rejection sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from zero2r1.grpo.config import RolloutSettings
from zero2r1.pipeline.chunks import in_chunks
from zero2r1.pipeline.config import PassRateSettings, SampleSettings
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.stage import Stage
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.run_dir import RunDir
from zero2r1.seeds import derive_seed
from zero2r1.tasks.mixture import check_shares, mixed
from zero2r1.types import Completion, Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Where work is kept, what it is seeded with, who hears of it, and whether to go on."""

    run: RunDir
    seed: int
    narrator: Narrator
    should_stop: Callable[[], bool] = lambda: False


def sample_problems(
    work: Work,
    stage: Stage,
    problems: Sequence[Problem],
    settings: SampleSettings,
    *,
    purpose: str,
    make: Callable[[Problem, Sequence[Completion]], Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Answers to every problem, made into rows as they come; kept under ``samples/PURPOSE`` of the run.

    Raises:
        StageStopped: asked to stop; what is done is kept.
    """
    params = SamplingParams(max_new_tokens=settings.max_new_tokens, stop_token_ids=stage.stops, temperature=settings.temperature)

    def draw(piece: Sequence[Problem]) -> list[Mapping[str, Any]]:
        requests = [
            Request(
                id=i,
                prompt_ids=stage.prompt_ids(problem),
                seeds=tuple(derive_seed(work.seed, purpose, problem.id, j) for j in range(settings.samples)),
                params=params,
            )
            for i, problem in enumerate(piece)
        ]
        return [row for problem, group in zip(piece, generate(stage.engine, requests), strict=True) for row in make(problem, group)]

    return in_chunks(
        work.run.path / "samples" / purpose,
        problems,
        draw,
        size=settings.chunk,
        should_stop=work.should_stop,
        on_progress=work.narrator.progress(f"sampling ({purpose.replace('_', ' ')}), problems"),
    )


def informative(work: Work, stage: Stage, problems: Sequence[Problem], rule: PassRateSettings, rollout: RolloutSettings) -> list[Problem]:
    """The problems that the policy solves sometimes, by measurement before training; the rest would give groups without signal.

    Raises:
        StageStopped: asked to stop.
        ValueError: none is left.
    """
    grade = stage.world.accuracy_grader()
    drawing = SampleSettings(
        samples=rule.samples,
        temperature=rollout.temperature,
        max_new_tokens=rollout.cap_at(0),
        chunk=rule.chunk,
        token_budget=rollout.token_budget,
        max_rows=rollout.max_rows,
    )

    def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        grades = [reward.components["accuracy"] for reward in grade([problem] * len(completions), completions)]
        known = [value for value in grades if value is not None]
        return [{"id": problem.id, "pass_rate": fmean(known) if known else None}]

    measured = problems[: rule.problems]
    rows = sample_problems(work, stage, measured, drawing, purpose="pass_rates", make=make)
    rates = {row["id"]: row["pass_rate"] for row in rows}
    kept = [p for p in measured if rates[p.id] is not None and rule.above < rates[p.id] < rule.below]
    counts = {
        "measured": len(measured),
        "never": sum(rate == 0 for rate in rates.values()),
        "always": sum(rate == 1 for rate in rates.values()),
        "ungraded": sum(rate is None for rate in rates.values()),
        "kept": len(kept),
        "not_measured": len(problems) - len(measured),
    }
    told = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in counts.items())
    work.narrator.say(f"pass rates over {rule.samples} answers each: {told}")
    work.run.append_event_once("pass_rates", **counts)
    if not kept:
        raise ValueError(
            f"pass_rate keeps none of {len(measured)} problems ({counts['never']} never solved, {counts['always']} always). Measure "
            "more of them, widen above and below, or choose problems that fit this model"
        )
    return kept


def training_problems(
    work: Work,
    stage: Stage,
    problems: Sequence[Problem],
    *,
    pass_rate: PassRateSettings | None,
    mixture: Mapping[str, float],
    rollout: RolloutSettings,
) -> list[Problem]:
    """What RL trains on: the informative problems, if they are to be measured, with their domains in these shares.

    Raises:
        StageStopped: asked to stop while measuring.
        ValueError: shares that do not fit the problems, or no informative problem.
    """
    check_shares({problem.domain for problem in problems}, mixture)
    kept = list(problems) if pass_rate is None else informative(work, stage, problems, pass_rate, rollout)
    left = {problem.domain for problem in kept}
    for name in sorted(set(mixture) - left):
        work.narrator.say(f"no problem of {name} is left after the pass rates: its share goes to the other domains")
    return mixed(kept, {name: share for name, share in mixture.items() if name in left}, seed=work.seed)

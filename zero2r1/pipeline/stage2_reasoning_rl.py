"""Stage 2 (paper section 2.3.2): reasoning RL from the cold-started model, rewarded for answers and for thinking in one language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import RewardSettings
from zero2r1.pipeline.recipe import PassRateSettings, ReasoningRlSettings, SampleSettings
from zero2r1.pipeline.rl import Extras, run_rl, stage_of
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage_run import StageRun, sample_problems
from zero2r1.tasks.mixture import mixed
from zero2r1.training.loop import Outcome
from zero2r1.types import Completion, Problem


def run_reasoning_rl(given: StageRun) -> Mapping[str, Path]:
    """Train from ``dev1``; returns ``dev2``.

    Raises:
        StageStopped: the run was asked to stop.
    """
    return {"dev2": _train(given, given.settings.reasoning_rl, after="dev2", title="reasoning RL")}


def run_without_language_reward(given: StageRun) -> Mapping[str, Path]:
    """The ablation of supplement B.6: the same stage, and nothing rewards one language."""
    section = given.settings.reasoning_rl
    weights = {name: weight for name, weight in section.reward.weights.items() if name != "language"}
    reward = RewardSettings(weights=weights, allow_neural=section.reward.allow_neural)
    section = section.model_copy(update={"reward": reward})
    return {"dev2_no_language": _train(given, section, after="dev2_no_language", title="without the language reward")}


def _train(given: StageRun, section: ReasoningRlSettings, *, after: str, title: str) -> Path:
    settings = given.settings.rl_settings(section)
    stage = stage_of(given.inputs["dev1"], given.materials.chat_world, settings)
    problems = given.materials.problems("reasoning_rl", section.problems)
    if section.pass_rate is not None:
        problems = informative(given, stage, problems, section.pass_rate, section)
    problems = mixed(problems, section.mixture, seed=given.settings.seed)
    with given.narrator.panel(title, settings.steps) as show:
        result = run_rl(
            stage,
            settings,
            given.run,
            Extras(
                before=None,  # the stage before has measured this model
                after=after,
                problems=problems,
                on_step=lambda row: show(row["step"], row),
                on_evaluation=given.narrator.evaluation,
                should_stop=given.should_stop,
            ),
        )
    if result.outcome is Outcome.STOPPED:
        raise StageStopped
    return given.model


def informative(
    given: StageRun, stage: Stage, problems: Sequence[Problem], rule: PassRateSettings, section: ReasoningRlSettings
) -> list[Problem]:
    """The problems that the policy solves sometimes, by measurement before training; the rest would give groups without signal.

    Raises:
        ValueError: none is left.
    """
    grade = stage.world.accuracy_grader()
    cap = section.rollout.cap_at(0)
    drawing = SampleSettings(
        samples=rule.samples,
        temperature=section.rollout.temperature,
        max_new_tokens=cap,
        token_budget=section.rollout.token_budget,
        max_rows=section.rollout.max_rows,
    )

    def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        grades = [reward.components["accuracy"] for reward in grade([problem] * len(completions), completions)]
        known = [value for value in grades if value is not None]
        return [{"id": problem.id, "pass_rate": fmean(known) if known else None}]

    measured = problems[: rule.problems]
    rows = sample_problems(given, stage, measured, drawing, purpose="pass_rates", make=make)
    rates = {row["id"]: row["pass_rate"] for row in rows}
    kept = [p for p in measured if rates[p.id] is not None and rule.above < rates[p.id] < rule.below]
    never = sum(rate == 0 for rate in rates.values())
    always = sum(rate == 1 for rate in rates.values())
    given.narrator.say(
        f"pass rates of {len(measured)} problems over {rule.samples} answers each: {never} never solved, {always} always; {len(kept)} kept"
    )
    given.run.append_event("pass_rates", measured=len(measured), never=never, always=always, kept=len(kept))
    if not kept:
        raise ValueError(
            f"reasoning_rl.pass_rate keeps none of {len(measured)} problems ({never} never solved, {always} always). Measure more of "
            "them, widen above and below, or choose problems that fit this model"
        )
    return kept

"""Stage 2 (paper section 2.3.2): reasoning RL from the cold-started model, rewarded for answers and for thinking in one language."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import RewardSettings
from zero2r1.pipeline.recipe import ReasoningRlSettings
from zero2r1.pipeline.rl import Extras, run_rl, stage_of
from zero2r1.pipeline.sampling import training_problems
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.training.loop import Outcome


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
    problems = given.problems("reasoning_rl", section.problems)
    problems = training_problems(given.work, stage, problems, pass_rate=section.pass_rate, mixture=section.mixture, rollout=section.rollout)
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

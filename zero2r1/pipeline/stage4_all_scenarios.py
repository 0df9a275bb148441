"""Stage 4 (paper section 2.3.4): RL for all scenarios from the stage-3 model, by rules and by the two reward models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.general_requests import SETS, GeneralRequests
from zero2r1.pipeline.rl import Extras, run_rl, stage_of
from zero2r1.pipeline.sampling import training_problems
from zero2r1.pipeline.scenarios import keep_general, load_scorers, measure_general, mute_monitor, scenario_extras
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.training.loop import Outcome
from zero2r1.types import RewardFn


def run_all_scenarios(given: StageRun) -> Mapping[str, Path]:
    """Train from ``dev3``; returns ``r1``.

    Raises:
        StageStopped: the run was asked to stop.
        TrainingHalted: the monitor found the reward models hacked, and is told to stop then.
    """
    section = given.settings.all_scenarios
    settings = given.settings.rl_settings(section)
    requests = given.materials.requests
    assert requests is not None  # the stage is left out otherwise
    models = {name: given.inputs[f"{name}_model"] for name in SETS}
    stage = stage_of(given.inputs["dev3"], given.materials.chat_world, settings)
    problems = training_problems(
        given.work,
        stage,
        given.problems("all_scenarios", section.problems),
        pass_rate=None,
        mixture=section.mixture,
        rollout=section.rollout,
    )
    scorers = load_scorers(models, stage.world, settings.compute)
    extras = scenario_extras(stage, settings, section.general, reasoning=problems, requests=requests, scorers=scorers)
    if mute := mute_monitor(settings, section.general):
        given.narrator.say(mute)
    _measure(given, stage, requests, scorers, "before")
    with given.narrator.panel("all scenarios", settings.steps) as show:
        result = run_rl(
            stage,
            settings,
            given.run,
            Extras(
                before=None,  # the stage before has measured this model
                after="r1",
                problems=problems,
                **extras,
                measure_also=lambda: _measure(given, stage, requests, scorers, "after"),
                on_warning=given.narrator.say,
                on_step=lambda row: show(row["step"], row),
                on_evaluation=given.narrator.evaluation,
                should_stop=given.should_stop,
            ),
        )
    if result.outcome is Outcome.STOPPED:
        raise StageStopped
    return {"r1": given.model}


def _measure(
    given: StageRun, stage: Stage, requests: GeneralRequests, scorers: Mapping[str, RewardFn], name: str
) -> dict[str, list[float]]:
    """Answers to held-out requests by rule and by score, kept in ``general/NAME.json``; a run that goes on does not measure them again."""
    file = f"general/{name}.json"
    if (given.run.path / file).exists():
        arrays: dict[str, list[float]] = given.run.read_json(file)["arrays"]
        return arrays
    count = given.settings.all_scenarios.general.held_out
    arrays = measure_general(stage, requests, count=count, scorers=scorers)
    given.narrator.say(f"{given.narrator.clock()}  {keep_general(given.run, arrays, name)}")
    return arrays

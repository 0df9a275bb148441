"""R1-Zero in a pipeline (paper section 2.2): pure RL on the base, rule rewards, a plain template, no data but problems."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.laptop import base_layouts
from zero2r1.pipeline.preflight import preflight
from zero2r1.pipeline.rl import Extras, run_rl, stage_of
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.training.loop import Outcome


def run_zero(given: StageRun) -> Mapping[str, Path]:
    """Check, measure the base, train, measure; returns ``zero``.

    Raises:
        StageStopped: the run was asked to stop.
        ValueError: the preflight found faults.
    """
    settings = given.settings.rl_settings(given.settings.zero)
    stage = stage_of(given.inputs["base"], given.materials.world, settings)
    checked = preflight(stage, settings)
    given.narrator.say("\n".join(checked.lines))
    if checked.faults:
        raise ValueError("the preflight found faults:\n" + "\n".join(checked.faults))
    with given.narrator.panel("R1-Zero", settings.steps) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            given.narrator.milestones(row)
            show(row["step"], row)

        extras = Extras(
            layouts=base_layouts(stage.world), on_step=on_step, on_evaluation=given.narrator.evaluation, should_stop=given.should_stop
        )
        result = run_rl(stage, settings, given.run, extras)
    if result.outcome is Outcome.STOPPED:
        raise StageStopped
    return {"zero": given.model}

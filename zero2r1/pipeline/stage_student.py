"""The student (paper section 2.4): a small base model, distilled by SFT on the samples of stage 3, or trained by pure RL to compare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zero2r1.models.loading import has_chat_template, local_folder
from zero2r1.pipeline.api import model_folder
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.evaluations import keep_evaluation
from zero2r1.pipeline.laptop import base_layouts
from zero2r1.pipeline.rl import Extras, run_rl, stage_of
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage_run import StageRun, tune_base
from zero2r1.pipeline.student_table import write_rl_compute, write_sft_compute
from zero2r1.pretraining import PretrainStep
from zero2r1.samples import read_samples
from zero2r1.training.loop import Outcome


def run_student_base(given: StageRun) -> Mapping[str, Path]:
    """The student's base: a folder, or the laptop world's small model, trained now if it is not in the cache; measured as it is.

    Raises:
        StageStopped: asked to stop while it was trained, which begins again then.
        ValueError: the model has no chat template, which its answers will need.
    """
    settings = given.settings.distillation
    assert settings.model is not None  # the stage is left out otherwise
    with given.narrator.panel("student base", settings.base.steps, plain_every=100) as show:

        def heard(report: PretrainStep) -> None:
            show(report.step, {"pretraining_loss": report.loss, "tokens_per_s": report.tokens_per_s})
            if given.should_stop():
                raise StageStopped("the student's base is not kept half done: it begins again")

        folder = local_folder(model_folder(settings.model, settings.base, seed=given.settings.seed, on_step=heard))
    if not has_chat_template(folder):
        raise ValueError(f"{folder} has no chat template: put a chat_template.jinja into the folder, for example that of the teacher")
    rollout = given.settings.student_rl.rollout
    stage = Stage(folder, given.materials.world, evaluation=given.settings.measured_alike, cap=rollout.cap_at(0), sampler=rollout)
    measured = [stage.measure("student_base")]
    for layout, (template, grader) in base_layouts(stage.world).items():
        measured.append(stage.measure(f"student_base_{layout}", template=template, grader=grader))
    for result in measured:
        keep_evaluation(given.run, result)
        given.narrator.evaluation(result)
    return {"student_base": folder}


def run_distillation(given: StageRun) -> Mapping[str, Path]:
    """SFT of the student on what stage 3 kept; returns ``distilled``.

    Raises:
        StageStopped: the run was asked to stop.
    """
    samples = read_samples(given.inputs["rejection_samples"])
    settings = given.settings.distillation.sft
    distilled = tune_base(given, samples, settings, title="distillation", measure_as="distilled", base="student_base")
    write_sft_compute(given.run)
    return {"distilled": distilled}


def run_student_rl(given: StageRun) -> Mapping[str, Path]:
    """R1-Zero on the student; returns ``student_rl``.

    Raises:
        StageStopped: the run was asked to stop.
    """
    settings = given.settings.rl_settings(given.settings.student_rl)
    stage = stage_of(given.inputs["student_base"], given.materials.world, settings)
    with given.narrator.panel("RL on the student", settings.steps) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            show(row["step"], row)

        extras = Extras(
            before=None,  # measured when it was made
            after="student_rl",
            on_step=on_step,
            on_evaluation=given.narrator.evaluation,
            should_stop=given.should_stop,
        )
        result = run_rl(stage, settings, given.run, extras)
    if result.outcome is Outcome.STOPPED:
        raise StageStopped
    write_rl_compute(given.run, stage, settings)
    return {"student_rl": given.model}

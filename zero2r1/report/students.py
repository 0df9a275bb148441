"""The paper's Table 6 for this run: a small model distilled, the same model trained by RL, and what each of the two computed."""

from __future__ import annotations

from collections.abc import Mapping

from zero2r1.report.document import Block, Cell, Section, Table, Text
from zero2r1.report.evidence import measured_on, statistic_rows
from zero2r1.report.figures import Wanted, curve_figure
from zero2r1.report.values import STUDENTS, Compute, RunRecord, checkpoint_title
from zero2r1.report.wording import duration, scientific

STAGES = {"student_base": "student-base", "distilled": "distillation", "student_rl": "student-rl"}
"""The stage that makes each checkpoint of the student."""


def students(record: RunRecord) -> Section | None:
    """Table 6, with what was not run and, where it was, the course of RL on the student."""
    evaluations = {name: found for name, found in record.evaluations.items() if name in STUDENTS}
    if not evaluations:
        return None
    computed = {name: stage.compute for name, role in STAGES.items() if (stage := record.stage(role)) and stage.compute}
    rows = [*statistic_rows(evaluations), *(_compute_rows(list(evaluations), computed) if computed else ())]
    caption = [f"The paper's Table 6 for this run: {measured_on(evaluations)}", *([COUNTED] if computed else ())]
    caption += [f"{checkpoint_title(name)}: {compute.formula}." for name, compute in computed.items() if compute.formula]
    columns = ("", *(checkpoint_title(name) for name in evaluations))
    blocks: list[Block] = [Table(columns=columns, rows=tuple(rows), caption=" ".join(caption))]
    told = _ratio(computed)
    absent = [stage for role in STAGES.values() if (stage := record.stage(role)) and stage.state == "not run" and stage.why]
    told += [f"{stage.title} was not run: {stage.why}." for stage in absent]
    blocks += [Text(text=sentence, quiet=True) for sentence in told]
    own = record.stage("student-rl")
    if own is not None and own.is_rl and record.pipeline:  # alone it is among the curves
        wanted: Wanted = ("pass@1", "rewards/accuracy/mean", "pass@1", "c1")
        figure = curve_figure(record, "student", "RL on the student", [wanted], y_title="right answers", stages=[own])
        blocks += [figure] if figure else []
    return Section(title="Distilled, or trained by RL", blocks=tuple(blocks))


COUNTED = (
    "FLOPs are estimated: 2 for each weight and token sampled or read, 6 for each trained on. Time is that of the training steps. Not "
    "counted: the student's pretraining, what the teacher's training and sampling took, evaluation, and attention between tokens."
)


def _compute_rows(names: list[str], computed: Mapping[str, Compute]) -> list[tuple[Cell, ...]]:
    found = [computed.get(name) for name in names]
    rows = {
        "FLOPs of training": [scientific(one.flops) if one else "–" for one in found],
        "Time of training": [duration(one.seconds) if one else "–" for one in found],
        "Steps": [f"{one.steps:,}" if one and one.steps is not None else "–" for one in found],
        "Weights a token meets": [f"{one.parameters:,}" if one and one.parameters is not None else "–" for one in found],
    }
    return [(Cell(text=title), *(Cell(text=text) for text in texts)) for title, texts in rows.items()]


def _ratio(computed: Mapping[str, Compute]) -> list[str]:
    """How much more RL was given: what the comparison of the two rests on."""
    if not {"distilled", "student_rl"} <= set(computed):
        return []
    distilled, rl = computed["distilled"], computed["student_rl"]
    if not (distilled.flops and distilled.seconds):
        return []
    return [
        f"RL on the student computed {rl.flops / distilled.flops:.3g} times as many FLOPs as distilling it, in "
        f"{rl.seconds / distilled.seconds:.3g} times its time."
    ]

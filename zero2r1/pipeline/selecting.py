"""Rejection sampling in a run: answers drawn and taken apart, graded, selected, and counted on disk. For `sample` and for stage 3.

samples/rejection_sampling/   what was drawn, piece by piece
samples/graded/DIGEST/        what the judge said of these samples, piece by piece
samples/rejected.jsonl        every rejection with its rule and reason
samples/funnel.json           how many reached each station
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from zero2r1.pipeline.chunks import in_chunks
from zero2r1.pipeline.config import SampleSettings
from zero2r1.pipeline.sampling import Work, sample_problems
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.rejection_sampling import (
    Funnel,
    Grade,
    Graded,
    Selection,
    candidates,
    grade_by_judge,
    grade_by_rules,
    rules_then_judge,
    select,
)
from zero2r1.rewards.config import RejectionSettings
from zero2r1.rewards.judge import Complete, judge
from zero2r1.rewards.readability import LanguageShare
from zero2r1.run_dir import RunDir
from zero2r1.samples import Lineage, Rejection, Sample, result_from_row, result_to_row, write_lines
from zero2r1.tasks.decontamination import Decontaminator
from zero2r1.types import Completion, Problem

JUDGED_AT_A_TIME = 256
"""Cases in a piece: what a killed run asks again. Far more than the failures in a row that tell a judge who is not there."""


def draw_candidates(
    work: Work, stage: Stage, problems: Sequence[Problem], settings: SampleSettings, *, source: str, checkpoint: str | None
) -> list[Sample | Rejection]:
    """Answers to every problem, taken apart; kept under ``samples/rejection_sampling`` of the run.

    Args:
        source, checkpoint: whose answers these are, and the digest of its weights, for the lineage of the samples.

    Raises:
        StageStopped: asked to stop; what is done is kept.
    """
    sampler = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    lineage = Lineage(source=source, checkpoint=checkpoint, sampler=sampler)

    def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return [result_to_row(result) for result in candidates(problem, completions, lineage=lineage, think_open=stage.world.think_open)]

    rows = sample_problems(work, stage, problems, settings, purpose="rejection_sampling", make=make)
    return [result_from_row(row) for row in rows]


def grade_of(world: World, complete: Complete | None, *, workers: int = 8, keep_in: Work | None = None) -> Grade:
    """Rules where a problem of the world has one, and a judge for the rest; without a judge the rest stays ungraded.

    Args:
        complete: asks the judge.
        workers: how many are asked at a time.
        keep_in: where verdicts of the judge are kept, so that a run that goes on does not ask again; ``None`` for a judge that costs
            nothing and always says the same.

    The function it returns raises:
        RewardError: the judge could not be asked many times in a row.
        StageStopped: asked to stop, between two pieces that are kept.
    """
    # Samples are written with both think tags before a rule sees them, whatever the prompt began.
    rules = grade_by_rules(replace(world, think_open=False).accuracy_grader())
    if complete is None:
        return rules_then_judge(rules, None, ruled=world.verifiers)
    asked = grade_by_judge(partial(judge, complete=complete), workers=workers)
    return rules_then_judge(rules, asked if keep_in is None else _kept(asked, keep_in), ruled=world.verifiers)


def select_from(
    work: Work,
    sampled: Sequence[Sample | Rejection],
    *,
    grade: Grade,
    decontaminator: Decontaminator,
    settings: RejectionSettings,
    language_share: LanguageShare,
) -> Selection:
    """Send candidates through the stations, with the seed of the work; every rejection goes to ``samples/rejected.jsonl``.

    Raises:
        RewardError, StageStopped: whatever ``grade`` raises.
    """
    selection = select(
        sampled,
        grade=grade,
        contaminated=lambda sample: decontaminator.why(sample.problem.question, sample.thinking, sample.summary),
        settings=settings.model_copy(update={"seed": work.seed}),
        language_share=language_share,
    )
    write_lines(work.run.path / "samples" / "rejected.jsonl", map(result_to_row, selection.rejected))
    work.narrator.say(selection.funnel.render())
    return selection


def write_funnel(run: RunDir, funnel: Funnel, **more: Mapping[str, int]) -> None:
    """``samples/funnel.json``: how many samples reached each station, how many each rule stopped, and what the caller adds."""
    stations = [[name, count] for name, count in funnel.reached.items()]
    run.write_json("samples/funnel.json", {"stations": stations, "rejected": dict(funnel.rejected), **more})


def _kept(judge: Grade, work: Work) -> Grade:
    """The same verdicts, each on disk once it was given. A judge is asked about equal cases once, in whichever pieces they stand."""

    def say(piece: Sequence[Sample]) -> list[dict[str, Any]]:
        verdicts = zip(piece, judge(piece), strict=True)
        return [{"id": sample.id, "right": right, "why": why} for sample, (right, why) in verdicts]

    def grade(samples: Sequence[Sample]) -> list[Graded]:
        firsts: dict[str, Sample] = {}
        for sample in samples:
            firsts.setdefault(_case(sample), sample)
        # Pieces are kept by their place, so other cases need another folder.
        digest = hashlib.sha256("\n".join(firsts).encode()).hexdigest()[:16]
        rows = in_chunks(
            work.run.path / "samples" / "graded" / digest,
            list(firsts.values()),
            say,
            size=JUDGED_AT_A_TIME,
            should_stop=work.should_stop,
            on_progress=work.narrator.progress("judging, samples"),
        )
        verdicts = {case: (row["right"], row["why"]) for case, row in zip(firsts, rows, strict=True)}
        return [verdicts[_case(sample)] for sample in samples]

    return grade


def _case(sample: Sample) -> str:
    """What a judge is shown of a sample, as one line."""
    return json.dumps([sample.problem.question, sample.problem.answer, sample.summary])

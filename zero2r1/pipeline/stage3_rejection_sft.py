"""Stage 3 (paper section 2.3.3): sample from stage 2, keep what is right and readable, add general data, and tune the base on it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from zero2r1.cold_start.gather import seeded
from zero2r1.cold_start.rewrite import think_first
from zero2r1.pipeline.chunks import in_chunks
from zero2r1.pipeline.materials import JUDGED, client_of
from zero2r1.pipeline.sampling import sample_problems
from zero2r1.pipeline.stage_run import StageRun, tune_base
from zero2r1.rejection_sampling import Funnel, Grade, candidates, grade_by_judge, grade_by_rules, mix, rules_then_judge, select
from zero2r1.rewards.judge import Complete, judge
from zero2r1.samples import Lineage, Sample, result_from_row, result_to_row, write_lines, write_samples
from zero2r1.seeds import derive_seed
from zero2r1.types import Completion, Problem


def run_rejection_sft(given: StageRun) -> Mapping[str, Path]:
    """Sample from ``dev2``, select, mix, and tune the base; returns ``dev3`` and the samples.

    Raises:
        StageStopped: the run was asked to stop.
        ValueError: nothing was kept, or there is too little general data.
    """
    settings = given.settings.rejection_sft
    folder = given.run.path / "samples"
    mixed = _mixed(given, *_selected(given))
    write_samples(folder / "kept.jsonl", mixed)
    model = tune_base(given, mixed, settings.sft, title="SFT from the base", measure_as="dev3")
    return {"dev3": model, "rejection_samples": folder / "kept.jsonl"}


def _selected(given: StageRun) -> tuple[list[Sample], Funnel]:
    settings = given.settings.rejection_sft
    stage = given.load("dev2", chat=True, cap=settings.sample.max_new_tokens, sampler=settings.sample)
    lineage = Lineage(
        source="dev2",
        checkpoint=given.digests["dev2"],
        sampler={"temperature": settings.sample.temperature, "max_new_tokens": settings.sample.max_new_tokens},
    )

    def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        return [result_to_row(result) for result in candidates(problem, completions, lineage=lineage, think_open=stage.world.think_open)]

    rows = sample_problems(given.work, stage, _problems(given), settings.sample, purpose="rejection_sampling", make=make)
    decontaminator = given.materials.decontaminator(given.settings.decontaminate)
    selection = select(
        [result_from_row(row) for row in rows],
        grade=_grade(given),
        contaminated=lambda sample: decontaminator.why(sample.problem.question, sample.thinking, sample.summary),
        settings=settings.selection.model_copy(update={"seed": given.settings.seed}),
        language_share=given.materials.world.language_share,
    )
    write_lines(given.run.path / "samples" / "rejected.jsonl", (result_to_row(rejection) for rejection in selection.rejected))
    given.narrator.say(selection.funnel.render())
    if not selection.kept:
        raise ValueError(
            f"rejection sampling kept nothing ({selection.funnel.render()}); {given.run.path}/samples/rejected.jsonl has every reason"
        )
    return list(selection.kept), selection.funnel


def _problems(given: StageRun) -> list[Problem]:
    """In the laptop world some problems go to the judge, as if no rule could check them."""
    settings = given.settings.rejection_sft
    problems = given.materials.problems("rejection_sampling", settings.problems)
    return [
        dataclasses.replace(problem, verifier=JUDGED)
        if derive_seed(given.settings.seed, "judged", problem.id) / 2**63 < settings.judged
        else problem
        for problem in problems
    ]


def _grade(given: StageRun) -> Grade:
    """Rules where there is one, and a judge for the rest: the endpoint's, or the laptop world's."""
    settings, world = given.settings.rejection_sft, given.materials.chat_world
    complete: Complete | None = None
    if settings.endpoint is not None:
        complete = client_of(settings.endpoint).complete
    elif given.materials.judge is not None:
        complete = given.materials.judge(settings.judge_noise)
    by_judge = None if complete is None else grade_by_judge(partial(judge, complete=complete))
    return rules_then_judge(grade_by_rules(world.accuracy_grader()), by_judge, ruled=world.verifiers)


def _mixed(given: StageRun, kept: Sequence[Sample], funnel: Funnel) -> list[Sample]:
    """Reasoning and general samples in the recipe's shares, none of them near an evaluation question; the funnel goes to disk."""
    settings = given.settings.rejection_sft
    shares, seed = settings.selection.mix, given.settings.seed
    wanted = -(-len(kept) * shares[1] // shares[0])
    decontaminator = given.materials.decontaminator(given.settings.decontaminate)
    general = _general(given, wanted)
    found = decontaminator.overlaps([[s.problem.question, s.thinking or "", s.summary] for s in general])
    clean = [sample for sample, overlap in zip(general, found, strict=True) if overlap is None]
    mixed = mix(kept, clean, shares=shares, seed=seed)
    kinds = Counter(sample.problem.domain for sample in mixed if sample.lineage.source != "dev2")
    given.run.write_json(
        "samples/funnel.json",
        {
            "stations": [[name, count] for name, count in funnel.reached.items()],
            "rejected": dict(funnel.rejected),
            "mixed": {"reasoning": len(kept), "general": len(mixed) - len(kept)},
            "general": dict(sorted(kinds.items())),
        },
    )
    given.narrator.say(f"mixed with {len(mixed) - len(kept)} general samples: " + ", ".join(f"{k} {n}" for k, n in sorted(kinds.items())))
    return mixed


def _general(given: StageRun, wanted: int) -> list[Sample]:
    """General samples, with a thinking by the endpoint where the recipe names their domain."""
    settings = given.settings.rejection_sft
    general = given.materials.general(settings.general.source, 0 if settings.general.source != "laptop" else wanted)
    if not settings.general.think_about:
        return general
    endpoint = settings.endpoint
    if endpoint is None:
        raise ValueError("rejection_sft.general.think_about needs a model that thinks: set rejection_sft.endpoint.url and .model")
    ask = seeded(client_of(endpoint), seed=derive_seed(given.settings.seed, "think_first"), workers=endpoint.concurrency)

    def work(piece: Sequence[Sample]) -> list[dict[str, Any]]:
        done = think_first(piece, ask, model=endpoint.model, categories=settings.general.think_about)
        return [result_to_row(result) for result in done]

    folder = given.run.path / "samples" / "general"
    rows = in_chunks(folder, general, work, size=settings.sample.chunk, should_stop=given.should_stop)
    return [result for result in map(result_from_row, rows) if isinstance(result, Sample)]

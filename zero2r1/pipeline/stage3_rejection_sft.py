"""Stage 3 (paper section 2.3.3): sample from stage 2, keep what is right and readable, add general data, and tune the base on it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zero2r1.cold_start.gather import seeded
from zero2r1.cold_start.rewrite import think_first
from zero2r1.pipeline.chunks import in_chunks
from zero2r1.pipeline.materials import JUDGED, client_of
from zero2r1.pipeline.scenarios import measure_general
from zero2r1.pipeline.selecting import draw_candidates, grade_of, select_from, write_funnel
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.stage_run import StageRun, tune_base
from zero2r1.rejection_sampling import Selection, mix
from zero2r1.rewards.judge import Complete
from zero2r1.samples import Rejection, Sample, result_from_row, result_to_row, write_lines, write_samples
from zero2r1.seeds import derive_seed
from zero2r1.tasks.decontamination import Decontaminator
from zero2r1.types import Problem

SPARE_GENERAL = 1.25
"""How many general samples the laptop world makes for each that is wanted: some may be rejected."""


def run_rejection_sft(given: StageRun) -> Mapping[str, Path]:
    """Sample from ``dev2``, select, mix, and tune the base; returns ``dev3`` and the samples.

    Raises:
        StageStopped: the run was asked to stop.
        ValueError: nothing was kept, or there is too little general data.
    """
    settings = given.settings.rejection_sft
    decontaminator = given.materials.decontaminator(given.settings.decontaminate)
    selection = _selected(given, decontaminator)
    wanted = -(-len(selection.kept) * settings.selection.mix[1] // settings.selection.mix[0])
    general, dropped = _general(given, wanted, decontaminator)
    mixed = mix(
        selection.kept,
        general,
        shares=settings.selection.mix,
        seed=given.settings.seed,
        allow_fewer=settings.general.allow_fewer,
    )
    folder = given.run.path / "samples"
    write_samples(folder / "kept.jsonl", mixed)
    write_lines(folder / "rejected_general.jsonl", map(result_to_row, dropped))
    kinds = dict(sorted(Counter(sample.problem.domain for sample in mixed if sample.lineage.source != "dev2").items()))
    write_funnel(
        given.run,
        selection.funnel,
        mixed={"reasoning": len(selection.kept), "general": len(mixed) - len(selection.kept)},
        general=kinds,
        rejected_general=dict(Counter(rejection.rule for rejection in dropped)),
    )
    told = ", ".join(f"{kind} {count}" for kind, count in kinds.items())
    given.narrator.say(f"mixed with {len(mixed) - len(selection.kept)} general samples: {told or 'none'}")
    requests = given.materials.requests

    def measure_also(stage: Stage) -> dict[str, list[float]]:
        return measure_general(stage, requests, count=given.settings.all_scenarios.general.held_out) if requests and requests.rules else {}

    model = tune_base(given, mixed, settings.sft, title="SFT from the base", measure_as="dev3", measure_also=measure_also)
    return {"dev3": model, "rejection_samples": folder / "kept.jsonl"}


def _selected(given: StageRun, decontaminator: Decontaminator) -> Selection:
    settings, materials = given.settings.rejection_sft, given.materials
    stage = given.load("dev2", chat=True, cap=settings.sample.max_new_tokens, sampler=settings.sample)
    sampled = draw_candidates(given.work, stage, _problems(given), settings.sample, source="dev2", checkpoint=given.digests["dev2"])
    complete: Complete | None = None
    if settings.endpoint is not None:
        complete = client_of(settings.endpoint).complete
    elif materials.judge is not None:
        complete = materials.judge(settings.judge_noise)
    grade = grade_of(
        materials.chat_world,
        complete,
        workers=settings.endpoint.concurrency if settings.endpoint is not None else 8,
        keep_in=given.work if settings.endpoint is not None else None,
    )
    selection = select_from(
        given.work,
        sampled,
        grade=grade,
        decontaminator=decontaminator,
        settings=settings.selection,
        language_share=materials.world.language_share,
    )
    if not selection.kept:
        raise ValueError(
            f"rejection sampling kept nothing ({selection.funnel.render()}); {given.run.path}/samples/rejected.jsonl has every reason"
        )
    return selection


def _problems(given: StageRun) -> list[Problem]:
    """In the laptop world some problems go to the judge, as if no rule could check them."""
    settings = given.settings.rejection_sft
    return [
        dataclasses.replace(problem, verifier=JUDGED)
        if derive_seed(given.settings.seed, "judged", problem.id) / 2**63 < settings.judged
        else problem
        for problem in given.problems("rejection_sampling", settings.problems)
    ]


def _general(given: StageRun, wanted: int, decontaminator: Decontaminator) -> tuple[list[Sample], list[Rejection]]:
    """General samples for the mixture, and what was dropped: overlap with evaluation questions, or a thinking that nobody could write.

    They are taken in an order of the seed, so an endpoint is asked about those that are used, and the next ones where one fails.
    """
    settings = given.settings.rejection_sft
    source = settings.general.source
    found = given.materials.general(source, round(wanted * SPARE_GENERAL) + 8 if source == "laptop" else 0)
    ordered = sorted(found, key=lambda sample: derive_seed(given.settings.seed, "general", sample.id))
    overlaps = decontaminator.overlaps([[s.problem.question, s.thinking or "", s.summary] for s in ordered])
    dropped = [Rejection(sample=s, rule="contaminated", why=str(o)) for s, o in zip(ordered, overlaps, strict=True) if o is not None]
    clean = [sample for sample, overlap in zip(ordered, overlaps, strict=True) if overlap is None]
    if not settings.general.think_about:
        return clean, dropped
    unknown = set(settings.general.think_about) - {sample.problem.domain for sample in clean}
    if unknown:
        known = sorted({sample.problem.domain for sample in clean})
        raise ValueError(f"general.think_about names {sorted(unknown)}, and the domains of {source} are {known}")
    kept: list[Sample] = []
    for start in range(0, len(clean), settings.sample.chunk):
        if len(kept) >= wanted:
            break
        for result in _thought_about(given, clean[start : start + settings.sample.chunk], start):
            if isinstance(result, Sample):
                kept.append(result)
            else:
                dropped.append(result)
    return kept, dropped


def _thought_about(given: StageRun, piece: Sequence[Sample], start: int) -> list[Sample | Rejection]:
    """A piece of general data with the thinking of the endpoint, kept on disk."""
    settings = given.settings.rejection_sft
    endpoint = settings.endpoint
    assert endpoint is not None  # the settings see to it
    ask = seeded(client_of(endpoint), seed=derive_seed(given.settings.seed, "think_first"), workers=endpoint.concurrency)

    def work(samples: Sequence[Sample]) -> list[dict[str, Any]]:
        done = think_first(samples, ask, model=endpoint.model, categories=settings.general.think_about)
        return [result_to_row(result) for result in done]

    folder = given.run.path / "samples" / "general" / f"from_{start:06d}"
    rows = in_chunks(folder, piece, work, size=len(piece), should_stop=given.should_stop)
    return [result_from_row(row) for row in rows]

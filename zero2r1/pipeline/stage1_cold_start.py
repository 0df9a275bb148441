"""Stage 1 (paper section 2.3.1): readable long thoughts from up to four sources, a review, then SFT from the base.

The sources are R1-Zero's own outputs that are right and readable, a model behind an endpoint that is shown a long thought or asked
for one, and in the laptop world a solver. Whatever the source, a sample is right, readable and clean before anyone reviews it.
What is right is decided by the rules of the world; a text that was changed later need only not be wrong by them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zero2r1.cold_start.gather import (
    Asking,
    Readability,
    Result,
    direct,
    few_shot,
    from_solver,
    from_zero,
    only_correct,
    only_readable,
    seeded,
)
from zero2r1.cold_start.review import export_review, import_review
from zero2r1.cold_start.rewrite import StillRight, rewrite
from zero2r1.pipeline.chunks import StageStopped, in_chunks
from zero2r1.pipeline.materials import client_of
from zero2r1.pipeline.sampling import sample_problems
from zero2r1.pipeline.stage_run import StageRun, tune_base
from zero2r1.rejection_sampling import Grade, candidates, grade_by_rules
from zero2r1.rewards.readability import MALFORMED, RULES, unreadable
from zero2r1.samples import Lineage, Rejection, Sample, result_from_row, result_to_row, write_lines, write_samples
from zero2r1.seeds import derive_seed
from zero2r1.template import write_cold_start
from zero2r1.types import Completion, Problem

EXAMPLES = 24
"""Solutions of the laptop world's solver that few-shot prompts draw from."""
STATIONS: tuple[str, ...] = (
    MALFORMED, "no_solution", "no_reply", "unreadable_reply", "not_graded", "incorrect", *RULES, "over_limit", "no_thinking",
    "changed_by_rewriting", "contaminated", "reviewer", "changed_by_editing",
)  # fmt: skip
"""The rules in the order in which a sample meets them."""


def run_cold_start(given: StageRun) -> Mapping[str, Path]:
    """Gather, review and tune. Returns the model and the samples it learnt from.

    Raises:
        StageStopped: the run was asked to stop, or waits for a reviewer.
        AskError: the endpoint does not answer; what it answered so far is kept.
        ValueError: few-shot prompts have no example to show, which is found before anything is sampled; or nothing was left to learn from.
    """
    settings = given.settings.cold_start
    examples = _examples(given)
    grade = grade_by_rules(given.materials.world.accuracy_grader())
    gathered = [*_from_zero(given, grade), *_from_endpoint(given, grade, examples), *_from_solver(given, grade)]
    kept, rejected = _reviewed(given, _clean(given, gathered), grade)
    folder = given.run.path / "samples"
    write_samples(folder / "kept.jsonl", kept)
    write_lines(folder / "rejected.jsonl", (result_to_row(rejection) for rejection in rejected))
    given.run.write_json("samples/funnel.json", funnel_of(kept, rejected))
    given.narrator.say(f"cold start: {len(kept) + len(rejected)} gathered, {len(kept)} kept  ({_reasons(rejected)})")
    if not kept:
        raise ValueError(f"cold start: no sample was kept ({_reasons(rejected)}); {folder / 'rejected.jsonl'} has every reason")
    model = tune_base(given, kept, settings.sft, title="cold-start SFT", measure_as="dev1")
    return {"dev1": model, "cold_start_samples": folder / "kept.jsonl"}


def funnel_of(kept: Sequence[Sample], rejected: Sequence[Rejection]) -> dict[str, Any]:
    """How many were gathered, by which rule the others went (in the order of :data:`STATIONS`), and what is left by source."""
    rules = _by_rule(rejected)
    sources = dict(Counter(sample.lineage.source for sample in kept))
    left = len(kept) + len(rejected)
    stations: list[tuple[str, int]] = [("gathered", left)]
    for rule, count in rules.items():
        left -= count
        stations.append((f"not {rule}", left))
    return {"stations": [*stations, ("kept", len(kept))], "rejected": rules, "mixed": sources}


def _from_zero(given: StageRun, grade: Grade) -> list[Result]:
    """Way 3: what R1-Zero wrote that is right and readable, rewritten by the endpoint where the recipe wants that."""
    settings = given.settings.cold_start
    if not settings.problems:
        return []
    stage = given.load("zero", chat=False, cap=settings.sample.max_new_tokens, sampler=settings.sample)
    lineage = Lineage(
        source="zero",
        checkpoint=given.digests["zero"],
        sampler={"temperature": settings.sample.temperature, "max_new_tokens": settings.sample.max_new_tokens},
    )

    def make(problem: Problem, completions: Sequence[Completion]) -> list[dict[str, Any]]:
        found = candidates(problem, completions, lineage=lineage, think_open=stage.world.think_open)
        return [result_to_row(result) for result in _graded(found, grade)]

    problems = given.problems("cold_start", settings.problems)
    rows = sample_problems(given.work, stage, problems, settings.sample, purpose="zero", make=make)
    found = _limit(given, list(from_zero(map(result_from_row, rows), _unreadable(given))))
    return _rewritten(given, found, _still_right(grade)) if settings.rewrite else found


def _rewritten(given: StageRun, found: Sequence[Result], still_right: StillRight) -> list[Result]:
    """By the endpoint, piece by piece; what changed its answer on the way, or does not read well now, is rejected."""
    settings = given.settings.cold_start
    assert settings.endpoint is not None  # the settings see to it
    client, model = client_of(settings.endpoint), settings.endpoint.model
    ask = seeded(client, seed=derive_seed(given.settings.seed, "rewrite"), workers=settings.endpoint.concurrency)

    def work(piece: Sequence[Result]) -> list[dict[str, Any]]:
        done = rewrite(piece, ask, model=model, still_right=still_right, highlight=given.materials.highlight)
        return [result_to_row(result) for result in done]

    folder = given.run.path / "samples" / "rewritten"
    rows = in_chunks(folder, found, work, size=settings.sample.chunk, should_stop=given.should_stop)
    return list(only_readable(map(result_from_row, rows), _unreadable(given)))


def _from_endpoint(given: StageRun, grade: Grade, examples: Sequence[Sample]) -> list[Result]:
    """Ways 1 and 2: a model that is shown a long thought, or asked for reflection and verification."""
    settings = given.settings.cold_start
    if settings.endpoint is None or not (settings.few_shot or settings.direct):
        return []
    endpoint, highlight = settings.endpoint, given.materials.highlight
    client = client_of(endpoint)
    sampler = {"temperature": endpoint.temperature, "max_tokens": endpoint.max_tokens}
    asking = Asking(chunk=settings.sample.chunk)
    found: list[Result] = []
    for way, count in (("few_shot", settings.few_shot), ("direct", settings.direct)):
        ask = seeded(client, seed=derive_seed(given.settings.seed, way), workers=endpoint.concurrency)

        def work(piece: Sequence[Problem], way: str = way, ask: Any = ask) -> list[dict[str, Any]]:
            common: dict[str, Any] = {"model": endpoint.model, "highlight": highlight, "sampler": sampler, "asking": asking}
            if way == "few_shot":
                results = few_shot(piece, examples, ask, seed=given.settings.seed, **common)
            else:
                results = direct(piece, ask, **common)
            return [result_to_row(result) for result in _graded(results, grade)]

        problems = given.materials.problems(way, count)
        rows = in_chunks(
            given.run.path / "samples" / way, problems, work, size=settings.sample.chunk, should_stop=given.should_stop,
            on_progress=given.narrator.progress(f"asking {endpoint.model} ({way}), problems"),
        )  # fmt: skip
        found += [result_from_row(row) for row in rows]
    return _worth_imitating(given, found)


def _examples(given: StageRun) -> list[Sample]:
    """What few-shot prompts show: the file the recipe names, or solutions of the laptop world's solver; nothing where none are asked.

    Raises:
        ValueError: there is no example, or one that cannot be shown.
    """
    settings, solve = given.settings.cold_start, given.materials.solve
    if not settings.few_shot:
        return []
    if settings.examples is None:
        if solve is None:
            raise ValueError(
                f"cold_start.few_shot asks about {settings.few_shot} problems with a long thought as an example, and only the laptop world "
                "writes its own: set cold_start.examples to a file of samples or dialogues with thinking, or cold_start.few_shot to 0"
            )
        solved = from_solver(given.materials.problems("examples", EXAMPLES), solve)
        return [result for result in solved if isinstance(result, Sample)]
    examples = given.materials.general(settings.examples, 0)
    for example in examples:
        try:
            write_cold_start(example.thinking or "", example.summary)
        except ValueError as error:
            raise ValueError(f"cold_start.examples: {settings.examples}: sample {example.id!r} cannot be shown: {error}") from error
    return examples


def _from_solver(given: StageRun, grade: Grade) -> list[Result]:
    count = given.settings.cold_start.solved
    if not count:
        return []
    assert given.materials.solve is not None  # load_materials sees to it
    solved = list(from_solver(given.materials.problems("solver", count), given.materials.solve))
    return _worth_imitating(given, _graded(solved, grade))


def _worth_imitating(given: StageRun, graded: Iterable[Result]) -> list[Result]:
    """What is right and readable; the rest as rejections."""
    return list(only_readable(only_correct(graded), _unreadable(given)))


def _unreadable(given: StageRun) -> Readability:
    settings, share = given.settings.cold_start.readability, given.materials.world.language_share
    return lambda sample: unreadable(sample.thinking or "", sample.summary, sample.problem.language, settings, language_share=share)


def _graded(results: Iterable[Result], grade: Grade) -> list[Result]:
    """Samples with their accuracy measured; one that nobody could grade stays without."""
    graded: list[Result] = []
    for result in results:
        if isinstance(result, Sample):
            right, why = grade([result])[0]
            known = {} if right is None else {"accuracy": float(right)}
            result = result.after(f"graded: {why}", measured={**result.measured, **known})
        graded.append(result)
    return graded


def _still_right(grade: Grade) -> StillRight:
    """A changed text that no rule can grade passes: it was right before, and whoever changed it answers for it."""
    return lambda sample: grade([sample])[0][0] is not False


def _limit(given: StageRun, results: Sequence[Result]) -> list[Result]:
    """One sample a problem, and at most ``from_zero``: which ones, the seed decides."""
    limit = given.settings.cold_start.from_zero
    mine = [result for result in results if isinstance(result, Sample)]
    mine.sort(key=lambda sample: derive_seed(given.settings.seed, "cold_start", sample.id))
    first = {sample.problem.id: sample.id for sample in reversed(mine)}
    chosen = {sample.id for sample in [s for s in mine if first[s.problem.id] == s.id][:limit]}
    return [
        Rejection(sample=r, rule="over_limit", why="one sample a problem, and no more than the recipe asks for")
        if isinstance(r, Sample) and r.id not in chosen
        else r
        for r in results
    ]


def _clean(given: StageRun, results: Sequence[Result]) -> list[Result]:
    """Without what overlaps with evaluation questions."""
    decontaminator = given.materials.decontaminator(given.settings.decontaminate)
    samples = [r if isinstance(r, Sample) else r.sample for r in results]
    found = decontaminator.overlaps([[s.problem.question, s.thinking or "", s.summary] for s in samples])
    return [
        Rejection(sample=result, rule="contaminated", why=str(overlap)) if isinstance(result, Sample) and overlap is not None else result
        for result, overlap in zip(results, found, strict=True)
    ]


def _reviewed(given: StageRun, results: Sequence[Result], grade: Grade) -> tuple[list[Sample], list[Rejection]]:
    """What is left after the reviewer; a person is waited for.

    Raises:
        StageStopped: samples are without a decision.
    """
    kept, rejected = [r for r in results if isinstance(r, Sample)], [r for r in results if isinstance(r, Rejection)]
    how, path = given.settings.cold_start.review, given.run.path / "review.md"
    if how == "none" or not kept:
        return kept, rejected
    if not path.exists():
        export_review(path, kept, reviewer=given.materials.reviewer if how == "scripted" else None)
    name = "scripted reviewer" if how == "scripted" else given.settings.cold_start.reviewer
    review = import_review(path, kept, reviewer=name, still_right=_still_right(grade))
    if review.pending:
        raise StageStopped(
            f"{len(review.pending)} of {len(kept)} samples wait for a decision in {path}: edit, approve or reject them there, then give "
            "the same command again"
        )
    return list(review.kept), [*rejected, *review.rejected]


def _reasons(rejected: Sequence[Rejection]) -> str:
    return ", ".join(f"{rule} {count}" for rule, count in _by_rule(rejected).items()) or "none rejected"


def _by_rule(rejected: Sequence[Rejection]) -> dict[str, int]:
    counts = Counter(rejection.rule for rejection in rejected)
    return {rule: counts[rule] for rule in dict.fromkeys([*STATIONS, *counts]) if counts[rule]}

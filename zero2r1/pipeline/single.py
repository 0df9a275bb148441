"""`train sft` and `sample`: stages 1 and 3 taken apart, for data and models of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from zero2r1.pipeline.api import heard_of_base, load_world, model_folder
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import RlSettings, SampleRunSettings, SftStageSettings
from zero2r1.pipeline.ledger import digest_of
from zero2r1.pipeline.materials import client_of
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.sampling import Work, sample_problems
from zero2r1.pipeline.sft import SftResult, run_sft
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.rejection_sampling import candidates, grade_by_judge, grade_by_rules, rules_then_judge, select
from zero2r1.rewards.accuracy import VERIFIERS
from zero2r1.rewards.judge import judge
from zero2r1.run_dir import RunDir
from zero2r1.samples import Lineage, result_from_row, result_to_row, write_lines, write_samples
from zero2r1.tasks.decontamination import Decontaminator, items_of_file, items_of_problems
from zero2r1.tasks.dialogues import read_dialogues
from zero2r1.training.loop import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """What `sample` hands back."""

    run: Path
    outcome: Outcome


def run_sft_stage(settings: SftStageSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool]) -> SftResult:
    """`train sft`: imitate a file of dialogues, and measure on problems where the settings name some.

    Raises:
        ValueError: no data, or data that cannot be used.
    """
    data = settings.data
    if data.train is None:
        raise ValueError("data.train is missing: name a file of dialogues to imitate, e.g. --data.train=dialogues.jsonl")
    dialogues = read_dialogues(data.train)
    world = World(name="none", train=(), held_out=(), template=data.template, format_mode="think_only", verifiers=VERIFIERS)
    if data.held_out is not None:
        laptop = data.held_out == "laptop"
        problems = {"train": "laptop", "held_out": None if laptop else data.held_out, "columns": data.columns, "template": data.template}
        world = load_world(RlSettings.model_validate({"seed": settings.seed, "data": problems, "evaluation": settings.evaluation}))
    folder = model_folder(settings.model, settings.base, seed=settings.seed, on_step=heard_of_base(settings.base.steps, narrator.say))
    stage = Stage(folder, world, evaluation=settings.evaluation, cap=settings.max_length, compute=settings.compute)
    measured = data.held_out is not None
    if measured and not (run.path / "checkpoints").is_dir():
        narrator.evaluation(stage.measure("before"))
    total = -(-len(dialogues) // settings.batch_size) * settings.epochs
    narrator.say(f"data      {len(dialogues)} dialogues, {total} updates of {settings.batch_size}")
    with narrator.panel("SFT", total, plain_every=max(1, total // 20)) as show:
        result = run_sft(
            stage,
            dialogues,
            settings,
            run,
            measure_as="after" if measured else None,
            layout=data.layout,
            on_step=lambda row: show(row["step"], row),
            on_evaluation=narrator.evaluation,
            should_stop=should_stop,
        )
    narrator.say(_fitted(run))
    return result


def _fitted(run: RunDir) -> str:
    """What was cut to the longest length, as the trainer wrote it down."""
    found = next((event for event in reversed(run.events()) if event["event"] == "examples"), None)
    if found is None:
        return ""
    return f"length    {found['kept']} examples learnt, {found['cut']} of them cut at the end, {found['dropped']} too long to learn at all"


def run_sampling(settings: SampleRunSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool]) -> SampleResult:
    """`sample`: several answers to every problem, and of these what is right, readable, unique and clean, under ``samples/kept.jsonl``.

    Raises:
        ValueError: data that cannot be used.
    """
    seed = settings.seed
    common = {"seed": seed, "data": settings.data, "evaluation": settings.evaluation}
    world = load_world(
        RlSettings.model_validate({name: getattr(value, "model_dump", lambda v=value: v)() for name, value in common.items()})
    )
    folder = Path(model_folder(settings.model, settings.base, seed=seed, on_step=heard_of_base(settings.base.steps, narrator.say)))
    stage = Stage(folder, world, evaluation=settings.evaluation, cap=settings.sample.max_new_tokens, sampler=settings.sample)
    sampler = {"temperature": settings.sample.temperature, "max_new_tokens": settings.sample.max_new_tokens}
    lineage = Lineage(source=f"model:{folder.name}", checkpoint=digest_of(folder) if folder.is_dir() else None, sampler=sampler)
    work = Work(run=run, seed=seed, narrator=narrator, should_stop=should_stop)
    try:
        rows = sample_problems(
            work,
            stage,
            world.train,
            settings.sample,
            purpose="rejection_sampling",
            make=lambda problem, answers: [
                result_to_row(result) for result in candidates(problem, answers, lineage=lineage, think_open=stage.world.think_open)
            ],
        )
    except StageStopped:
        return SampleResult(run=run.path, outcome=Outcome.STOPPED)
    asked = None if settings.endpoint is None else grade_by_judge(partial(judge, complete=client_of(settings.endpoint).complete))
    rules = grade_by_rules(replace(world, think_open=False).accuracy_grader())
    items = [item for file in settings.decontaminate for item in items_of_file(file)]
    decontaminator = Decontaminator([*items_of_problems(world.held_out), *items])
    selection = select(
        [result_from_row(row) for row in rows],
        grade=rules_then_judge(rules, asked, ruled=world.verifiers),
        contaminated=lambda sample: decontaminator.why(sample.problem.question, sample.thinking, sample.summary),
        settings=settings.selection.model_copy(update={"seed": seed}),
        language_share=world.language_share,
    )
    write_samples(run.path / "samples" / "kept.jsonl", selection.kept)
    write_lines(run.path / "samples" / "rejected.jsonl", map(result_to_row, selection.rejected))
    stations = [[name, count] for name, count in selection.funnel.reached.items()]
    run.write_json("samples/funnel.json", {"stations": stations, "rejected": dict(selection.funnel.rejected)})
    narrator.say(f"{selection.funnel.render()}\nkept samples: {run.path}/samples/kept.jsonl")
    return SampleResult(run=run.path, outcome=Outcome.DONE)

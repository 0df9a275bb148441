"""`train sft` and `sample`: stages 1 and 3 taken apart, for data and models of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zero2r1.pipeline.api import heard_of_base, load_world, model_folder
from zero2r1.pipeline.config import RlSettings, SampleRunSettings, SftStageSettings
from zero2r1.pipeline.evaluations import keep_evaluation
from zero2r1.pipeline.ledger import digest_of
from zero2r1.pipeline.materials import client_of, decontaminator_of
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.sampling import Work
from zero2r1.pipeline.selecting import draw_candidates, grade_of, select_from, write_funnel
from zero2r1.pipeline.sft import SftResult, fitted_line, run_sft
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.rejection_sampling import Selection
from zero2r1.rewards.accuracy import VERIFIERS
from zero2r1.rewards.judge import Complete
from zero2r1.run_dir import RunDir
from zero2r1.samples import write_samples
from zero2r1.tasks.dialogues import read_dialogues
from zero2r1.tracking import open_tracker
from zero2r1.training.loop import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """What a finished `sample` hands back."""

    run: Path
    outcome: Outcome
    selection: Selection


def run_sft_stage(settings: SftStageSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool]) -> SftResult:
    """`train sft`: imitate a file of dialogues, and measure before and after on problems where the settings name some.

    Raises:
        ValueError: no data, data that cannot be used, or other data than the run was started with.
    """
    data = settings.data
    if data.train is None:
        raise ValueError("data.train is missing: name a file of dialogues to imitate, e.g. --data.train=dialogues.jsonl")
    world = _measured_world(settings)
    dialogues = read_dialogues(data.train)
    track = open_tracker(settings.track, run.path)
    folder = model_folder(
        settings.model, settings.base, seed=settings.seed, on_step=heard_of_base(settings.base.steps, narrator.say, should_stop)
    )
    stage = Stage(
        folder,
        world,
        evaluation=settings.evaluation,
        cap=settings.max_length,
        compute=settings.compute,
        lora=settings.lora,
        seed=settings.seed,
    )
    measured = data.held_out is not None
    # The stage still has the weights it starts from, even where checkpoints wait to be loaded.
    if measured and not (run.path / "evals" / "before.json").exists():
        before = stage.measure("before")
        keep_evaluation(run, before)
        narrator.evaluation(before)
    total = -(-len(dialogues) // settings.batch_size) * settings.epochs
    narrator.say(f"data      {len(dialogues)} dialogues, {total} updates of {settings.batch_size}")
    with narrator.panel("SFT", total, plain_every=max(1, total // 20)) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            track(row)
            show(row["step"], row)

        result = run_sft(
            stage,
            dialogues,
            settings,
            run,
            measure_as="after" if measured else None,
            layout=data.layout,
            on_step=on_step,
            on_evaluation=narrator.evaluation,
            should_stop=should_stop,
        )
    narrator.say(fitted_line(run))
    return result


def _measured_world(settings: SftStageSettings) -> World:
    """The problems to measure on, if any, and the layout that is learnt."""
    data = settings.data
    own = data.held_out is not None and data.held_out != "laptop"
    if data.columns and not own:
        raise ValueError(
            f"data.columns is {data.columns}, which names columns of a file of problems, data.held_out, and there is none. Dialogues are "
            "read in the layouts messages, prompt + completion, instruction + output, conversations: rename their columns, or drop "
            "data.columns"
        )
    world = World(name="none", train=(), held_out=(), template=data.template, format_mode="think_only", verifiers=VERIFIERS)
    if data.held_out is not None:
        problems = {"train": "laptop", "held_out": data.held_out if own else None, "columns": data.columns, "template": data.template}
        world = load_world(RlSettings.model_validate({"seed": settings.seed, "data": problems, "evaluation": settings.evaluation}))
    return replace(world, format_mode="cold_start") if data.layout == "special_token" else world


def run_sampling(settings: SampleRunSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool]) -> SampleResult:
    """`sample`: several answers to every problem, and of these what is right, readable, unique and clean, under ``samples/kept.jsonl``.

    Raises:
        StageStopped: asked to stop; what was drawn and judged is kept.
        ValueError: data that cannot be used, or a judge who is not there.
    """
    world = load_world(
        RlSettings.model_validate({name: getattr(settings, name).model_dump() for name in ("data", "evaluation")} | {"seed": settings.seed})
    )
    if not world.train:
        raise ValueError("data.train is missing: name a file of problems to sample answers to, e.g. --data.train=train.jsonl")
    heard = heard_of_base(settings.base.steps, narrator.say, should_stop)
    folder = Path(model_folder(settings.model, settings.base, seed=settings.seed, on_step=heard))
    stage = Stage(folder, world, evaluation=settings.evaluation, cap=settings.sample.max_new_tokens, sampler=settings.sample)
    work = Work(run=run, seed=settings.seed, narrator=narrator, should_stop=should_stop)
    sampled = draw_candidates(
        work,
        stage,
        world.train,
        settings.sample,
        source=f"model:{folder.name}",
        checkpoint=digest_of(folder) if folder.is_dir() else None,
    )
    complete: Complete | None = None if settings.endpoint is None else client_of(settings.endpoint).complete
    workers = 1 if settings.endpoint is None else settings.endpoint.concurrency
    selection = select_from(
        work,
        sampled,
        grade=grade_of(world, complete, workers=workers, keep_in=work),
        decontaminator=decontaminator_of(world, settings.decontaminate),
        settings=settings.selection,
        language_share=world.language_share,
    )
    write_samples(run.path / "samples" / "kept.jsonl", selection.kept)
    write_funnel(run, selection.funnel)
    narrator.say(f"kept samples: {run.path}/samples/kept.jsonl")
    return SampleResult(run=run.path, outcome=Outcome.DONE, selection=selection)

"""R1-Zero from settings or from Python: the functions behind `zero2r1 train zero` and :func:`zero2r1.train_zero`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.config import BaseSettings, DataSettings, GeneralRunSettings, RlSettings, ZeroSettings, claims_file
from zero2r1.pipeline.evaluations import claim_lines, judge_run
from zero2r1.pipeline.general_requests import laptop_requests, requests_of_files
from zero2r1.pipeline.laptop import LAPTOP_PROBLEMS, base_layouts, base_model_folder, laptop_world
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.preflight import preflight
from zero2r1.pipeline.rl import Extras, RlResult, run_rl, stage_of
from zero2r1.pipeline.sampling import Work, training_problems
from zero2r1.pipeline.scenarios import keep_general, load_scorers, measure_general, mute_monitor, scenario_extras
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.pretraining import PretrainStep
from zero2r1.rewards.accuracy import VERIFIERS
from zero2r1.rewards.verdict import Verifier
from zero2r1.run_dir import RunDir
from zero2r1.tasks.arithmetic import HELD_OUT_PROBLEMS, HELD_OUT_SEED, PROBLEM_SETS, TRAIN_PROBLEMS
from zero2r1.tasks.files import read_problems
from zero2r1.training.loop import Outcome
from zero2r1.types import Problem, RewardFn


def load_world(settings: ZeroSettings) -> World:
    """The problems the settings name: the laptop world, made sums and stories, or files. Held-out problems alone are enough to measure.

    Raises:
        ValueError: a file without held-out problems beside it.
    """
    data = settings.data
    format_mode = settings.format_mode if isinstance(settings, RlSettings) else _layout_of(data.template)
    if data.train == "laptop" and data.held_out is None:
        world = laptop_world(seed=settings.seed, train=data.count or LAPTOP_PROBLEMS, held_out=settings.evaluation.problems)
        return world if data.template == "zero" else replace(world, template=data.template, format_mode=format_mode)
    held_out = data.train if data.held_out is None and data.train in PROBLEM_SETS else data.held_out
    if held_out is None:
        raise ValueError("data.held_out is missing: name a file of problems to measure on, e.g. --data.held_out=test.jsonl")
    return World(
        name=Path(held_out).stem,
        train=() if data.train == "laptop" else training_set(data, seed=settings.seed),
        held_out=held_out_set(held_out, columns=data.columns),
        template=settings.data.template,
        format_mode=format_mode,
        verifiers=VERIFIERS,
    )


def training_set(data: DataSettings, *, seed: int) -> tuple[Problem, ...]:
    """Problems to train on, by the name of a set that is made for the seed, or of a file."""
    if data.train in PROBLEM_SETS:
        return tuple(PROBLEM_SETS[data.train](split="train", count=data.count or TRAIN_PROBLEMS, seed=seed))
    return tuple(read_problems(Path(data.train), split="train", columns=data.columns or None)[: data.count])


def held_out_set(name: str, *, columns: Mapping[str, str]) -> tuple[Problem, ...]:
    """Problems to measure on, by the name of a made set, which is the same for every seed, or of a file."""
    if name in PROBLEM_SETS:
        return tuple(PROBLEM_SETS[name](split="test", count=HELD_OUT_PROBLEMS, seed=HELD_OUT_SEED))
    return tuple(read_problems(Path(name), split="test", columns=columns or None))


def _layout_of(template: str) -> str:
    """The layout that a prompt asks for: a chat template says nothing of answer tags, so that thinking first is all there is to keep."""
    return "think_only" if template == "chat" else "strict"


def model_folder(model: str, base: BaseSettings, *, seed: int, on_step: Callable[[PretrainStep], None] = lambda report: None) -> str | Path:
    """Where the weights of a model by name are: a folder or Hub name is itself; the laptop's base is trained if it is not in the cache."""
    if model == "laptop":
        return base_model_folder(base, seed=seed if base.seed is None else base.seed, on_step=on_step)[0]
    if model == "smollm2-135m":
        from zero2r1.models.smollm2 import smollm2_folder

        return smollm2_folder()
    return model


def load_stage(
    settings: ZeroSettings, *, say: Callable[[str], None] = lambda line: None, should_stop: Callable[[], bool] = lambda: False
) -> Stage:
    """Model and world, ready to be measured or trained. ``say`` hears of a base model that has to be trained first.

    Raises:
        StageStopped: asked to stop while that base was trained.
    """
    heard = heard_of_base(settings.base.steps, say, should_stop)
    folder = model_folder(settings.model, settings.base, seed=settings.seed, on_step=heard)
    return stage_of(folder, load_world(settings), settings)


def heard_of_base(
    steps: int, say: Callable[[str], None], should_stop: Callable[[], bool] = lambda: False
) -> Callable[[PretrainStep], None]:
    """Says that the base is being trained, and how far it is; raises ``StageStopped`` where it is asked to stop."""

    def heard(report: PretrainStep) -> None:
        if should_stop():
            raise StageStopped("the base is not kept half done: it begins again")
        if report.step == 1:
            say(f"the laptop base model is not in the cache: training, {steps} steps, about {steps * 0.25 / 60:.0f} minutes on 2 cores")
        elif report.step % 100 == 0:
            say(f"base  step {report.step}/{steps}  loss {report.loss:.3f}")

    return heard


def run_stage(settings: ZeroSettings, run: RunDir, *, console: Console, should_stop: Callable[[], bool]) -> RlResult:
    """`train zero` and `train rl`: preflight, then the stage with a panel, and what became of the claims.

    Raises:
        StageStopped: asked to stop before training, while pass rates are measured.
        ValueError: the preflight found faults, or no problem is worth training on.
    """
    narrator = Narrator(console)
    claims = None if settings.claims is None else claims_file(settings.claims)
    stage = load_stage(settings, say=narrator.say, should_stop=should_stop)
    checked = preflight(stage, settings)
    narrator.say("\n".join(checked.lines))
    if checked.faults:
        raise ValueError("the preflight found faults:\n" + "\n".join(checked.faults))
    zero = not isinstance(settings, RlSettings)
    problems = None
    scenarios: dict[str, Any] = {}
    if isinstance(settings, RlSettings):
        work = Work(run=run, seed=settings.seed, narrator=narrator, should_stop=should_stop)
        problems = training_problems(
            work, stage, stage.world.train, pass_rate=settings.pass_rate, mixture=settings.mixture, rollout=settings.rollout
        )
        scenarios = _scenarios(stage, settings, settings.general, problems, work) if settings.general is not None else {}
    title = "R1-Zero" if zero else "RL"
    with narrator.panel(title, settings.steps, plain_every=1 if settings.steps <= 20 else 10) as show:
        extras = Extras(
            before="base" if zero else "before",
            after="zero" if zero else "after",
            layouts=base_layouts(stage.world) if zero else {},
            problems=problems,
            on_step=lambda row: show(row["step"], row),
            on_evaluation=narrator.evaluation,
            on_warning=narrator.say,
            should_stop=should_stop,
            **scenarios,
        )
        result = run_rl(stage, settings, run, extras)
    if claims is None or result.outcome is not Outcome.DONE:
        return result
    verdicts, missing = judge_run(run, claims)
    narrator.say(claim_lines(verdicts, missing))
    return replace(result, verdicts=verdicts)


def _scenarios(
    stage: Stage, settings: ZeroSettings, general: GeneralRunSettings, reasoning: Sequence[Problem], work: Work
) -> dict[str, Any]:
    """General requests among the problems of `train rl`: measured before, and again with the evaluation afterwards."""
    models = {name: Path(folder) for name, folder in (("helpful", general.helpful), ("harmless", general.harmless)) if folder is not None}
    if general.requests == "laptop":
        requests = laptop_requests(settings.seed)
    else:
        requests = requests_of_files(general.requests, general.held_out_requests, seed=settings.seed)

    def measured(name: str) -> dict[str, list[float]]:
        arrays = measure_general(stage, requests, count=general.held_out, scorers=scorers)
        if arrays:
            work.narrator.say(keep_general(work.run, arrays, name))
        return arrays

    scorers = load_scorers(models, stage.world, settings.compute)
    extras = scenario_extras(stage, settings, general, reasoning=reasoning, requests=requests, scorers=scorers)
    if mute := mute_monitor(settings, general):
        work.narrator.say(mute)
    if not (work.run.path / "general" / "before.json").exists():
        measured("before")
    return {**extras, "measure_also": lambda: measured("after")}


def train_zero(
    model: str | Path,
    problems: Sequence[Problem],
    reward: RewardFn | None = None,
    *,
    held_out: Sequence[Problem],
    settings: ZeroSettings | None = None,
    verifiers: Mapping[str, Verifier] = VERIFIERS,
    template: str | None = None,
    runs: Path = Path("runs"),
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None,
) -> RlResult:
    """Train a model by pure RL on problems with verifiable answers (paper section 2.2).

    Args:
        model: a folder or name that `transformers` loads.
        problems, held_out: to train on and to be measured on; each names its verifier, a key of ``verifiers``.
        reward: a function in TRL's signature that grades accuracy, 1 for right, instead of the problems' verifiers. The format
            reward and the weights of both stay with ``settings.reward``.
        settings: everything else; the paper's by default.
        template: a key of ``TEMPLATES``, ``chat``, or a text with one ``{question}``; ``settings.data.template`` if left out.

    Returns:
        The run folder, the evaluations before and after, and the trained model.
    """
    settings = settings or ZeroSettings()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    template = template or settings.data.template
    world = World(
        name="custom",
        train=tuple(problems),
        held_out=tuple(held_out),
        template=template,
        format_mode=_layout_of(template),
        verifiers=verifiers,
        accuracy=reward,
    )
    stage = stage_of(model, world, settings)
    faults = preflight(stage, settings).faults
    if faults:
        raise ValueError("the preflight found faults:\n" + "\n".join(faults))
    run = RunDir.create(runs, "zero", command=["train_zero"], config=settings.model_dump_json(indent=1), seed=settings.seed)
    try:
        result = run_rl(stage, settings, run, Extras(on_step=on_step))
    except BaseException as error:
        run.close("failed", f"{type(error).__name__}: {error}")
        raise
    run.close(result.outcome.value)
    return result

"""The pipeline: stages in order, each a run folder of its own, and a ledger that says what is done and what must run again.

    base ─▶ R1-Zero ─▶ 1 cold start ─▶ 2 reasoning RL ─▶ 3 rejection sampling and SFT ─▶ 4 RL for all scenarios = R1
      └──────────────────▲ (SFT)                            ▲ (SFT) from the base again │      ▲ reward models
                                                       a student ─▶ distilled (SFT) ◀───┘

A run that was killed goes on inside the stage that was under way. A stage whose settings or inputs changed runs again, and what
it made before is moved aside, never deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from zero2r1.models.loading import has_chat_template, local_folder
from zero2r1.pipeline.api import model_folder
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.ledger import Entry, Ledger, digest_of
from zero2r1.pipeline.materials import load_materials
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage1_cold_start import run_cold_start
from zero2r1.pipeline.stage2_reasoning_rl import run_reasoning_rl, run_without_language_reward
from zero2r1.pipeline.stage3_rejection_sft import run_rejection_sft
from zero2r1.pipeline.stage4_all_scenarios import run_all_scenarios
from zero2r1.pipeline.stage4_reward_models import run_reward_models
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.pipeline.stage_student import run_distillation, run_student_base, run_student_rl
from zero2r1.pipeline.stage_zero import run_zero
from zero2r1.pretraining import PretrainStep
from zero2r1.rollout.process_engine import end_idle_children
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome

WITHOUT_EFFECT = (
    "evaluate_every", "checkpoint_every", "keep_checkpoints", "token_budget", "max_rows", "tokens_per_micro_batch",
    "gradient_checkpointing", "onednn", "url", "key_env", "timeout_s", "concurrency",
)  # fmt: skip
"""Settings that change time, memory, disk or where a model is reached, not what is computed: a stage stays up to date when they change."""
ASKED = "asked"
"""Status of a finished stage that is to run again because ``--from`` said so."""
STALE = "stale"
"""Status of a finished stage that no longer fits its settings or inputs and was passed over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage of the pipeline."""

    name: str
    title: str
    says: str
    """What to expect of it, in a line."""
    needs: tuple[str, ...]
    """Names of the outputs of earlier stages that it is given."""
    makes: tuple[str, ...]
    run: Callable[[StageRun], Mapping[str, Path]]
    sections: tuple[str, ...]
    """The parts of the recipe that it depends on."""
    left_out: Callable[[PipelineSettings], str | None] = lambda settings: None
    """Why a recipe leaves this stage out, with the line that would bring it in; ``None`` if it does not."""


def run_base(given: StageRun) -> Mapping[str, Path]:
    """The base model: a folder, or the laptop world's, trained now if it is not in the cache.

    Raises:
        StageStopped: asked to stop while the laptop's base was trained, which begins again then.
        ValueError: the model has no chat template, which the stages after R1-Zero need.
    """
    settings = given.settings
    with given.narrator.panel("base", settings.base.steps, plain_every=100) as show:

        def heard(report: PretrainStep) -> None:
            show(report.step, {"pretraining_loss": report.loss, "tokens_per_s": report.tokens_per_s})
            if given.should_stop():
                raise StageStopped("the base is not kept half done: it begins again")

        folder = local_folder(model_folder(settings.model, settings.base, seed=settings.seed, on_step=heard))
    if not has_chat_template(folder):
        raise ValueError(
            f"{folder} has no chat template, and from the cold start on the model answers in dialogues. Give its tokenizer one: put a "
            "chat_template.jinja into the folder, for example that of another model of its family"
        )
    return {"base": folder}


def _no_requests(settings: PipelineSettings) -> str | None:
    return None if settings.requests.train else "the recipe names no general requests: requests.train"


def _no_student(settings: PipelineSettings) -> str | None:
    return None if settings.distillation.model else "the recipe names no student: distillation.model"


SHARED = ("seed", "data", "evaluation")
STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="base", title="Base model", says="learns a small bilingual world from text", needs=(), makes=("base",), run=run_base,
        sections=("seed", "model", "base"),
    ),
    StageSpec(
        name="zero", title="R1-Zero", says="pure RL: more right answers, longer thoughts, self-checks, mixed languages",
        needs=("base",), makes=("zero",), run=run_zero, sections=(*SHARED, "zero"),
    ),
    StageSpec(
        name="cold_start", title="Cold start", says="SFT of the base on readable thoughts: one language again, a summary for the reader",
        needs=("base", "zero"), makes=("dev1", "cold_start_samples"), run=run_cold_start, sections=(*SHARED, "decontaminate", "cold_start"),
    ),
    StageSpec(
        name="reasoning_rl", title="Reasoning RL", says="RL with a language reward: accuracy rises, the language stays",
        needs=("dev1",), makes=("dev2",), run=run_reasoning_rl, sections=(*SHARED, "reasoning_rl"),
    ),
    StageSpec(
        name="no_language", title="Reasoning RL without the language reward", says="the ablation: languages mix again",
        needs=("dev1",), makes=("dev2_no_language",), run=run_without_language_reward, sections=(*SHARED, "reasoning_rl", "no_language"),
        left_out=lambda settings: None if settings.no_language else "no_language: true runs it",
    ),
    StageSpec(
        name="rejection_sft", title="Rejection sampling and SFT",
        says="the best of what stage 2 writes, mixed with general data, teaches the base again",
        needs=("base", "dev2"), makes=("dev3", "rejection_samples"), run=run_rejection_sft,
        sections=(*SHARED, "decontaminate", "rejection_sft", "requests", "all_scenarios.general.held_out"),
    ),
    StageSpec(
        name="reward_models", title="Reward models", says="what is helpful, from judged pairs; what is harmless, from labels",
        needs=("dev3",), makes=("helpful_model", "harmless_model"), run=run_reward_models,
        sections=("seed", "decontaminate", "requests", "reward_models"), left_out=_no_requests,
    ),
    StageSpec(
        name="all_scenarios", title="RL for all scenarios", says="rules for reasoning, reward models for the rest: helpful and harmless",
        needs=("dev3", "helpful_model", "harmless_model"), makes=("r1",), run=run_all_scenarios,
        sections=(*SHARED, "decontaminate", "requests", "all_scenarios"), left_out=_no_requests,
    ),
    StageSpec(
        name="student_base", title="Student's base model", says="a smaller model of the same world", needs=(), makes=("student_base",),
        run=run_student_base, sections=(*SHARED, "distillation.model", "distillation.base"), left_out=_no_student,
    ),
    StageSpec(
        name="distillation", title="Distillation", says="SFT of the student on what stage 3 kept, no RL",
        needs=("student_base", "rejection_samples"), makes=("distilled",), run=run_distillation,
        sections=(*SHARED, "distillation.sft"), left_out=_no_student,
    ),
    StageSpec(
        name="student_rl", title="RL on the student", says="what distillation is compared with: pure RL on the same small model",
        needs=("student_base",), makes=("student_rl",), run=run_student_rl, sections=(*SHARED, "student_rl"),
        left_out=lambda settings: _no_student(settings) or (None if settings.student_rl.run else "student_rl.run: true runs it"),
    ),
)  # fmt: skip
NAMES = tuple(spec.name for spec in STAGES)


def run_pipeline(
    settings: PipelineSettings,
    run: RunDir,
    *,
    narrator: Narrator | None = None,
    start_from: str | None = None,
    only: str | None = None,
    size: str | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    stages: Sequence[StageSpec] = STAGES,
) -> Outcome:
    """Run every stage that is not up to date, in order.

    Args:
        start_from: this stage and all below run again, whether or not anything changed; those above must be done.
        only: run this stage alone; those it needs must be done.
        size: written into the ledger.

    Raises:
        ValueError: no such stage, or what it needs was not made yet.
    """
    narrator = narrator or Narrator()
    for name in (start_from, only):
        if name is not None and name not in NAMES:
            raise ValueError(f"{name!r} is no stage; the stages are {', '.join(NAMES)}")
    for spec in stages:
        if spec.name in (start_from, only) and (why := spec.left_out(settings)):
            raise ValueError(f"the recipe leaves {spec.name} out ({why})")
    pipeline = _Pipeline(settings, run, narrator, should_stop, stages, size)
    if start_from is not None:
        pipeline.ask_again(start_from)
    try:
        for spec in stages:
            pipeline.visit(spec, start_from=start_from, only=only)
    except StageStopped as stopped:
        if str(stopped):
            narrator.say(str(stopped))
        return Outcome.STOPPED
    finally:
        end_idle_children()
    return Outcome.DONE


class _Pipeline:
    """One visit of all stages."""

    def __init__(
        self,
        settings: PipelineSettings,
        run: RunDir,
        narrator: Narrator,
        should_stop: Callable[[], bool],
        stages: Sequence[StageSpec],
        size: str | None,
    ) -> None:
        self._settings, self._run, self._narrator, self._should_stop, self._stages = settings, run, narrator, should_stop, stages
        entries = [
            Entry(name=spec.name, number=number, title=spec.title, folder=f"stages/{number:02d}-{spec.name.replace('_', '-')}")
            for number, spec in enumerate(stages, start=1)
        ]
        self._materials = load_materials(settings)  # before anything is touched: a mistake in the recipe must not cost work that is done
        if leaked := self._materials.leaked:
            narrator.say(f"{len(leaked)} training problems overlap with evaluation questions and are left out; events.jsonl names them")
            run.append_event_once("leaked", problems=list(leaked))
        self._ledger = Ledger.open(run, entries, {"seed": settings.seed, "size": size})
        self._begun = False
        """Whether `start_from` was reached."""

    def ask_again(self, start_from: str) -> None:
        """Let a stage and all below it run again: in the ledger, so that a stopped run need not be told twice."""
        names = [spec.name for spec in self._stages]
        for name in names[names.index(start_from) :]:
            if self._ledger[name].status not in ("waiting", "not run"):
                self._ledger.set(name, status=ASKED)

    def visit(self, spec: StageSpec, *, start_from: str | None, only: str | None) -> None:
        """Leave a stage that is up to date, continue one that was under way, run one that is stale or new."""
        self._begun = self._begun or spec.name == start_from
        entry = self._ledger[spec.name]
        if why := spec.left_out(self._settings):
            self._ledger.set(spec.name, status="not run", why=why)
            return
        passed_over = (start_from is not None and not self._begun) or (only is not None and spec.name != only)
        if passed_over:
            self._pass_over(spec)
            return
        settings, inputs = self._identity(spec)
        stale = self._ledger.stale(spec.name, settings, inputs) or self._lost(spec)
        asked = entry.status == ASKED or spec.name == only
        if entry.status in ("done", STALE) and stale is None and not asked:
            self._ledger.set(spec.name, status="done")
            self._narrator.say(f"{entry.number}  {spec.title}: up to date")
            return
        continued = entry.status == "running" and stale is None
        why = "continued" if continued else stale or ("asked for" if asked and entry.outputs else "first run")
        given = self._given(spec, inputs)
        if not continued:
            self._set_aside(entry)
        self._execute(spec, given, settings, why, continued=continued)

    def _pass_over(self, spec: StageSpec) -> None:
        """Leave a stage as it is, and remember if it no longer fits: its results are not to be judged with the others."""
        entry = self._ledger[spec.name]
        if entry.status not in ("done", STALE):
            return
        try:
            settings, inputs = self._identity(spec)
        except ValueError:
            return
        stale = self._ledger.stale(spec.name, settings, inputs)
        self._ledger.set(spec.name, status="done" if stale is None else STALE)
        if stale is not None:
            self._narrator.say(f"{entry.number}  {spec.title}: left as it is, though it {stale}")

    def _identity(self, spec: StageSpec) -> tuple[dict[str, Any], dict[str, str]]:
        """What decides whether a stage must run: its settings without what has no effect, and the digests of what it is given.

        Files that the settings name are given too: a data set with other contents is another input.
        """
        # The evaluation as it is carried out: with one cap for all checkpoints, which other stages may raise.
        dumped = {**self._settings.model_dump(mode="json"), "evaluation": self._settings.measured_alike.model_dump(mode="json")}
        settings = _effective({name: _section(dumped, name) for name in spec.sections})
        made = {name: digest for other in self._stages for name, digest in self._ledger[other.name].outputs.items()}
        missing = [name for name in spec.needs if name not in made]
        if missing:
            owner = next(other.name for other in self._stages if missing[0] in other.makes)
            raise ValueError(f"{spec.name} needs {missing[0]}, which {owner} has not made yet: run {owner} first")
        files = {f"the file {path}": digest_of(path) for path in _named_files(settings)}
        return json.loads(json.dumps(settings)), {**{name: made[name] for name in spec.needs}, **files}

    def _lost(self, spec: StageSpec) -> str | None:
        gone = [name for name, path in self._paths(spec.name).items() if not path.exists()]
        return f"{', '.join(gone)} is no longer there" if gone else None

    def _paths(self, stage: str) -> dict[str, Path]:
        return {name: self._run.path / path for name, path in self._ledger[stage].paths.items()}

    def _set_aside(self, entry: Entry) -> None:
        """Keep what a stage made before under another name."""
        folder = self._run.path / entry.folder
        if folder.exists():
            numbers = [int(old.suffix.removeprefix(".old")) for old in folder.parent.glob(f"{folder.name}.old*")]
            target = folder.with_name(f"{folder.name}.old{max(numbers, default=0) + 1}")
            folder.rename(target)
            self._narrator.say(f"   what {entry.name} made before is kept in {target}")

    def _given(self, spec: StageSpec, inputs: Mapping[str, str]) -> Callable[[RunDir], StageRun]:
        """What a stage works with, checked: the weights it starts from are the ones in the ledger, byte for byte."""
        paths = {name: path for other in self._stages for name, path in self._paths(other.name).items()}
        for name in spec.needs:
            found = digest_of(paths[name])
            if found != inputs[name]:
                raise ValueError(
                    f"{paths[name]} is not the {name} in the ledger (digest {found[:12]}, expected {inputs[name][:12]}): it was changed "
                    f"since it was made. Restore it, or make it again: --from {_maker(self._stages, name)}"
                )
        return lambda folder: StageRun(
            run=folder,
            settings=self._settings,
            materials=self._materials,
            inputs={name: paths[name] for name in spec.needs},
            digests=inputs,
            narrator=self._narrator,
            should_stop=self._should_stop,
        )

    def _execute(
        self, spec: StageSpec, given: Callable[[RunDir], StageRun], settings: Mapping[str, Any], why: str, *, continued: bool
    ) -> None:
        entry = self._ledger[spec.name]
        config = json.dumps(settings, indent=1)
        folder = RunDir.start(self._run.path / entry.folder, command=[spec.name], config=config, seed=self._settings.seed)
        stage = given(folder)
        if continued:
            self._ledger.set(spec.name, status="running")
        else:
            fresh = {"outputs": {}, "paths": {}, "seconds": 0.0, "started": time.strftime("%Y-%m-%dT%H:%M:%S")}
            self._ledger.set(spec.name, status="running", why=why, settings=settings, inputs=stage.digests, **fresh)
        self._narrator.say(f"\n{entry.number}  {spec.title}: {spec.says}" + ("" if why == "first run" else f"  ({why})"))
        began, before = time.monotonic(), self._ledger[spec.name].seconds
        try:
            made = spec.run(stage)
            outputs = {name: digest_of(path) for name, path in made.items()}
        except BaseException as error:
            stopped = isinstance(error, (StageStopped, KeyboardInterrupt))
            folder.close("stopped" if stopped else "failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._ledger.set(spec.name, seconds=round(before + time.monotonic() - began, 1))
        folder.close("done")
        paths = {name: _relative(path, self._run.path) for name, path in made.items()}
        self._ledger.set(spec.name, status="done", outputs=outputs, paths=paths)


def _section(settings: Mapping[str, Any], name: str) -> Any:
    """A part of the recipe, by its dotted name."""
    return reduce(lambda part, key: part[key], name.split("."), settings)


def _maker(stages: Sequence[StageSpec], output: str) -> str:
    return next(spec.name for spec in stages if output in spec.makes)


def _relative(path: Path, root: Path) -> str:
    path, root = path.resolve(), root.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _effective(value: Any) -> Any:
    """Settings without those that change nothing of what is computed."""
    if isinstance(value, Mapping):
        return {name: _effective(inner) for name, inner in value.items() if name not in WITHOUT_EFFECT}
    return value


def _named_files(value: Any) -> list[Path]:
    """Files that settings name, in their order: data sets, and the files of reward functions (``my_rewards.py:f``)."""
    if isinstance(value, Mapping):
        return [path for name, inner in value.items() for path in (*_named_files(str(name)), *_named_files(inner))]
    if isinstance(value, (list, tuple)):
        return [path for inner in value for path in _named_files(inner)]
    if not isinstance(value, str) or not value or "\n" in value or len(value) > 1000:
        return []
    named = value.rpartition(":")[0] if ".py:" in value else value
    return [Path(named)] if Path(named).is_file() else []

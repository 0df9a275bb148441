"""The pipeline: stages in order, each a run folder of its own, and a ledger that says what is done and what must run again.

    base ─▶ R1-Zero ─▶ 1 cold start ─▶ 2 reasoning RL ─▶ 3 rejection sampling and SFT
      └──────────────────▲ (SFT)                            ▲ (SFT) from the base again

A run that was killed goes on inside the stage that was under way. A stage whose settings or inputs changed runs again, and what
it made before is moved aside, never deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zero2r1.pipeline.api import model_folder
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.ledger import Entry, Ledger, digest_of
from zero2r1.pipeline.materials import Materials, load_materials
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage1_cold_start import run_cold_start
from zero2r1.pipeline.stage2_reasoning_rl import run_reasoning_rl, run_without_language_reward
from zero2r1.pipeline.stage3_rejection_sft import run_rejection_sft
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.pipeline.stage_zero import run_zero
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome

COMMON = ("seed", "model", "data", "evaluation", "decontaminate")
WITHOUT_EFFECT = ("checkpoint_every", "keep_checkpoints", "token_budget", "max_rows", "tokens_per_micro_batch", "gradient_checkpointing")
"""Settings that change time, memory and disk, not what is computed: a stage stays up to date when they change."""


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
    """The parts of the recipe that it depends on, beside what all share."""


def run_base(given: StageRun) -> Mapping[str, Path]:
    """The base model: a folder, or the laptop world's, trained now if it is not in the cache."""
    settings = given.settings
    with given.narrator.panel("base", settings.base.steps, plain_every=100) as show:
        folder = model_folder(
            settings.model,
            settings.base,
            seed=settings.seed,
            on_step=lambda report: show(report.step, {"pretraining_loss": report.loss, "tokens_per_s": report.tokens_per_s}),
        )
    return {"base": Path(folder)}


STAGES: tuple[StageSpec, ...] = (
    StageSpec(
        name="base", title="Base model", says="learns a small bilingual world from text", needs=(), makes=("base",), run=run_base,
        sections=("base",),
    ),
    StageSpec(
        name="zero", title="R1-Zero", says="pure RL: more right answers, longer thoughts, self-checks, mixed languages",
        needs=("base",), makes=("zero",), run=run_zero, sections=("zero",),
    ),
    StageSpec(
        name="cold_start", title="Cold start", says="SFT of the base on readable thoughts: one language again, a summary for the reader",
        needs=("base", "zero"), makes=("dev1", "cold_start_samples"), run=run_cold_start, sections=("cold_start",),
    ),
    StageSpec(
        name="reasoning_rl", title="Reasoning RL", says="RL with a language reward: accuracy rises, the language stays",
        needs=("dev1",), makes=("dev2",), run=run_reasoning_rl, sections=("reasoning_rl",),
    ),
    StageSpec(
        name="no_language", title="Reasoning RL without the language reward", says="the ablation: languages mix again",
        needs=("dev1",), makes=("dev2_no_language",), run=run_without_language_reward, sections=("reasoning_rl", "no_language"),
    ),
    StageSpec(
        name="rejection_sft", title="Rejection sampling and SFT",
        says="the best of what stage 2 writes, mixed with general data, teaches the base again",
        needs=("base", "dev2"), makes=("dev3", "rejection_samples"), run=run_rejection_sft, sections=("rejection_sft",),
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
    pipeline = _Pipeline(settings, run, narrator, should_stop, stages, size)
    try:
        for spec in stages:
            pipeline.visit(spec, start_from=start_from, only=only)
    except StageStopped as stopped:
        if str(stopped):
            narrator.say(str(stopped))
        return Outcome.STOPPED
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
        self._ledger = Ledger.open(run, entries, {"seed": settings.seed, "size": size})
        self._materials: Materials | None = None
        self._begun = False
        """Whether `start_from` was reached."""

    def visit(self, spec: StageSpec, *, start_from: str | None, only: str | None) -> None:
        """Leave a stage that is up to date, continue one that was under way, run one that is stale or new."""
        self._begun = self._begun or spec.name == start_from
        entry = self._ledger[spec.name]
        if spec.name == "no_language" and not self._settings.no_language:
            if entry.status == "waiting":
                self._ledger.set(spec.name, status="not run", why="the recipe leaves it out")
            return
        above = start_from is not None and not self._begun
        if above or (only is not None and spec.name != only):
            return
        settings, inputs = self._identity(spec)
        stale = self._ledger.stale(spec.name, settings, inputs) or self._lost(spec)
        forced = spec.name == only or self._begun
        if entry.status == "done" and stale is None and not forced:
            self._narrator.say(f"{entry.number}  {spec.title}: up to date")
            return
        continued = entry.status == "running" and stale is None
        why = "continued" if continued else stale or ("asked for" if forced and entry.status == "done" else "first run")
        if not continued:
            self._set_aside(entry)
        self._execute(spec, settings, inputs, why, continued=continued)

    def _identity(self, spec: StageSpec) -> tuple[dict[str, Any], dict[str, str]]:
        """What decides whether a stage must run: its settings without what has no effect, and the digests of its inputs."""
        dumped = self._settings.model_dump(mode="json")
        settings = _effective({name: dumped[name] for name in (*COMMON, *spec.sections)})
        made = {name: digest for other in self._stages for name, digest in self._ledger[other.name].outputs.items()}
        missing = [name for name in spec.needs if name not in made]
        if missing:
            owner = next(other.name for other in self._stages if missing[0] in other.makes)
            raise ValueError(f"{spec.name} needs {missing[0]}, which {owner} has not made yet: run {owner} first")
        return json.loads(json.dumps(settings)), {name: made[name] for name in spec.needs}

    def _lost(self, spec: StageSpec) -> str | None:
        gone = [name for name, path in self._paths(spec.name).items() if not path.exists()]
        return f"{', '.join(gone)} is no longer there" if gone else None

    def _paths(self, stage: str) -> dict[str, Path]:
        return {name: self._run.path / path for name, path in self._ledger[stage].paths.items()}

    def _set_aside(self, entry: Entry) -> None:
        """Keep what a stage made before under another name; forget that it is done, and so are those that stand on it."""
        folder = self._run.path / entry.folder
        if folder.exists():
            number = 1 + sum(1 for _ in folder.parent.glob(f"{folder.name}.old*"))
            target = folder.with_name(f"{folder.name}.old{number}")
            folder.rename(target)
            self._narrator.say(f"   what {entry.name} made before is kept in {target}")

    def _execute(self, spec: StageSpec, settings: Mapping[str, Any], inputs: Mapping[str, str], why: str, *, continued: bool) -> None:
        entry = self._ledger.set(
            spec.name,
            status="running",
            why=self._ledger[spec.name].why if continued else why,
            settings=settings,
            inputs=inputs,
            started=self._ledger[spec.name].started if continued else time.strftime("%Y-%m-%dT%H:%M:%S"),
            **({} if continued else {"outputs": {}, "paths": {}, "seconds": 0.0}),
        )
        self._narrator.say(f"\n{entry.number}  {spec.title}: {spec.says}" + ("" if why == "first run" else f"  ({why})"))
        began, before = time.monotonic(), entry.seconds
        folder = RunDir.start(
            self._run.path / entry.folder, command=[spec.name], config=json.dumps(settings, indent=1), seed=self._settings.seed
        )
        self._materials = self._materials or load_materials(self._settings)
        paths = {name: path for other in self._stages for name, path in self._paths(other.name).items()}
        given = StageRun(
            run=folder,
            settings=self._settings,
            materials=self._materials,
            inputs={name: paths[name] for name in spec.needs},
            digests=inputs,
            narrator=self._narrator,
            should_stop=self._should_stop,
        )
        self._check_inputs(spec, given)
        try:
            made = spec.run(given)
        except BaseException as error:
            stopped = isinstance(error, (StageStopped, KeyboardInterrupt))
            folder.close("stopped" if stopped else "failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self._ledger.set(spec.name, seconds=round(before + time.monotonic() - began, 1))
        folder.close("done")
        self._ledger.set(
            spec.name,
            status="done",
            outputs={name: digest_of(path) for name, path in made.items()},
            paths={name: _relative(path, self._run.path) for name, path in made.items()},
        )

    def _check_inputs(self, spec: StageSpec, given: StageRun) -> None:
        """The weights a stage starts from are the ones in the ledger, byte for byte."""
        for name in spec.needs:
            found = digest_of(given.inputs[name])
            if found != given.digests[name]:
                raise ValueError(
                    f"{given.inputs[name]} is not the {name} in the ledger (digest {found[:12]}, expected {given.digests[name][:12]}): "
                    f"it was changed since it was made. Restore it, or make it again: --from {_maker(self._stages, name)}"
                )


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

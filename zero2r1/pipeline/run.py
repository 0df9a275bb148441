"""The pipeline: stages in order, each a run folder of its own, and a ledger that says what is done and what must run again.

A run that was killed goes on inside the stage that was under way. A stage whose settings or inputs changed runs again, and what
it made before is moved aside, never deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.ledger import Entry, Ledger, digest_of
from zero2r1.pipeline.materials import load_materials
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage_run import StageRun
from zero2r1.pipeline.stages import STAGES, StageSpec, refuse_unknown
from zero2r1.rollout.process_engine import end_idle_children
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome

WITHOUT_EFFECT = (
    "evaluate_every", "checkpoint_every", "keep_checkpoints", "token_budget", "max_rows", "tokens_per_micro_batch",
    "gradient_checkpointing", "onednn", "offload", "url", "key_env", "timeout_s", "concurrency",
)  # fmt: skip
"""Settings that change time, memory, disk or where a model is reached, not what is computed: a stage stays up to date when they change."""
ASKED = "asked"
"""Status of a finished stage that is to run again because ``--from`` said so."""
STALE = "stale"
"""Status of a finished stage that no longer fits its settings or inputs and was passed over."""


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
    refuse_unknown(start_from, only)
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

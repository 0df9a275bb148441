"""What every stage of a pipeline is given, and the steps that several of them take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zero2r1.distill.compute import multiplied_parameters
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.pipeline.materials import Materials
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.sampling import Work
from zero2r1.pipeline.sft import run_sft
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir
from zero2r1.samples import Sample
from zero2r1.sft.config import SftSettings
from zero2r1.training.config import ComputeSettings, LoraSettings
from zero2r1.training.loop import Outcome
from zero2r1.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRun:
    """One run of one stage."""

    run: RunDir
    """The stage's own folder."""
    settings: PipelineSettings
    materials: Materials
    inputs: Mapping[str, Path]
    """Outputs of earlier stages by name: model folders, files of samples."""
    digests: Mapping[str, str]
    """SHA-256 of each of them."""
    narrator: Narrator
    should_stop: Callable[[], bool]

    @property
    def work(self) -> Work:
        """What sampling needs of this."""
        return Work(run=self.run, seed=self.settings.seed, narrator=self.narrator, should_stop=self.should_stop)

    @property
    def model(self) -> Path:
        """The policy that training left in this folder."""
        return (self.run.path / "checkpoints" / "latest" / "model").resolve()

    def load(
        self,
        name: str,
        *,
        chat: bool,
        cap: int,
        compute: ComputeSettings | None = None,
        sampler: Any = None,
        lora: LoraSettings | None = None,
    ) -> Stage:
        """The policy among the inputs, in its world."""
        world = self.materials.chat_world if chat else self.materials.world
        if sampler is None:
            sampler = self.settings.zero.rollout
            if lora is not None:  # several processes sample whole models only, and this stage did not ask for them
                sampler = sampler.model_copy(update={"processes": 1})
        return Stage(
            self.inputs[name],
            world,
            evaluation=self.settings.measured_alike,
            cap=cap,
            compute=compute,
            sampler=sampler,
            lora=lora,
            seed=self.settings.seed,
        )

    def problems(self, purpose: str, count: int) -> list[Problem]:
        """Training problems for a purpose; says so where there are fewer than asked for."""
        found = self.materials.problems(purpose, count)
        if len(found) < count:
            self.narrator.say(f"{purpose.replace('_', ' ')}: {count} problems asked for, {len(found)} there")
        return found


def tune_base(
    given: StageRun,
    samples: Sequence[Sample],
    settings: SftSettings,
    *,
    title: str,
    measure_as: str,
    measure_also: Callable[[Stage], Mapping[str, Sequence[float]]] = lambda stage: {},
    base: str = "base",
) -> Path:
    """SFT of a base model among the inputs on samples; returns the folder of what became of it.

    Args:
        measure_also: further statistics of the evaluation afterwards.

    Raises:
        StageStopped: the run was asked to stop.
    """
    stage = given.load(base, chat=True, cap=settings.max_length, compute=settings.compute, lora=settings.lora)
    weights = multiplied_parameters(stage.policy)
    model = {"model": str(given.inputs[base]), "sha256": given.digests[base], "parameters": weights}
    given.run.append_event_once("start", **model, samples=len(samples))
    total = -(-len(samples) // settings.batch_size) * settings.epochs
    with given.narrator.panel(title, total, plain_every=50) as show:
        result = run_sft(
            stage,
            [sample.dialogue for sample in samples],
            settings.model_copy(update={"seed": given.settings.seed}),
            given.run,
            measure_as=measure_as,
            measure_also=lambda: measure_also(stage),
            on_step=lambda row: show(row["step"], row),
            on_evaluation=given.narrator.evaluation,
            should_stop=given.should_stop,
        )
    if result.outcome is Outcome.STOPPED:
        raise StageStopped
    fitted = next((event for event in given.run.events() if event["event"] == "examples"), {"cut": 0, "dropped": 0})
    if fitted["cut"] or fitted["dropped"]:
        cut, dropped = fitted["cut"], fitted["dropped"]
        given.narrator.say(f"max_length {settings.max_length}: {cut} responses cut at the end, {dropped} too long to learn at all")
    return given.model

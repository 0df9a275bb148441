"""A stage of reinforcement learning: measure, train with GRPO, measure again. R1-Zero, stage 2 and stage 4 are this with other settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero2r1.eval.claims import ClaimVerdict
from zero2r1.eval.runner import EvalResult
from zero2r1.grpo.sampling import EncodedPrompt
from zero2r1.grpo.trainer import Environment, GrpoTrainer
from zero2r1.models.adapters import merge_adapters
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.controls import controlled
from zero2r1.pipeline.evaluations import keep_evaluation
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir
from zero2r1.tracking import open_tracker
from zero2r1.training.loop import Hooks, Outcome
from zero2r1.types import Completion, Grader, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class RlResult:
    """What a finished stage hands back."""

    run: Path
    outcome: Outcome
    evaluations: Mapping[str, EvalResult]
    verdicts: tuple[ClaimVerdict, ...] = ()
    """Of the claims that the settings name, where somebody judged them."""
    model: PreTrainedModel
    """As an ordinary model; adapters are merged into its weights."""
    tokenizer: PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a caller may add to the stage; everything has a sensible absence."""

    before: str | None = "base"
    """Name of the measurement before training; ``None``: that was measured elsewhere."""
    after: str = "zero"
    layouts: Mapping[str, tuple[str, Grader]] = field(default_factory=dict)
    """Further layouts in which the model is measured before training: name -> (template, grader)."""
    problems: Sequence[Problem] | None = None
    """What to train on, in this order; the world's training problems in an order of the seed if left out."""
    questions: Callable[[int], Sequence[Problem]] | None = None
    """The problems of every rollout instead; see :class:`~zero2r1.grpo.trainer.Environment`."""
    grader: Grader | None = None
    """Grades outputs instead of the world's sum of rewards."""
    describe: Callable[[Problem, Completion], Mapping[str, float]] | None = None
    """What is watched of an output, instead of the world's traits."""
    measure_also: Callable[[], Mapping[str, Sequence[float]]] = dict
    """Further statistics of the measurement after training."""
    on_warning: Callable[[str], None] = lambda text: None
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_evaluation: Callable[[EvalResult], None] = lambda result: None
    should_stop: Callable[[], bool] = lambda: False


def stage_of(folder: str | Path, world: Any, settings: ZeroSettings) -> Stage:
    """The stage that these settings describe."""
    return Stage(
        folder,
        world,
        evaluation=settings.evaluation,
        cap=settings.rollout.cap_at(settings.steps),
        compute=settings.compute,
        sampler=settings.rollout,
        lora=settings.lora,
        seed=settings.seed,
    )


def run_rl(stage: Stage, settings: ZeroSettings, run: RunDir, extras: Extras) -> RlResult:
    """Measure, train, measure again. Continues where an earlier process of the same run stopped."""
    world = stage.world
    results: dict[str, EvalResult] = {}

    def keep(result: EvalResult) -> None:
        results[result.name] = result
        keep_evaluation(run, result)
        extras.on_evaluation(result)

    trained = (run.path / "checkpoints").is_dir()
    if extras.before is not None and not trained:
        keep(stage.measure(extras.before))
        for name, (template, grader) in extras.layouts.items():
            keep(stage.measure(f"{extras.before}_{name}", template=template, grader=grader))

    def probe(step: int) -> None:
        # The last step is measured on all held-out problems anyway; the probes are the first of them.
        if settings.evaluation.probes and step < settings.steps:
            keep(stage.measure(f"step_{step:06d}", problems=settings.evaluation.probes))

    track = open_tracker(settings.track, run.path)

    def on_step(row: Mapping[str, Any]) -> None:
        track(row)
        extras.on_step(row)

    trainer = GrpoTrainer(
        stage.policy,
        stage.engine,
        Environment(
            problems=world.train if extras.problems is None else extras.problems,
            encode=lambda problem: EncodedPrompt(prompt_ids=stage.prompt_ids(problem)),
            grader=controlled(extras.grader or world.grader(settings.reward, cap=settings.rollout.max_new_tokens), settings),
            stop_token_ids=stage.stops,
            describe=extras.describe or world.describe,
            questions=extras.questions,
        ),
        settings,
        run=run,
        checkpoints=run.path / "checkpoints",
        save_model=stage.save,
        hooks=Hooks(evaluate=probe, on_step=on_step, on_warning=extras.on_warning, should_stop=extras.should_stop),
    )
    outcome = trainer.train()
    if outcome is Outcome.DONE:
        keep(stage.measure(extras.after).with_arrays(extras.measure_also()))
    merge_adapters(stage.policy)
    return RlResult(run=run.path, outcome=outcome, evaluations=results, model=stage.policy, tokenizer=stage.tokenizer)

"""A stage of supervised fine-tuning: dialogues become examples, the trainer imitates them, the result is measured (section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zero2r1.eval.runner import EvalResult
from zero2r1.pipeline.evaluations import keep_evaluation
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir
from zero2r1.sft.config import SftSettings
from zero2r1.sft.trainer import SftTrainer
from zero2r1.training.loop import Hooks, Outcome
from zero2r1.types import Message

Layout = Literal["think", "special_token"]
"""How thinking and summary stand in a response: in think tags, or as section 2.3.1 prints it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SftResult:
    """What a finished stage hands back; no evaluation where it was stopped or nothing was to be measured."""

    run: Path
    outcome: Outcome
    evaluation: EvalResult | None


def run_sft(
    stage: Stage,
    dialogues: Sequence[Sequence[Message]],
    settings: SftSettings,
    run: RunDir,
    *,
    measure_as: str | None,
    measure_also: Callable[[], Mapping[str, Sequence[float]]] = dict,
    layout: Layout = "think",
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None,
    on_evaluation: Callable[[EvalResult], None] = lambda result: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> SftResult:
    """Train the stage's policy on dialogues that end with an answer, and measure it. Continues where an earlier process stopped.

    Args:
        measure_as: name of the evaluation afterwards; ``None`` for none.
        measure_also: further statistics of it, one value per item.

    Raises:
        ValueError: the run was started on other dialogues.
    """
    examples = [stage.example(dialogue, layout=layout) for dialogue in dialogues]
    for token in dict.fromkeys(example.response_ids[-1] for example in examples):
        stage.stop_also_at(token)
    trainer = SftTrainer(
        stage.policy,
        examples,
        settings,
        run=run,
        checkpoints=run.path / "checkpoints",
        save_model=stage.save,
        hooks=Hooks(on_step=on_step, should_stop=should_stop),
    )
    outcome = trainer.train()
    if outcome is Outcome.STOPPED or measure_as is None:
        return SftResult(run=run.path, outcome=outcome, evaluation=None)
    evaluation = stage.measure(measure_as).with_arrays(measure_also())
    keep_evaluation(run, evaluation)
    on_evaluation(evaluation)
    return SftResult(run=run.path, outcome=outcome, evaluation=evaluation)


def fitted_line(run: RunDir) -> str:
    """What was cut to the longest length, as the trainer wrote it down."""
    found = next((event for event in reversed(run.events()) if event["event"] == "examples"), None)
    if found is None:
        return ""
    return f"length    {found['kept']} examples learnt, {found['cut']} of them cut at the end, {found['dropped']} too long to learn at all"

"""R1-Zero (paper section 2.2): pure reinforcement learning on a base model, with rule rewards and a plain template.

:func:`train_zero` is the whole stage: load, check, measure the base, train, measure again, judge, write.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zero2r1.eval.claims import ClaimVerdict, judge, read_claims
from zero2r1.eval.runner import EvalResult
from zero2r1.grpo.sampling import EncodedPrompt
from zero2r1.grpo.trainer import Environment, GrpoTrainer
from zero2r1.models.loading import load_policy, save_policy, stop_token_ids
from zero2r1.models.tokenizer import TextEncoder
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.controls import controlled
from zero2r1.pipeline.world import World, measure
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.run_dir import RunDir
from zero2r1.template import TEMPLATES, render
from zero2r1.tracking import open_tracker
from zero2r1.training.loop import Hooks, Outcome
from zero2r1.types import Grader, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroResult:
    """What a finished R1-Zero stage hands back."""

    run: Path
    outcome: Outcome
    evaluations: Mapping[str, EvalResult]
    verdicts: tuple[ClaimVerdict, ...]
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What a caller may add to the stage; everything has a sensible absence."""

    layouts: Mapping[str, tuple[str, Grader]] = field(default_factory=dict)
    """Further layouts in which the base is measured: name -> (template, grader)."""
    claims: Path | None = None
    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_evaluation: Callable[[EvalResult], None] = lambda result: None
    should_stop: Callable[[], bool] = lambda: False


class Stage:
    """A loaded policy with everything around it: prompts, engine, rewards. Built once, then measured and trained."""

    def __init__(self, folder: str | Path, world: World, settings: ZeroSettings) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.world, self.settings = world, settings
        self.policy, self.tokenizer = load_policy(folder, device=device)
        self.encoder = TextEncoder(self.tokenizer)
        first = next(iter((*world.train[:1], *world.held_out[:1])), None)
        if first is not None and self.decode(self.prompt_ids(first)).rstrip().endswith("<think>"):
            self.world = dataclasses.replace(world, think_open=True)
        self.stops = stop_token_ids(self.policy, self.tokenizer)
        autocast = torch.bfloat16 if settings.compute.dtype == "bfloat16" else None
        self.engine = TorchEngine(
            self.policy,
            self.decode,
            token_budget=settings.rollout.token_budget,
            max_rows=settings.rollout.max_rows,
            autocast=autocast,
            onednn=settings.compute.onednn != "off",
        )

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def prompt_ids(self, problem: Problem, template: str | None = None) -> tuple[int, ...]:
        """The prompt of a problem under a template (the world's if none is given)."""
        template = template or self.world.template
        if template == "chat":
            messages = (
                [{"role": "user", "content": problem.prompt}]
                if isinstance(problem.prompt, str)
                else [{"role": m.role, "content": m.content} for m in problem.prompt]
            )
            return self.encoder.encode_chat(messages)
        return self.encoder.encode_plain(*render(TEMPLATES.get(template, template), problem.question))

    def measure(self, name: str, *, template: str | None = None, grader: Grader | None = None, problems: int | None = None) -> EvalResult:
        """Evaluate the policy as it is now."""
        return measure(
            self.engine,
            self.world,
            name=name,
            encode=lambda problem: (self.prompt_ids(problem, template), ()),
            settings=self.settings.evaluation,
            max_new_tokens=self.settings.evaluation.max_new_tokens or self.settings.rollout.cap_at(self.settings.steps),
            stop_token_ids=self.stops,
            problems=problems,
            grader=grader,
        )

    def save(self, folder: Path) -> None:
        save_policy(self.policy, self.tokenizer, folder, stops=self.stops)


def run_zero(stage: Stage, run: RunDir, extras: Extras) -> ZeroResult:
    """Measure the base, train, measure again and judge. Continues where an earlier process of the same run stopped."""
    settings, world = stage.settings, stage.world
    results: dict[str, EvalResult] = {}

    def keep(result: EvalResult) -> None:
        results[result.name] = result
        run.write_json(f"evals/{result.name}.json", {"figures": result.figures(), "arrays": dict(result.arrays)})
        run.write_table(f"evals/{result.name}.parquet", result.rows())
        extras.on_evaluation(result)

    trained = (run.path / "checkpoints").is_dir()
    if not trained:
        keep(stage.measure("base"))
        for name, (template, grader) in extras.layouts.items():
            keep(stage.measure(f"base_{name}", template=template, grader=grader))

    def probe(step: int) -> None:
        # The last step is measured on all held-out problems anyway; the probes are the first of them.
        if settings.evaluation.probes and step < settings.steps:
            keep(stage.measure(f"step_{step:06d}", problems=settings.evaluation.probes))

    track = open_tracker(settings.track, run.path)

    def on_step(row: Mapping[str, Any]) -> None:
        track(row)
        extras.on_step(row)

    grader = controlled(world.grader(settings.reward), settings)
    trainer = GrpoTrainer(
        stage.policy,
        stage.engine,
        Environment(
            problems=world.train,
            encode=lambda problem: EncodedPrompt(prompt_ids=stage.prompt_ids(problem)),
            grader=grader,
            stop_token_ids=stage.stops,
            describe=world.describe,
        ),
        settings,
        run=run,
        checkpoints=run.path / "checkpoints",
        save_model=stage.save,
        hooks=Hooks(evaluate=probe, on_step=on_step, should_stop=extras.should_stop),
    )
    outcome = trainer.train()
    if outcome is Outcome.STOPPED:
        return ZeroResult(run=run.path, outcome=outcome, evaluations=results, verdicts=(), model=stage.policy, tokenizer=stage.tokenizer)
    keep(stage.measure("zero"))
    verdicts = _judge(run, extras.claims, results) if extras.claims else ()
    return ZeroResult(run=run.path, outcome=outcome, evaluations=results, verdicts=verdicts, model=stage.policy, tokenizer=stage.tokenizer)


def _judge(run: RunDir, claims: Path, results: Mapping[str, EvalResult]) -> tuple[ClaimVerdict, ...]:
    arrays = {name: dict(result.arrays) for name, result in results.items()}
    for file in (run.path / "evals").glob("base*.json"):  # measured before an interruption
        arrays.setdefault(file.stem, json.loads(file.read_text(encoding="utf-8"))["arrays"])
    verdicts = judge(read_claims(claims), arrays)
    run.write_json(
        "verdict.json",
        [
            {
                "claim": verdict.claim.name,
                "says": verdict.claim.says,
                "holds": verdict.holds,
                "measured": [
                    {**part.condition.model_dump(exclude_none=True), "estimate": part.estimate, "low": part.low, "high": part.high}
                    for part in verdict.parts
                ],
            }
            for verdict in verdicts
        ],
    )
    return verdicts

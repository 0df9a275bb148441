"""The stages of the pipeline, in their order: what each is given, makes and depends on.

base ─▶ R1-Zero ─▶ 1 cold start ─▶ 2 reasoning RL ─▶ 3 rejection sampling and SFT ─▶ 4 RL for all scenarios = R1
  └──────────────────▲ (SFT)                            ▲ (SFT) from the base again │      ▲ reward models
                                                   a student ─▶ distilled (SFT) ◀───┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zero2r1.models.loading import has_chat_template, local_folder
from zero2r1.pipeline.api import model_folder
from zero2r1.pipeline.chunks import StageStopped
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


def refuse_unknown(*names: str | None) -> None:
    """Raise a ``ValueError`` for a name that no stage has; ``None`` is no name."""
    for name in names:
        if name is not None and name not in NAMES:
            raise ValueError(f"{name!r} is no stage; the stages are {', '.join(NAMES)}")

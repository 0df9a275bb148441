"""`zero2r1 pipeline RECIPE --dry-run`: what the recipe would do here, before it does anything. Writes nothing, asks no network.

settings ─▶ files and models that are here ─▶ rows, shapes, tokenizers ─▶ a plan of every stage ─▶ lines (dry_run_page)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from zero2r1.models.tiny import CONTEXT, SIZES
from zero2r1.models.tokenizer import load_tokenizer, word_tokenizer
from zero2r1.pipeline.config import RECIPES, BaseSettings
from zero2r1.pipeline.estimates import ModelShape, Peak
from zero2r1.pipeline.general_requests import SETS
from zero2r1.pipeline.materials import Materials, load_materials
from zero2r1.pipeline.model_shapes import can_be_converted, folder_here, is_hub_name, shape_of
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.shown_prompts import ORDER, PLAIN_STAGES, longest_prompt, prompt_shown
from zero2r1.pipeline.stage_counts import Rows, StagePlan
from zero2r1.pipeline.stage_plans import Planner, kept_by_rejection
from zero2r1.pipeline.stages import STAGES
from zero2r1.reward_models.data import read_labels, read_preferences
from zero2r1.tasks.arithmetic import PROBLEM_SETS
from zero2r1.tasks.laptop.words import TAGS, vocabulary
from zero2r1.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

LOOKED_AT = 2_000
"""Problems whose prompts are measured; more would take longer than a look should."""
MODEL_OPTIONS: Mapping[str, str] = MappingProxyType({"policy": "model", "student": "distillation.model"})
PLACEHOLDER: tuple[Message, ...] = (Message(role="user", content="(the question)"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHere:
    """What is known of a model without loading it."""

    name: str
    shape: ModelShape | None
    tokenizer: PreTrainedTokenizerFast | None
    says: str
    """Where it is, or how it gets here."""
    missing: bool = False
    fault: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """Everything that is known of a recipe before it runs."""

    settings: PipelineSettings
    models: Mapping[str, ModelHere]
    """``policy``, and ``student`` where there is one."""
    rows: Rows
    plans: Mapping[str, StagePlan]
    """Of the stages that run; memory is that of a CPU."""
    gpu_peaks: Mapping[str, Peak]
    """Of those of which it is known: what the same would take of a GPU."""
    left_out: Mapping[str, str]
    prompts: Mapping[str, str]
    missing: Mapping[str, str]
    """Option -> the file or folder it names that is not here."""
    faults: tuple[str, ...]
    """What keeps the recipe from running, beside what is missing."""
    notes: tuple[str, ...]

    @property
    def can_run(self) -> bool:
        return not self.missing and not self.faults


def dry_run(settings: PipelineSettings) -> DryRun:
    """Look at a recipe. Mistakes are collected, all of them, and not raised."""
    models = {"policy": model_here(MODEL_OPTIONS["policy"], settings.model, settings.base)}
    if settings.distillation.model is not None:
        models["student"] = model_here(MODEL_OPTIONS["student"], settings.distillation.model, settings.distillation.base)
    files = named_files(settings)
    missing = {MODEL_OPTIONS[role]: model.name for role, model in models.items() if model.missing}
    missing |= {option: name for option, name in files.items() if not _is_here(name) and not _is_data_set(name)}
    fetched = [f"{option}: {name} is fetched from the Hub when the run starts" for option, name in files.items() if _is_data_set(name)]
    faults = [model.fault for model in models.values() if model.fault]
    rows, asked, template = Rows(), PLACEHOLDER, settings.data.template
    if not missing and not fetched:
        try:
            materials = load_materials(settings)
            rows, asked, template = _rows(settings, materials, models["policy"]), _first(materials), materials.world.template
        except ValueError as fault:
            faults.append(str(fault))
    left_out = {spec.name: why for spec in STAGES if (why := spec.left_out(settings))}
    student = models["student"].shape if "student" in models else None
    planner = Planner(settings=settings, rows=rows, shape=models["policy"].shape, student=student)
    plans = {spec.name: planner.plan(spec.name) for spec in STAGES if spec.name not in left_out}
    on_gpu = replace(planner, gpu=True)
    faults += [*too_long(settings, rows, models, plans), *adapter_faults(settings, models, plans)]
    return DryRun(
        settings=settings,
        models=models,
        rows=rows,
        plans=plans,
        gpu_peaks={name: peak for name in plans if (peak := on_gpu.plan(name).peak) is not None},
        left_out=left_out,
        prompts=_prompts(models, asked, template, [name for name in ORDER if name in plans], faults),
        missing=missing,
        faults=tuple(dict.fromkeys(faults)),
        notes=(*fetched, *_too_few(planner)),
    )


# Models


def model_here(option: str, name: str, base: BaseSettings) -> ModelHere:
    """A model by its name in a recipe."""
    if name == "laptop":
        tokenizer = word_tokenizer(vocabulary(), TAGS)
        size = SIZES[base.size]
        made = ModelShape(
            layers=size.layers, width=size.width, heads=size.heads, kv_heads=size.heads, head_dim=size.head_dim,
            feed_forward=size.feed_forward, vocabulary=len(tokenizer), tied=False, context=CONTEXT,
        )  # fmt: skip
        return ModelHere(
            name=name, shape=made, tokenizer=tokenizer, says="made from nothing by its own base stage, or taken from the cache"
        )
    folder, shape = folder_here(name), shape_of(name)
    if folder is None:
        return _absent(name, shape)
    if not any(any(folder.glob(kind)) for kind in ("*.safetensors", "*.bin")):
        says = f"its config is in {folder}, its weights are not"
        return ModelHere(name=name, shape=shape, tokenizer=None, says=says, fault=None if is_hub_name(name) else f"{option}: {says}")
    try:
        tokenizer = load_tokenizer(folder)
    except (OSError, ValueError) as error:
        return ModelHere(
            name=name, shape=shape, tokenizer=None, says=f"in {folder}", fault=f"{option}: its tokenizer cannot be loaded: {error}"
        )
    fault = None if tokenizer.chat_template else (
        f"{option}: {folder} has no chat template, and from the cold start on the model answers in dialogues: put a chat_template.jinja "
        "into the folder (recipes/README.md has one for Llama 3.1)"
    )  # fmt: skip
    return ModelHere(name=name, shape=shape, tokenizer=tokenizer, says=f"in {folder}", fault=fault)


def _absent(name: str, shape: ModelShape | None) -> ModelHere:
    if is_hub_name(name):
        size = "" if shape is None else f", {2 * shape.parameters / 1e9:.1f} GB in bfloat16"
        return ModelHere(name=name, shape=shape, tokenizer=None, says=f"not here; the base stage fetches it from the Hub{size}")
    if can_be_converted(name):
        return ModelHere(name=name, shape=shape, tokenizer=None, says="not converted yet; the base stage does that, in about 20 seconds")
    how = "fetch and convert it with  make smollm2" if name == "smollm2-135m" else "there is no such folder with a config.json"
    return ModelHere(name=name, shape=shape, tokenizer=None, says=f"not here: {how}", missing=True)


# Data


def named_files(settings: PipelineSettings) -> dict[str, str]:
    """Option -> the file, or data set of the Hub, that it names."""
    requests, models = settings.requests, settings.reward_models
    named = {
        "data.train": settings.data.train,
        "data.held_out": settings.data.held_out,
        "cold_start.examples": settings.cold_start.examples,
        "rejection_sft.general.source": settings.rejection_sft.general.source,
        "requests.train": requests.train,
        "requests.held_out": requests.held_out,
        "reward_models.pairs": models.pairs,
        "reward_models.labels": models.labels,
        "claims": settings.claims,
    } | {f"decontaminate[{i}]": name for i, name in enumerate(settings.decontaminate)}
    for section in ("zero", "reasoning_rl", "all_scenarios", "student_rl"):
        for name in getattr(settings, section).reward.weights:
            if ".py:" in name:
                named[f"{section}.reward.weights"] = name.rpartition(":")[0]
    return {option: name for option, name in named.items() if name is not None and name not in ("laptop", *PROBLEM_SETS)}


def _is_here(name: str) -> bool:
    return Path(name).is_file() or (RECIPES / name).is_file()


def _is_data_set(name: str) -> bool:
    """As zero2r1.tasks.files tells names of the Hub from files: ``owner/name``, without a suffix."""
    path = Path(name)
    return not _is_here(name) and not path.suffix and len(path.parts) == 2 and not path.is_absolute()


def _rows(settings: PipelineSettings, materials: Materials, model: ModelHere) -> Rows:
    """What the files hold. Of the laptop world, whose problems are made as they are needed, only what is held out is counted."""
    world, models, made = materials.world, settings.reward_models, settings.data.train == "laptop"
    source = settings.rejection_sft.general.source
    longest = Rows().longest_prompt
    if model.tokenizer is not None:
        asked = [problem.messages for problem in (*world.train[:LOOKED_AT], *world.held_out[: settings.evaluation.problems])]
        longest = longest_prompt(asked, world.template, model.tokenizer) or longest
    requests = materials.requests
    return Rows(
        problems=None if made else len(world.train),
        held_out=len(world.held_out),
        general=None if source == "laptop" else len(materials.general(source, 0)),
        pairs=None if models.pairs is None else len(read_preferences(models.pairs)),
        labels=None if models.labels is None else len(read_labels(models.labels)),
        requests=None if requests is None or made else {name: len(requests.train(name, 10**9)) for name in SETS},
        longest_prompt=longest,
    )


def _too_few(planner: Planner) -> Iterator[str]:
    """General samples that would be too few if rejection sampling kept all it may: the stage would stop then, hours into the run."""
    settings, there = planner.settings.rejection_sft, planner.rows.general
    wanted = kept_by_rejection(planner).general_wanted
    if there is not None and there < wanted and not settings.general.allow_fewer:
        yield (
            f"rejection_sft: if all that may be is kept, the mix needs {wanted} general samples, and {there} are there: the run would stop "
            "there. Give more, or set rejection_sft.general.allow_fewer"
        )


def _first(materials: Materials) -> tuple[Message, ...]:
    problems = (*materials.world.train[:1], *materials.world.held_out[:1])
    return problems[0].messages if problems else PLACEHOLDER


# Checks and prompts


def too_long(settings: PipelineSettings, rows: Rows, models: Mapping[str, ModelHere], plans: Mapping[str, StagePlan]) -> Iterator[str]:
    """Answers that the sampler would refuse: beyond the context of the model, or beyond its budget of positions."""
    evaluated = settings.measured_alike.max_new_tokens or 0
    for stage, option, cap, budget in _samplers(settings, evaluated):
        if stage not in plans:
            continue
        shape = models["student" if stage.startswith("student") else "policy"].shape
        longest = rows.longest_prompt + cap
        if shape is not None and shape.context is not None and longest > shape.context:
            yield f"{option}: a prompt of {rows.longest_prompt} tokens and an answer of {cap} exceed the model's context of {shape.context}"
        if longest > budget:
            place = option.rpartition(".")[0] if not option.startswith("evaluation") else "the token_budget of the stage's rollout"
            yield f"{option}: {rows.longest_prompt} + {cap} tokens exceed a sampler's budget of {budget} positions: raise it, in {place}"


def _samplers(settings: PipelineSettings, evaluated: int) -> Iterator[tuple[str, str, int, int]]:
    """Stage, option, cap and budget of everything that is sampled."""
    for stage, section in (
        ("zero", settings.zero),
        ("reasoning_rl", settings.reasoning_rl),
        ("all_scenarios", settings.all_scenarios),
        ("student_rl", settings.student_rl),
    ):
        yield stage, f"{stage}.rollout.max_new_tokens", section.rollout.cap_at(section.steps), section.rollout.token_budget
        yield stage, "evaluation.max_new_tokens", evaluated, section.rollout.token_budget
    made = settings.reward_models.pairs is None or settings.reward_models.labels is None
    for stage in ("cold_start", "rejection_sft", *(["reward_models"] if made else [])):
        sample = getattr(settings, stage).sample
        yield stage, f"{stage}.sample.max_new_tokens", sample.max_new_tokens, sample.token_budget
    yield "cold_start", "evaluation.max_new_tokens", evaluated, settings.zero.rollout.token_budget
    yield "student_base", "evaluation.max_new_tokens", evaluated, settings.student_rl.rollout.token_budget


def adapter_faults(settings: PipelineSettings, models: Mapping[str, ModelHere], plans: Mapping[str, StagePlan]) -> Iterator[str]:
    """Adapters that could not be added: PEFT is not installed, or the model has no layer of a name."""
    for stage in ("zero", "cold_start", "reasoning_rl", "rejection_sft", "all_scenarios", "distillation", "student_rl"):
        section = getattr(settings, stage)
        option, lora = (f"{stage}.sft.lora", section.sft.lora) if hasattr(section, "sft") else (f"{stage}.lora", section.lora)
        if lora is None or stage not in plans:
            continue
        if find_spec("peft") is None:
            yield 'lora trains adapters of PEFT, which is not installed:  pip install "zero2r1[lora]"'
        shape = models["student" if stage in ("distillation", "student_rl") else "policy"].shape
        unknown = [] if shape is None else [target for target in lora.targets if not any(shape.targeted([target]))]
        if shape is not None and unknown:
            kinds = ", ".join(sorted(name.rpartition(".")[2] for name in shape.linears))
            yield f"{option}.targets names {', '.join(unknown)}, and the model has no such linear layer: choose among {kinds}"


def _prompts(
    models: Mapping[str, ModelHere], asked: tuple[Message, ...], template: str, stages: Sequence[str], faults: list[str]
) -> dict[str, str]:
    shown: dict[str, str] = {}
    for stage in stages:
        model = models["student" if stage in ("student_base", "distillation", "student_rl") else "policy"]
        tokenizer = model.tokenizer
        if tokenizer is not None and stage not in PLAIN_STAGES and not tokenizer.chat_template:
            tokenizer = None  # said already
        try:
            shown[stage] = prompt_shown(stage, asked, template, tokenizer)
        except ValueError as fault:
            faults.append(f"{stage}: {fault}")
    return shown

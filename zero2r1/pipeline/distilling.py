"""`distill`: a student learns from a teacher's samples, or on-policy from its distributions, and is measured before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zero2r1.distill.compute import Compute, multiplied_parameters, on_policy_compute, sft_compute
from zero2r1.distill.config import OnPolicySettings
from zero2r1.distill.trainer import OnPolicyTrainer, Questions
from zero2r1.distill.update import head_weight
from zero2r1.distill.vocabulary import refuse_narrow_teacher, refuse_other_vocabulary
from zero2r1.eval.runner import EvalResult
from zero2r1.models.loading import load_policy, stop_token_ids
from zero2r1.pipeline.api import heard_of_base, load_world, model_folder
from zero2r1.pipeline.config import RlSettings
from zero2r1.pipeline.distill_config import DistillSettings
from zero2r1.pipeline.evaluations import keep_evaluation
from zero2r1.pipeline.laptop import LAPTOP_PROBLEMS, laptop_world
from zero2r1.pipeline.ledger import digest_of
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.sft import Layout, fitted_line, run_sft
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.rewards.accuracy import VERIFIERS
from zero2r1.run_dir import RunDir
from zero2r1.sft.config import SftSettings
from zero2r1.tasks.dialogues import read_dialogues
from zero2r1.tasks.files import read_problems
from zero2r1.tracking import open_tracker
from zero2r1.training.loop import Hooks, Outcome
from zero2r1.types import Message, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Who looks on; everything has a sensible absence."""

    on_step: Callable[[Mapping[str, Any]], None] = lambda row: None
    on_evaluation: Callable[[EvalResult], None] = lambda result: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillResult:
    """What a finished distillation hands back."""

    run: Path
    outcome: Outcome
    evaluation: EvalResult | None
    """Of the student afterwards; ``None`` where it was stopped or nothing was to be measured."""
    compute: Compute
    """What training it took, so far."""


def run_distillation(
    settings: DistillSettings, run: RunDir, *, narrator: Narrator, should_stop: Callable[[], bool] = lambda: False
) -> DistillResult:
    """`distill`: measure the student where the settings name problems for it, train it, measure it again.

    Raises:
        ValueError: no data, data that cannot be used, a teacher with another vocabulary, or other data or another teacher than the
            run was started with.
    """
    _refuse_missing(settings)
    data = settings.data
    dialogues = [] if data.train is None else read_dialogues(data.train)
    stage = student_stage(settings, narrator)
    teacher = None if settings.teacher is None else _teacher_of_run(settings.teacher, stage, run, narrator)
    measured = data.held_out is not None
    # The stage still has the weights it starts from, even where checkpoints wait to be loaded.
    if measured and not (run.path / "evals" / "before.json").exists():
        before = stage.measure("before")
        keep_evaluation(run, before)
        narrator.evaluation(before)
    after = "after" if measured else None
    if teacher is None:
        updates = -(-len(dialogues) // settings.sft.batch_size) * settings.sft.epochs
        narrator.say(f"data      {len(dialogues)} dialogues, {updates} updates of {settings.sft.batch_size}")
        with _watched(settings, run, narrator, updates, should_stop) as watch:
            result = distil_from_samples(stage, dialogues, settings.tuning, run, layout=data.layout, measure_as=after, watch=watch)
        narrator.say(fitted_line(run))
    else:
        rollout, steps = settings.on_policy.rollout, settings.on_policy.steps
        narrator.say(
            f"data      {len(stage.world.train)} problems, {steps} steps of {rollout.prompts_per_step} x {rollout.samples_per_prompt}"
        )
        with _watched(settings, run, narrator, steps, should_stop) as watch:
            result = distil_on_policy(stage, teacher, stage.world.train, settings.imitation, run, measure_as=after, watch=watch)
    run.write_json("compute.json", result.compute.as_row())
    narrator.say(f"compute   {result.compute.flops:.3g} FLOPs in {result.compute.seconds:.0f} s: {result.compute.formula}")
    return result


def distil_from_samples(
    stage: Stage,
    dialogues: Sequence[Sequence[Message]],
    settings: SftSettings,
    run: RunDir,
    *,
    measure_as: str | None,
    layout: Layout = "think",
    watch: Watch | None = None,
) -> DistillResult:
    """The paper's distillation: SFT of the stage's policy on what a teacher wrote (``[sample.dialogue for sample in samples]``).

    Args:
        measure_as: name of the evaluation afterwards; ``None`` for none.

    Raises:
        ValueError: the run was started on other dialogues.
    """
    watch = watch or Watch()
    tuned = run_sft(
        stage,
        dialogues,
        settings,
        run,
        measure_as=measure_as,
        layout=layout,
        on_step=watch.on_step,
        on_evaluation=watch.on_evaluation,
        should_stop=watch.should_stop,
    )
    cost = sft_compute(run.metrics(), parameters=multiplied_parameters(stage.policy))
    return DistillResult(run=run.path, outcome=tuned.outcome, evaluation=tuned.evaluation, compute=cost)


def distil_on_policy(
    stage: Stage,
    teacher: PreTrainedModel,
    problems: Sequence[Problem],
    settings: OnPolicySettings,
    run: RunDir,
    *,
    measure_as: str | None,
    watch: Watch | None = None,
) -> DistillResult:
    """Draw the stage's policy to the teacher on its own answers to problems. Continues where an earlier process stopped.

    Args:
        teacher: of :func:`load_teacher`.
        measure_as: name of the evaluation afterwards; ``None`` for none.

    Raises:
        ValueError: the run was started on other problems.
    """
    watch = watch or Watch()
    trainer = OnPolicyTrainer(
        stage.policy,
        teacher,
        stage.engine,
        Questions(problems=problems, encode=stage.prompt_ids, stop_token_ids=stage.stops),
        settings,
        run=run,
        checkpoints=run.path / "checkpoints",
        save_model=stage.save,
        hooks=Hooks(on_step=watch.on_step, should_stop=watch.should_stop),
    )
    outcome = trainer.train()
    evaluation = None
    if outcome is Outcome.DONE and measure_as is not None:
        evaluation = stage.measure(measure_as)
        keep_evaluation(run, evaluation)
        watch.on_evaluation(evaluation)
    sizes = {"parameters": multiplied_parameters(stage.policy), "teacher_parameters": multiplied_parameters(teacher)}
    return DistillResult(run=run.path, outcome=outcome, evaluation=evaluation, compute=on_policy_compute(run.metrics(), **sizes))


def student_stage(settings: DistillSettings, narrator: Narrator) -> Stage:
    """The student in its world, as the settings describe both."""
    folder = model_folder(settings.model, settings.base, seed=settings.seed, on_step=heard_of_base(settings.base.steps, narrator.say))
    on_policy = settings.method == "on_policy"
    stage = Stage(
        folder,
        distillation_world(settings),
        evaluation=settings.evaluation,
        cap=settings.on_policy.rollout.max_new_tokens if on_policy else settings.sft.max_length,
        compute=settings.on_policy.compute if on_policy else settings.sft.compute,
        sampler=settings.on_policy.rollout,
        lora=settings.on_policy.lora if on_policy else settings.sft.lora,
        seed=settings.seed,
    )
    config, wanted = stage.policy.config, settings.context
    known = getattr(config, "max_position_embeddings", None)
    if wanted is not None and known is not None and known < wanted:
        raise_context(stage.policy, wanted)
        narrator.say(f"context   of the student raised from {known} to {wanted} tokens")
    return stage


def raise_context(policy: PreTrainedModel, tokens: int) -> None:
    """Let a model, and every folder saved of it, take longer texts. Its position embeddings must be plain rotations, which need no weights.

    Raises:
        ValueError: they are something else, which would be wrong beyond the length it was made for.
    """
    rotation = getattr(policy.config, "rope_parameters", None) or {}
    if rotation.get("rope_type", "default") != "default" or "rope_theta" not in rotation:
        raise ValueError(
            f"context is {tokens}, but {type(policy).__name__} takes {policy.config.max_position_embeddings} tokens and its position "
            f"embeddings ({rotation or 'no rotation'}) do not simply go on. Leave context out, and set sft.max_length to what it takes"
        )
    policy.config.max_position_embeddings = tokens


def load_teacher(folder: str | Path, stage: Stage) -> PreTrainedModel:
    """A teacher for the stage's policy, on its device. The stage's answers end where the teacher's do from now on, too.

    Raises:
        ValueError: it cannot be loaded, or it has another vocabulary.
    """
    teacher, tokenizer = load_policy(folder, device=next(stage.policy.parameters()).device)
    vocabulary = stage.tokenizer.get_vocab()
    refuse_other_vocabulary(vocabulary, tokenizer.get_vocab())
    rows = [head_weight(model).shape[0] for model in (stage.policy, teacher)]
    refuse_narrow_teacher(student_rows=rows[0], teacher_rows=rows[1], tokens=max(vocabulary.values()) + 1)
    # Where the teacher would end its turn the student learns to, and must then be heard.
    for token in stop_token_ids(teacher, tokenizer):
        stage.stop_also_at(token)
    return teacher.requires_grad_(False)


def distillation_world(settings: DistillSettings) -> World:
    """The problems that on-policy distillation asks (``train``) and those that measure (``held_out``), and the layout that is learnt.

    Raises:
        ValueError: columns are named, and there is no file of problems that has any.
    """
    data = settings.data
    if data.columns and all(name in (None, "laptop") for name in (data.held_out, data.prompts)):
        raise ValueError(
            f"data.columns is {data.columns}, which names columns of files of problems, data.held_out and data.prompts, and there is none"
        )
    if data.held_out not in (None, "laptop"):
        world = _world_of(settings, data.held_out)
    elif "laptop" in (data.held_out, data.prompts):
        world = _world_of(settings, None)
    else:
        world = World(name="none", train=(), held_out=(), template=data.template, format_mode="think_only", verifiers=VERIFIERS)
    if data.layout == "special_token":
        world = replace(world, format_mode="cold_start")
    return replace(world, train=_prompts(settings), held_out=() if data.held_out is None else world.held_out)


def _world_of(settings: DistillSettings, held_out: str | None) -> World:
    data = settings.data
    problems = {"train": "laptop", "held_out": held_out, "columns": data.columns, "template": data.template}
    return load_world(RlSettings.model_validate({"seed": settings.seed, "data": problems, "evaluation": settings.evaluation}))


def _prompts(settings: DistillSettings) -> tuple[Problem, ...]:
    data = settings.data
    if data.prompts is None:
        return ()
    if data.prompts == "laptop":
        return laptop_world(seed=settings.seed, train=data.count or LAPTOP_PROBLEMS, held_out=1).train
    return tuple(read_problems(data.prompts, split="train", columns=data.columns or None)[: data.count])


def _refuse_missing(settings: DistillSettings) -> None:
    if settings.method == "sft" and settings.data.train is None:
        raise ValueError(
            "data.train is missing: name a file of samples or dialogues of the teacher, e.g. --data.train=kept.jsonl, as `sample` and "
            "stage 3 of the pipeline write it"
        )
    if settings.method == "on_policy" and settings.teacher is None:
        raise ValueError("teacher is missing: on-policy distillation needs the teacher's distributions, e.g. --teacher=/path/to/model")
    if settings.method == "on_policy" and settings.data.prompts is None:
        raise ValueError("data.prompts is missing: name a file of problems for the student to answer, e.g. --data.prompts=train.jsonl")


def _teacher_of_run(name: str, stage: Stage, run: RunDir, narrator: Narrator) -> PreTrainedModel:
    """The teacher, the same as ever in this run: where it is a folder its files may have changed since."""
    digest = digest_of(Path(name)) if Path(name).is_dir() else None
    known = next((event["sha256"] for event in run.events() if event["event"] == "teacher"), digest)
    if known != digest:
        raise ValueError(
            f"E002 resume: the run was started with another teacher (SHA-256 {str(known)[:12]}) than {name} holds now "
            f"({str(digest)[:12]}). Restore it, or give the new run another --name"
        )
    teacher = load_teacher(name, stage)
    run.append_event_once("teacher", model=name, sha256=digest)
    narrator.say(
        f"teacher   {name}, {multiplied_parameters(teacher):,} parameters to the student's {multiplied_parameters(stage.policy):,}"
    )
    return teacher


@contextmanager
def _watched(settings: DistillSettings, run: RunDir, narrator: Narrator, total: int, should_stop: Callable[[], bool]) -> Iterator[Watch]:
    """Shows every step on a panel and to the tracker."""
    track = open_tracker(settings.track, run.path)
    with narrator.panel("distill", total, plain_every=max(1, total // 20)) as show:

        def on_step(row: Mapping[str, Any]) -> None:
            track(row)
            show(row["step"], row)

        yield Watch(on_step=on_step, on_evaluation=narrator.evaluation, should_stop=should_stop)

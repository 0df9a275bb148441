"""What every stage of a recipe will do, from its settings: which parts it has, and what they take of memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from zero2r1.pipeline.config import EvaluationSettings, SampleSettings
from zero2r1.pipeline.estimates import (
    BYTES_PER_TOKEN,
    ModelShape,
    Peak,
    cache_bytes,
    cached_positions,
    checkpoint_bytes,
    checkpoints_on_disk,
    fuller,
    merged_peak,
    sampling_peak,
    training_peak,
    twin_bytes,
    updates_of,
    with_weights,
)
from zero2r1.pipeline.recipe import PipelineSettings, RlSection
from zero2r1.pipeline.scenarios import REQUESTS
from zero2r1.pipeline.stage_counts import (
    Activity,
    Rows,
    StagePlan,
    adapters_of,
    at_most,
    lora_shown,
    probes_of,
    rollouts_of,
    scored,
    several,
)
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.sft.config import SftSettings
from zero2r1.training.config import ComputeSettings, LoraSettings, SamplerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Plans the stages of one recipe."""

    settings: PipelineSettings
    rows: Rows
    shape: ModelShape | None
    student: ModelShape | None
    gpu: bool = False
    """Memory is that of a GPU: one process, which samples from a twin of the model (zero2r1.models.twin)."""

    def plan(self, stage: str) -> StagePlan:
        """The plan of a stage by its name in the pipeline."""
        return PLANS[stage](self)

    # What several stages do

    def evaluation(self, times: int = 1, problems: int | None = None) -> Activity:
        """Held-out problems, as often as that."""
        settings = self.evaluated
        asked = at_most(problems or settings.problems, self.rows.held_out)
        samples = times * asked * settings.samples
        says = f"evaluation: {times} x {asked} problems x {settings.samples} answers, cap {self.evaluation_cap}"
        return Activity(says=says, samples=samples, sampled=samples * self.evaluation_cap)

    def general_evaluation(self, times: int, cap: int) -> Activity:
        """Held-out requests of both sets, as often as that."""
        count, answers = self.settings.all_scenarios.general.held_out, self.evaluated.samples
        samples = times * 2 * count * answers
        says = f"held-out requests: {times} x 2 sets x at most {count} x {answers} answers, cap {cap}"
        return Activity(says=says, samples=samples, sampled=samples * cap)

    @property
    def evaluated(self) -> EvaluationSettings:
        return self.settings.measured_alike

    @property
    def evaluation_cap(self) -> int:
        return self.evaluated.max_new_tokens or 0

    def drawn(self, name: str, problems: int, settings: SampleSettings) -> Activity:
        """Answers to learn from."""
        samples = problems * settings.samples
        says = f"{name}: {problems} prompts x {settings.samples} answers, cap {settings.max_new_tokens}"
        return Activity(says=says, samples=samples, sampled=samples * settings.max_new_tokens)

    def rl(self, section: RlSection, *, before: int = 0, shape: ModelShape | None, reward_models: int = 0) -> StagePlan:
        """A stage of RL; ``before`` evaluations before it."""
        rollouts = -(-section.steps // section.grpo.mini_batches)
        activities = [rollouts_of(section), *lora_shown(section.lora, shape), self.evaluation(before + 1)]
        if probes := probes_of(section) if self.evaluated.probes else 0:
            activities.append(self.evaluation(probes, self.evaluated.probes))
        if shape is None:
            return StagePlan(activities=tuple(activities))
        steps = rollouts * section.grpo.mini_batches
        adapters, reference = adapters_of(section.lora, shape), _copies_reference(section, steps)
        one = checkpoint_bytes(shape.parameters, reference=(adapters or shape.as_state) if reference else 0, adapters=adapters)
        disk = checkpoints_on_disk(one, steps=steps, every=section.checkpoint_every, keep=section.keep_checkpoints)
        return StagePlan(
            activities=tuple(activities),
            peak=self.rl_peak(section, shape, reference=reference, reward_models=reward_models),
            disk=disk + activities[0].sampled * BYTES_PER_TOKEN,
            adapters=adapters,
        )

    def rl_peak(self, section: RlSection, shape: ModelShape, *, reference: bool, reward_models: int) -> Peak:
        rollout, compute = section.rollout, section.compute
        longest = self.rows.longest_prompt + rollout.cap_at(section.steps)
        answers = rollout.prompts_per_rollout * rollout.group_size
        half, adapters = compute.half, adapters_of(section.lora, shape)
        cache = max(self.cache(shape, rollout, answers, longest, half=half), self.evaluation_cache(shape, rollout, half=half))
        processes = self.processes(rollout)
        training = training_peak(
            shape,
            tokens=max(longest, min(compute.tokens_per_micro_batch, answers // section.grpo.mini_batches * longest)),
            longest=longest,
            half=half,
            checkpointing=compute.gradient_checkpointing,
            reference=reference,
            cache=cache * processes,
            twin=self.twin(shape, compute, section.lora),
            reward_models=reward_models,
            adapters=adapters,
            offload=compute.offload,
        )
        if section.lora is not None and not self.gpu:
            return fuller(training, _merged(section.lora, shape, half=half, reference=reference, cache=cache, reward_models=reward_models))
        # Processes of their own have weights of their own.
        return training if processes == 1 else with_weights(training, processes)

    def twin(self, shape: ModelShape, compute: ComputeSettings, lora: LoraSettings | None) -> int:
        """Bytes of what is sampled in place of the model, on a GPU."""
        if not self.gpu:
            return 0
        adapted = 0 if lora is None else shape.adapted(lora.targets)
        return twin_bytes(shape, half=compute.half, half_head=compute.half_head, adapted=adapted)

    def processes(self, sampler: SamplerSettings) -> int:
        """How many sample: several on a CPU alone."""
        return 1 if self.gpu else sampler.processes

    def cache(self, shape: ModelShape, sampler: SamplerSettings, samples: int, longest: int, *, half: bool = False) -> int:
        budget = sampler.token_budget
        positions = cached_positions(samples=samples, longest=longest, token_budget=budget, max_rows=sampler.max_rows)
        return cache_bytes(shape, positions, half=half and self.gpu)

    def evaluation_cache(self, shape: ModelShape, sampler: SamplerSettings, *, half: bool = False) -> int:
        samples = at_most(self.evaluated.problems, self.rows.held_out) * self.evaluated.samples
        return self.cache(shape, sampler, samples, self.rows.longest_prompt + self.evaluation_cap, half=half)

    def sampling_peak(self, settings: SampleSettings, problems: int, shape: ModelShape) -> Peak:
        """Sampling stages compute in float32."""
        samples = min(settings.chunk, problems) * settings.samples
        cache = self.cache(shape, settings, samples, self.rows.longest_prompt + settings.max_new_tokens)
        return sampling_peak(shape, half=False, cache=cache, processes=self.processes(settings))

    def sft(self, settings: SftSettings, examples: int, shape: ModelShape | None, others: tuple[Activity, ...] = ()) -> StagePlan:
        """Supervised training on at most so many examples, then an evaluation with the optimizer still there."""
        updates = updates_of(examples, batch_size=settings.batch_size, epochs=settings.epochs)
        passes = several(settings.epochs, "epoch")
        says = f"SFT: {examples} examples x {passes}, batch {settings.batch_size}, at most {settings.max_length} tokens"
        tuned = Activity(says=says, trained=examples * settings.epochs * settings.max_length, updates=updates)
        activities = (*others, tuned, *lora_shown(settings.lora, shape), self.evaluation())
        if shape is None:
            return StagePlan(activities=activities)
        adapters = adapters_of(settings.lora, shape)
        one = checkpoint_bytes(shape.parameters, adapters=adapters)
        sampler = self.settings.zero.rollout
        half = settings.compute.half
        cache = self.evaluation_cache(shape, sampler, half=half)
        twin = self.twin(shape, settings.compute, settings.lora)
        processes = 1 if adapters else self.processes(sampler)  # several sample whole models only
        measuring = sampling_peak(shape, half=half, cache=cache, twin=twin, processes=processes, moments=True, adapters=adapters)
        if settings.lora is not None and not self.gpu:
            measuring = fuller(measuring, _merged(settings.lora, shape, half=half, cache=cache))
        training = training_peak(
            shape,
            tokens=max(settings.max_length, settings.compute.tokens_per_micro_batch) if settings.packing else settings.max_length,
            longest=settings.max_length,
            half=half,
            checkpointing=settings.compute.gradient_checkpointing,
            twin=twin,
            adapters=adapters,
            offload=settings.compute.offload,
        )
        disk = checkpoints_on_disk(one, steps=updates, every=settings.checkpoint_every, keep=settings.keep_checkpoints)
        text = sum(activity.sampled for activity in others) * BYTES_PER_TOKEN
        return StagePlan(activities=activities, peak=fuller(training, measuring), disk=disk + text, adapters=adapters)


def _copies_reference(section: RlSection, steps: int) -> bool:
    """Whether the reference is more than the policy itself: with adapters only once it was reset."""
    reset = section.grpo.reference_reset_steps
    return section.grpo.beta > 0 and (section.lora is None or (reset is not None and reset <= steps))


def _merged(lora: LoraSettings, shape: ModelShape, *, half: bool, cache: int, reference: bool = False, reward_models: int = 0) -> Peak:
    return merged_peak(
        shape,
        adapters=adapters_of(lora, shape),
        adapted=shape.adapted(lora.targets),
        half=half,
        reference=reference,
        cache=cache,
        reward_models=reward_models,
    )


# The stages


def _base(planner: Planner) -> StagePlan:
    made = (_pretraining(planner.settings.base),) if planner.settings.model == "laptop" else ()
    return StagePlan(activities=made, disk=0)  # the model stays where it is


def _pretraining(base: object) -> Activity:
    steps, rows, length = (getattr(base, name) for name in ("steps", "rows", "row_length"))
    return Activity(says=f"pretraining: {steps} x {rows} rows of {length} tokens", trained=steps * rows * length, updates=steps)


def _zero(planner: Planner) -> StagePlan:
    laptop = planner.settings.data.train == "laptop" and planner.settings.data.held_out is None
    return planner.rl(planner.settings.zero, before=2 if laptop else 1, shape=planner.shape)  # the laptop's base in its own layout, too


def _cold_start(planner: Planner) -> StagePlan:
    settings, there = planner.settings.cold_start, planner.rows.problems
    sampled = at_most(settings.problems, there)
    asked = at_most(settings.few_shot, there) + at_most(settings.direct, there)
    kept = sampled if settings.from_zero is None else min(sampled, settings.from_zero)
    activities = [planner.drawn("from R1-Zero", sampled, settings.sample)] if sampled else []
    calls = asked + (kept if settings.rewrite else 0)
    if settings.endpoint is not None:
        says = f"{settings.endpoint.model}: {calls} requests or more, at most {settings.endpoint.max_tokens} tokens each"
        activities.append(Activity(says=says))
    plan = planner.sft(settings.sft, kept + settings.solved + asked, planner.shape, tuple(activities))
    if planner.shape is None or not sampled or plan.peak is None:
        return plan
    return replace(plan, peak=fuller(plan.peak, planner.sampling_peak(settings.sample, sampled, planner.shape)))


def _reasoning_rl(planner: Planner) -> StagePlan:
    section = planner.settings.reasoning_rl
    plan = planner.rl(section, shape=planner.shape)
    if section.pass_rate is None:
        return plan
    asked = at_most(min(section.problems, section.pass_rate.problems), planner.rows.problems)
    measured = SampleSettings(samples=section.pass_rate.samples, max_new_tokens=section.rollout.cap_at(0))
    return replace(plan, activities=(planner.drawn("pass rates", asked, measured), *plan.activities))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The most that stage 3 keeps."""

    reasoning: int
    general_wanted: int
    """For the shares of the mix."""
    general: int
    """Of what is there."""

    @property
    def examples(self) -> int:
        return self.reasoning + self.general


def kept_by_rejection(planner: Planner) -> Kept:
    """The most reasoning samples of stage 3, and the general ones that belong to them."""
    settings = planner.settings.rejection_sft
    problems = at_most(settings.problems, planner.rows.problems)
    reasoning = problems * min(settings.sample.samples, settings.selection.kept_per_prompt)
    wanted = -(-reasoning * settings.selection.mix[1] // settings.selection.mix[0])
    return Kept(reasoning=reasoning, general_wanted=wanted, general=at_most(wanted, planner.rows.general))


def _rejection_sft(planner: Planner) -> StagePlan:
    settings = planner.settings.rejection_sft
    problems = at_most(settings.problems, planner.rows.problems)
    others = [planner.drawn("candidates", problems, settings.sample)]
    if planner.settings.requests.train == "laptop":  # whose rules can tell what is helpful
        others.append(planner.general_evaluation(1, settings.sft.max_length))
    plan = planner.sft(settings.sft, kept_by_rejection(planner).examples, planner.shape, tuple(others))
    if planner.shape is None or plan.peak is None:
        return plan
    return replace(plan, peak=fuller(plan.peak, planner.sampling_peak(settings.sample, problems, planner.shape)))


def _reward_models(planner: Planner) -> StagePlan:
    settings, rows = planner.settings.reward_models, planner.rows
    activities: list[Activity] = []
    learnt: dict[str, int | None] = {"helpful": rows.pairs, "harmless": rows.labels}
    sampled = 0
    for name, file, requests in (
        ("helpful", settings.pairs, settings.helpful_requests),
        ("harmless", settings.labels, settings.harmful_requests),
    ):
        if file is None:
            asked = at_most(requests, (rows.requests or {}).get(name))
            sampled = max(sampled, asked)
            activities.append(planner.drawn(f"answers to {name} requests", asked, settings.sample))
            learnt[name] = asked * (settings.pairs_per_request if name == "helpful" else settings.sample.samples)
    peaks = [planner.sampling_peak(settings.sample, sampled, planner.shape)] if planner.shape is not None and sampled else []
    disk = sum(activity.sampled for activity in activities) * BYTES_PER_TOKEN
    for name, own in (("helpful", settings.helpful), ("harmless", settings.safety)):
        activity = scored(name, own, learnt[name])
        activities.append(activity)
        if planner.shape is not None:
            peaks.append(_reward_model_peak(planner.shape, own))
            parameters = planner.shape.as_reward_model
            one, saves = checkpoint_bytes(parameters), activity.updates or own.checkpoint_every
            disk += checkpoints_on_disk(one, steps=saves, every=own.checkpoint_every, keep=own.keep_checkpoints) + 4 * parameters
    known = planner.shape is not None
    return StagePlan(activities=tuple(activities), peak=fuller(*peaks) if known else None, disk=disk if known else None)


def _reward_model_peak(shape: ModelShape, settings: RewardModelSettings) -> Peak:
    compute, longest = settings.compute, settings.max_length * (2 if settings.kind == "preference" else 1)
    return training_peak(
        shape,
        tokens=max(longest, compute.tokens_per_micro_batch),
        longest=settings.max_length,
        half=compute.half,
        checkpointing=compute.gradient_checkpointing,
        scalar_head=True,
        offload=compute.offload,
    )


def _all_scenarios(planner: Planner) -> StagePlan:
    section = planner.settings.all_scenarios
    plan = planner.rl(section, shape=planner.shape, reward_models=2)
    general = planner.general_evaluation(2, section.rollout.cap_at(section.steps))
    pool = Activity(says=f"general requests: at most {REQUESTS} of each set, from step {section.general.from_step} on")
    return replace(plan, activities=(*plan.activities, pool, general))


def _student_base(planner: Planner) -> StagePlan:
    settings = planner.settings.distillation
    made = (_pretraining(settings.base),) if settings.model == "laptop" else ()
    activities = (*made, planner.evaluation())
    if planner.student is None:
        return StagePlan(activities=activities)
    sampler = planner.settings.student_rl.rollout
    cache = planner.evaluation_cache(planner.student, sampler)
    peak = sampling_peak(planner.student, half=False, cache=cache, processes=planner.processes(sampler))
    return StagePlan(activities=activities, peak=peak, disk=0)


def _distillation(planner: Planner) -> StagePlan:
    return planner.sft(planner.settings.distillation.sft, kept_by_rejection(planner).examples, planner.student)


def _student_rl(planner: Planner) -> StagePlan:
    return planner.rl(planner.settings.student_rl, shape=planner.student)


PLANS: Mapping[str, Callable[[Planner], StagePlan]] = MappingProxyType(
    {
        "base": _base,
        "zero": _zero,
        "cold_start": _cold_start,
        "reasoning_rl": _reasoning_rl,
        "no_language": _reasoning_rl,
        "rejection_sft": _rejection_sft,
        "reward_models": _reward_models,
        "all_scenarios": _all_scenarios,
        "student_base": _student_base,
        "distillation": _distillation,
        "student_rl": _student_rl,
    }
)

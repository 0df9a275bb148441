"""RL for all scenarios, wired (paper section 2.3.4): which prompts a rollout has, who rewards which of them, how answers are measured.

reasoning ─▶ accuracy + format + language
helpful   ─▶ helpfulness of the summary    + format + language of the thinking
harmless  ─▶ harmlessness of the response  + format + language of the thinking
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from zero2r1.eval.metrics import mean_and_error
from zero2r1.grpo.sampling import questions_of_rollout
from zero2r1.pipeline.config import GeneralRlSettings, ZeroSettings
from zero2r1.pipeline.general_requests import SETS, GeneralRequests, Rule
from zero2r1.pipeline.stage import Stage
from zero2r1.pipeline.world import World
from zero2r1.reward_models.reward import RewardModelReward
from zero2r1.rewards.combine import make_grader
from zero2r1.rewards.completions import text_of
from zero2r1.rewards.format import format_reward
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.run_dir import RunDir
from zero2r1.seeds import derive_seed
from zero2r1.tasks.mixture import quotas
from zero2r1.training.config import ComputeSettings
from zero2r1.types import Completion, Grader, Problem, Reward, RewardFn

KIND_OF_SET: Mapping[str, str] = {"helpful": "preference", "harmless": "safety"}
REQUESTS = 4096
"""General requests of each set that are made or taken from a file; a rollout takes a few of them."""


def scenario_extras(
    stage: Stage,
    settings: ZeroSettings,
    mixture: GeneralRlSettings,
    *,
    reasoning: Sequence[Problem],
    requests: GeneralRequests,
    scorers: Mapping[str, RewardFn],
) -> dict[str, Any]:
    """What RL for all scenarios adds to a stage of RL: the fields of :class:`~zero2r1.pipeline.rl.Extras` by name.

    Raises:
        ValueError: a share of prompts that are not there, or of a set that has no reward model.
    """
    pools = {name: requests.train(name, REQUESTS) for name in SETS}
    return {
        "questions": rollout_questions(reasoning, pools, settings, mixture),
        "grader": scenario_grader(stage.world, settings, mixture, scorers),
        "describe": describer(stage.world, requests.rules),
    }


# Prompts


def rollout_questions(
    reasoning: Sequence[Problem], general: Mapping[str, Sequence[Problem]], settings: ZeroSettings, mixture: GeneralRlSettings
) -> Callable[[int], list[Problem]]:
    """The prompts of every rollout: reasoning alone at first, and from ``from_step`` on general requests in their shares among them.

    Every pool is passed over in orders of the seed, as in all RL. Shares are of the prompts of a rollout, rounded to whole prompts.

    Raises:
        ValueError: a share of a pool that has no prompts.
    """
    count, per_rollout = settings.rollout.prompts_per_rollout, settings.grpo.mini_batches
    pools = {"reasoning": reasoning, **general}
    shares: dict[str, float] = {name: share for name, share in mixture.shares.items() if share}
    if missing := [name for name in shares if not pools.get(name)]:
        raise ValueError(f"general.shares gives {', '.join(missing)} a share, and there are no such prompts")
    begins = -(-mixture.from_step // per_rollout)  # the first rollout with general requests
    if begins * per_rollout >= settings.steps:
        raise ValueError(f"general.from_step is {mixture.from_step} of {settings.steps} steps: no general request would ever be asked")
    parts = quotas(count, shares)
    if starved := [name for name, part in parts.items() if not part]:
        raise ValueError(
            f"general.shares gives {', '.join(starved)} less than one of {count} prompts of a rollout, so none would ever be drawn: raise "
            "the share or rollout.prompts_per_rollout, or leave it out"
        )

    def questions(rollout: int) -> list[Problem]:
        if rollout < begins:
            return questions_of_rollout(reasoning, rollout, count, seed=settings.seed)
        chosen: list[Problem] = []
        for name, part in parts.items():
            if part:
                chosen += questions_of_rollout(pools[name], rollout, part, seed=derive_seed(settings.seed, "scenarios", name))
        return chosen

    return questions


def mute_monitor(settings: ZeroSettings, mixture: GeneralRlSettings) -> str | None:
    """What to say of a monitor that will see too few steps with general requests to say anything; ``None`` if it will see enough."""
    monitor, per_rollout = settings.monitor, settings.grpo.mini_batches
    seen = settings.steps - -(-mixture.from_step // per_rollout) * per_rollout
    if monitor is None or seen >= 2 * monitor.window:
        return None
    return f"the monitor compares two windows of {monitor.window} steps, and general requests come in {seen}: it will not speak"


# Rewards


def load_scorers(models: Mapping[str, Path], world: World, compute: ComputeSettings) -> dict[str, RewardModelReward]:
    """The reward model of each set, loaded once for training and measurement.

    Raises:
        ValueError: a folder holds no reward model, or one of the other kind.
    """
    compute = compute.model_copy(update={"gradient_checkpointing": False})  # nothing is kept for a way back
    found = {name: RewardModelReward(folder, think_open=world.think_open, compute=compute) for name, folder in models.items()}
    for name, reward in found.items():
        if reward.card.kind != KIND_OF_SET[name]:
            raise ValueError(
                f"{models[name]} is given as the {name} model, and it is a {reward.card.kind} model that reads the {reward.card.view}: "
                f"the {name} one must be a {KIND_OF_SET[name]} model (train rm --kind {KIND_OF_SET[name]})"
            )
    return found


def scenario_grader(world: World, settings: ZeroSettings, mixture: GeneralRlSettings, scorers: Mapping[str, RewardFn]) -> Grader:
    """The grader of all scenarios: rules for reasoning problems, for a general request the reward model of its set.

    Raises:
        ValueError: a set that prompts are drawn from has no reward model.
    """
    graders = {"reasoning": world.grader(settings.reward, cap=settings.rollout.max_new_tokens)}
    shares: dict[str, float] = {name: share for name, share in mixture.shares.items()}
    stated: dict[str, float] = {name: weight for name, weight in mixture.weights.items()}
    for name in SETS:
        if not shares.get(name):
            continue
        if name not in scorers:
            raise ValueError(f"general.shares draws {name} prompts, and there is no reward model for them")
        functions: dict[str, RewardFn] = {
            name: scorers[name],
            "format": format_reward("optional", think_open=world.think_open),
            "language": _thinking_language(world),
        }
        weights = {part: stated.get(part, 0.0) for part in functions}
        kept = {part: weight for part, weight in weights.items() if weight or part == name}
        graders[name] = make_grader({part: functions[part] for part in kept}, kept, required=[name])
    return routed(graders)


def routed(graders: Mapping[str, Grader]) -> Grader:
    """Each problem to the grader of its set; what belongs to none of :data:`SETS` is reasoning."""

    def grade(problems: Sequence[Problem], completions: Sequence[Completion]) -> list[Reward]:
        rewards: dict[int, Reward] = {}
        sets = [set_of(problem) for problem in problems]
        for name in dict.fromkeys(sets):
            chosen = [i for i, other in enumerate(sets) if other == name]
            graded = graders[name]([problems[i] for i in chosen], [completions[i] for i in chosen])
            rewards |= dict(zip(chosen, graded, strict=True))
        return [rewards[i] for i in range(len(problems))]

    return grade


def set_of(problem: Problem) -> str:
    """``helpful`` or ``harmless`` for a general request, ``reasoning`` for everything else."""
    return problem.verifier if problem.verifier in SETS else "reasoning"


def _thinking_language(world: World) -> RewardFn:
    """The language reward for requests that need no thinking: where there is none, none is in another language. So thinking earns nothing
    by itself."""
    whole = world.rewards()["language"]

    def language(completions: list[object], **columns: object) -> list[float | None]:
        shares = whole(completions=completions, **columns)
        silent = ["think>" not in text_of(completion) and not world.think_open for completion in completions]
        return [1.0 if nothing else share for nothing, share in zip(silent, shares, strict=True)]

    return language


# Measurement


def describer(world: World, rules: Mapping[str, Rule]) -> Callable[[Problem, Completion], dict[str, float]]:
    """What is watched of an answer: the traits of reasoning, or for a general request what rules say of it."""

    def describe(problem: Problem, completion: Completion) -> dict[str, float]:
        name = set_of(problem)
        if name == "reasoning":
            return world.describe(problem, completion)
        return {f"general/{name}": rules[name](problem, completion.text)} if name in rules else {}

    return describe


def measure_general(
    stage: Stage, requests: GeneralRequests, *, count: int, scorers: Mapping[str, RewardFn] | None = None
) -> dict[str, list[float]]:
    """Held-out requests, answered a few times each as in every evaluation: one value per request of every statistic.

    Args:
        scorers: set -> reward model whose scores are measured too, as ``helpful_score`` and ``harmless_score``.

    Returns:
        ``helpful`` and ``harmless``, the shares of answers that the rules find so, where there are rules.
    """
    samples = stage.evaluation.samples
    arrays: dict[str, list[float]] = {}
    for name in SETS:
        asked = requests.held_out(name, count)
        if not asked:
            continue
        params = SamplingParams(
            max_new_tokens=stage.evaluation.max_new_tokens or stage.cap,
            stop_token_ids=stage.stops,
            temperature=stage.evaluation.temperature,
            top_p=stage.evaluation.top_p,
        )
        wanted = [
            Request(
                id=i,
                prompt_ids=stage.prompt_ids(problem),
                seeds=tuple(derive_seed(stage.evaluation.seed, "general", name, i, j) for j in range(samples)),
                params=params,
            )
            for i, problem in enumerate(asked)
        ]
        groups = generate(stage.engine, wanted)
        if name in requests.rules:
            rule = requests.rules[name]
            arrays[name] = [fmean(rule(p, c.text) for c in group) for p, group in zip(asked, groups, strict=True)]
        if scorers and name in scorers:
            grade = make_grader({name: scorers[name]}, {name: 1.0})
            scored = [grade([p] * samples, group) for p, group in zip(asked, groups, strict=True)]
            arrays[f"{name}_score"] = [fmean(reward.value or 0.0 for reward in group) for group in scored]
    return arrays


def keep_general(run: RunDir, arrays: Mapping[str, Sequence[float]], name: str) -> str:
    """Write what :func:`measure_general` found to ``general/NAME.json``, and return it in a line."""
    figures = {statistic: mean_and_error(values) for statistic, values in arrays.items()}
    shown = {key: {"mean": mean, "stderr": error} for key, (mean, error) in figures.items()}
    run.write_json(f"general/{name}.json", {"figures": shown, "arrays": dict(arrays)})
    told = "  ".join(f"{key.replace('_', ' ')} {mean:.3f} ± {error:.3f}" for key, (mean, error) in figures.items())
    return f"general requests, {name}: {told}"

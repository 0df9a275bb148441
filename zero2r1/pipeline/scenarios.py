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
from zero2r1.template import parse_response
from zero2r1.types import Completion, Grader, Problem, Reward, RewardFn

REQUESTS = 4096
"""General requests of each set that are made or taken from a file; a rollout takes a few of them."""


def scenario_extras(
    stage: Stage,
    settings: ZeroSettings,
    mixture: GeneralRlSettings,
    *,
    reasoning: Sequence[Problem],
    requests: GeneralRequests,
    models: Mapping[str, Path],
) -> dict[str, Any]:
    """What RL for all scenarios adds to a stage of RL: the fields of :class:`~zero2r1.pipeline.rl.Extras` by name.

    Raises:
        ValueError: a share of prompts that are not there, or of a set that has no reward model.
    """
    pools = {name: requests.train(name, REQUESTS) for name in SETS}
    return {
        "questions": rollout_questions(reasoning, pools, settings, mixture),
        "grader": scenario_grader(stage.world, settings, mixture, models),
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
    parts = quotas(count, shares)

    def questions(rollout: int) -> list[Problem]:
        if rollout < begins:
            return questions_of_rollout(reasoning, rollout, count, seed=settings.seed)
        chosen: list[Problem] = []
        for name, part in parts.items():
            if part:
                chosen += questions_of_rollout(pools[name], rollout, part, seed=derive_seed(settings.seed, "scenarios", name))
        return chosen

    return questions


# Rewards


def scenario_grader(world: World, settings: ZeroSettings, mixture: GeneralRlSettings, models: Mapping[str, Path]) -> Grader:
    """The grader of all scenarios: rules for reasoning problems, for a general request the reward model of its set.

    Args:
        models: set -> folder of its reward model.

    Raises:
        ValueError: a set that prompts are drawn from has no reward model.
    """
    graders = {"reasoning": world.grader(settings.reward)}
    shares: dict[str, float] = {name: share for name, share in mixture.shares.items()}
    stated: dict[str, float] = {name: weight for name, weight in mixture.weights.items()}
    for name in SETS:
        if not shares.get(name):
            continue
        if name not in models:
            raise ValueError(f"general.shares draws {name} prompts, and there is no reward model for them")
        functions: dict[str, RewardFn] = {
            name: RewardModelReward(models[name], think_open=world.think_open),
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
    """The language reward for requests that need no thinking: it does not apply where there is none."""
    whole = world.rewards()["language"]

    def language(completions: list[object], **columns: object) -> list[float | None]:
        thoughts = [parse_response(text_of(completion), think_open=world.think_open).thinking for completion in completions]
        shares = whole(completions=completions, **columns)
        return [None if thought is None else share for thought, share in zip(thoughts, shares, strict=True)]

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
    stage: Stage, requests: GeneralRequests, *, count: int, models: Mapping[str, Path] | None = None
) -> dict[str, list[float]]:
    """Held-out requests, answered a few times each: one value per request of every statistic.

    Args:
        models: set -> reward model whose scores are measured too, as ``helpful_score`` and ``harmless_score``.

    Returns:
        ``helpful`` and ``harmless``, the shares of answers that the rules find so, where there are rules.
    """
    samples = stage.evaluation.samples
    arrays: dict[str, list[float]] = {}
    for name in SETS:
        asked = requests.held_out(name, count)
        if not asked:
            continue
        params = SamplingParams(max_new_tokens=stage.cap, stop_token_ids=stage.stops, temperature=stage.evaluation.temperature)
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
        if models and name in models:
            grade = make_grader({name: RewardModelReward(models[name], think_open=stage.world.think_open)}, {name: 1.0})
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

"""What a step reports: metric names are TRL's wherever TRL has one. Pure functions; nothing here touches a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from zero2r1.grpo.batches import ScoredGroup
from zero2r1.rollout.lengths import length_metrics
from zero2r1.types import Rollout

Description = Mapping[str, float]
"""Numbers about one completion beside its reward: ``{"format_ok": 1.0, "reflection_words": 2.0}``. They are reported under
``reasoning/``, those that name a group of their own (``general/helpful``) under that; not all completions need have the same."""


def rollout_metrics(groups: Sequence[ScoredGroup], descriptions: Sequence[Sequence[Description]]) -> dict[str, float]:
    """Rewards, lengths, groups without signal and descriptions of one mini-batch."""
    rollouts = [rollout for scored in groups for rollout in scored.group.rollouts]
    ended = [len(rollout.completion.token_ids) for rollout in rollouts if rollout.completion.finish_reason == "stop"]
    values = [[r.reward.value for r in scored.group.rollouts if r.reward.value is not None] for scored in groups]
    graded = [value for group in values for value in group]
    metrics = {
        **length_metrics([len(scored.group.rollouts[0].prompt_ids) for scored in groups], [rollout.completion for rollout in rollouts]),
        "frac_reward_zero_std": fmean(not scored.has_signal for scored in groups),
        "frac_all_right": fmean(_all_at(scored, 1.0) for scored in groups),
        "frac_all_wrong": fmean(_all_at(scored, 0.0) for scored in groups),
        "frac_ungraded": 1 - len(graded) / len(rollouts),
    }
    if ended:
        metrics["completions/mean_terminated_length"] = fmean(ended)
    if graded:
        metrics["reward"] = fmean(graded)
        metrics["reward_std"] = fmean(pstdev(group) for group in values if group)
    metrics |= _component_metrics(rollouts) | _domain_metrics(groups)
    flat = [description for group in descriptions for description in group]
    for name in dict.fromkeys(name for description in flat for name in description):
        key = name if "/" in name else f"reasoning/{name}"
        metrics[key] = fmean(description[name] for description in flat if name in description)
    return metrics


def _component_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for rollout in rollouts for name in rollout.reward.components):
        values = [v for rollout in rollouts if (v := rollout.reward.components.get(name)) is not None]
        if values:
            metrics[f"rewards/{name}/mean"] = fmean(values)
            metrics[f"rewards/{name}/std"] = pstdev(values)
    return metrics


def _domain_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """``domains/math/accuracy`` for every domain, where there are several."""
    right: dict[str, list[float]] = {}
    for scored in groups:
        grades = (rollout.reward.components.get("accuracy") for rollout in scored.group.rollouts)
        right.setdefault(scored.group.problem.domain, []).extend(grade for grade in grades if grade is not None)
    return {f"domains/{name}/accuracy": fmean(grades) for name, grades in sorted(right.items()) if grades} if len(right) > 1 else {}


def _all_at(scored: ScoredGroup, accuracy: float) -> bool:
    """Whether every output of the group has this accuracy; the total reward where nothing is called accuracy."""
    grades = [r.reward.components.get("accuracy", r.reward.value) for r in scored.group.rollouts]
    return all(grade == accuracy for grade in grades)


def rollout_rows(step: int, groups: Sequence[ScoredGroup], descriptions: Sequence[Sequence[Description]]) -> list[dict[str, Any]]:
    """One row per completion for the run's Parquet files."""
    rows: list[dict[str, Any]] = []
    for index, (scored, described) in enumerate(zip(groups, descriptions, strict=True)):
        problem = scored.group.problem
        samples = zip(scored.group.rollouts, scored.advantages, described, strict=True)
        for sample, (rollout, advantage, description) in enumerate(samples):
            completion, details = rollout.completion, rollout.reward.details
            logprobs = [lp for lp, trained in zip(completion.logprobs, completion.loss_mask, strict=True) if trained]
            rows.append(
                {
                    "step": step,
                    "group": index,
                    "sample": sample,
                    "prompt_id": problem.id,
                    "task": problem.domain,
                    "language": problem.language,
                    "prompt": problem.question,
                    "completion": completion.text,
                    "gold": problem.answer,
                    "extracted": _text(details.get("extracted")),
                    "why": _text(details.get("why")),
                    "reward": rollout.reward.value,
                    **{f"r_{name}": value for name, value in rollout.reward.components.items()},
                    "advantage": advantage,
                    "n_prompt": len(rollout.prompt_ids),
                    "n_completion": len(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                    "policy_step": completion.policy_version,
                    "seed": completion.seed,
                    "mean_logp": fmean(logprobs) if logprobs else None,
                    **description,
                }
            )
    return rows


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

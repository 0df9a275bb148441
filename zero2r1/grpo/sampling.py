"""From problems to graded groups: the first half of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zero2r1.rollout.engine import Engine, Request, SamplingParams
from zero2r1.seeds import derive_seed
from zero2r1.types import Completion, Grader, Problem, Rollout, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A problem as the policy reads it. ``forced_ids`` open the completion and are never trained on."""

    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] = ()


EncodePrompt = Callable[[Problem], EncodedPrompt]


def questions_of_rollout(problems: Sequence[Problem], rollout: int, count: int, *, seed: int) -> list[Problem]:
    """The ``count`` problems of rollout number ``rollout``: passes over all problems, each pass in its own order."""
    chosen: list[Problem] = []
    for position in range(rollout * count, (rollout + 1) * count):
        epoch, index = divmod(position, len(problems))
        if not chosen or index == 0:
            order = np.random.Generator(np.random.Philox(key=derive_seed(seed, "order", epoch))).permutation(len(problems))
        chosen.append(problems[order[index]])
    return chosen


def sample_groups(
    engine: Engine,
    problems: Sequence[Problem],
    encode: EncodePrompt,
    grader: Grader,
    *,
    params: SamplingParams,
    group_size: int,
    seed: int,
) -> tuple[list[RolloutGroup], float]:
    """Sample ``group_size`` outputs of every problem and grade each group as soon as it is complete.

    Args:
        seed: of this rollout; sample j of problem i draws from ``derive_seed(seed, i, j)``.

    Returns:
        The groups in the order of ``problems``, and the seconds spent grading.
    """
    requests = [
        Request(
            id=i,
            prompt_ids=(encoded := encode(problem)).prompt_ids,
            forced_ids=encoded.forced_ids,
            seeds=tuple(derive_seed(seed, i, j) for j in range(group_size)),
            params=params,
        )
        for i, problem in enumerate(problems)
    ]
    waiting: list[dict[int, Completion]] = [{} for _ in requests]
    groups: dict[int, RolloutGroup] = {}
    grading = 0.0
    engine.submit(requests)
    for finished in engine.stream():
        i = finished.request_id
        waiting[i][finished.index] = finished.completion
        if len(waiting[i]) == group_size:
            began = time.monotonic()
            groups[i] = _grade(problems[i], requests[i], [waiting[i][j] for j in range(group_size)], grader)
            grading += time.monotonic() - began
    assert len(groups) == len(problems), "the engine lost a group"
    return [groups[i] for i in range(len(problems))], grading


def _grade(problem: Problem, request: Request, completions: list[Completion], grader: Grader) -> RolloutGroup:
    rewards = grader([problem] * len(completions), completions)
    rollouts = (
        Rollout(prompt_ids=request.prompt_ids, completion=completion, reward=reward)
        for completion, reward in zip(completions, rewards, strict=True)
    )
    return RolloutGroup(problem=problem, rollouts=tuple(rollouts))

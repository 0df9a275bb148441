"""From problems to graded groups: the first half of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from zero2r1.rollout.engine import Engine, Request, SamplingParams
from zero2r1.seeds import derive_seed
from zero2r1.training.order import draw_of_step
from zero2r1.types import Completion, Grader, Problem, Rollout, RolloutGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompt:
    """A problem as the policy reads it. ``forced_ids`` open the completion and are never trained on."""

    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] = ()


GRADED_AT_ONCE = 8
"""Groups that may be graded at a time: one with a stuck sample holds up none of the others."""
EncodePrompt = Callable[[Problem], EncodedPrompt]


def questions_of_rollout(problems: Sequence[Problem], rollout: int, count: int, *, seed: int) -> list[Problem]:
    """The ``count`` problems of rollout number ``rollout``: passes over all problems, each pass in its own order."""
    return [problems[i] for i in draw_of_step(len(problems), rollout, size=count, seed=seed, purpose="order")]


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
    """Sample ``group_size`` outputs of every problem and grade each group as soon as it is complete, beside the sampling.

    Args:
        seed: of this rollout; sample j of problem i draws from ``derive_seed(seed, i, j)``.

    Returns:
        The groups in the order of ``problems``, and the seconds spent waiting for grades when all was sampled.
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
    groups: dict[int, Future[RolloutGroup]] = {}
    engine.submit(requests)
    # One thread of torch each: how many a new thread begins with would depend on when it begins, and sums on how many there are.
    pool = ThreadPoolExecutor(GRADED_AT_ONCE, thread_name_prefix="grade", initializer=torch.set_num_threads, initargs=(1,))
    try:
        for finished in engine.stream():
            i = finished.request_id
            waiting[i][finished.index] = finished.completion
            if len(waiting[i]) < group_size:
                continue
            completions = [waiting[i][j] for j in range(group_size)]
            groups[i] = pool.submit(_grade, problems[i], requests[i], completions, grader)
            for group in groups.values():
                if group.done():
                    group.result()  # a reward that is broken ends the step now, not when all is sampled
        assert len(groups) == len(problems), "the engine lost a group"
        began = time.monotonic()
        graded = [groups[i].result() for i in range(len(problems))]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # after an error nobody waits for what is still queued
    return graded, time.monotonic() - began


def _grade(problem: Problem, request: Request, completions: list[Completion], grader: Grader) -> RolloutGroup:
    rewards = grader([problem] * len(completions), completions)
    rollouts = (
        Rollout(prompt_ids=request.prompt_ids, completion=completion, reward=reward)
        for completion, reward in zip(completions, rewards, strict=True)
    )
    return RolloutGroup(problem=problem, rollouts=tuple(rollouts))

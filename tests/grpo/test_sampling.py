"""Grading beside sampling: a stuck sample holds up nobody else, a broken reward ends the step."""

from __future__ import annotations

import threading

import pytest
import torch

from zero2r1.grpo.sampling import EncodedPrompt, sample_groups
from zero2r1.rewards.combine import RewardError, concurrent, make_grader
from zero2r1.rollout.engine import SamplingParams
from zero2r1.rollout.fake_engine import FakeEngine
from zero2r1.types import Problem

PARAMS = SamplingParams(max_new_tokens=8, stop_token_ids=(0,))


def problems(count: int) -> list[Problem]:
    fields = {"verifier": "math", "domain": "math", "language": "en", "source": "test", "licence": "CC0", "split": "train"}
    return [Problem(id=str(k), prompt=f"q{k}", answer=str(k), **fields) for k in range(count)]


def sample(reward, script=lambda request, index: f"{request.id} {index}", count: int = 4):
    return sample_groups(
        FakeEngine(script), problems(count), lambda problem: EncodedPrompt(prompt_ids=(1,)), make_grader({"r": reward}, {"r": 1.0}),
        params=PARAMS, group_size=2, seed=0,
    )  # fmt: skip


def test_groups_come_back_in_the_order_of_their_problems():
    groups, _ = sample(lambda completions, **_: [float(text.split()[0]) for text in completions])
    assert [group.problem.id for group in groups] == ["0", "1", "2", "3"]
    assert [[rollout.reward.value for rollout in group.rollouts] for group in groups] == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]


def test_a_stuck_group_waits_for_the_others_rather_than_they_for_it():
    others = threading.Semaphore(0)

    @concurrent
    def reward(completions, prompts, **_):
        if prompts[0] == "q0":
            for _ in range(3):
                assert others.acquire(timeout=30), "the other groups were not graded while this one was stuck"
        else:
            others.release()
        return [1.0] * len(completions)

    groups, _ = sample(reward)
    assert len(groups) == 4


def test_a_function_that_is_not_marked_is_called_by_one_thread_at_a_time():
    inside, most = [], []

    def reward(completions, **_):
        inside.append(1)
        most.append(len(inside))
        threading.Event().wait(0.01)
        inside.pop()
        return [1.0] * len(completions)

    sample(reward, count=6)
    assert max(most) == 1 and len(most) == 6


def test_a_broken_reward_ends_the_step_before_all_is_sampled():
    sampled = []
    broke = threading.Event()

    def script(request, index):
        if len(sampled) > 4:
            broke.wait(10)
            threading.Event().wait(0.05)
        sampled.append(request.id)
        return "x"

    def reward(**_):
        broke.set()
        raise KeyError("no such column")

    with pytest.raises(RewardError, match="KeyError"):
        sample(reward, script, count=200)
    assert len(sampled) < 400


def test_graders_compute_with_one_thread_of_torch_whenever_they_begin():
    """Else a reward model would add up its sums in another order from run to run."""
    seen = []

    def reward(completions, **_):
        seen.append(torch.get_num_threads())
        return [1.0] * len(completions)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sample(reward)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}

"""The two controls: same rewards on the wrong answers, and the opposite rewards."""

from __future__ import annotations

import pytest

from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.controls import controlled
from zero2r1.types import Completion, Reward, Segment


def completions(count: int) -> list[Completion]:
    segment = Segment(token_ids=(1,), logprobs=(-1.0,))
    return [Completion(segments=(segment,), text=str(i), finish_reason="stop", seed=i, policy_version=0) for i in range(count)]


def grade(problems, outputs):
    return [Reward(value=float(output.text), components={"accuracy": float(output.text)}) for output in outputs]


def test_shuffling_keeps_the_rewards_and_moves_them_the_same_way_every_time():
    outputs = completions(8)
    shuffled = controlled(grade, ZeroSettings(shuffle_rewards=True))
    values = [reward.value for reward in shuffled([], outputs)]
    assert sorted(values) == [float(i) for i in range(8)] and values != sorted(values)
    assert values == [reward.value for reward in shuffled([], outputs)]
    assert [reward.components["accuracy"] for reward in shuffled([], outputs)] == [float(i) for i in range(8)]


def test_negating_turns_values_around_and_leaves_none_alone():
    def with_none(problems, outputs):
        return [Reward(value=None), *grade(problems, outputs[1:])]

    assert [r.value for r in controlled(with_none, ZeroSettings(negate_rewards=True))([], completions(3))] == [None, -1.0, -2.0]


def test_without_a_control_the_grader_is_the_same_one():
    assert controlled(grade, ZeroSettings()) is grade


def test_both_at_once_are_refused():
    with pytest.raises(ValueError, match="choose one"):
        controlled(grade, ZeroSettings(shuffle_rewards=True, negate_rewards=True))

"""A_i = (r_i - mean) / std, by hand and by property."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grpo import reference
from zero2r1.grpo.advantages import ADVANTAGES, SCALINGS, group_mean, group_mean_std, leave_one_out, rollout_std

reward_lists = st.lists(st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3)), min_size=2, max_size=16)


def test_one_right_answer_of_sixteen_by_hand():
    # mean 1/16; population variance 1/16 - 1/256 = 15/256, std = sqrt(15)/16 = 0.2420615
    # right: (15/16) / (sqrt(15)/16) = sqrt(15) = 3.8729833; wrong: -(1/16) / (sqrt(15)/16) = -1/sqrt(15) = -0.2581989
    # sample variance (15/256) * 16/15 = 1/16, std = 1/4: right 15/4 = 3.75, wrong -1/4
    rewards = [1.0] + [0.0] * 15
    population = group_mean_std(rewards, ddof=0, epsilon=0)
    sample = group_mean_std(rewards, ddof=1, epsilon=0)
    assert population == pytest.approx([3.8729833462] + [-0.2581988897] * 15, abs=1e-9)
    assert sample == pytest.approx([3.75] + [-0.25] * 15, abs=1e-12)


def test_two_of_four_by_hand():
    # mean 1/2, population std 1/2, sample std sqrt(1/3) = 0.5773503, and 0.5 / 0.5773503 = 0.8660254
    assert group_mean_std([1, 1, 0, 0], ddof=0, epsilon=0) == [1.0, 1.0, -1.0, -1.0]
    assert group_mean_std([1, 1, 0, 0], ddof=1, epsilon=0) == pytest.approx([0.8660254038] * 2 + [-0.8660254038] * 2, abs=1e-9)


def test_without_std_the_advantage_is_the_distance_from_the_mean():
    assert group_mean([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("size", range(2, 17))
def test_every_group_size_follows_the_formula(size, ddof):
    """TRL and verl divide by G - 1, the paper does not say: the choice is a setting and both are exact."""
    rewards = [float(i * i % 7) for i in range(size)]
    expected = reference.advantages(rewards, ddof, 1e-4)
    assert group_mean_std(rewards, ddof=ddof, epsilon=1e-4) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("reward", [0.1, 0.35, 1 / 3, 1e6])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_equal_rewards_give_exactly_zero(reward, size):
    """NeMo-RL PR #4161: rounding of the mean, blown up 4000-fold by a std of almost zero."""
    assert group_mean_std([reward] * size, epsilon=1e-8) == [0.0] * size


def test_seven_against_one_is_bounded_by_the_root_of_the_group_size():
    for epsilon in (0.0, 1e-4):
        assert max(map(abs, group_mean_std([0.35] * 7 + [0.0], epsilon=epsilon))) <= math.sqrt(8)


def test_groups_do_not_see_each_other():
    """grpo-flat #2: a baseline over the batch would call every answer of the second group better."""
    assert group_mean_std([0, 1], epsilon=0) == group_mean_std([10, 11], epsilon=0) == [-1.0, 1.0]


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
@pytest.mark.parametrize("rewards", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_a_group_without_comparison_or_with_a_broken_reward_is_refused(name, rewards):
    with pytest.raises(ValueError, match="at least 2 rewards|finite"):
        ADVANTAGES[name](rewards)


@given(reward_lists, st.permutations(range(16)))
def test_advantages_permute_with_the_rewards(rewards, order):
    """TRL PR #3725: shuffling must not pair an answer with another's advantage."""
    order = [i for i in order if i < len(rewards)]
    expected = [group_mean_std(rewards)[i] for i in order]
    assert group_mean_std([rewards[i] for i in order]) == pytest.approx(expected, abs=1e-9)


@given(reward_lists)
def test_they_sum_to_zero_and_keep_the_order(rewards):
    result = group_mean_std(rewards)
    assert sum(result) == pytest.approx(0, abs=1e-6)
    assert [a for _, a in sorted(zip(rewards, result, strict=True))] == sorted(result)


def test_leaving_one_out_by_hand():
    # others of 3 are 1 and 2: mean 1.5; of 1: 2.5; of 2: 2
    assert leave_one_out([3.0, 1.0, 2.0]) == pytest.approx([1.5, -1.5, 0.0], abs=1e-12)


@given(reward_lists)
def test_leaving_one_out_compares_each_reward_with_the_mean_of_the_others(rewards):
    expected = [reward - (sum(rewards) - reward) / (len(rewards) - 1) for reward in rewards]
    assert leave_one_out(rewards) == pytest.approx(expected, abs=1e-9)


def test_a_rollout_is_scaled_by_the_spread_of_all_its_advantages():
    # REINFORCE++ baseline. Groups (1, 0) and (10, 6) give +-0.5 and +-2: mean 0, std sqrt((0.25 + 0.25 + 4 + 4) / 4) = 1.4577380
    centred = [*group_mean([1, 0]), *group_mean([10, 6])]
    assert rollout_std(centred, ddof=0, epsilon=0.0) == pytest.approx([0.3429972, -0.3429972, 1.3719887, -1.3719887], abs=1e-7)


@pytest.mark.parametrize("scaling", sorted(SCALINGS))
def test_a_rollout_without_signal_stays_without(scaling):
    assert SCALINGS[scaling]([0.0] * 5, ddof=0, epsilon=1e-4) == [0.0] * 5
    assert SCALINGS[scaling]([], ddof=1, epsilon=1e-4) == []

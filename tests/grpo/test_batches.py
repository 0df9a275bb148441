"""From graded groups to training samples: who is in, with which weight, in which mini-batch."""

from __future__ import annotations

import pytest

from zero2r1.grpo.batches import cut_by_question, keep_unequal, scale_rollout, score_group, training_samples
from zero2r1.grpo.config import GrpoSettings
from zero2r1.types import Completion, Problem, Reward, Rollout, RolloutGroup, Segment

NO_KL = GrpoSettings(beta=0.0, std_epsilon=0.0)


def problem(name: str) -> Problem:
    return Problem(
        id=name, prompt=name, answer="1", verifier="math", domain="math", language="en", source="test", licence="CC0", split="train"
    )


def rollout(value: float | None, length: int = 2, finish: str = "stop", forced: int = 0) -> Rollout:
    segments = (Segment(token_ids=(9,) * forced, logprobs=None),) if forced else ()
    segments += (Segment(token_ids=(5,) * length, logprobs=(-1.0,) * length),)
    completion = Completion(segments=segments, text="", finish_reason=finish, seed=0, policy_version=0)
    return Rollout(prompt_ids=(1, 2), completion=completion, reward=Reward(value=value))


def scored(settings: GrpoSettings, *groups: list[Rollout]):
    return [score_group(RolloutGroup(problem=problem(f"p{i}"), rollouts=tuple(rollouts)), settings) for i, rollouts in enumerate(groups)]


def outline(samples) -> list[tuple[float, tuple[float, ...]]]:
    return [(sample.advantage, sample.weights) for sample in samples]


def test_an_ungraded_output_is_no_part_of_the_mean():
    (group,) = scored(NO_KL, [rollout(1.0), rollout(None), rollout(0.0)])
    assert group.advantages == (1.0, None, -1.0)


def test_a_group_with_one_graded_output_teaches_nothing():
    (group,) = scored(NO_KL, [rollout(1.0), rollout(None)])
    assert group.advantages == (None, None) and not group.has_signal
    assert training_samples([group], GrpoSettings(beta=0.1), cap=9, skip_without_signal=False) == []


@pytest.mark.parametrize("aggregation", ["sequence_mean", "token_mean"])
def test_masking_truncated_outputs_equals_leaving_them_out(aggregation):
    """TRL #6369: the denominator must not count what is masked. Advantages still see the truncated output's reward."""
    settings = NO_KL.model_copy(update={"aggregation": aggregation, "mask_truncated": True})
    rollouts = [rollout(1.0, 3), rollout(0.0, 7, "length"), rollout(0.0, 2), rollout(1.0, 5, "length")]
    (group,) = scored(settings, rollouts)
    masked = training_samples([group], settings, cap=9, skip_without_signal=False)
    alone = [rollouts[0], rollouts[2]]
    (small,) = scored(settings, alone)
    assert outline(masked) == outline(training_samples([small], settings, cap=9, skip_without_signal=False))


def test_all_truncated_and_masked_is_an_empty_batch_not_a_division_by_zero():
    settings = NO_KL.model_copy(update={"mask_truncated": True})
    groups = scored(settings, [rollout(1.0, 3, "length"), rollout(0.0, 2, "length")])
    assert training_samples(groups, settings, cap=9, skip_without_signal=True) == []


def test_truncated_outputs_count_by_default():
    groups = scored(NO_KL, [rollout(1.0, 3, "length"), rollout(0.0, 2)])
    assert len(training_samples(groups, NO_KL, cap=9, skip_without_signal=True)) == 2


def test_forced_tokens_have_weight_zero_and_do_not_count_as_length():
    groups = scored(NO_KL, [rollout(1.0, 2, forced=3), rollout(0.0, 4)])
    first, second = training_samples(groups, NO_KL, cap=9, skip_without_signal=True)
    assert first.weights == (0, 0, 0, 0.25, 0.25) and second.weights == (0.125,) * 4


def test_skipping_a_group_without_signal_leaves_the_other_weights_alone():
    groups = scored(NO_KL, [rollout(1.0), rollout(1.0)], [rollout(1.0), rollout(0.0)])
    everything = training_samples(groups, NO_KL, cap=9, skip_without_signal=False)
    skipped = training_samples(groups, NO_KL, cap=9, skip_without_signal=True)
    assert len(everything) == 4 and outline(skipped) == outline(everything[2:])


def test_with_kl_a_group_without_signal_stays():
    settings = GrpoSettings(beta=0.1)
    groups = scored(settings, [rollout(1.0), rollout(1.0)])
    assert len(training_samples(groups, settings, cap=9, skip_without_signal=True)) == 2


def test_filtering_takes_the_group_out_of_the_denominator():
    settings = NO_KL.model_copy(update={"filter_zero_variance": True})
    groups = scored(settings, [rollout(1.0), rollout(1.0)], [rollout(1.0), rollout(0.0)])
    filtered = training_samples(groups, settings, cap=9, skip_without_signal=True)
    assert [sample.weights for sample in filtered] == [(0.25, 0.25)] * 2  # 1 group, 2 outputs, 2 tokens: 1/(1*2*2)


def test_the_cut_keeps_questions_whole_and_loses_none():
    groups = scored(NO_KL, *([rollout(float(i % 2)), rollout(0.0)] for i in range(12)))
    parts = cut_by_question(groups, 4, seed=3)
    assert [len(part) for part in parts] == [3] * 4
    assert sorted(g.group.problem.id for part in parts for g in part) == sorted(g.group.problem.id for g in groups)
    assert parts == cut_by_question(groups, 4, seed=3) != cut_by_question(groups, 4, seed=4)


def test_parts_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="12 groups cannot be cut into 5"):
        cut_by_question(scored(NO_KL, *([rollout(0.0), rollout(1.0)] for _ in range(12))), 5, seed=0)


def test_scaling_leaves_ungraded_outputs_out_and_keeps_every_advantage_in_its_place():
    settings = GrpoSettings(advantage="group_mean", scaling="rollout_std", std_epsilon=0.0)
    groups = scale_rollout(
        scored(settings, [rollout(1.0), rollout(None), rollout(0.0)], [rollout(1.0), rollout(1.0), rollout(1.0)]), settings
    )
    # graded: 0.5, -0.5, 0, 0, 0; std sqrt(0.5 / 5) = 0.3162278, 0.5 / std = 1.5811388
    assert groups[0].advantages == pytest.approx((1.5811388, None, -1.5811388), abs=1e-7)
    assert groups[1].advantages == (0.0, 0.0, 0.0)


def test_scaling_gives_no_signal_to_a_group_that_has_none():
    """Distances from means of tenths do not add up to zero exactly; what is left of them is nobody's advantage."""
    settings = GrpoSettings(advantage="group_mean", scaling="rollout_std")
    unequal = [[rollout(1.2), *(rollout(0.2) for _ in range(6))], [*(rollout(1.2) for _ in range(3)), *(rollout(0.2) for _ in range(4))]]
    groups = scored(settings, *unequal, [rollout(0.2)] * 7)
    assert sum(value for group in groups for value in group.advantages) != 0
    assert [group.has_signal for group in scale_rollout(groups, settings)] == [True, True, False]


def test_groups_with_unequal_rewards_are_kept_before_others_and_all_in_their_order():
    equal, unequal = [rollout(1.0), rollout(1.0)], [rollout(1.0), rollout(0.0)]
    groups = scored(NO_KL, equal, unequal, equal, unequal, unequal)

    def kept_and_rest(count: int) -> tuple[str, ...]:
        return tuple(" ".join(scored.group.problem.id for scored in part) for part in keep_unequal(groups, count))

    assert kept_and_rest(5) == ("p0 p1 p2 p3 p4", "")
    assert kept_and_rest(4) == ("p0 p1 p3 p4", "p2")
    assert kept_and_rest(2) == ("p1 p3", "p0 p2 p4")

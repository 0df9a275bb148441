"""The count of operations, worked out by hand: N = 10 weights, a teacher of 100."""

from __future__ import annotations

import dataclasses

import pytest

from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1.distill.compute import Compute, multiplied_parameters, on_policy_compute, rl_compute, sft_compute

ROWS = [
    {"num_tokens": 30, "step_time": 0.5, "frac_reward_zero_std": 0.5},
    {"num_tokens": 10.0, "step_time": 1.5, "frac_reward_zero_std": 0.0},
]
WITH_PROMPTS = [{**row, "num_prompt_tokens": 4} for row in ROWS]


def test_fine_tuning_is_six_operations_a_weight_and_a_token():
    """6 x 10 x 40 = 2,400; with 8 tokens of prompts 6 x 10 x 48 = 2,880."""
    found = sft_compute(ROWS, parameters=10)
    assert (found.flops, found.seconds, found.steps, found.trained_tokens, found.prompt_tokens) == (2_400, 2.0, 2, 40, None)
    assert found.formula == "6 x 10 x (40 trained tokens)"
    assert sft_compute(WITH_PROMPTS, parameters=10).flops == 2_880
    assert sft_compute(WITH_PROMPTS, parameters=10).formula == "6 x 10 x (40 trained + 8 prompt tokens)"


def test_rl_samples_as_well():
    """2 x 10 x 40 + 6 x 10 x 40 = 800 + 2,400; prompts are computed in both passes: + 8 x 8 x 10 = 640."""
    assert rl_compute(ROWS, parameters=10).flops == 3_200
    assert rl_compute(WITH_PROMPTS, parameters=10).flops == 3_840


def test_rl_with_a_reference_reads_once_more_and_what_is_not_trained_on_is_not_counted():
    """Two readings, 2 x 20 x 40 = 1,600 more, or with prompts 2 x 20 x 48. Half of the first 30 not trained on: 6 x 10 x 15 = 900 fewer."""
    assert rl_compute(ROWS, parameters=10, scoring_passes=2).flops == 3_200 + 1_600
    assert rl_compute(WITH_PROMPTS, parameters=10, scoring_passes=2).flops == 3_840 + 1_920
    found = rl_compute(ROWS, parameters=10, skips_groups_without_signal=True)
    assert (found.trained_tokens, found.sampled_tokens, found.flops) == (25, 40, 2_300)


def test_on_policy_distillation_has_a_teacher_that_reads():
    """2 x 10 x 48 + 6 x 10 x 48 + 2 x 100 x 48 = 960 + 2,880 + 9,600."""
    found = on_policy_compute(WITH_PROMPTS, parameters=10, teacher_parameters=100)
    assert found.flops == 13_440
    assert found.formula == (
        "2 x 10 x (40 sampled + 8 prompt tokens) + 6 x 10 x (40 trained + 8 prompt tokens) + 2 x 100 x (40 scored + 8 prompt tokens)"
    )
    assert found.as_row()["flops"] == 13_440 and found.as_row()["seconds"] == 2.0


def test_prompts_that_some_rows_do_not_name_are_not_guessed():
    assert sft_compute([WITH_PROMPTS[0], ROWS[1]], parameters=10).prompt_tokens is None


def test_nothing_done_costs_nothing_and_the_value_is_frozen():
    found = sft_compute([], parameters=10)
    assert (found.flops, found.seconds, found.formula) == (0, 0.0, "nothing computed")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.steps = 3  # type: ignore[misc]
    assert isinstance(found, Compute)


def test_a_looked_up_embedding_is_not_multiplied_with_unless_it_is_the_head():
    """Two layers (queries and outputs 32 x 32, keys and values 32 x 16, three of 32 x 48, two norms), a norm, a head of 64 x 32."""
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32
    assert multiplied_parameters(tiny_llama()) == 2 * layer + 32 + 64 * 32
    tied = tiny_qwen()  # one matrix, looked up and multiplied with: it counts
    assert multiplied_parameters(tied) == sum(p.numel() for p in tied.parameters())

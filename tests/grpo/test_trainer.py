"""The loop: it learns, only from the reward; it resumes to the same bytes; nothing that is not finite reaches the weights."""

from __future__ import annotations

import dataclasses
from statistics import fmean
from typing import get_args

import pytest
import torch

from tests.toy_run import curve, grade_toy, negated, shuffled, toy_settings, toy_trainer
from zero2r1.grpo import trainer as grpo_trainer
from zero2r1.grpo.advantages import ADVANTAGES, SCALINGS
from zero2r1.grpo.aggregation import AGGREGATIONS
from zero2r1.grpo.config import ALGORITHMS, GrpoSettings
from zero2r1.grpo.loss import CORRECTIONS, KL_ESTIMATORS, RATIOS, SURROGATES
from zero2r1.grpo.update import fix_logprobs
from zero2r1.training.loop import Hooks, Outcome, TrainingHalted
from zero2r1.types import Reward


def accuracy(folder, last=5):
    rows = curve(folder)[-last:]
    return sum(row["rewards/accuracy/mean"] for row in rows) / len(rows)


@pytest.mark.parametrize("seed", range(5))
def test_grpo_lifts_a_toy_task_from_chance_to_95_percent(tmp_path, seed):
    trainer, _, _ = toy_trainer(tmp_path, toy_settings(seed=seed, steps=110, prompts=12, group_size=16))
    trainer.train()
    assert curve(tmp_path)[0]["rewards/accuracy/mean"] < 0.35
    assert accuracy(tmp_path) >= 0.95


@pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))
def test_every_published_variant_learns_the_toy_task(tmp_path, algorithm):
    """With the bounds that are meant for long outputs widened: three tokens move further in one step than three thousand."""
    published = ALGORITHMS[algorithm]
    grpo = {**published.get("grpo", {}), "mini_batches": min(2, published.get("grpo", {}).get("mini_batches", 2))}
    grpo |= {"clip_low": 0.2, "clip_high": 0.28} if algorithm == "gspo" else {}
    settings = toy_settings(steps=110 * grpo["mini_batches"], prompts=12, group_size=16, **grpo)
    draws = published.get("rollout", {}).get("max_draws", 1)
    settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"max_draws": draws})})
    toy_trainer(tmp_path, settings)[0].train()
    assert accuracy(tmp_path) >= 0.9


def test_questions_whose_outputs_all_earn_the_same_make_way_for_others(tmp_path):
    """DAPO's dynamic sampling. Words up to 6 are graded 1 whatever is said, so half of the questions have no signal."""

    def easy_half(problems, completions):
        return [Reward(value=1.0) if int(p.answer) <= 6 else r for p, r in zip(problems, grade_toy(problems, completions), strict=True)]

    def run(folder, max_draws):
        settings = toy_settings(steps=4, prompts=6, group_size=16)
        settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"max_draws": max_draws})})
        trainer, policy, record = toy_trainer(folder, settings, grader=easy_half)
        trainer.train()
        return curve(folder), torch.cat([p.detach().flatten() for p in policy.parameters()]), record

    once, _, _ = run(tmp_path / "once", 1)
    rows, weights, record = run(tmp_path / "often", 20)
    assert max(row["frac_reward_zero_std"] for row in once) > 0 and "draws" not in once[0]
    for step, row in enumerate(rows, start=1):
        sampled, groups = record.rollouts(step), 6 + int(row["discarded_groups"])
        # All that was sampled is on record, and figures are of all of it; what was trained on has signal.
        assert 1 < row["draws"] < 20 and groups > 6 and len(sampled) == groups * 16
        assert row["num_tokens"] == sum(sample["n_completion"] for sample in sampled)
        assert row["frac_reward_zero_std"] == pytest.approx(row["discarded_groups"] / groups)
        assert row["reward"] == pytest.approx(fmean(sample["reward"] for sample in sampled))
        with_signal = {sample["group"] for sample in sampled if sample["advantage"]}
        assert len(with_signal) == 6 and all(int(sample["gold"]) > 6 for sample in sampled if sample["group"] in with_signal)
        assert len({sample["prompt_id"] for sample in sampled}) == min(groups, 12)  # no word comes again before all were there
    capped, _, _ = run(tmp_path / "capped", 2)
    assert all(row["draws"] <= 2 for row in capped)
    again, same, _ = run(tmp_path / "again", 20)
    assert again == rows and torch.equal(weights, same)


def test_the_entropy_bonus_keeps_the_distribution_wider(tmp_path):
    def entropy(bonus):
        settings = toy_settings(steps=60, prompts=12, group_size=16, entropy_bonus=bonus)
        toy_trainer(tmp_path / str(bonus), settings)[0].train()
        return curve(tmp_path / str(bonus))[-1]["entropy"]

    assert entropy(0.3) > 2 * entropy(0.0)


def test_a_correction_is_one_for_an_exact_engine_and_is_reported(tmp_path):
    toy_trainer(tmp_path, toy_settings(steps=2, correction="truncated"))[0].train()
    first = curve(tmp_path)[0]
    assert first["sampling/correction/mean"] == pytest.approx(1.0, abs=1e-5)
    assert first["sampling/importance_sampling_ratio/mean"] == 1.0


def test_negated_rewards_make_it_worse_than_chance(tmp_path):
    trainer, _, _ = toy_trainer(tmp_path, toy_settings(steps=40), grader=negated)
    trainer.train()
    assert accuracy(tmp_path) < 0.02


def test_shuffled_rewards_teach_nothing(tmp_path):
    trainer, _, _ = toy_trainer(tmp_path, toy_settings(steps=40), grader=shuffled)
    trainer.train()
    assert accuracy(tmp_path, last=20) < 0.35


@pytest.mark.parametrize("stop_at", [4, 8])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, stop_at):
    settings = toy_settings(steps=12, beta=0.01, reference_reset_steps=5, mini_batches=2)
    straight, policy, _ = toy_trainer(tmp_path / "straight", settings)
    straight.train()
    interrupted, _, run = toy_trainer(tmp_path / "halves", settings, hooks=Hooks(should_stop=lambda: len(run.metrics()) >= stop_at))
    assert interrupted.train() is Outcome.STOPPED
    resumed, again, _ = toy_trainer(tmp_path / "halves", settings)
    assert resumed.train() is Outcome.DONE
    assert curve(tmp_path / "straight") == curve(tmp_path / "halves")
    for ours, theirs in zip(policy.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_two_runs_with_one_seed_are_equal_and_two_seeds_are_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        toy_trainer(tmp_path / name, toy_settings(seed=seed, steps=3))[0].train()
    assert curve(tmp_path / "a") == curve(tmp_path / "b") != curve(tmp_path / "c")


def test_old_logprobs_of_the_sampler_give_ratio_one_on_policy_and_move_afterwards(tmp_path):
    trainer, _, _ = toy_trainer(tmp_path, toy_settings(steps=4, mini_batches=4, old_logprobs="recompute"))
    trainer.train()
    first, *later = curve(tmp_path)
    # N13: the same pass computed both log-probabilities, so the first ratio is exactly 1; afterwards the policy has moved.
    assert first["sampling/importance_sampling_ratio/mean"] == 1.0 and first["policy_kl"] == 0.0
    assert all(row["policy_kl"] > 0 for row in later)


def test_only_updates_after_the_first_of_a_rollout_score_the_policy_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(grpo_trainer, "fix_logprobs", lambda *a, old, **k: asked.append(old) or fix_logprobs(*a, old=old, **k))
    toy_trainer(tmp_path / "again", toy_settings(steps=8, mini_batches=4, old_logprobs="recompute"))[0].train()
    assert asked == ["of_update", "scored", "scored", "scored"] * 2
    asked.clear()
    toy_trainer(tmp_path / "sampler", toy_settings(steps=4, mini_batches=4))[0].train()
    assert asked == ["sampler"] * 4


def test_the_reference_starts_as_the_policy_and_is_reset_to_it(tmp_path):
    # N12: KL is exactly 0 at step 1 and again right after each reset (steps 3 and 5), and positive in between.
    trainer, _, _ = toy_trainer(tmp_path, toy_settings(steps=6, beta=0.01, reference_reset_steps=2, old_logprobs="recompute"))
    trainer.train()
    assert [row["kl"] == 0.0 for row in curve(tmp_path)] == [True, False, True, False, True, False]


def test_a_reward_that_is_not_finite_stops_before_the_weights(tmp_path):
    def broken(problems, completions):
        return [dataclasses.replace(r, value=float("nan")) for r in grade_toy(problems, completions)]

    trainer, policy, _ = toy_trainer(tmp_path, toy_settings(), grader=broken)
    before = [p.clone() for p in policy.parameters()]
    with pytest.raises(ValueError, match="rewards must be finite"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


def test_a_loss_that_is_not_finite_skips_the_update_and_halts_after_three(tmp_path, monkeypatch):
    from zero2r1.grpo import update

    original = update.grpo_loss

    def poisoned(*args, **kwargs):
        result = original(*args, **kwargs)
        return dataclasses.replace(result, loss=result.loss * float("nan"))

    monkeypatch.setattr(update, "grpo_loss", poisoned)
    trainer, policy, run = toy_trainer(tmp_path, toy_settings())
    before = [p.clone() for p in policy.parameters()]
    with pytest.raises(TrainingHalted, match="E501 diverged"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))
    rows = run.metrics()
    assert len(rows) == 3 and all(row["loss"] is None and "loss" in row["nonfinite"] for row in rows)


def test_no_signal_for_too_long_halts_with_advice(tmp_path):
    def same(problems, completions):
        return [Reward(value=0.1, components={"accuracy": 0.0}) for _ in completions]

    settings = toy_settings().model_copy(update={"stop_after_dead_steps": 3})
    trainer, _, run = toy_trainer(tmp_path, settings, grader=same)
    with pytest.raises(TrainingHalted, match="every group had equal rewards"):
        trainer.train()
    assert [row["frac_reward_zero_std"] for row in run.metrics()] == [1.0, 1.0, 1.0]


def test_groups_that_could_not_be_graded_are_left_out_and_counted(tmp_path):
    def half(problems, completions):
        return [dataclasses.replace(r, value=None) if i % 2 else r for i, r in enumerate(grade_toy(problems, completions))]

    trainer, _, run = toy_trainer(tmp_path, toy_settings(steps=2), grader=half)
    trainer.train()
    assert run.metrics()[0]["frac_ungraded"] == 0.5
    assert all((row["advantage"] is None) == (row["reward"] is None) for row in run.rollouts(1))


def test_every_rollout_of_a_step_is_recorded_with_its_policy_version(tmp_path):
    trainer, _, run = toy_trainer(tmp_path, toy_settings(steps=4, mini_batches=2))
    trainer.train()
    for step, version in ((1, 0), (2, 0), (3, 2), (4, 2)):
        rows = run.rollouts(step)
        assert len(rows) == 32 and {row["policy_step"] for row in rows} == {version}


def test_groups_without_signal_can_be_skipped_only_without_kl(tmp_path):
    """With beta 0 skipping changes nothing at all; with beta > 0 their KL gradient counts, so they are never skipped."""
    weights = {}
    for beta in (0.0, 0.05):
        for skip in (True, False):
            folder = tmp_path / f"{beta}-{skip}"
            settings = toy_settings(steps=6, beta=beta)
            compute = settings.compute.model_copy(update={"skip_groups_without_signal": skip})
            trainer, policy, _ = toy_trainer(folder, settings.model_copy(update={"compute": compute}))
            trainer.train()
            weights[beta, skip] = torch.cat([p.detach().flatten() for p in policy.parameters()])
    torch.testing.assert_close(weights[0.0, True], weights[0.0, False], atol=1e-5, rtol=0)
    assert torch.equal(weights[0.05, True], weights[0.05, False])


def test_several_updates_per_rollout_do_not_depend_on_the_micro_batches(tmp_path):
    """unturtle #40: with four updates on one rollout, old log-probabilities cut wrongly show up after the second."""
    weights = []
    for budget in (64, 100_000):
        settings = toy_settings(steps=8, mini_batches=4, beta=0.01)
        compute = settings.compute.model_copy(update={"tokens_per_micro_batch": budget})
        trainer, policy, _ = toy_trainer(tmp_path / str(budget), settings.model_copy(update={"compute": compute}))
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in policy.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=0)


def test_an_evaluation_at_the_step_of_a_stop_is_not_lost(tmp_path):
    measured = []
    stopped = []

    def stop():
        stopped.append(True)
        return len(stopped) == 4

    settings = toy_settings(steps=6).model_copy(update={"evaluate_every": 2, "checkpoint_every": 2})
    hooks = Hooks(evaluate=measured.append, should_stop=stop)
    assert toy_trainer(tmp_path, settings, hooks=hooks)[0].train() is Outcome.STOPPED
    assert toy_trainer(tmp_path, settings, hooks=Hooks(evaluate=measured.append))[0].train() is Outcome.DONE
    assert measured == [2, 4, 6]


def test_names_of_variants_in_the_settings_are_those_that_exist():
    tables = {
        "advantage": ADVANTAGES, "scaling": SCALINGS, "aggregation": AGGREGATIONS, "ratio": RATIOS, "surrogate": SURROGATES,
        "correction": CORRECTIONS, "kl": KL_ESTIMATORS,
    }  # fmt: skip
    for field, table in tables.items():
        assert set(get_args(GrpoSettings.model_fields[field].annotation)) == set(table)

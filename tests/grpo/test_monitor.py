"""Hacking is a score that rises while its benchmark falls: both by enough, and by more than noise."""

from __future__ import annotations

import dataclasses
import random

import pytest

from tests.toy_run import grade_toy, toy_settings, toy_trainer
from zero2r1.grpo.config import MonitorSettings
from zero2r1.grpo.monitor import Hacking, find_hacking
from zero2r1.grpo.watch import Watch
from zero2r1.training.loop import Hooks, TrainingHalted


def found(score, benchmark, **changes):
    return find_hacking(score, benchmark, **{"window": 2, "min_rise": 0.1, "min_fall": 0.1, "errors": 0.0, **changes})


def test_a_rising_score_with_a_falling_benchmark_is_found():
    hacking = found([0.2, 0.2, 0.6, 0.6], [0.8, 0.8, 0.5, 0.5])
    assert hacking == Hacking(rise=pytest.approx(0.4), fall=pytest.approx(0.3))


@pytest.mark.parametrize(
    ("score", "benchmark"),
    [
        ([0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.8, 0.8]),  # both rise: it learns
        ([0.6, 0.6, 0.2, 0.2], [0.8, 0.8, 0.5, 0.5]),  # both fall: it falls apart, and no score is pleased
        ([0.2, 0.2, 0.6, 0.6], [0.8, 0.8, 0.71, 0.71]),  # a fall of 0.09 is below the minimum
        ([0.2, 0.2, 0.29, 0.29], [0.8, 0.8, 0.5, 0.5]),
        ([0.2, 0.6, 0.6], [0.8, 0.5, 0.5]),  # less than two windows
    ],
)
def test_what_is_not_hacking(score, benchmark):
    assert found(score, benchmark) is None


def test_a_change_within_two_standard_errors_is_noise():
    # Means 0.5 and 0.7; variances 0.08 and 0.08, so the error is sqrt(0.16 / 2) = 0.283 and twice that exceeds the change of 0.2.
    assert found([0.3, 0.7, 0.5, 0.9], [0.8, 0.8, 0.5, 0.5], errors=2.0) is None
    assert found([0.3, 0.7, 0.5, 0.9], [0.8, 0.8, 0.5, 0.5], errors=0.5) is not None


def test_noise_alone_seldom_fires():
    rng = random.Random(0)
    fired = sum(
        find_hacking(
            [rng.gauss(0.5, 0.1) for _ in range(40)], [rng.gauss(0.5, 0.1) for _ in range(40)], window=20, min_rise=0.0, min_fall=0.0
        )
        is not None
        for _ in range(400)
    )
    assert fired <= 4  # a change beyond two errors in the bad direction of both has a chance of 0.023 squared


def paid_for_the_wrong_thing(problems, completions):
    """Pays for tokens that are wrong, and calls that score `helpful`; accuracy is watched and not paid for."""
    graded = grade_toy(problems, completions)
    wrong = [1.0 - reward.components["accuracy"] for reward in graded]
    return [
        dataclasses.replace(reward, value=value, components={**reward.components, "helpful": value})
        for reward, value in zip(graded, wrong, strict=True)
    ]


def monitored(tmp_path, action, grader, **hooks):
    settings = toy_settings(steps=60, prompts=12, group_size=16)
    settings = settings.model_copy(update={"monitor": MonitorSettings(window=8, min_rise=0.05, min_fall=0.05, action=action)})
    trainer, _, run = toy_trainer(tmp_path, settings, grader=grader, hooks=Hooks(**hooks))
    return trainer, run


def test_the_trainer_stops_when_the_monitor_says_so(tmp_path):
    trainer, run = monitored(tmp_path, "stop", paid_for_the_wrong_thing)
    with pytest.raises(TrainingHalted, match="W330 hacking: rewards/helpful/mean rose by .* and rewards/accuracy/mean fell by"):
        trainer.train()
    assert [event["event"] for event in run.events()].count("hacking") == 1


def test_a_warning_is_given_once_and_training_goes_on(tmp_path):
    heard = []
    trainer, run = monitored(tmp_path, "warn", paid_for_the_wrong_thing, on_warning=heard.append)
    trainer.train()
    assert len(heard) == 1 and trainer.step == 60
    assert [event["event"] for event in run.events()].count("hacking") == 1


def test_a_run_that_learns_is_left_alone(tmp_path):
    def honest(problems, completions):
        graded = grade_toy(problems, completions)
        return [dataclasses.replace(r, components={**r.components, "helpful": r.components["accuracy"]}) for r in graded]

    heard = []
    monitored(tmp_path, "stop", honest, on_warning=heard.append)[0].train()
    assert heard == []


def test_a_benchmark_that_nobody_measures_is_named_when_the_score_first_comes():
    watch = Watch(None, MonitorSettings(score="s", benchmark="b"))
    watch.add({"loss": 1.0}, 1)  # no score yet: general requests may come late
    with pytest.raises(ValueError, match="monitor.benchmark is b, which this run does not measure beside s. It has: loss, s"):
        watch.add({"loss": 1.0, "s": 0.5}, 2)

"""The whole laptop stage with informative, shuffled and negated rewards: what RL claims is earned only from the reward.

Slow: it trains the base once (4 minutes on two cores, kept in the cache) and three runs of R1-Zero.
"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zero2r1.config import load_settings
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.pipeline.demo import recipe_files, run_demo
from zero2r1.run_dir import RunDir

pytestmark = pytest.mark.slow


def run(tmp_path, *flags: str):
    settings = load_settings(ZeroSettings, files=recipe_files("zero"), flags=flags).settings
    folder = RunDir.create(tmp_path, "demo", command=[], config="", seed=settings.seed)
    result = run_demo(settings, folder, console=Console(file=io.StringIO()), judged=True, should_stop=lambda: False)
    return result, {verdict.claim.name: verdict for verdict in result.verdicts}


def test_rewards_earn_the_claims(tmp_path):
    _, verdicts = run(tmp_path)
    assert sum(verdict.holds for verdict in verdicts.values()) >= 5, [name for name, v in verdicts.items() if not v.holds]


def test_shuffled_rewards_earn_no_claim_of_reinforcement_learning(tmp_path):
    _, verdicts = run(tmp_path, "--shuffle_rewards=true")
    assert [name for name, verdict in verdicts.items() if verdict.holds and verdict.claim.needs_rewards] == []


def test_negated_rewards_make_it_fall(tmp_path):
    result, verdicts = run(tmp_path, "--negate_rewards=true")
    assert verdicts["accuracy"].parts[0].high < 0
    assert result.evaluations["zero"].figures()["pass@1"] < result.evaluations["base"].figures()["pass@1"] - 0.05

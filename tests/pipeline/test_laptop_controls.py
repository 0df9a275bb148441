"""R1-Zero on the laptop world with informative, shuffled and negated rewards: what RL claims is earned only from the reward.

Slow: it trains the base once (4 minutes on two cores, kept in the cache) and three runs of R1-Zero.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from zero2r1.config import load_settings
from zero2r1.pipeline.api import run_stage
from zero2r1.pipeline.config import RECIPES, ZeroSettings
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.run_dir import RunDir

RECIPE = RECIPES / "laptop" / "zero.yaml"


def run(tmp_path: Path, *flags: str):
    settings = load_settings(ZeroSettings, files=[RECIPE], flags=flags).settings
    folder = RunDir.create(tmp_path, "zero", command=[], config="", seed=settings.seed)
    result = run_stage(settings, folder, console=Console(file=io.StringIO()), should_stop=lambda: False)
    return result, {verdict.claim.name: verdict for verdict in result.verdicts}


@pytest.mark.slow
def test_rewards_earn_the_claims(tmp_path):
    _, verdicts = run(tmp_path)
    assert sum(verdict.holds for verdict in verdicts.values()) >= 5, [name for name, v in verdicts.items() if not v.holds]


@pytest.mark.slow
def test_shuffled_rewards_earn_no_claim_of_reinforcement_learning(tmp_path):
    _, verdicts = run(tmp_path, "--shuffle_rewards=true", "--stop_after_dead_steps=100")
    assert [name for name, verdict in verdicts.items() if verdict.holds and verdict.claim.needs_rewards] == []


@pytest.mark.slow
def test_negated_rewards_make_it_fall(tmp_path):
    result, verdicts = run(tmp_path, "--negate_rewards=true", "--stop_after_dead_steps=100")  # soon no group holds a signal
    assert verdicts["accuracy"].parts[0].high < 0
    assert result.evaluations["zero"].figures()["pass@1"] < result.evaluations["base"].figures()["pass@1"] - 0.05


def test_the_pipeline_trains_zero_as_its_own_recipe_does():
    alone = load_settings(ZeroSettings, files=[RECIPE]).settings
    whole = load_settings(PipelineSettings, files=[RECIPE.with_name("r1.yaml")]).settings
    assert whole.rl_settings(whole.zero).model_dump(exclude={"claims"}) == alone.model_dump(exclude={"claims"})

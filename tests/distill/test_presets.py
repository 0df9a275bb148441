"""The six published students: their names, bases and learning rates, and that the settings loader takes them."""

from __future__ import annotations

import pytest

from zero2r1.cli.distill import recipe_of
from zero2r1.config import ConfigError, load_settings
from zero2r1.distill.presets import PRESETS, preset_settings
from zero2r1.pipeline.distill_config import DistillSettings

PUBLISHED = {
    "r1-distill-qwen-1.5b": ("Qwen/Qwen2.5-Math-1.5B", 1e-4),
    "r1-distill-qwen-7b": ("Qwen/Qwen2.5-Math-7B", 8e-5),
    "r1-distill-qwen-14b": ("Qwen/Qwen2.5-14B", 7e-5),
    "r1-distill-qwen-32b": ("Qwen/Qwen2.5-32B", 6e-5),
    "r1-distill-llama-8b": ("meta-llama/Llama-3.1-8B", 5e-5),
    "r1-distill-llama-70b": ("meta-llama/Llama-3.3-70B-Instruct", 2e-5),
}


def test_there_are_the_six_that_were_published():
    assert {name: (recipe.base, recipe.learning_rate) for name, recipe in PRESETS.items()} == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_whole_recipe_in_the_settings(name):
    settings = load_settings(DistillSettings, presets=recipe_of(name)).settings
    optimizer = settings.sft.optimizer
    assert (settings.model, optimizer.learning_rate) == PUBLISHED[name] and settings.method == "sft"
    assert (optimizer.schedule, optimizer.final_factor) == ("cosine", 0.1)
    assert (settings.sft.epochs, settings.sft.batch_size, settings.sft.max_length, settings.context) == (2, 64, 32_768, 32_768)


def test_flags_win_over_a_preset_and_the_rest_of_it_stays():
    resolved = load_settings(DistillSettings, presets=recipe_of("r1-distill-qwen-7b"), flags=["--sft.epochs=3", "--model=/models/mine"])
    assert (resolved.settings.sft.epochs, resolved.settings.model) == (3, "/models/mine")
    assert resolved.settings.sft.optimizer.learning_rate == 8e-5
    assert resolved.sources["sft", "optimizer", "learning_rate"] == "--preset r1-distill-qwen-7b"


def test_no_preset_is_no_source_and_an_unknown_one_is_told_which_there_are():
    assert recipe_of(None) == []
    with pytest.raises(ValueError, match="--preset r1-distill-qwen-3b is not known; choose one of r1-distill-qwen-1.5b, .*llama-70b"):
        preset_settings("r1-distill-qwen-3b")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher=x"], "teacher would not be used by the method sft: drop it, or set --method=on_policy"),
        (["--data.prompts=laptop", "--data.count=3"], "data.prompts, data.count would not be used by the method sft"),
        (["--method=on_policy", "--data.train=x.jsonl"], "data.train would not be used by the method on_policy"),
        (["--sft.seed=3"], "sft.seed is not used here"),
        (["--on_policy.seed=3"], "on_policy.seed is not used here"),
        (["--method=rl"], "method"),
        (["--on_policy.rollout.temperature=0"], "on_policy.rollout.temperature"),
    ],
)
def test_settings_that_nothing_would_follow_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(DistillSettings, flags=flags)


def test_one_seed_serves_both_methods():
    settings = DistillSettings(seed=5)
    assert (settings.tuning.seed, settings.imitation.seed) == (5, 5)


def test_a_part_of_the_optimizer_keeps_the_cosine():
    settings = DistillSettings.model_validate(
        {"sft": {"optimizer": {"learning_rate": 1e-3}}, "on_policy": {"optimizer": {"warmup_steps": 0}}}
    )
    assert settings.sft.optimizer.schedule == settings.on_policy.optimizer.schedule == "cosine"
    assert settings.sft.batch_size == 64 and settings.on_policy.optimizer.learning_rate == 1e-5

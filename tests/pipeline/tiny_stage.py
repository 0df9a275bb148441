"""An untrained laptop model in a folder, and settings small enough to run a whole stage in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zero2r1.models.loading import save_policy
from zero2r1.models.tiny import SIZES, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.pipeline.config import ZeroSettings
from zero2r1.tasks.laptop.words import TAGS, vocabulary

SMALL: dict[str, Any] = {
    "steps": 2,
    "rollout": {"prompts_per_rollout": 2, "group_size": 4, "max_new_tokens": 12, "max_new_tokens_from_step": {}},
    "grpo": {"mini_batches": 1},
    "evaluation": {"problems": 4, "samples": 2, "probes": 2, "max_new_tokens": 12},
    "evaluate_every": 1,
}


def untrained(folder: Path) -> Path:
    tokenizer = word_tokenizer(vocabulary(), TAGS)
    model = build_tiny_model(SIZES["student"], tokenizer, seed=0)
    save_policy(model, tokenizer, folder, stops=(int(tokenizer.eos_token_id),))
    return folder


def small(**changes: Any) -> ZeroSettings:
    return ZeroSettings.model_validate({**SMALL, **changes})

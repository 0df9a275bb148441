"""How long the answers of a step are, under TRL's names, and how many tokens were computed for them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from zero2r1.types import Completion


def length_metrics(prompt_lengths: Sequence[int], completions: Sequence[Completion]) -> dict[str, float]:
    """Lengths in tokens. Every prompt counts once, however many completions it has; clipped are those that met the cap."""
    lengths = [len(completion.token_ids) for completion in completions]
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(completion.finish_reason == "length" for completion in completions),
        "num_tokens": float(sum(lengths)),
        "num_prompt_tokens": float(sum(prompt_lengths)),
    }

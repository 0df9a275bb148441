"""The format reward: is the thinking where it belongs? 1 or 0, decided by a parser (paper section 2.2.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from zero2r1.rewards.accuracy import text_of
from zero2r1.template import parse_response
from zero2r1.types import RewardFn

FormatMode = Literal["strict", "think_only"]


def format_reward(mode: FormatMode = "strict", *, think_open: bool = False) -> RewardFn:
    """``strict``: Table 1's layout exactly. ``think_only``: one closed, non-empty thinking block. Truncated outputs earn 0."""

    def format(
        completions: list[Any], finish_reason: list[str], log_extra: Callable[[str, list[Any]], None], **columns: Any
    ) -> list[float | None]:
        parsed = [parse_response(text_of(completion), think_open=think_open) for completion in completions]
        log_extra("format_problems", ["; ".join(response.problems) for response in parsed])
        return [
            float(ended == "stop" and (response.strict if mode == "strict" else response.thinks))
            for response, ended in zip(parsed, finish_reason, strict=True)
        ]

    return format

"""Rewards that look at a text's length and repetition alone. Both are 0 at best and negative at worst.

Neither is part of the paper's reward. ``soft_overlong`` is DAPO's (arXiv 2503.14476, equation 13): instead of a cliff at the cap, a slope
before it. ``repetition`` counts n-grams that were written before (as in arXiv 2502.03373): loops earn the whole penalty.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from zero2r1.rewards.completions import text_of
from zero2r1.types import RewardFn

_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f"
_PIECES = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+|[^\w\s]|_")
"""A word, a punctuation mark, or one character of a script without spaces."""


def soft_overlong(length: int, *, maximum: int, cache: int) -> float:
    """0 up to ``maximum - cache`` tokens, then down in a straight line to -1 at ``maximum``, and -1 beyond.

    Example: maximum 100, cache 20: 80 tokens give 0, 90 give -0.5, 100 and more give -1.

    Raises:
        ValueError: not 0 < cache <= maximum.
    """
    if not 0 < cache <= maximum:
        raise ValueError(f"the overlong slope needs 0 < cache <= maximum, got cache {cache} and maximum {maximum}")
    return max(-1.0, min(0.0, (maximum - cache - length) / cache))


def repetition(text: str, *, n: int = 4) -> float:
    """Minus the share of n-grams that occurred before: 0 for a text without repetition, near -1 for a loop.

    Example, n = 2: ``a b a b`` has the pairs ab, ba, ab; one of three is a repetition, so -1/3.
    """
    if n < 1:
        raise ValueError(f"n-grams need n >= 1, got {n}")
    pieces = _PIECES.findall(text.casefold())
    grams = [tuple(pieces[k : k + n]) for k in range(len(pieces) - n + 1)]
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


def length_reward(*, maximum: int, cache: int) -> RewardFn:
    """:func:`soft_overlong` of each completion: of its tokens, or of its words and marks where no ids are given."""
    soft_overlong(0, maximum=maximum, cache=cache)  # refuse bad settings before the first step

    def length(
        completions: list[Any],
        completion_ids: list[list[int]] | None = None,
        log_extra: Callable[[str, list[Any]], None] = lambda *_: None,
        **columns: Any,
    ) -> list[float | None]:
        lengths = [len(ids) for ids in completion_ids] if completion_ids else [len(_PIECES.findall(text_of(c))) for c in completions]
        log_extra("length_why", [f"{count} of at most {maximum}" for count in lengths])
        return [soft_overlong(count, maximum=maximum, cache=cache) for count in lengths]

    return length


def repetition_reward(*, n: int = 4) -> RewardFn:
    """:func:`repetition` of each completion."""

    def repeated(
        completions: list[Any], log_extra: Callable[[str, list[Any]], None] = lambda *_: None, **columns: Any
    ) -> list[float | None]:
        values = [repetition(text_of(completion), n=n) for completion in completions]
        log_extra("repetition_why", [f"{-value:.0%} of the {n}-grams were written before" for value in values])
        return [*values]

    return repeated

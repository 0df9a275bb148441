"""The format reward: is the thinking where it belongs? 1 or 0 (paper section 2.2.2).

Modes: ``strict`` is Table 1's layout exactly (R1-Zero); ``think_only`` is one closed thinking block at the start that says something,
and something behind it (chat models); ``optional`` is the same, or an answer without thinking; ``cold_start`` is section 2.3.1's
layout for stage 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zero2r1.rewards.completions import finish_reasons, starts_inside_thinking, text_of
from zero2r1.template import ParsedResponse, parse_cold_start, parse_response
from zero2r1.types import RewardFn


def why_not_strict(text: str, *, think_open: bool = False) -> str | None:
    """What is wrong with a response by Table 1's layout; ``None`` if nothing is."""
    return _joined(parse_response(text, think_open=think_open))


def why_not_think_only(text: str, *, think_open: bool = False) -> str | None:
    """As :func:`why_not_strict`, for one thinking block at the start and an answer in free form behind it."""
    parsed = parse_response(text, think_open=think_open)
    about_thinking = [problem for problem in parsed.problems if "think" in problem and not problem.startswith("text outside")]
    if about_thinking or parsed.thinking is None:
        return "; ".join(about_thinking) or "no thinking block"
    if not think_open and not text.lstrip().startswith("<think>"):
        return "text before the thinking block"
    return None if any(character.isalnum() for character in parsed.summary) else "nothing behind the thinking block"


def why_not_optional(text: str, *, think_open: bool = False) -> str | None:
    """As :func:`why_not_think_only`, or no thinking tag at all and an answer: what general requests call for (section 2.3.3)."""
    if think_open or "<think>" in text or "</think>" in text:
        return why_not_think_only(text, think_open=think_open)
    return None if any(character.isalnum() for character in text) else "nothing is said"


def why_not_cold_start(text: str, *, think_open: bool = False) -> str | None:
    """As :func:`why_not_strict`, for ``|special_token|reasoning|special_token|summary``; there is nothing to prefill."""
    return _joined(parse_cold_start(text))


MODES: Mapping[str, Callable[..., str | None]] = {
    "strict": why_not_strict,
    "think_only": why_not_think_only,
    "optional": why_not_optional,
    "cold_start": why_not_cold_start,
}


def format_reward(mode: str = "strict", *, think_open: bool | None = None) -> RewardFn:
    """The format reward in one of :data:`MODES`. Truncated outputs earn 0.

    Args:
        think_open: whether responses start inside the thinking; ``None``: where the prompt ends with ``<think>``.

    Raises:
        ValueError: no such mode.
    """
    if mode not in MODES:
        raise ValueError(f"format mode {mode!r} is not known; choose one of {', '.join(MODES)}")
    why_not = MODES[mode]

    def format(completions: list[Any], log_extra: Callable[[str, list[Any]], None] = lambda *_: None, **columns: Any) -> list[float | None]:
        found = []
        for i, (completion, ended) in enumerate(zip(completions, finish_reasons(columns, len(completions)), strict=True)):
            row = {name: columns[name][i] for name in ("prompts", "prompt") if isinstance(columns.get(name), list)}
            inside = starts_inside_thinking(row) if think_open is None else think_open
            found.append("cut off at the length limit" if ended == "length" else why_not(text_of(completion), think_open=inside))
        log_extra("format_problems", [why or "" for why in found])
        return [float(why is None) for why in found]

    return format


def _joined(parsed: ParsedResponse) -> str | None:
    return "; ".join(parsed.problems) or None

"""Reading what TRL's signature hands to a reward function: completions and prompts as text or as messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text_of(completion: Any) -> str:
    """A completion as TRL hands it over: a string, or a list of messages whose last one is the answer."""
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


def question_of(prompt: Any) -> str:
    """What the user asked last: the prompt itself, or its last message of the user; empty where nobody asks."""
    if isinstance(prompt, str):
        return prompt
    asked = [message for message in prompt or [] if isinstance(message, Mapping) and message.get("role") == "user"]
    return str(asked[-1].get("content", "")) if asked else ""


def finish_reasons(columns: Mapping[str, Any], count: int) -> list[str]:
    """``stop`` or ``length`` of each completion; ``stop`` where nobody says (files of completions)."""
    given = columns.get("finish_reason")
    return [str(reason) for reason in given] if isinstance(given, list) and len(given) == count else ["stop"] * count


def starts_inside_thinking(row: Mapping[str, Any]) -> bool:
    """Whether the prompt of a completion ended with an opened ``<think>``, written by the template and not by the policy."""
    prompt = row.get("prompts", row.get("prompt"))
    if isinstance(prompt, list):
        last = prompt[-1] if prompt else {}
        prompt = last.get("content") if isinstance(last, Mapping) and last.get("role") == "assistant" else None
    return isinstance(prompt, str) and prompt.rstrip().endswith("<think>")

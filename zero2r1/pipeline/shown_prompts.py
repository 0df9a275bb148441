"""One prompt of every stage as the model will read it, its special tokens in sight. For a look before a run; loads tokenizers only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zero2r1.models.tokenizer import TextEncoder
from zero2r1.template import TEMPLATES, render
from zero2r1.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

THINKING, SUMMARY = "(the thinking)", "(the summary)"
PLAIN_STAGES = frozenset({"zero", "student_base", "student_rl"})
"""Under R1-Zero's template."""
TUNED_STAGES = frozenset({"cold_start", "rejection_sft", "distillation"})
"""Learn a whole dialogue."""
ORDER = (
    "zero", "cold_start", "reasoning_rl", "no_language", "rejection_sft", "reward_models", "all_scenarios", "student_base", "distillation",
    "student_rl",
)  # fmt: skip
"""Stages that read prompts."""


def prompt_shown(stage: str, asked: tuple[Message, ...], template: str, tokenizer: PreTrainedTokenizerFast | None) -> str:
    """What the model of a stage reads of one question, and for a stage that imitates what it learns to write.

    Without the tokenizer a plain template is shown as text, and of a chat template nothing is known.

    Raises:
        ValueError: the tokenizer's chat template cannot be used.
    """
    plain = stage in PLAIN_STAGES and template != "chat"
    if tokenizer is None:
        text = "".join(render(TEMPLATES.get(template, template), asked[-1].content)) if plain else None
        return "by the model's chat template, which is not here" if text is None else f"{text!r} (its tokenizer is not here)"
    encoder = TextEncoder(tokenizer)
    if plain:
        return _decoded(tokenizer, encoder.encode_plain(*render(TEMPLATES.get(template, template), asked[-1].content)))
    turns = [{"role": message.role, "content": message.content} for message in asked]
    if stage not in TUNED_STAGES:
        return _decoded(tokenizer, encoder.encode_chat(turns))
    answer = {"role": "assistant", "content": SUMMARY, "reasoning_content": THINKING}
    dialogue = encoder.encode_dialogue([*turns, answer])
    return f"{_decoded(tokenizer, dialogue.prompt_ids)}\n      learns {_decoded(tokenizer, dialogue.response_ids)}"


def longest_prompt(questions: list[tuple[Message, ...]], template: str, tokenizer: PreTrainedTokenizerFast) -> int:
    """Tokens of the longest prompt, under the plain template and under the chat template where there is one."""
    encoder = TextEncoder(tokenizer)
    longest = 0
    for asked in questions:
        if template != "chat":
            longest = max(longest, len(encoder.encode_plain(*render(TEMPLATES.get(template, template), asked[-1].content))))
        if tokenizer.chat_template:
            longest = max(longest, len(encoder.encode_chat([{"role": m.role, "content": m.content} for m in asked])))
    return longest


def _decoded(tokenizer: PreTrainedTokenizerFast, ids: tuple[int, ...]) -> str:
    text = str(tokenizer.decode(list(ids), skip_special_tokens=False))
    added = tokenizer.added_tokens_decoder
    special = ", ".join(f"{added[i].content} {i}" for i in dict.fromkeys(ids) if i in added)
    return f"{text!r}  ({len(ids)} tokens; special: {special or 'none'})"

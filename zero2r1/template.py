"""Prompt templates of R1-Zero and the parser of what comes back (paper section 2.2.3, Table 1).

The template imposes structure only: it must not ask for reflection or name a strategy, or what the policy does by itself
could not be told from what it was told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

TEMPLATES: Mapping[str, str] = {
    "zero": (
        "The following is a conversation between User and Assistant. User asks a question and Assistant solves it. Assistant "
        "first works out the reasoning in mind and only then gives the answer. The reasoning stands inside <think> </think> "
        "tags and the answer inside <answer> </answer> tags, like this: <think> the reasoning </think> <answer> the answer "
        "</answer>. User: {question}. Assistant:"
    ),
    "question_answer": "Question: {question}\nAnswer:",
    "plain": "{question}",
}
"""Named templates with one ``{question}`` hole; a world of its own may bring its own text."""

HOLE = "{question}"
_TAG = re.compile(r"</?(?:think|answer)>")
COLD_START_TOKEN = "|special_token|"
"""Separates reasoning from summary in cold-start data (paper section 2.3.1)."""
RESPONSE_TAGS = ("<think>", "</think>", "<answer>", "</answer>", COLD_START_TOKEN)
"""The tags a model writes itself. Every other added token of a tokenizer is control: ordinary text must not become one."""
_LOOKALIKE = re.compile(r"[<\uff1c]\s{0,4}[/\\]?\s{0,4}(?:think|answer|thinking)\b[^<>\uff1c\uff1e]{0,40}[>\uff1e]", re.IGNORECASE)


def render(template: str, question: str) -> tuple[str, str, str]:
    """Text before the question, the question, text after it: three parts, so that only template text can hold tags.

    A question that ends in ``.``, ``?`` or ``!`` gets no second stop from the template.

    Raises:
        ValueError: the template does not have exactly one ``{question}``.
    """
    if template.count(HOLE) != 1:
        raise ValueError(f"a template needs exactly one {HOLE}, this one has {template.count(HOLE)}: {template[:80]!r}")
    before, after = template.split(HOLE)
    question = question.strip()
    if after.startswith(".") and question.endswith((".", "?", "!")):
        after = after[1:]
    return before, question, after


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedResponse:
    """A response taken apart. ``strict`` means ``problems`` is empty: Table 1's layout and nothing else.

    Example: ``"<think> 3 + 4 = 7 </think> <answer> 7 </answer>"`` has thinking ``"3 + 4 = 7"``, answer ``"7"`` and no problem.
    """

    thinking: str | None
    answer: str | None
    summary: str
    """Everything after the thinking block: what a reader is shown."""
    problems: tuple[str, ...]

    @property
    def strict(self) -> bool:
        return not self.problems


def parse_response(text: str, *, think_open: bool = False) -> ParsedResponse:
    """Take a response apart by the positions of its tags. Never raises.

    Args:
        think_open: the prompt already ended with ``<think>``, so the response starts inside the block.

    The layout wanted is one ``<think>`` block that says something, then one such ``<answer>`` block, and only white space around
    them. With several answer blocks the last one counts as the answer, but the layout is not strict.
    """
    text = _with_opening(text, think_open)
    tags = [(match.group(), match.start(), match.end()) for match in _TAG.finditer(text)]
    problems: list[str] = []
    thinking, end_of_thinking = _block(text, tags, "think", problems)
    summary = text[end_of_thinking:].strip() if end_of_thinking is not None else text.strip()
    answer, _ = _block(text, tags, "answer", problems, after=end_of_thinking or 0)
    order = [tag for tag, _, _ in tags]
    if not problems and order != ["<think>", "</think>", "<answer>", "</answer>"]:
        problems.append(f"tags in the wrong order: {' '.join(order)}")
    if not problems:
        outside = text[: tags[0][1]] + text[tags[1][2] : tags[2][1]] + text[tags[3][2] :]
        if outside.strip():
            problems.append(f"text outside the think and answer blocks: {outside.strip()[:40]!r}")
    false_tag = next((match.group() for match in _LOOKALIKE.finditer(text) if not _TAG.fullmatch(match.group())), None)
    if false_tag is not None:
        kind = "think" if "think" in false_tag.lower() else "answer"
        problems.append(f"{false_tag!r} looks like an opening or closing {kind} tag and is none")
    return ParsedResponse(thinking=thinking, answer=answer, summary=summary, problems=tuple(problems))


def visible_part(text: str, *, think_open: bool = False) -> str | None:
    """What a reader is shown: everything behind the last ``</think>``; ``None`` while the thinking is not closed. Never raises.

    A ``</think>`` without an opening tag ends a thinking that the prompt opened.
    """
    text = _with_opening(text, think_open)
    closed = text.rfind("</think>")
    shown = text[closed + len("</think>") :] if closed >= 0 else text
    return None if "<think>" in shown else shown


def write_thinking(reasoning: str, summary: str) -> str:
    """A response with its thinking in tags, as the released R1 models write it. ``parse_response`` reads it back."""
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{summary.strip()}"


def write_cold_start(reasoning: str, summary: str, *, token: str = COLD_START_TOKEN) -> str:
    """One cold-start output: ``token reasoning token summary``.

    Raises:
        ValueError: a part is empty or holds the token, so that it could not be read back.
    """
    for name, part in (("reasoning", reasoning), ("summary", summary)):
        if not _says_something(part):
            raise ValueError(f"the {name} of a cold-start output says nothing: {part[:40]!r}")
        if token in part:
            raise ValueError(f"the {name} of a cold-start output holds the separator {token!r}: remove it, or choose another token")
    return f"{token}{reasoning.strip()}{token}{summary.strip()}"


def parse_cold_start(text: str, *, token: str = COLD_START_TOKEN) -> ParsedResponse:
    """Take a cold-start output apart; the summary counts as its answer. Never raises. Inverse of :func:`write_cold_start`."""
    parts = text.strip().split(token)
    problems: list[str] = []
    if len(parts) != 3 or parts[0].strip():
        found = f"{len(parts) - 1} of them" if len(parts) != 3 else f"text before the first: {parts[0].strip()[:40]!r}"
        problems.append(f"{token!r} must stand before the thinking and before the summary, and nowhere else: {found}")
        return ParsedResponse(thinking=None, answer=None, summary=parts[-1].strip(), problems=tuple(problems))
    thinking, summary = parts[1].strip(), parts[2].strip()
    problems += [f"the {name} block is empty" for name, part in (("think", thinking), ("summary", summary)) if not _says_something(part)]
    return ParsedResponse(thinking=thinking, answer=summary, summary=summary, problems=tuple(problems))


def _with_opening(text: str, think_open: bool) -> str:
    return "<think>" + text if think_open else text


def _says_something(text: str) -> bool:
    """At least one letter or digit: dots, dashes and invisible characters are no thought."""
    return any(character.isalnum() for character in text)


def _block(text: str, tags: list[tuple[str, int, int]], name: str, problems: list[str], *, after: int = 0) -> tuple[str | None, int | None]:
    """The content of the last closed block of this name that starts at or behind ``after``, and where it ends."""
    opened = [end for tag, _, end in tags if tag == f"<{name}>"]
    closed = [start for tag, start, _ in tags if tag == f"</{name}>"]
    if len(opened) != 1 or len(closed) != 1:
        problems.append(f"{len(opened)} opening and {len(closed)} closing {name} tags instead of one each")
    start = next((place for place in reversed(opened) if closed and after <= place <= closed[-1]), None)
    if start is None:
        if len(opened) == 1 and len(closed) == 1:
            problems.append(f"the {name} block is closed before it opens, or stands in the wrong place")
        return None, None
    end = next(place for place in closed if place >= start)
    content = text[start:end].strip()
    if not _says_something(content):
        problems.append(f"the {name} block is empty")
    return content, end + len(f"</{name}>")

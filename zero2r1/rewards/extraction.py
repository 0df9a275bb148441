r"""Which part of a response is its answer. Answers inside the thinking never count.

The first of these that a response has behind its thinking is where its answers stand:

1. ``<answer> ... </answer>`` blocks (of a block with boxes, the boxes),
2. ``\boxed{...}`` (``\fbox`` too),
3. lines that begin an answer with ``####``,
4. only where asked for (``bare``): the whole text, if it is one short line.

All of them count. A response that gives one answer several times is fine; one that gives different answers has given the list of
them, which is right only if the reference is that list. So nothing is gained by offering two. A block or box that is not closed
takes the answer from all of its kind, and so does a box that is visibly part of a larger formula (``-\boxed{5}``,
``\boxed{5}\times 10^3``): its value is not what it shows. A percent or degree sign right behind a box belongs to it.
"""

from __future__ import annotations

import re

from zero2r1.template import visible_part

LONGEST_BARE = 200
MOST_ANSWERS = 20
"""A response with more of them has given none."""
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_PART_BEFORE = re.compile(
    r"(?:[-+/^_\u2212±×·]|(?<!\*)\*|\\(?:pm|mp|times|cdot|div|sqrt|frac|log|ln|sin|cos|tan|exp)\s*\{?|[}^_]\{|\d)(?:\$|\\[,;:!])?\Z"
)
_PART_BEHIND = re.compile(
    r"[0-9A-Za-z/]|!(?=\S)|\^(?!\s?\{?\\circ)|\*(?!\*)|\.\d|,\d{3}(?!\d)|\\[,!]\s?\d|\s?[-+]\s?\d|"
    r"\s?\\(?:times|cdot|div|pi|sqrt|frac)(?![a-zA-Z])|(?:\$?\s|\s?\\(?:text|mathrm)\s?\{\s?)(?:hundred|thousand|million|billion|trillion)\b",
    re.IGNORECASE,
)
_SIGN_BEHIND = re.compile(r"\s?(?:\\?%|\^\s?\{?\\circ\}?)")
_ANSWER_TAG = re.compile(r"</?answer>")


def answers_of(text: str, *, think_open: bool = False, bare: bool = False) -> tuple[str, ...]:
    """The distinct answers a response offers, in order; empty when it offers none. Linear time; never raises.

    Args:
        think_open: the prompt ended with ``<think>``, so the response starts inside the thinking.
        bare: a text without any mark is an answer by itself (files of plain answers).
    """
    shown = visible_part(text, think_open=think_open)
    if shown is None:
        return ()
    for found in (_blocks(shown), _boxes(shown), _lines(shown)):
        if found is not None:
            answers = tuple(dict.fromkeys(answer.strip() for answer in found if answer.strip()))
            return answers if len(answers) <= MOST_ANSWERS else ()
    whole = shown.strip()
    return (whole,) if bare and whole and "\n" not in whole and len(whole) <= LONGEST_BARE else ()


def final_answer(text: str, *, think_open: bool = False) -> str | None:
    """The answer of a response as one text, several joined by commas; ``None`` when it offers none."""
    return ", ".join(answers_of(text, think_open=think_open)) or None


def reference_answer(solution: str) -> str:
    r"""The final answer inside a reference solution: the last ``\boxed`` (MATH), what follows ``####`` (GSM8K), or the text itself."""
    boxes = _boxes(solution)
    if boxes:
        return boxes[-1].strip()
    return solution.rsplit("####", 1)[1].strip().split("\n", 1)[0].strip() if "####" in solution else solution.strip()


def _blocks(text: str) -> list[str] | None:
    """Contents of the answer blocks; an empty list if they do not pair up, ``None`` if there is no tag."""
    tags = [(match.group(), match.start(), match.end()) for match in _ANSWER_TAG.finditer(text)]
    if not tags:
        return None
    if len(tags) % 2 or any(tag != ("<answer>", "</answer>")[k % 2] for k, (tag, _, _) in enumerate(tags)):
        return []
    contents = [text[tags[k][2] : tags[k + 1][1]] for k in range(0, len(tags), 2)]
    return [answer for content in contents for answer in _inside(content)]


def _inside(content: str) -> list[str]:
    boxes = _boxes(content)
    return [content] if boxes is None else boxes


def _boxes(text: str) -> list[str] | None:
    """Contents of all boxes, outermost only; an empty list if one is not closed, ``None`` if there is none."""
    found: list[str] = []
    match = _BOX.search(text)
    if match is None:
        return None
    while match is not None:
        content, end = _braced(text, match.end())
        if content is None or _PART_BEFORE.search(text, max(0, match.start() - 40), match.start()) or _PART_BEHIND.match(text, end):
            return []
        sign = _SIGN_BEHIND.match(text, end)
        found.append(content + sign.group().strip() if sign else content)
        match = _BOX.search(text, end)
    return found


def _braced(text: str, start: int) -> tuple[str | None, int]:
    """The content of ``{...}`` at a place, or the one character there (``\\boxed 5``), and where it ends."""
    if start >= len(text):
        return None, start
    if text[start] != "{":
        return (text[start], start + 1) if text[start].isalnum() else (None, start)
    depth, position = 0, start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += (text[position] == "{") - (text[position] == "}")
        position += 1
        if depth == 0:
            return text[start + 1 : position - 1], position
    return None, position


def _lines(text: str) -> list[str] | None:
    if "####" not in text:
        return None
    return [part.split("\n", 1)[0] for part in text.split("####")[1:]]

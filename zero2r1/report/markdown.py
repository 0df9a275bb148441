"""A document as Markdown for GitHub; figures are files beside it. Whatever a model wrote stands in fenced blocks."""

from __future__ import annotations

import html
import re

from zero2r1.report.document import Block, Cell, Document, Exchange, Figure, Listing, Notes, Table, Text
from zero2r1.report.markup import clean, escape


def render_markdown(document: Document) -> str:
    """``report.md``."""
    parts = [f"# {inline(document.title)}", f"**{inline(document.status)}**", *(inline(line) for line in document.lead)]
    for section in document.sections:
        parts += [f"## {inline(section.title)}", *(_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def inline(text: str) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    line = " ".join(html.escape(clean(text), quote=False).split())
    line = re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", line)
    line = re.sub(r"^([#+-])", r"\\\1", line)
    line = re.sub(r"^(\d+)([.)])(?= |$)", r"\1\\\2", line)
    return re.sub(r"(?<!\w)@", "&#64;", line).replace("://", ":&#8203;//")  # no mention of anybody, no link


def fenced(text: str, language: str = "text") -> str:
    """A block that the text cannot close: its fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{clean(text)}\n{fence}"


def _block(block: Block) -> str:
    match block:
        case Text():
            return inline(block.text)
        case Table():
            return _table(block)
        case Figure():
            return f"### {inline(block.title)}\n\n![{inline(block.title)}](figures/{block.name}.svg)\n\n{inline(block.caption)}"
        case Exchange():
            return _exchange(block)
        case Listing():
            listing = fenced(block.text)
            return f"<details><summary>{escape(block.title)}</summary>\n\n{listing}\n\n</details>" if block.folded else listing
        case Notes():
            return "\n".join(f"> * {inline(sentence)}" for sentence in block.sentences)


def _table(block: Table) -> str:
    head = f"| {' | '.join(inline(column) for column in block.columns)} |"
    align = "|" + "|".join(" --- " if block.prose or i == 0 else " ---: " for i in range(len(block.columns))) + "|"
    rows = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in block.rows]
    table = "\n".join([head, align, *rows])
    return f"{table}\n\n{inline(block.caption)}" if block.caption else table


def _cell(cell: Cell) -> str:
    lines = [inline(line) for line in cell.text.split("\n")]
    return "<br>".join(f"**{line}**" if i in cell.strong and line else line for i, line in enumerate(lines))


def _exchange(block: Exchange) -> str:
    parts = [f"### {inline(block.title)}"]
    parts += [inline(line) for line in (block.rule, block.note) if line]
    parts += [fenced(text) for text in (block.question, block.response) if text]
    return "\n\n".join(parts)

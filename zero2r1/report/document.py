"""A report before it is HTML or Markdown: sections of blocks, all text plain. Both renderers escape; nothing above them has to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Look = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a table; line breaks in it are kept, and the lines counted in ``strong`` stand out."""

    text: str
    look: Look = ""
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows as long as ``columns``. ``prose``: cells are sentences, set left and stacked where the page is narrow."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    prose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart, drawn for a wide page and for a phone. ``name`` is its file below ``figures/``."""

    name: str
    title: str
    wide: str
    narrow: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question and what a model wrote; ``response`` is ``None`` where there is nothing to show but the note."""

    title: str
    note: str
    question: str = ""
    response: str | None = None
    rule: str = ""
    look: Look = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Text as it stands in a file. ``folded``: behind a heading that opens it."""

    title: str
    text: str
    folded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Sentences that the reader must not miss."""

    sentences: tuple[str, ...]


Block = Text | Table | Figure | Exchange | Listing | Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A report."""

    title: str
    status: str
    look: Look
    lead: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(block for section in self.sections for block in section.blocks if isinstance(block, Figure))

"""What an answer is once it has been read: a tree of numbers, names and operations.

One node type serves all, told apart by ``kind``:

``number`` (value) · ``symbol`` (name) · ``+ * / ^ neg ! % degree sqrt pm mp abs floor ceil choose apply`` and functions such as
``sin`` (args) · ``tuple`` (name = its two brackets) · ``set list matrix row union both`` (args) · ``relation`` (name = the operators
between args, joined by a space) · ``base`` (name = digits, args = the base) · ``ratio`` (args).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh exp ln log lg abs floor ceil sqrt max min gcd lcm".split()
)
"""Functions of one argument (``log`` also of two: value and base; ``max min gcd lcm`` of several)."""
CONSTANTS = frozenset({"pi", "e", "i", "infinity"})


class Unreadable(ValueError):
    """A text is no answer this grammar knows; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """``3\\sqrt{2}`` is ``*(number 3, sqrt(number 2))``."""

    kind: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction | None = None

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.walk()


def number(value: Fraction | int, form: str = "") -> Node:
    """A literal; ``form`` is ``decimal``, ``mixed``, ``scientific`` or empty for an integer."""
    return Node(kind="number", value=Fraction(value), name=form)


def symbol(name: str) -> Node:
    return Node(kind="symbol", name=name)


def operation(kind: str, *args: Node, name: str = "") -> Node:
    return Node(kind=kind, args=args, name=name)


def variables(node: Node) -> set[str]:
    """Names that stand for unknowns: every symbol but pi, e, i and infinity."""
    return {part.name for part in node.walk() if part.kind == "symbol"} - CONSTANTS


def is_expression(node: Node) -> bool:
    """Whether a node has a value, and is no set, list, relation or text."""
    structures = {"tuple", "set", "list", "matrix", "row", "union", "both", "relation", "base", "ratio"}
    return not any(part.kind in structures for part in node.walk())

r"""Intervals, inequalities and unions of them, as one thing: a sorted list of pieces of the real line.

``(1,3]``, ``1 < x \le 3``, ``3 \ge x > 1`` and ``x \in (1,3]`` are the same piece.
"""

from __future__ import annotations

from dataclasses import dataclass

from zero2r1.rewards.math.numeric import approximate
from zero2r1.rewards.math.tree import Node, operation, symbol, variables

INFINITY = symbol("infinity")
MINUS_INFINITY = operation("neg", INFINITY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """From ``low`` to ``high``; a single point has both the same and closed."""

    low: Node
    high: Node
    low_closed: bool
    high_closed: bool


def real_set(node: Node) -> list[Piece] | None:
    """The pieces of a node in ascending order, or ``None`` if it is no set of reals in this sense.

    A bare pair ``(1,3)`` is taken as an interval here; the caller decides when a point of the plane was meant.

    Raises:
        Undecided: an end that is not real.
    """
    pieces = _pieces(node)
    if pieces is None or len(variables(node)) > 1:
        return None
    return _joined(sorted(pieces, key=lambda piece: (approximate(piece.low), approximate(piece.high))))


def looks_like_a_real_set(node: Node) -> bool:
    """Whether a node can be nothing but a set of reals: an inequality, a union, unequal brackets or an infinite end."""
    if node.kind in ("union", "both"):
        return True
    if node.kind == "relation":
        return node.name == "in" or any(name in node.name.split() for name in ("<", ">", "<=", ">="))
    if node.kind != "tuple" or len(node.args) != 2:
        return False
    return node.name in ("(]", "[)") or any(part.kind == "symbol" and part.name == "infinity" for part in node.walk())


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces that touch in a point that one of them holds become one."""
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and last.high == piece.low and (last.high_closed or piece.low_closed):
            found[-1] = Piece(low=last.low, high=piece.high, low_closed=last.low_closed, high_closed=piece.high_closed)
        else:
            found.append(piece)
    return found


def _overlap(parts: list[list[Piece] | None]) -> list[Piece] | None:
    """What single pieces have in common: ``x > 1 and x \\le 3``."""
    pieces = [part[0] for part in parts if part is not None and len(part) == 1]
    if len(pieces) != len(parts):
        return None
    low = max(pieces, key=lambda piece: (approximate(piece.low), not piece.low_closed))
    high = min(pieces, key=lambda piece: (approximate(piece.high), piece.high_closed))
    return [Piece(low=low.low, high=high.high, low_closed=low.low_closed, high_closed=high.high_closed)]


def _pieces(node: Node) -> list[Piece] | None:
    if node.kind == "both":
        return _overlap([_pieces(part) for part in node.args])
    if node.kind == "union":
        parts = [_pieces(part) for part in node.args]
        return [piece for part in parts for piece in part] if all(part is not None for part in parts) else None  # type: ignore[union-attr]
    if node.kind == "tuple" and len(node.args) == 2:
        low, high = node.args
        if variables(node):
            return None
        return [Piece(low=low, high=high, low_closed=node.name[0] == "[", high_closed=node.name[1] == "]")]
    if node.kind == "set":
        if variables(node):
            return None
        return [Piece(low=point, high=point, low_closed=True, high_closed=True) for point in node.args]
    if node.kind == "relation":
        return _solved(node)
    return None


def _within(node: Node) -> list[Piece] | None:
    """``|x| < c`` is one piece, ``|x| > c`` two."""
    size, bound = node.args
    if size.args[0].kind != "symbol" or variables(bound):
        return None
    below, closed = operation("neg", bound), node.name.endswith("=")
    if node.name[0] == "<":
        return [Piece(low=below, high=bound, low_closed=closed, high_closed=closed)]
    return [
        Piece(low=MINUS_INFINITY, high=below, low_closed=False, high_closed=closed),
        Piece(low=bound, high=INFINITY, low_closed=closed, high_closed=False),
    ]


def _solved(node: Node) -> list[Piece] | None:
    names = node.name.split()
    if len(names) == 1 and names[0] in ("<", ">", "<=", ">=") and node.args[0].kind == "abs":
        return _within(node)
    if names == ["in"] and node.args[0].kind == "symbol":
        return _pieces(node.args[1])
    if any(name not in ("<", ">", "<=", ">=") for name in names) or len(names) > 2:
        return None
    if len({name[0] for name in names}) != 1:
        return None  # 1 < x > 0
    args, flags = list(node.args), [name.endswith("=") for name in names]
    if names[0][0] == ">":
        args, flags = args[::-1], flags[::-1]
    unknown = [k for k, arg in enumerate(args) if arg.kind == "symbol" and arg.name not in ("pi", "e", "i", "infinity")]
    if len(unknown) != 1 or any(variables(arg) for k, arg in enumerate(args) if k != unknown[0]):
        return None
    at = unknown[0]
    if len(args) == 3 and at != 1:
        return None
    low, low_closed = (args[at - 1], flags[at - 1]) if at > 0 else (MINUS_INFINITY, False)
    high, high_closed = (args[at + 1], flags[at]) if at + 1 < len(args) else (INFINITY, False)
    return [Piece(low=low, high=high, low_closed=low_closed, high_closed=high_closed)]

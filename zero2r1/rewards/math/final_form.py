"""Whether an answer is in final form: worked out, not the question written down again.

Where the reference is a plain number (integer, decimal, fraction, percent), so must be the answer: ``2+2`` is no answer for 4, nor is
``84/12`` for 7. Where the reference is a constant of another kind (``3\\sqrt{2}``, ``\\frac{\\pi}{6}``), the answer may not hold an
operation between rational numbers that could be carried out, unless the reference itself holds one of that kind (``2^{10} - 1``).
References with variables ask for no form: any equal expression will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from zero2r1.rewards.math.tree import FUNCTIONS, Node, variables

_APPLIED = ("^", "!", "choose", "abs", "floor", "ceil", "max", "min", "gcd", "lcm")
_FAMILIES = {
    name: family
    for family in ("sin cos tan cot sec csc", "arcsin arccos arctan", "sinh cosh tanh", "ln log lg exp")
    for name in family.split()
}
"""Functions that are written for one another: a logarithm in the reference allows one in the answer."""


def is_plain(node: Node) -> bool:
    """Integer, decimal, mixed number, scientific notation, fraction of two integers, percentage; each with a sign."""
    if node.kind == "neg":
        node = node.args[0]
    if node.kind == "%":
        return is_plain(node.args[0]) and node.args[0].kind != "%"
    return node.kind == "number" or _is_fraction(node) or _is_scientific(node)


def why_not_final(answer: Node, gold: Node) -> str | None:
    """Why an answer is not worked out, judged beside its reference; ``None`` if it is."""
    if variables(gold):
        return None
    if is_plain(gold):
        if not is_plain(answer):
            return "the reference is a plain number, the answer is not worked out"
        if _whole(gold) and _reduces(answer):
            return "a division that is not carried out"
        return None
    allowed = _open_operations(gold)
    left_over = _open_operations(answer) - allowed
    return f"not worked out: {', '.join(sorted(left_over))} of plain numbers" if left_over else None


def _whole(node: Node) -> bool:
    node = node.args[0] if node.kind == "neg" else node
    return node.kind == "number" and node.value is not None and node.value.denominator == 1


def _reduces(node: Node) -> bool:
    while node.kind in ("neg", "%"):
        node = node.args[0]
    return node.kind == "/"


def _is_integer(node: Node) -> bool:
    node = node.args[0] if node.kind == "neg" else node
    return node.kind == "number" and node.value is not None and node.name == "" and node.value.denominator == 1


def _is_fraction(node: Node) -> bool:
    return node.kind == "/" and all(_is_integer(arg) for arg in node.args)


def _is_scientific(node: Node) -> bool:
    if node.kind != "*" or len(node.args) != 2 or node.args[1].kind != "^":
        return False
    base, exponent = node.args[1].args
    return node.args[0].kind == "number" and base.kind == "number" and base.value == 10 and _is_integer(exponent)


def _is_rational(node: Node) -> bool:
    return node.kind == "number" or _is_fraction(node) or (node.kind == "neg" and _is_rational(node.args[0]))


def _open_operations(node: Node) -> set[str]:
    """Operations in a tree whose operands are rational numbers alone."""
    found = set()
    for part in _outside_functions(node):
        rational = sum(_is_rational(arg) for arg in part.args)
        sums = part.kind in ("+", "*") and rational >= 2 and not _is_scientific(part)
        applied = part.kind in _APPLIED and rational == len(part.args)
        quotient = part.kind == "/" and rational == 2 and not _is_fraction(part)
        if sums or applied or quotient:
            found.add(part.kind)
        elif part.kind in _FAMILIES:
            found.add(_FAMILIES[part.kind])
        elif part.kind == "sqrt" and _is_rational(part.args[0]) and _has_rational_root(part.args[0]):
            found.add("sqrt")
    return found - ({"^"} if _roots_only(node) else set())


def _has_rational_root(node: Node) -> bool:
    node = node.args[0] if node.kind == "neg" else node
    parts = [arg.value for arg in node.args] if node.kind == "/" else [node.value]
    whole = [abs(k) for value in parts if value is not None for k in (value.numerator, value.denominator)]
    return len(whole) == 2 * len(parts) and all(isqrt(k) ** 2 == k for k in whole)


def _outside_functions(node: Node) -> Iterator[Node]:
    """A tree without the arguments of logarithms and the like: ln 2^3 is no unfinished power."""
    yield node
    if node.kind not in FUNCTIONS - {"sqrt", "abs", "floor", "ceil", "max", "min", "gcd", "lcm"}:
        for arg in node.args:
            yield from _outside_functions(arg)


def _roots_only(node: Node) -> bool:
    """Whether every power of rational numbers in a tree is a root: ``2^{1/3}`` is as far as it goes."""
    powers = [part for part in node.walk() if part.kind == "^" and all(_is_rational(arg) for arg in part.args)]
    exponents = [part.args[1].args[0] if part.args[1].kind == "neg" else part.args[1] for part in powers]
    return all(_is_fraction(k) or (k.value is not None and k.value.denominator > 1) for k in exponents)

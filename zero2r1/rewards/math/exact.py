"""Exact values: every expression becomes a quotient of two polynomials with rational coefficients, and equality is that of polynomials.

The letters of these polynomials (atoms) are variables, pi, e, i, square roots of primes, higher roots of integers, and whatever
else has no rational value (``sin(1)``, ``2^n``), each a letter of its own. Relations that matter are applied while multiplying:
``i^2 = -1``, ``sqrt(p)^2 = p``, ``root_n(p)^n = p``. So sqrt(12) and 2 sqrt(3) become the same polynomial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt, prod

from zero2r1.rewards.math.tree import Node

Monomial = tuple[tuple[str, int], ...]
"""((atom, exponent), ...), sorted by atom."""
Polynomial = Mapping[Monomial, Fraction]

MAX_TERMS, MAX_POWER, MAX_BITS, MAX_FACTORIAL, MAX_FACTORED = 400, 64, 20_000, 300, 10**10
MAX_SHOWN_BITS = 4000


class Undecided(ValueError):
    """The expression is outside what is computed exactly, by its kind or by its size."""


class Undefined(ValueError):
    """The expression has no value: a division by zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """``top / bottom``, not reduced. Equal values have ``top * other.bottom == other.top * bottom``."""

    top: Polynomial
    bottom: Polynomial

    @property
    def rational(self) -> Fraction | None:
        """The value, if it is a rational number."""
        if set(self.bottom) != {()} or not set(self.top) <= {()}:
            return None
        return self.top.get((), Fraction(0)) / self.bottom[()]


ONE: Polynomial = {(): Fraction(1)}
_ALGEBRAIC = "√∛"
"""First characters of the atoms for square and higher roots; ``ƒ`` begins every other compound atom."""


def exact(node: Node) -> Exact:
    """The exact value of an expression.

    Raises:
        Undecided: something in it is too large, or is no expression.
        Undefined: it divides by zero.
    """
    rule = _RULES.get(node.kind)
    if rule is not None:
        return rule(node)
    if node.kind == "number":
        assert node.value is not None
        return _constant(node.value)
    if node.kind == "symbol":
        if node.name == "infinity":
            raise Undecided("infinity is no number")
        return _atom(node.name)
    return _opaque(node)


def difference(left: Exact, right: Exact) -> Polynomial:
    """The numerator of ``left - right``; empty when they are equal."""
    return _plus(_product(left.top, right.bottom), _product(right.top, left.bottom), sign=-1)


def proportional(left: Exact, right: Exact) -> bool:
    """Whether one is a non-zero rational multiple of the other: the same equation written twice (``= 0`` on the other side)."""
    a, b = _product(left.top, right.bottom), _product(right.top, left.bottom)
    if not a or not b or set(a) != set(b):
        return False
    ratios = {a[monomial] / b[monomial] for monomial in a}
    return len(ratios) == 1


def settled(polynomial: Polynomial) -> bool:
    """Whether a polynomial that is not empty is certainly not zero: its atoms are independent of one another."""
    atoms = {atom for monomial in polynomial for atom, _ in monomial}
    transcendental = {"pi", "e"} & atoms
    return not any(atom.startswith(("ƒ", "∛")) for atom in atoms) and len(transcendental) < 2


def canonical(value: Exact) -> str | None:
    """One text for all ways to write a value with a rational denominator; ``None`` for others."""
    if set(value.bottom) != {()} or any(c.numerator.bit_length() + c.denominator.bit_length() > MAX_SHOWN_BITS for c in value.top.values()):
        return None
    scale = value.bottom[()]
    terms = sorted((monomial, coefficient / scale) for monomial, coefficient in value.top.items())
    return " + ".join("*".join([str(c), *(f"{atom}^{k}" for atom, k in monomial)]) for monomial, c in terms) or "0"


def _constant(value: Fraction | int) -> Exact:
    value = Fraction(value)
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise Undecided("a number of too many digits")
    return Exact(top={(): value} if value else {}, bottom=ONE)


def _atom(name: str) -> Exact:
    return Exact(top={((name, 1),): Fraction(1)}, bottom=ONE)


def _plus(a: Polynomial, b: Polynomial, *, sign: int = 1) -> Polynomial:
    result = dict(a)
    for monomial, coefficient in b.items():
        total = result.get(monomial, Fraction(0)) + sign * coefficient
        if total:
            result[monomial] = total
        else:
            result.pop(monomial, None)
    return result


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    if len(a) * len(b) > MAX_TERMS:
        raise Undecided("an expression of too many terms")
    result: dict[Monomial, Fraction] = {}
    for left, x in a.items():
        for right, y in b.items():
            factor, monomial = _joined(left, right)
            total = result.get(monomial, Fraction(0)) + x * y * factor
            if total.numerator.bit_length() > MAX_BITS:
                raise Undecided("a number of too many digits")
            if total:
                result[monomial] = total
            else:
                result.pop(monomial, None)
    return result


def _joined(left: Monomial, right: Monomial) -> tuple[Fraction, Monomial]:
    powers = dict(left)
    for atom, k in right:
        powers[atom] = powers.get(atom, 0) + k
    factor = Fraction(1)
    for atom in list(powers):
        k = powers[atom]
        if k > 4 * MAX_POWER:
            raise Undecided("a power too high")
        if atom == "i":
            factor *= (1, 1, -1, -1)[k % 4]
            powers[atom] = k % 2
        elif atom[0] in _ALGEBRAIC:
            order, radicand = (2, int(atom[1:])) if atom[0] == "√" else map(int, atom[1:].split("_"))
            factor *= Fraction(radicand) ** (k // order)
            powers[atom] = k % order
    return factor, tuple(sorted((atom, k) for atom, k in powers.items() if k))


def _add(node: Node) -> Exact:
    total = exact(node.args[0])
    for term in node.args[1:]:
        value = exact(term)
        if total.bottom == value.bottom:
            total = Exact(top=_plus(total.top, value.top), bottom=total.bottom)
        else:
            joined = _plus(_product(total.top, value.bottom), _product(value.top, total.bottom))
            total = Exact(top=joined, bottom=_product(total.bottom, value.bottom))
    return _tidy(total)


def _multiply(node: Node) -> Exact:
    result = exact(node.args[0])
    for factor in node.args[1:]:
        value = exact(factor)
        result = Exact(top=_product(result.top, value.top), bottom=_product(result.bottom, value.bottom))
    return _tidy(result)


def _divide(node: Node) -> Exact:
    top, bottom = (exact(arg) for arg in node.args)
    if not bottom.top:
        raise Undefined("a division by zero")
    return _tidy(Exact(top=_product(top.top, bottom.bottom), bottom=_product(top.bottom, bottom.top)))


def _tidy(value: Exact) -> Exact:
    """A denominator that is a number, or a number times roots, goes into the numerator."""
    if len(value.bottom) != 1:
        return value
    ((monomial, coefficient),) = value.bottom.items()
    top, bottom = {m: c / coefficient for m, c in value.top.items()}, ONE
    for atom, k in monomial:
        if atom == "i" or atom[0] in _ALGEBRAIC:
            order, square = (4, 1) if atom == "i" else (2, int(atom[1:])) if atom[0] == "√" else map(int, atom[1:].split("_"))
            top = dict(_product(top, {((atom, order - k),): Fraction(1, square)}))  # 1/a^k = a^(n-k) / a^n
        else:
            bottom = _product(bottom, {((atom, k),): Fraction(1)})
    return Exact(top=top, bottom=bottom)


def _negative(node: Node) -> Exact:
    value = exact(node.args[0])
    return Exact(top={m: -c for m, c in value.top.items()}, bottom=value.bottom)


def _power(node: Node) -> Exact:
    base, exponent = (exact(arg) for arg in node.args)
    k = exponent.rational
    if k is None:
        return _opaque(node)
    if k.denominator > 1:
        return _root(node, base, k)
    if not base.top:
        if k <= 0:
            raise Undefined("zero to the power of zero or less")
        return base
    rational = base.rational
    if rational is not None:
        if abs(k) * max(rational.numerator.bit_length(), rational.denominator.bit_length()) > MAX_BITS:
            raise Undecided("a power of too many digits")
        return _constant(rational ** int(k))
    if abs(k) > MAX_POWER:
        raise Undecided("a power too high")
    top, bottom = _repeated(base.top, abs(int(k))), _repeated(base.bottom, abs(int(k)))
    return _tidy(Exact(top=top, bottom=bottom) if k > 0 else Exact(top=bottom, bottom=top))


def _repeated(factor: Polynomial, times: int) -> Polynomial:
    """The power by squaring."""
    result: Polynomial = ONE
    while times:
        if times % 2:
            result = _product(result, factor)
        times //= 2
        if times:
            factor = _product(factor, factor)
    return result


def _root(node: Node, base: Exact, k: Fraction) -> Exact:
    """base^(m/n): of a rational number by its prime factors, of anything else as an atom (a lone variable under a square root too)."""
    value = base.rational
    if value is None:
        return _opaque(node)
    if value == 0:
        if k < 0:
            raise Undefined("a negative power of zero")
        return _constant(0)
    order = k.denominator
    if value < 0 and order != 2 and order % 2 == 0:
        raise Undecided("an even root of a negative number")
    if abs(k.numerator) > MAX_POWER or order > MAX_POWER:
        raise Undecided("a power too high")
    inside = abs(value) ** k.numerator  # its sign is put back below
    radicand = inside.numerator * inside.denominator ** (order - 1)
    result = _constant(Fraction(1, inside.denominator))
    outside, atoms = _split_root(radicand, order)
    result = Exact(top=_product(result.top, _product({(): Fraction(outside)}, {atoms: Fraction(1)})), bottom=ONE)
    if value > 0:
        return result
    if order == 2:
        sign = _power(Node(kind="^", args=(Node(kind="symbol", name="i"), Node(kind="number", value=Fraction(k.numerator)))))
        return Exact(top=_product(result.top, sign.top), bottom=ONE)
    return result if k.numerator % 2 == 0 else Exact(top={m: -c for m, c in result.top.items()}, bottom=ONE)


def _split_root(radicand: int, order: int) -> tuple[int, Monomial]:
    """root_n(radicand) = outside * product of atoms. Square roots by primes, higher roots by what is left inside."""
    whole = _integer_root(radicand, order)
    if whole**order == radicand:
        return whole, ()
    if radicand > MAX_FACTORED:
        raise Undecided("a root of too large a number")
    powers = _factors(radicand)
    outside = prod(p ** (k // order) for p, k in powers.items())
    if order == 2:
        return outside, tuple(sorted((f"√{p}", 1) for p, k in powers.items() if k % 2))
    return outside, tuple(sorted((f"∛{order}_{p}", k % order) for p, k in powers.items() if k % order))


def _integer_root(value: int, order: int) -> int:
    if order == 2:
        return isqrt(value)
    low, high = 0, 1 << (value.bit_length() // order + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**order <= value else (low, middle - 1)
    return low


@lru_cache(maxsize=4096)
def _factors(value: int) -> dict[int, int]:
    found: dict[int, int] = {}
    divisor = 2
    while divisor * divisor <= value:
        while value % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            value //= divisor
        divisor += 1 + (divisor > 2)
    if value > 1:
        found[value] = found.get(value, 0) + 1
    return found


def _square_root(node: Node) -> Exact:
    return _power(Node(kind="^", args=(node.args[0], Node(kind="number", value=Fraction(1, 2)))))


def _factorial(node: Node) -> Exact:
    value = exact(node.args[0]).rational
    if value is None or value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        raise Undecided("a factorial of anything but a small whole number")
    return _constant(prod(range(1, int(value) + 1)))


def _choose(node: Node) -> Exact:
    n, k = (exact(arg).rational for arg in node.args)
    if n is None or k is None or n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= MAX_FACTORIAL:
        raise Undecided("a binomial of anything but small whole numbers")
    return _constant(prod(range(int(n - k) + 1, int(n) + 1)) // prod(range(1, int(k) + 1)))


def _absolute(node: Node) -> Exact:
    value = exact(node.args[0]).rational
    return _opaque(node) if value is None else _constant(abs(value))


def _round_down(node: Node) -> Exact:
    value = exact(node.args[0]).rational
    if value is None:
        return _opaque(node)
    return _constant(value.__floor__() if node.kind == "floor" else value.__ceil__())


def _percent(node: Node) -> Exact:
    return _multiply(Node(kind="*", args=(node.args[0], Node(kind="number", value=Fraction(1, 100)))))


def _degrees(node: Node) -> Exact:
    return _multiply(Node(kind="*", args=(node.args[0], Node(kind="symbol", name="pi"), Node(kind="number", value=Fraction(1, 180)))))


def _opaque(node: Node) -> Exact:
    """An atom named after the exact values of its arguments, so that sin(2x) and sin(x + x) are the same letter."""
    if not node.args or node.kind in ("tuple", "set", "list", "matrix", "row", "union", "both", "relation", "base", "ratio", "pm", "mp"):
        raise Undecided(f"{node.kind} is no value")
    parts = [canonical(exact(arg)) if arg.kind != "symbol" else arg.name for arg in node.args]
    if any(part is None for part in parts):
        raise Undecided("a function of a quotient")
    return _atom(f"ƒ{node.kind}({'; '.join(str(part) for part in parts)})")


_RULES = {
    "+": _add, "*": _multiply, "/": _divide, "^": _power, "neg": _negative, "sqrt": _square_root, "!": _factorial, "choose": _choose,
    "abs": _absolute, "floor": _round_down, "ceil": _round_down, "%": _percent, "degree": _degrees,
}  # fmt: skip

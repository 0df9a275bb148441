"""Equality by value where no exact rule decides: both sides at several points, at two precisions.

Two expressions count as equal when they agree wherever both are real (or, if they are constants, as complex numbers) to nearly
all digits at 50 and again at 100. A true difference does not shrink when digits are added, and an equality does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import mpmath

from zero2r1.rewards.math.exact import Undecided, Undefined, exact
from zero2r1.rewards.math.tree import Node, variables

PRECISIONS = (50, 100)
SPARE_DIGITS = 15
"""Digits that rounding may cost."""
MAX_LITERAL_DIGITS = 300
"""Precision grows with the digits of the literals, so that no difference hides below it; beyond this nothing is decided."""
MAX_EXPONENT = 20_000
MIN_TERM_DIGITS = 20
"""A summand this many digits above the tolerance is seen; one below it leaves the comparison undecided."""
POINTS: tuple[Fraction, ...] = tuple(
    Fraction(a, b) for a, b in ((271, 97), (-355, 226), (83, 131), (-41, 29), (1009, 211), (17, 401), (-7, 311), (617, 73))
)
FAR_POINTS = tuple(Fraction(k) for k in (1, 2, 3, 5, 8, 4, 7, 12, 37, 150, 1003, -1, -2, -9, -37, -150, -1003, 10**6 + 3, -(10**6) - 3))
"""Whole numbers, and numbers far out: where floors jump and absolute values turn."""
WANTED_POINTS = 3
MAX_TURNS = 4


def equal_by_value(left: Node, right: Node) -> bool:
    """Whether two expressions have the same value everywhere both are real.

    Raises:
        Undecided: too few points where both are real, or numbers too large to compute.
    """
    names = sorted(variables(left) | variables(right))
    digits = sum(_literal_digits(node) for node in (left, right))
    if digits > MAX_LITERAL_DIGITS:
        raise Undecided("literals of too many digits")
    if not names:
        return _agree(left, right, {}, digits, real=False) is True
    agreed = 0
    for number, point in enumerate(_points(left, right, names)):
        try:
            found = _agree(left, right, point, digits, real=True)
        except Undecided:
            if number < len(POINTS):
                raise
            continue  # far out, powers may be too large
        if found is False:
            return False
        agreed += found is True
    if agreed < WANTED_POINTS:
        raise Undecided("too few points at which both sides are real")
    return True


def _points(left: Node, right: Node, names: Sequence[str]) -> Iterator[dict[str, Fraction]]:
    """Values of the unknowns: ordinary fractions first, then whole numbers, then both sides of every constant that occurs."""
    for shift in range(len(POINTS)):
        yield {name: POINTS[(shift + 3 * k) % len(POINTS)] + k for k, name in enumerate(names)}
    literals = {part.value for node in (left, right) for part in node.walk() if part.kind == "number" and part.value is not None}
    turns = sorted(literals, key=abs)[:MAX_TURNS]
    near = [sign * value + step for value in turns for sign in (1, -1) for step in (Fraction(1, 3), Fraction(-1, 3))]
    row = [*FAR_POINTS, *near]
    for shift in range(len(row)):
        yield {name: row[(shift + 2 * k) % len(row)] for k, name in enumerate(names)}


def approximate(node: Node) -> float:
    """A constant as a float, to sort by; ``inf`` for infinity.

    Raises:
        Undecided: it is not real.
    """
    if node.kind == "symbol" and node.name == "infinity":
        return float("inf")
    if node.kind == "neg" and node.args[0].kind == "symbol" and node.args[0].name == "infinity":
        return float("-inf")
    with mpmath.workdps(30):
        value = _value(node, {})
        if not _real(value):
            raise Undecided("not real")
        return float(mpmath.re(value))


def _agree(left: Node, right: Node, point: Mapping[str, Fraction], digits: int, *, real: bool) -> bool | None:
    """``None`` where a side has no value, or none that is real although asked for."""
    for precision in PRECISIONS:
        with mpmath.workdps(precision + digits):
            try:
                a, b = _value(left, point), _value(right, point)
            except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
                if isinstance(error, Undecided):
                    raise
                return None
            if not (mpmath.isfinite(a) and mpmath.isfinite(b)) or (real and not (_real(a) and _real(b))):
                return None
            scale = max(abs(a), abs(b), mpmath.mpf(10) ** -digits)
            if abs(a - b) > scale * mpmath.mpf(10) ** -(precision - SPARE_DIGITS):
                return False
    return True


def _real(value: Any) -> bool:
    part = mpmath.im(value)
    return bool(abs(part) <= mpmath.mpf(10) ** -(mpmath.mp.dps - SPARE_DIGITS) * max(1, abs(value)))


def _literal_digits(node: Node) -> int:
    return sum(_own_digits(part) for part in node.walk())


def _own_digits(part: Node) -> int:
    """Digits a literal has, or a power, exponential or factorial of constants may have: 10^{-300} has 300."""
    if part.kind == "number":
        assert part.value is not None
        return len(str(abs(part.value.numerator))) + len(str(part.value.denominator)) - 1
    if part.kind not in ("^", "exp", "!"):
        return 0
    try:
        size = exact(part.args[-1]).rational
    except (Undecided, Undefined):
        return 0
    return 0 if size is None else int(abs(size)) * (max(1, _literal_digits(part.args[0])) if part.kind == "^" else 3)


def _value(node: Node, point: Mapping[str, Fraction]) -> Any:
    if node.kind == "number":
        assert node.value is not None
        return mpmath.mpf(node.value.numerator) / node.value.denominator
    if node.kind == "symbol":
        return _named(node.name, point)
    if node.kind == "apply":
        raise Undecided("a function that is not defined here")
    rule = _FUNCTIONS.get(node.kind)
    if rule is None:
        raise Undecided(f"{node.kind} has no value")
    return rule(*(_value(arg, point) for arg in node.args))


def _named(name: str, point: Mapping[str, Fraction]) -> Any:
    if name in point:
        return mpmath.mpf(point[name].numerator) / point[name].denominator
    constants = {"pi": mpmath.pi, "e": mpmath.e, "i": mpmath.mpc(0, 1)}
    if name not in constants:
        raise Undecided(f"{name} has no value")
    return +constants[name]


def _raise_to(base: Any, exponent: Any) -> Any:
    if base == 0:
        if mpmath.re(exponent) <= 0:
            raise ZeroDivisionError
        return mpmath.mpf(0)
    if abs(exponent) * max(1, abs(mpmath.log(abs(base)))) > MAX_EXPONENT:
        raise Undecided("a power too large to compute")
    root = 1 / exponent if exponent else mpmath.mpf(0)
    if not mpmath.im(base) and mpmath.re(base) < 0 and abs(root - 3) < mpmath.mpf(10) ** -20:
        return -mpmath.power(-base, exponent)  # the real cube root
    return mpmath.power(base, exponent)


def _exponential(x: Any) -> Any:
    if abs(x) > MAX_EXPONENT:
        raise Undecided("a power too large to compute")
    return mpmath.exp(x)


def _trigonometric(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def bounded(x: Any) -> Any:
        if abs(x) > mpmath.mpf(10) ** 15 or abs(mpmath.im(x)) > MAX_EXPONENT:
            raise Undecided("an angle too large")
        return function(x)

    return bounded


def _logarithm(x: Any, base: Any = None) -> Any:
    """``log`` without a base is the decimal one, so that it is never taken for ``ln``."""
    return mpmath.log(x) / mpmath.log(10 if base is None else base)


def _whole(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def at(x: Any) -> Any:
        if abs(x - mpmath.nint(x)) < mpmath.mpf(10) ** -30 and x != mpmath.nint(x):
            raise Undecided("too close to a whole number to round")
        return function(x)

    return at


def _factorial(x: Any) -> Any:
    if x != mpmath.nint(x) or x < 0:
        raise ZeroDivisionError  # no value here
    if x > 300:
        raise Undecided("a factorial of too large a number")
    return mpmath.factorial(x)


def _sum(*terms: Any) -> Any:
    sizes = [abs(term) for term in terms if term]
    if sizes and min(sizes) < max(sizes) * mpmath.mpf(10) ** -(mpmath.mp.dps - MIN_TERM_DIGITS):
        raise Undecided("a term too small beside another to be seen")
    return mpmath.fsum(terms)


def _binomial(n: Any, k: Any) -> Any:
    if max(abs(n), abs(k)) > MAX_EXPONENT:
        raise Undecided("a binomial of too large a number")
    return mpmath.binomial(n, k)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "+": _sum, "*": lambda *factors: mpmath.fprod(factors), "/": lambda a, b: a / b, "neg": lambda a: -a, "^": _raise_to,
    "sqrt": mpmath.sqrt, "%": lambda a: a / 100, "degree": lambda a: a * mpmath.pi / 180, "abs": abs, "floor": _whole(mpmath.floor),
    "ceil": _whole(mpmath.ceil), "!": _factorial, "choose": _binomial, "exp": _exponential, "ln": mpmath.log,
    "log": _logarithm, "lg": _logarithm, "max": max, "min": min,
    "sin": _trigonometric(mpmath.sin), "cos": _trigonometric(mpmath.cos), "tan": _trigonometric(mpmath.tan),
    "cot": _trigonometric(mpmath.cot), "sec": _trigonometric(mpmath.sec), "csc": _trigonometric(mpmath.csc),
    "sinh": _trigonometric(mpmath.sinh), "cosh": _trigonometric(mpmath.cosh), "tanh": _trigonometric(mpmath.tanh),
    "arcsin": mpmath.asin, "arccos": mpmath.acos, "arctan": mpmath.atan,
}  # fmt: skip

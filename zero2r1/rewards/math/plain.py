r"""Plain numbers in microseconds: integers, decimals, fractions, mixed numbers and scientific notation, read exactly.

Most answers of most data sets are of this kind; what is not is left to the grammar (``parser.py``) behind the wall.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400
"""Longer literals are no answers; Python's own limit on digits would raise far beyond that."""

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_NUMBER = re.compile(rf"([-+]?)\s*({_DECIMAL})")
_FRACTION = re.compile(r"([-+]?)\s*(?:(\d+)\s*/\s*([-+]?)(\d+)|\\frac\s*(?:\{\s*([-+]?\d+)\s*\}|(\d))\s*(?:\{\s*([-+]?\d+)\s*\}|(\d)))")
_MIXED = re.compile(r"([-+]?)\s*(\d+)\s*(?:\s(\d+)\s*/\s*(\d+)|\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d)))")
_SCIENTIFIC = re.compile(
    rf"([-+]?)\s*({_DECIMAL})\s*(?:[eE]([-+]?\d{{1,3}})|(?:\\times|\\cdot|\*)\s*10\s*\^\s*(?:\{{\s*([-+]?\d{{1,3}})\s*\}}|(\d)))"
)


_REPEATING = re.compile(r"([-+]?)\s*(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{\s*(\d+)\s*\}")


def plain_number(text: str) -> tuple[Fraction, str] | None:
    """The number a cleaned text states, and its form (``integer decimal fraction mixed scientific``); ``None`` if it is no such text.

    ``"1,250.50"`` is 2501/2, ``"-\\frac{3}{4}"`` is -3/4, ``"3\\frac12"`` is 7/2, ``"6.02\\times10^{23}"`` is that number.
    """
    if len(text) > MAX_DIGITS:
        return None
    for read in (_read_decimal, _read_fraction, _read_mixed, _read_scientific, _read_repeating):
        found = read(text)
        if found is not None:
            return found
    return None


def _read_decimal(text: str) -> tuple[Fraction, str] | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    digits = match[2].replace(",", "")
    value = Fraction(digits.rstrip(".") if digits.endswith(".") else digits)
    return _signed(match[1], value), "decimal" if "." in digits else "integer"


def _read_fraction(text: str) -> tuple[Fraction, str] | None:
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    top, bottom = (int(match[2]), int(match[3] + match[4])) if match[2] else (int(match[5] or match[6]), int(match[7] or match[8]))
    return None if bottom == 0 else (_signed(match[1], Fraction(top, bottom)), "fraction")


def _read_mixed(text: str) -> tuple[Fraction, str] | None:
    match = _MIXED.fullmatch(text)
    if match is None:
        return None
    top, bottom = int(match[3] or match[5] or match[6]), int(match[4] or match[7] or match[8])
    return (_signed(match[1], int(match[2]) + Fraction(top, bottom)), "mixed") if int(match[2]) and 0 < top < bottom else None


def _read_scientific(text: str) -> tuple[Fraction, str] | None:
    match = _SCIENTIFIC.fullmatch(text)
    if match is None:
        return None
    value = Fraction(match[2].replace(",", "").rstrip(".")) * Fraction(10) ** int(match[3] or match[4] or match[5])
    return _signed(match[1], value), "scientific"


def _read_repeating(text: str) -> tuple[Fraction, str] | None:
    r"""0.1\overline{6} = 1/10 + 6/90."""
    match = _REPEATING.fullmatch(text)
    if match is None:
        return None
    fixed, cycle = match[3], match[4]
    value = Fraction(int(match[2] + fixed or "0"), 10 ** len(fixed)) + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))
    return _signed(match[1], value), "decimal"


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value

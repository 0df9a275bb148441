"""Numbers as a reader wants them: no more digits than the error allows, and always with it."""

from __future__ import annotations

import math

from zero2r1.report.values import Estimate, Measured, checkpoint_title

MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"
LONGEST_TEXT = 6_000
"""Characters of a model's text that are shown."""
Z95 = 1.96
"""Half of a 95 % interval in standard errors."""

COUNTS = ("length", "reflection_words")
"""Statistics that are means of counts; all others are shares."""

NAMES = {
    "length": "Length, tokens",
    "truncated": "Cut at the cap",
    "format_ok": "Strict format",
    "self_check": "Answers with a self-check",
    "reflection_words": "Reflection words",
    "language_share": "Words in the language asked",
    "one_language": "Answers in one language",
    "readable": "Readable answers",
    "helpful": "Helpful, by rule",
    "harmless": "Harmless, by rule",
    "helpful_score": "Helpful, by score",
    "harmless_score": "Harmless, by score",
}


ASKED = {"at_least": "lower bound ≥", "more_than": "lower bound >", "at_most": "upper bound ≤", "estimate_at_least": "estimate ≥"}


def is_count(statistic: str) -> bool:
    return statistic.startswith(COUNTS)


def statistic_title(statistic: str) -> str:
    """``format_ok`` -> Strict format; ``maj@8`` -> Majority of 8."""
    if statistic.startswith("maj@"):
        return f"Majority of {statistic.removeprefix('maj@')}"
    return NAMES.get(statistic, statistic.replace("_", " "))


def percent(value: Estimate, *, unit: bool = False) -> str:
    """A share: ``71.1 ± 2.4``, with ``unit`` ``71.1 ± 2.4 %``."""
    return _with_error(value, 100, 1) + (f"{SPACE}%" if unit else "")


def counted(value: Estimate, *, scale: float) -> str:
    """A mean of counts, ``62.1 ± 2.2``, with the decimals that leave two digits of an error as large as ``scale``."""
    decimals = 1 if not scale or not math.isfinite(scale) else min(max(1 - math.floor(math.log10(abs(scale))), 0), 3)
    return _with_error(value, 1, decimals)


def _with_error(value: Estimate, factor: int, decimals: int) -> str:
    mean = fixed(factor * value.mean, decimals)
    return mean if value.error is None else f"{mean}{SPACE}±{SPACE}{fixed(factor * value.error, decimals)}"


def fixed(value: float, decimals: int) -> str:
    """A number with a minus that is one, and no minus before nothing."""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", MINUS)


def measured(part: Measured) -> tuple[str, str]:
    """One condition: what came out; what was compared, with what had been asked for."""
    names = [_quantity(part.of)] + ([_quantity(part.over)] if part.over else [])
    joint = {"difference": f" {MINUS} ", "ratio": " / "}.get(part.kind, ", ")
    what = joint.join(names)
    what += f" ({asked})" if (asked := _asked(part)) else ""
    if part.estimate is None or part.low is None or part.high is None:
        return "not measured", what
    return f"{_amount(part, part.estimate, signed=True)} [{_amount(part, part.low)}, {_amount(part, part.high)}]{_unit(part)}", what


def _quantity(name: str) -> str:
    checkpoint, _, statistic = name.partition(".")
    title = statistic_title(statistic).partition(",")[0]
    return f"{checkpoint_title(checkpoint)} {title if '@' in title else title[:1].lower() + title[1:]}"


def _in_percent(part: Measured) -> bool:
    return part.kind != "ratio" and not is_count(part.of.partition(".")[2])


def _unit(part: Measured) -> str:
    if part.kind == "ratio":
        return ""
    return (" points" if part.kind == "difference" else " %") if _in_percent(part) else ""


def _amount(part: Measured, value: float, *, signed: bool = False) -> str:
    if part.kind == "ratio":
        return fixed(value, 2) + ("×" if signed else "")
    text = fixed(100 * value if _in_percent(part) else value, 1)
    return f"+{text}" if signed and part.kind == "difference" and value > 0 else text


def _asked(part: Measured) -> str:
    limits = {name: 100 * value if _in_percent(part) else value for name, value in part.bounds.items()}
    asked = [f"{ASKED[name]} {value:.4g}".replace("-", MINUS).replace(" ", SPACE) for name, value in limits.items() if name in ASKED]
    return "asked: " + ", ".join(asked) if asked else ""


def scientific(value: float) -> str:
    """``1.23 × 10¹²``, for amounts of which only the size matters."""
    if value <= 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{digits}{SPACE}×{SPACE}10" + str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def duration(seconds: float) -> str:
    """``12.3 s``, ``4 min 48 s``, ``1 h 02 min``."""
    if seconds < 60:
        text = f"{seconds:.1f} s"
    elif (whole := round(seconds)) < 3600:
        text = f"{whole // 60} min {whole % 60:02d} s"
    else:
        text = f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"
    return text.replace(" ", SPACE)


def listed(parts: list[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else ""


def clipped(text: str, most: int = LONGEST_TEXT) -> str:
    """The beginning of a text, with the number of characters that are left out."""
    return text if len(text) <= most else f"{text[:most]}\n[... {len(text) - most:,} more characters]"

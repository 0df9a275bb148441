r"""Units: what stands around a number and is no part of it, and which quantities are equal.

The rule: a reference without a unit accepts any unit, because the question named it; a reference with one accepts the bare number;
two units must agree, after conversion where both are known (``5 km`` is ``5000 m``), by name where they are not (``5 apples``).
What counts as a unit is a closed list, a plural noun (``apples``, ``cups of flour``) or a counter of Chinese or Korean: every other
word behind a number may change it (``5 tenths``, ``5 presumably``) and is left for the grammar to refuse. Percent is a value.
"""

from __future__ import annotations

import re
from fractions import Fraction

from zero2r1.rewards.math.lexer import MAX_LENGTH
from zero2r1.rewards.math.unit_words import (
    CHINESE_COUNTERS,
    FORBIDDEN_IN_NOUNS,
    GLUED,
    KNOWN,
    KOREAN_COUNTERS,
    MULTIPLIERS,
    NOT_UNITS,
    PLURALS,
    Unit,
)

_TEXTED = r"\\(?:text|mbox|mathrm|textrm|rm)\s*\{[A-Za-z ./^~\u00b7\u4e00-\u9fff\uac00-\ud7a3]*[23]?\s*\}"
_BARE = r"(?:[A-Za-z]{2,}\.?|(?<=\s)[mgshL](?![a-zA-Z(])|(?<=/)[mgshL](?![a-zA-Z(])|\\(?:euro|pound|yen|won|cent)\b)"
_POWER = r"(?:\s?\^\s?(?:\{\s?-?[123]\s?\}|[23]))?"
_SUFFIX = re.compile(
    rf"(.*?(?:[\d)}}\].%]|\\pi))(\s*)"
    rf"((?:{_TEXTED}|{_BARE}){_POWER}(?:\s?(?:/|\s|\\cdot|\*)?\s?(?:{_TEXTED}|{_BARE}){_POWER}){{0,4}})",
    re.DOTALL,
)
_PER = re.compile(r"(.*?[\d)}\]])\s*(?:/|per |an |a )\s*([A-Za-z]{2,})", re.DOTALL)
_TEMPERATURE = re.compile(r"(.*\S)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)\s*(?:\\(?:text|mathrm|rm)\s*\{\s*([CF])\s*\}|([CF]))", re.DOTALL)
_CJK = "\u4e00-\u9fff\uac00-\ud7a3"
_SCALES = "".join(name for name in MULTIPLIERS if not name.isascii())
_CJK_END = re.compile(rf"[{_CJK}][{_CJK}/]{{0,11}}$")
_CJK_AS_TEXT = re.compile(rf"(.*\S)\s*\\(?:text|mbox|mathrm|textrm)\s*\{{\s*([{_CJK}][{_CJK}/]*)\s*\}}", re.DOTALL)
_CJK_NUMBER = re.compile(rf"[-+]?(?:\d+(?:,\d{{3}})*(?:\.\d+)?\s?[{_SCALES}]{{1,2}}\s?)+(?:\d+)?")
_CJK_TERM = re.compile(rf"(\d+(?:,\d{{3}})*(?:\.\d+)?)\s?([{_SCALES}]{{0,2}})")
_CURRENCY = re.compile(r"([-+]?)\s*(?:(?:US|A|C)?\\?\$|\\(euro|pound|yen|won)|(USD|EUR|GBP|Rs\.?|RMB))\s*([-+]?)", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textrm|rm)\s*\{([^{}]*)\}")
_LATEX_WORD = re.compile(r"\\[a-zA-Z]+")
MAX_WORDS = 4


def split_unit(text: str) -> tuple[str, str, Fraction]:
    """(what is left, unit in one spelling or "", factor of ``million`` and the like) of a cleaned answer."""
    unit, factor = "", Fraction(1)
    if len(text) > MAX_LENGTH:
        return text, unit, factor
    prefix = _CURRENCY.match(text)
    if prefix and re.match(r"\.?\d", text[prefix.end() :]) and not (prefix[1] and prefix[4]):
        named = (prefix[2] or prefix[3] or "dollar").lower().rstrip(".")
        unit = {"usd": "dollar", "eur": "euro", "gbp": "sterling", "pound": "sterling", "rmb": "yuan"}.get(named, named)
        text = (prefix[1] or prefix[4]) + text[prefix.end() :]
        rate = _PER.fullmatch(text)
        if rate and rate[2].lower() in KNOWN:
            return rate[1], f"{unit}/{rate[2].lower()}", factor
    text, found, factor = _suffix(text)
    if found and unit and not _agree(unit, found):
        return f"{text} {found}", unit, factor  # $5 km: left for the grammar to refuse
    return text, unit or found, factor


def _suffix(text: str) -> tuple[str, str, Fraction]:
    temperature = _TEMPERATURE.fullmatch(text)
    if temperature:
        return temperature[1], {"C": "celsius", "F": "fahrenheit"}[temperature[2] or temperature[3]], Fraction(1)
    plain = _CJK_AS_TEXT.fullmatch(text)
    text = plain[1] + plain[2] if plain else text
    if _CJK_END.search(text):
        return _cjk_suffix(text)
    match = _SUFFIX.fullmatch(text)
    if match is None:
        return text, "", Fraction(1)
    raw = _COMMAND.sub(lambda m: f" {m[1]} ", match[3])
    words = " ".join(re.sub(r"\\cdot|[\\{}~*]", " ", raw).replace("^", " ^ ").replace("/", " / ").split())
    words = words.replace(" ^ ", "^").replace(" / ", "/")
    texted = _COMMAND.search(match[3]) is not None
    taken = _taken(words, match[1], texted=texted, glued=not match[2] and not texted)
    return (text, "", Fraction(1)) if taken is None else taken


def _cjk_suffix(text: str) -> tuple[str, str, Fraction]:
    """The longest ending that is a unit, so that ``3千克`` are kilograms; digits with scales before it, or behind which nothing stands."""
    ends = _CJK_END.search(text)
    assert ends is not None
    for start in range(ends.start(), len(text) + 1):
        core, words = text[:start].rstrip(), text[start:]
        unit = _chinese_or_korean(words) if words else ""
        value = _scaled(core)
        if unit is None or not core or (value is None and core[-1] not in "0123456789)}].%"):
            continue
        if unit == "%":
            return core + "%", "", Fraction(1)
        return (core if value is None else str(value)), unit, Fraction(1)
    return text, "", Fraction(1)


def _taken(words: str, core: str, *, texted: bool, glued: bool) -> tuple[str, str, Fraction] | None:
    """What is left when these words are the unit of ``core``, or ``None`` if they are none."""
    names = words.lower().split()
    if not texted and re.search("[A-Za-z]", _LATEX_WORD.sub("", core)):
        return None  # 3x km: a letter among letters is an unknown
    factor = Fraction(1)
    while names and names[0].rstrip("s") in MULTIPLIERS and names[0] != "s":
        factor *= MULTIPLIERS[names[0].rstrip("s")]
        names = names[1:]
        glued = False
    rest = " ".join(names)
    if not names:
        return core, "", factor
    if not texted and "/" not in rest and len(names) > 1 and any(len(name) == 1 for name in names):
        return None  # 2 g h
    if rest in ("percent", "per cent", "percentage", "pct."):
        return (core + "%", "", factor) if factor == 1 else None
    if not _is_unit(rest, core) or (glued and words not in GLUED and rest not in KNOWN and re.sub(r"\^\d", "", words) not in GLUED):
        return None
    return core, "degree" if rest in ("degree", "degrees") else rest, factor


def _is_unit(rest: str, core: str) -> bool:
    if measure(rest) is not None:
        return True
    names = [re.sub(r"\^-?[123]", "", name) for name in re.split(r"[\s/]+", rest.replace(".", ""))]
    if not names or len(names) > MAX_WORDS or any(not name or name in NOT_UNITS or name.endswith(("ly", "wards")) for name in names):
        return False
    if any(name.rstrip("s") in MULTIPLIERS or name in MULTIPLIERS for name in names):
        return False
    if all(name in KNOWN for name in names):
        return True
    if any(len(name) < 2 for name in names):
        return False
    head = names[0] if len(names) > 1 and names[1] in ("of", "per") else names[-1]
    plural = head in PLURALS or (len(head) >= 4 and head.endswith("s") and not head.endswith("ss"))
    return plural or core.strip() in ("1", "-1", "1.0")


def _chinese_or_korean(words: str) -> str | None:
    """The unit these characters are: a known one, or a counter with what it counts; ``None`` for anything else."""
    if words in ("퍼센트", "프로"):
        return "%"
    if measure(words) is not None:
        return words
    for counters, nouns in ((CHINESE_COUNTERS, True), (KOREAN_COUNTERS, False)):
        if words in counters:
            return words
        if nouns and words[0] in counters and not any(character in FORBIDDEN_IN_NOUNS for character in words[1:]):
            return words
    return None


def _scaled(text: str) -> Fraction | None:
    """``7万``, ``3만5천``, ``5百万``: digits with powers of ten written as characters, falling from left to right."""
    if not _CJK_NUMBER.fullmatch(text):
        return None
    total, largest = Fraction(0), None
    for digits, scales in _CJK_TERM.findall(text):
        value = Fraction(digits.replace(",", ""))
        sizes = [MULTIPLIERS[scale] for scale in scales]
        if len(sizes) == 2 and not (sizes[0] < 10**4 <= sizes[1]):
            return None
        size = sizes[0] * (sizes[1] if len(sizes) == 2 else 1) if sizes else 1
        if largest is not None and size >= largest:
            return None
        largest = size
        total += value * size
    return -total if text.startswith("-") else total


def measure(unit: str) -> Unit | None:
    """Dimension and size of a unit, powers, quotients and "square" included; ``None`` for unknown ones such as ``apples``."""
    unit = re.sub(r"(?<=[A-Za-z])\s+([a-z]+)\^-1$", r"/\1", unit.strip().rstrip("."))
    unit = re.sub(r"(?<=[A-Za-z])\s+([a-z]+)\^-2$", r"/\1^2", unit).replace(" per ", "/")
    if unit in KNOWN:
        return KNOWN[unit]
    above, slash, below = unit.partition("/")
    if slash:
        top, bottom = measure(above), measure(below)
        return None if top is None or bottom is None else (f"{top[0]}/{bottom[0]}", top[1] / bottom[1])
    found = re.fullmatch(r"(.*?)\s*\^\s*([23])", unit)
    power = int(found[2]) if found else 1
    base = found[1] if found else ""
    for prefix, degree in (("square ", 2), ("sq ", 2), ("sq. ", 2), ("cubic ", 3), ("平方", 2), ("立方", 3), ("제곱", 2), ("세제곱", 3)):
        if unit.startswith(prefix):
            power, base = degree, unit.removeprefix(prefix)
    if base not in KNOWN:
        return None
    dimension, size = KNOWN[base]
    return f"{dimension}^{power}", size**power


def conversion(answer: str, gold: str) -> Fraction | None:
    """What to multiply the answer's number with to compare it with the gold's; ``None`` when the units disagree."""
    if not answer or not gold or _agree(answer, gold):
        return Fraction(1)
    known = measure(answer), measure(gold)
    if known[0] is None or known[1] is None or known[0][0] != known[1][0]:
        return None
    return known[0][1] / known[1][1]


def _agree(a: str, b: str) -> bool:
    def plain(name: str) -> str:
        return re.sub(r"(?<=[a-z]{2})s\b", "", name.replace(".", "").replace("per ", "/").replace(" /", "/"))

    if plain(a) == plain(b):
        return True
    known = measure(a), measure(b)
    return known[0] is not None and known[0] == known[1]

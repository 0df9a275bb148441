r"""Units: what stands around a number and is no part of it, and which quantities are equal.

The rule: a reference without a unit accepts any unit, because the question named it; a reference with one accepts the bare number;
two units must agree, after conversion where both are known (``5 km`` is ``5000 m``), by name where they are not (``5 apples``).
Words that change a number (``5 million``, ``minus``, ``or``) are no units. Percent is a value, not a unit.
"""

from __future__ import annotations

import re
from fractions import Fraction

from zero2r1.rewards.math.lexer import MAX_LENGTH

Unit = tuple[str, Fraction]
"""(dimension, size in that dimension's base unit)."""


def _table() -> dict[str, Unit]:
    rows: list[tuple[str, str, str]] = [
        ("length", "1", "m meter meters metre metres 米 公尺 미터"), ("length", "1000",
        "km kilometer kilometers kilometre kilometres 千米 公里 킬로미터"),
        ("length", "0.01", "cm centimeter centimeters centimetre centimetres 厘米 公分 센티미터"),
        ("length", "0.001", "mm millimeter millimeters millimetre millimetres 毫米 밀리미터"),
        ("length", "0.3048", "ft foot feet 英尺"), ("length", "0.0254", "in inch inches 英寸"), ("length", "0.9144", "yd yard yards"),
        ("length", "1609.344", "mi mile miles 英里 마일"),
        ("mass", "1", "g gram grams 克 그램"), ("mass", "1000", "kg kilogram kilograms 千克 公斤 킬로그램"),
        ("mass", "0.001", "mg milligram milligrams"), ("mass", "1000000", "tonne tonnes 吨 톤"), ("mass", "453.59237",
        "lb lbs pound pounds 磅"),
        ("mass", "28.349523125", "oz ounce ounces 盎司"),
        ("time", "1", "s sec secs second seconds 秒 초"), ("time", "60", "min mins minute minutes 分钟 분"),
        ("time", "3600", "h hr hrs hour hours 小时 시간"), ("time", "86400", "day days 天 日 일"), ("time", "604800", "week weeks 周 주"),
        ("month", "1", "month months 个月 개월"), ("month", "12", "year years yr yrs 年 岁 년 살 세"),
        ("volume", "1", "l liter liters litre litres 升 리터"), ("volume", "0.001",
        "ml milliliter milliliters millilitre millilitres 毫升"),
        ("dollar", "1", "$ dollar dollars usd buck bucks 美元 달러"), ("dollar", "0.01", "cent cents ¢ 美分"),
        ("euro", "1", "euro euros eur 欧元 유로"), ("won", "1", "won krw 원 韩元"), ("yuan", "1", "yuan rmb cny 元 块 위안"),
        ("yen", "1", "yen jpy 円 日元 엔"), ("sterling", "1", "gbp"), ("angle", "1", "degree degrees 度 도"),
        ("angle", "57.29577951308232", "rad radian radians"), ("speed", "1", "m/s"), ("speed", "1/3.6", "km/h kmh kph km/hr"),
        ("speed", "0.44704", "mph mi/h"),
    ]  # fmt: skip
    table: dict[str, Unit] = {}
    for dimension, size, names in rows:
        value = Fraction(10, 36) if size == "1/3.6" else Fraction(size)
        table |= dict.fromkeys(names.split(), (dimension, value))
    return table


KNOWN = _table()
_GLUED = frozenset(name for name in KNOWN if len(name) > 1) | {"m", "g", "s", "h", "l"}
MULTIPLIERS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "万": 10**4, "亿": 10**8, "만": 10**4,
    "억": 10**8,
    "千": 1000, "百": 100, "천": 1000, "백": 100, "dozen": 12,
}  # fmt: skip
_NOT_UNITS = frozenset(
    (
        "and or not nor but to than between from least most more less over under about approximately around exactly almost nearly plus "
        "minus times negative positive half third quarter double twice squared cubed is are equals equal if when maybe perhaps either "
        "both no none zero one two three four five six seven eight nine ten eleven twelve hundreds thousands millions pi inf infinity "
        "infty union cup mod sqrt below above deg sin cos tan log ln exp percent point off wrong false incorrect divided by so ish "
        "approx roughly max min maximum minimum up at odd something estimated estimate probably possibly likely guess unsure some few"
    ).split()
)
_HEDGES = (
    "左右", "以上", "以下", "以内", "以外", "多", "余", "几", "不到", "之间", "至", "到", "或", "和", "约", "半", "倍", "不", "非", "没",
    "负", "이상", "이하", "미만", "초과", "정도", "쯤", "가량", "내외", "안팎", "부터", "까지", "또는",
    "혹은", "반", "배", "아님", "아니", "약",
)  # fmt: skip
"""Words behind a number in Chinese and Korean that make it another one, or a guess."""
_WORD = r"(?:\\(?:text|mbox|mathrm|textrm|rm)\s*\{[^{}\d]*\d?\}|[A-Za-z]{2,}\.?|[mgshL](?![a-zA-Z])|\\(?:euro|pound|yen|won|cent)\b)"
_POWER = r"(?:\s*\^\s*(?:\{\s*[23]\s*\}|[23]))?"
_SUFFIX = re.compile(
    rf"(.*?[\d)}}\]]|.*?\\pi|.*?\\sqrt\s*\d)(\s*)((?:{_WORD}{_POWER})(?:\s?(?:/|\s|\\cdot)\s?{_WORD}{_POWER}){{0,5}})", re.DOTALL
)
_CJK = re.compile(r"(.*?[\d)}\]万亿만억])\s*((?:[\u4e00-\u9fff\u3040-\u30ff]|[\uac00-\ud7a3]){1,8})", re.DOTALL)
_CURRENCY = re.compile(r"([-+]?)\s*(?:(?:US|A|C)?\\?\$|\\(euro|pound|yen|won)|(USD|EUR|GBP|Rs\.?|RMB))\s*", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|textrm|rm)\s*\{([^{}]*)\}")
MAX_WORDS = 4


def split_unit(text: str) -> tuple[str, str, Fraction]:
    """(what is left, unit in one spelling or "", factor of ``million`` and the like) of a cleaned answer."""
    unit, factor = "", Fraction(1)
    if len(text) > MAX_LENGTH:
        return text, unit, factor
    prefix = _CURRENCY.match(text)
    if prefix and text[prefix.end() : prefix.end() + 1].isdigit() | text.startswith(".", prefix.end()):
        named = (prefix[2] or prefix[3] or "dollar").lower().rstrip(".")
        unit = {"usd": "dollar", "eur": "euro", "gbp": "sterling", "pound": "sterling", "rmb": "yuan"}.get(named, named)
        text = prefix[1] + text[prefix.end() :]
    for _ in range(2):
        text, found, times = _suffix(text)
        factor *= times
        if found:
            if unit and not _agree(unit, found):
                return text + " " + found, unit, factor  # $5 km: left for the grammar to refuse
            unit = unit or found
    return text, unit, factor


def _suffix(text: str) -> tuple[str, str, Fraction]:
    cjk = _CJK.fullmatch(text)
    if cjk:
        words = cjk[2]
        if any(hedge in words for hedge in _HEDGES):
            return text, "", Fraction(1)
        for name, size in MULTIPLIERS.items():
            if words.startswith(name):
                return cjk[1], words[len(name) :], Fraction(size)
        return cjk[1], words, Fraction(1)
    match = _SUFFIX.fullmatch(text)
    if match is None:
        return text, "", Fraction(1)
    raw = _COMMAND.sub(lambda m: f" {m[1]} ", match[3]).replace("{", "").replace("}", "").replace("\\cdot", " ").replace("\\", "")
    words = " ".join(raw.replace("^", " ^ ").split()).replace(" ^ ", "^").replace(" / ", "/")
    names = words.lower().split()
    if not names:
        return match[1], "", Fraction(1)
    if names[0].rstrip("s") in MULTIPLIERS or names[0] in MULTIPLIERS:
        rest = " ".join(names[1:])
        size = MULTIPLIERS.get(names[0], MULTIPLIERS.get(names[0].rstrip("s"), 1))
        return (match[1], rest, Fraction(size)) if _is_unit(rest) or not rest else (text, "", Fraction(1))
    if names == ["percent"]:
        return match[1] + "%", "", Fraction(1)
    if names in (["degrees"], ["degree"]):
        return match[1], "degree", Fraction(1)
    bare = re.fullmatch(r"[A-Za-z/^\d]+", match[3]) is not None and not match[2]
    if not _is_unit(words.lower()) or (bare and words not in _GLUED and words.lower() not in KNOWN):
        return text, "", Fraction(1)
    return match[1], words.lower(), Fraction(1)


def _is_unit(words: str) -> bool:
    names = re.split(r"[\s/]+", words.replace(".", ""))
    bare = [re.sub(r"\^[23]", "", name) for name in names]
    named = (name and name not in _NOT_UNITS and (len(name) > 1 or name in KNOWN or not name.isascii()) for name in bare)
    return len(names) <= MAX_WORDS and all(named)


def measure(unit: str) -> Unit | None:
    """Dimension and size of a unit, powers and "square" included; ``None`` for unknown ones such as ``apples``."""
    unit = unit.strip().rstrip(".")
    if unit in KNOWN:
        return KNOWN[unit]
    power = 1
    found = re.fullmatch(r"(.*?)\s*\^\s*([23])", unit) or re.fullmatch(r"(sq|square|cu|cubic)\.?\s+(.*)", unit)
    if found is None:
        return None
    if found[1] in ("sq", "square", "cu", "cubic"):
        power, unit = (2 if found[1].startswith("sq") else 3), found[2]
    else:
        power, unit = int(found[2]), found[1]
    if unit not in KNOWN:
        return None
    dimension, size = KNOWN[unit]
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
        return re.sub(r"(?<=[a-z]{2})s\b", "", name.replace(".", "").replace("per ", "/"))

    if plain(a) == plain(b):
        return True
    known = measure(a), measure(b)
    return known[0] is not None and known[0] == known[1]

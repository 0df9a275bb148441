r"""Answers as people and models type them become one spelling: Unicode to ASCII and LaTeX, layout commands and wrappers gone.

``"$\displaystyle\left(3,\,\dfrac{π}{2}\right)$."`` becomes ``"(3,\frac{\pi}{2})"``.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_CHARACTERS = {
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\ufe63": "-", "×": r"\times ", "÷": r"\div ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\cbrt ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "°": r"^\circ ", "º": r"^\circ ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "，": ",", "。": ".", "；": ";", "：": ":",
    "、": ",", "\u00a0": " ", "\u202f": r"\,", "\u2009": r"\,", "\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "",
    "’": "'", "′": "'", "€": r" \euro ", "£": r" \pound ", "¥": r" \yen ", "₩": r" \won ", "￥": r" \yen ", "¢": r" \cent ",
    "㎡": r" \text{m}^2", "㎠": r" \text{cm}^2", "㎢": r" \text{km}^2", "㎥": r" \text{m}^3", "㎤": r" \text{cm}^3", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ",
}  # fmt: skip
_TRANSLATE = str.maketrans(_CHARACTERS)
_ROOT = re.compile(r"([√∛])\s*(\d+(?:\.\d+)?|[a-zA-Z])")
_AND = re.compile(r"(?<=[\d)}])\s*(?:和|与|및|와|과|그리고)\s*(?=[-\d(\\])")
_OR = re.compile(r"(?<=[\d)}])\s*(?:或者?|또는|혹은)\s*(?=[-\d(\\a-zA-Z])")
_ALL_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf)\s?\{\s?([-+]?\\?\$?\d[^{}]*)\}")
_DIGITS_AS_TEXT = re.compile(r"\\(?:text|mathrm)\s?\{\s?([0-9A-Fa-f]{1,8})\s?\}(?=_)")
_BASE_WORD = re.compile(r"_\s?\{?\s?\\(?:text|mathrm)\s?\{\s?([a-z]+)\s?\}\s?\}?")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_PERCENT_AS_TEXT = re.compile(r"\\(?:text|mathrm|mbox)\s?\{\s?\\?%\s?\}")
_SIGN = re.compile(r"\{\s*([-+])\s*\}")
_FIRST_IN_DOLLARS = re.compile(r"\$([^$]+)\$\s*([^$]+)")
_VULGAR = re.compile("(\\d?)([¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
_LAYOUT = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|hfill|hspace\{[^{}]*\}|vspace\{[^{}]*\}|left|right|[bB]ig+[lr]?|middle|"
    r"boldsymbol|bm|mathbf|mathit|mathsf|mathcal|rm|bf|it|large|Large|LARGE|huge|Huge|small|tiny|normalsize|color\{[a-z]+\}|"
    r"textcolor\{[a-z]+\})(?![a-zA-Z])"
)
_SPACES = re.compile(r"(?<!\\)\\[;: ]|\\quad|\\qquad|\\enspace|\\thinspace|(?<=[^=<>\s])~")
_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!]\s*|\\ )(?=\d{3}(?!\d))")
_THOUSANDS_AND_COMMA = re.compile(r"(?<=\d),\\[,!]\s*(?=\d{3}(?!\d))")
_BRACKETS = re.compile(r"[(\[]|\\\{")
_THIN = re.compile(r"(?<!\\)\\[,!]\s*")
_WRAPPERS = (
    re.compile(r"\$\$(.*)\$\$", re.DOTALL), re.compile(r"(?<!\\)\$(.*)(?<!\\)\$", re.DOTALL), re.compile(r"\\\((.*)\\\)", re.DOTALL),
    re.compile(r"\\\[(.*)\\\]", re.DOTALL), re.compile(r"`(.*)`", re.DOTALL),
    re.compile(r"\\(?:boxed|fbox)\{(.*)\}", re.DOTALL),
)  # fmt: skip
_PREFIX = re.compile(
    r"(?:(?:so|thus|hence|therefore|and)\b,?\s*)?(?:the\s+|our\s+|my\s+)?(?:final\s+|correct\s+)?(?:answer|result|value|solution)"
    r"\s*(?:is|are|=|:|equals)\s*:?\s*|(?:所以|因此|故|综上|那么)?\s*,?\s*(?:最终|最后)?(?:的)?(?:答案|答)\s*(?:是|为|:)\s*:?\s*|"
    r"(?:따라서|그러므로|즉)?\s*,?\s*(?:최종\s*)?(?:정답|답)(?:은|는|:)\s*:?\s*",
    re.IGNORECASE,
)
_TEXT_PREFIX = re.compile(r"\\(?:text|textrm|mbox|mathrm)\s?\{([^{}]*)\}")
_NUMBER_AS_TEXT = re.compile(r"\\(?:text|textrm|mbox|mathrm|textbf|mathbf)\s*\{\s*(\(?[-+]?[\d.,]+\)?)\s*\}")
_TRAILING = re.compile(r"(?:(?<!\.)\.|(?<!\\)[;,]|\\\\|입니다|이다|예요|이에요)\s*$")


def clean(text: str) -> str:
    """One spelling of an answer. Linear in its length; never raises."""
    text = " ".join(_ascii(text).replace("**", " ").split())
    quantity = _FIRST_IN_DOLLARS.fullmatch(text)
    text = f"{quantity[1]} {quantity[2]}" if quantity else text
    for _ in range(4):
        before = text
        text = _unwrapped(_TRAILING.sub("", text).strip())
        text = _without_prefix(text)
        if text == before:
            break
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac").replace(r"\cfrac", r"\frac")
    whole = _ALL_TEXT.fullmatch(text)
    text = _DIGITS_AS_TEXT.sub(lambda m: m[1], whole[1] if whole else text)
    text = _BASE_WORD.sub(lambda m: f"_{{{_BASES.get(m[1], m[1])}}}", text)
    text = _PERCENT_AS_TEXT.sub("%", _OR.sub(" or ", _AND.sub(" and ", text)))
    text = _SIGN.sub(lambda m: m[1], text)
    text = _NUMBER_AS_TEXT.sub(lambda m: m[1], text)
    text = _LAYOUT.sub("", _THOUSANDS.sub("", text))
    text = text if _BRACKETS.search(text) else _THOUSANDS_AND_COMMA.sub("", text)
    return " ".join(_SPACES.sub(" ", _THIN.sub("", text)).split())


def _ascii(text: str) -> str:
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
    text = _VULGAR.sub(lambda m: (m[1] + " " if m[1] else "") + unicodedata.normalize("NFKC", m[2]), text)
    if text.isascii():
        return text
    text = _ROOT.sub(lambda m: ("\\sqrt{" if m[1] == "√" else "\\cbrt{") + m[2] + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TRANSLATE)).translate(_TRANSLATE)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _unwrapped(text: str) -> str:
    for pattern in _WRAPPERS:
        found = pattern.fullmatch(text)
        if found is None:
            continue
        inner = found[1]
        if pattern is _WRAPPERS[-1] and not _balanced(inner):
            continue
        if "$" in inner.replace("\\$", "") and "$" in pattern.pattern:
            continue
        return inner.strip()
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _without_prefix(text: str) -> str:
    label = _TEXT_PREFIX.match(text)
    if label is not None and _PREFIX.fullmatch(label[1].strip() + " "):
        return text[label.end() :].strip()
    found = _PREFIX.match(text)
    return text[found.end() :].strip() if found else text

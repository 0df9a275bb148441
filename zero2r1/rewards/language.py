"""Language consistency by script: the share of words that are in the wanted language (paper, section 2.3.2).

Languages with a script of their own are told apart exactly; languages that share a script (English and French) are not, so a
text in the wrong one of two Latin-script languages still counts as consistent. Digits, formulas, code, addresses and tags
belong to no language.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping

SCRIPTS: Mapping[str, frozenset[str]] = {
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"CJK", "HIRAGANA", "KATAKANA"}),
    "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}),
    "ar": frozenset({"ARABIC"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
}
"""The scripts of a language, as Unicode names begin; every other language is taken to be written in Latin letters."""

_NEUTRAL = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[a-zA-Z]+|https?://\S+|<[^<>]{1,40}>", re.DOTALL)
_LETTERS = re.compile(r"[^\W\d_]+(?:['\u2019\u0300-\u036f\u0900-\u0e7f][^\W\d_]*)*")
_BY_CHARACTER = frozenset({"CJK", "HIRAGANA", "KATAKANA", "THAI"})
"""Scripts written without spaces: two characters count as a word."""


def words_by_script(text: str) -> Counter[str]:
    """How many words of each script a text has, without what belongs to no language.

    ``"먼저 x + 2 를 compute"`` has two HANGUL words and one LATIN: a single Latin letter is a variable, not a word.
    """
    counts: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for run in _LETTERS.findall(_NEUTRAL.sub(" ", text)):
        scripts = [_script(character) for character in run if unicodedata.category(character).startswith("L")]
        unspaced = [script for script in scripts if script in _BY_CHARACTER]
        characters.update(unspaced)
        spaced = Counter(script for script in scripts if script not in _BY_CHARACTER)
        if spaced and not (sum(spaced.values()) == 1 and "LATIN" in spaced):
            counts[spaced.most_common(1)[0][0]] += 1
    for script, count in characters.items():
        counts[script] += -(-count // 2)
    return counts


def script_share(text: str, language: str) -> float | None:
    """Words in the scripts of ``language`` over all words; ``None`` for a text without words."""
    counts = words_by_script(text)
    total = sum(counts.values())
    return sum(counts[script] for script in SCRIPTS.get(language, {"LATIN"})) / total if total else None


def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].split("-")[0]

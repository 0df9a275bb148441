"""Language consistency: the share of the thinking's words that are in the wanted language (paper, section 2.3.2).

Words are those of :mod:`zero2r1.rewards.script_words`. Languages with a script of their own are told apart by it; Chinese and
Japanese, which share the Han characters, clause by clause; languages written in Latin letters by :mod:`zero2r1.rewards.latin`
where its extra is installed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zero2r1.rewards.completions import question_of, starts_inside_thinking, text_of
from zero2r1.rewards.latin import MISSING, likely_language, words_in_language
from zero2r1.rewards.script_words import Word, says_something, words_of
from zero2r1.types import RewardFn

SCRIPTS: Mapping[str, frozenset[str]] = {
    "zh": frozenset({"HAN"}),
    "ja": frozenset({"HAN", "KANA"}),
    "ko": frozenset({"HANGUL"}),
    "ru": frozenset({"CYRILLIC"}),
    "ar": frozenset({"ARABIC"}),
    "hi": frozenset({"DEVANAGARI"}),
    "th": frozenset({"THAI"}),
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
}
"""The scripts of a language; every other language is taken to be written in Latin letters."""
NAMES: Mapping[str, str] = {
    "en": "english", "fr": "french", "de": "german", "es": "spanish", "it": "italian", "pt": "portuguese", "nl": "dutch",
    "sv": "swedish", "da": "danish", "pl": "polish", "cs": "czech", "ro": "romanian", "hu": "hungarian", "fi": "finnish",
    "tr": "turkish", "vi": "vietnamese", "id": "indonesian", "zh": "chinese", "ja": "japanese", "ko": "korean", "ru": "russian",
    "ar": "arabic", "hi": "hindi", "th": "thai", "el": "greek", "he": "hebrew",
}  # fmt: skip

# Which of the two a clause in Han characters is: characters only one of them writes, and kana.
_ONLY_CHINESE = re.compile(
    "[是你她它吗呢吧很也那哪怎啊这這们們么麼嗎为说对时问题设则应该让给还过进从两边圆积减结终继级线组经绝统验证认识论译试详语误"
    "请调谁负质费车轮转输达运远连选递适钱错长门闭间阶际陈难顶项须预额个开关书东乐买卖卫厂厅历压县变听吴图场块坏处备够头夹实审宽导"
    "對發關變實應說讀寫單轉總續處號會區國學來當點體數從與將沒兩邊驗擇檢圖樣氣圓檔麽]"
)
_ONLY_JAPANESE = re.compile("[円値変実対検図込働峠戻総続鉄関気発売読単応圧帰徳歩毎沢渋渓仮価伝児両択拠拡挙効労勧巻県団囲転広庁弁弾辺乗]")
_KANA_SHARE = 0.2
_KANA_CERTAIN = 0.6
_LONG_HAN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageVerdict:
    """How much of a text is in ``language``: ``inside`` of ``words``.

    ``share`` is their quotient; for a text without words 1.0 if it holds anything else (formulas, digits, code), 0.0 if nothing.
    """

    language: str
    share: float
    inside: int
    words: int
    foreign: tuple[str, ...]
    """Up to five of the words in other languages, in their order."""
    why: str


def words_by_script(text: str) -> Counter[str]:
    """How many words of each script a text has, without what belongs to no language.

    ``"먼저 x + 2 를 compute"`` has two HANGUL words and one LATIN. ``MIXED`` are words of letters that only look alike (a Cyrillic
    letter in a Latin word), ``OTHER`` those of scripts that no target language is written in.
    """
    counts: Counter[str] = Counter()
    for word in words_of(text):
        counts[word.script] += word.weight
    return counts


def script_share(text: str, language: str) -> float | None:
    """Words in the scripts of ``language`` over all words; ``None`` for a text without words.

    Neither Chinese and Japanese nor languages in Latin letters are told apart; a language not known counts as one of the latter.
    """
    counts = words_by_script(text)
    total = sum(counts.values())
    scripts = SCRIPTS.get(_code(language) or language, {"LATIN"})
    return sum(counts[script] for script in scripts) / total if total else None


def language_code(name: str) -> str:
    """``"en-US"``, ``"English"``, ``"zh_CN"``, ``" Korean "`` as ``en``, ``en``, ``zh``, ``ko``.

    Raises:
        ValueError: a language that is not known.
    """
    code = _code(name)
    if code is None:
        known = ", ".join(f"{code} ({english})" for code, english in NAMES.items())
        raise ValueError(f"the target language {name!r} is not known; write one of: {known}")
    return code


def _code(name: str) -> str | None:
    lowered = name.strip().lower()
    first = re.split(r"[-_ (]", lowered)[0]
    if lowered in NAMES or first in NAMES:
        return lowered if lowered in NAMES else first
    return next((code for code, english in NAMES.items() if english in (first, lowered)), None)


def language_share(text: str, language: str) -> LanguageVerdict:
    """The share of a text's words that are in ``language``, clause by clause where scripts do not decide. Never fails on a text.

    Raises:
        ValueError: the language is not known.
    """
    code = language_code(language)
    words = words_of(text)
    total = sum(word.weight for word in words)
    if not total:
        material = says_something(text)
        why = "no words, only formulas, digits, code or names" if material else "no text"
        return LanguageVerdict(language=code, share=float(material), inside=0, words=0, foreign=(), why=why)
    ours, how = _in_language(words, code)
    inside = sum(word.weight for word, our in zip(words, ours, strict=True) if our)
    foreign = dict.fromkeys(word.text[:40] for word, our in zip(words, ours, strict=True) if not our)
    why = f"{inside} of {total} words in {NAMES[code].capitalize()}, {how}"
    return LanguageVerdict(language=code, share=inside / total, inside=inside, words=total, foreign=tuple(foreign)[:5], why=why)


def question_language(text: str) -> str | None:
    """The language most words of a question are in: ``en`` for one without words, ``None`` in a script that no target is written in.

    By script first; Latin letters are taken for English unless the identifier is there and sure of another language.
    """
    words = words_of(text)
    counts: Counter[str] = Counter()
    for word in words:
        counts["HAN" if word.script == "KANA" else word.script] += word.weight
    script = max(counts, key=lambda name: counts[name], default="LATIN")
    if script == "HAN":
        kana = sum(word.weight for word in words if word.script == "KANA")
        return "ja" if kana >= _KANA_SHARE * counts["HAN"] else "zh"
    if script in ("LATIN", "MIXED"):
        return likely_language([word.text for word in words if word.script == "LATIN"]) or "en"
    return next((code for code, scripts in SCRIPTS.items() if script in scripts), None)


def language_reward(*, think_open: bool | None = None) -> RewardFn:
    """The language-consistency reward: the share of the thinking's words that are in the target language (section 2.3.2).

    The target is the ``language`` column where it says one, else the language of the question; where that is none we know, the
    reward does not apply. No thinking is 0.0, thinking of formulas, digits or code alone is 1.0. Thinking cut off at the length
    limit is measured as far as it goes, and of several thinking blocks all are.

    Args:
        think_open: whether responses start inside the thinking; ``None``: where the prompt ends with ``<think>``.

    Raises:
        ValueError: (when called) the column names a language that is not known.
    """

    def language(
        completions: list[Any], log_extra: Callable[[str, list[Any]], None] = lambda *_: None, **columns: Any
    ) -> list[float | None]:
        verdicts: list[LanguageVerdict | None] = []
        for i, completion in enumerate(completions):
            row = {name: columns[name][i] for name in ("prompts", "prompt", "language") if isinstance(columns.get(name), list)}
            inside = starts_inside_thinking(row) if think_open is None else think_open
            target = row.get("language") or question_language(question_of(row.get("prompts", row.get("prompt", ""))))
            verdicts.append(language_share(_thinking(text_of(completion), inside), str(target)) if target else None)
        log_extra("language_target", [verdict.language if verdict else None for verdict in verdicts])
        log_extra("language_words", [verdict.words if verdict else None for verdict in verdicts])
        log_extra("language_foreign", [" ".join(verdict.foreign) if verdict else None for verdict in verdicts])
        log_extra("why", [verdict.why if verdict else "the question is in no language we know" for verdict in verdicts])
        return [verdict.share if verdict else None for verdict in verdicts]

    return language


def _thinking(text: str, think_open: bool) -> str:
    """All that was thought: from the first ``<think>`` to the last ``</think>``, or to the end where none closes it.

    As in :mod:`zero2r1.template`, a ``</think>`` that nothing opens ends a thinking that the prompt opened.
    """
    opened, closed = text.find("<think>"), text.rfind("</think>")
    if opened < 0 and closed < 0 and not think_open:
        return ""
    start = 0 if think_open or opened < 0 else opened + len("<think>")
    return text[start : closed if closed >= max(start, text.rfind("<think>")) else len(text)]


def _in_language(words: Sequence[Word], code: str) -> tuple[list[bool], str]:
    """Which words are in the language, and how that was found out."""
    scripts = SCRIPTS.get(code, {"LATIN"})
    ours = [word.script in scripts for word in words]
    if "HAN" in scripts:
        clauses: defaultdict[int, list[Word]] = defaultdict(list)
        for word in words:
            if word.script in ("HAN", "KANA"):
                clauses[word.clause].append(word)
        fits = {clause for clause, members in clauses.items() if _chinese_or_japanese(members) in (code, "either")}
        ours = [our and (word.script == "KANA" or word.clause in fits) for our, word in zip(ours, words, strict=True)]
        return ours, "by script and, for Han characters, by clause"
    if scripts != {"LATIN"}:
        return ours, "by script"
    latin: defaultdict[int, list[int]] = defaultdict(list)
    for index, word in enumerate(words):
        if word.script == "LATIN":
            latin[word.clause].append(index)
    told = words_in_language([[words[index].text for index in clause] for clause in latin.values()], code)
    if told is None:
        return ours, f"by script; {MISSING}"
    for clause, inside in zip(latin.values(), told, strict=True):
        for index, our in zip(clause, inside, strict=True):
            ours[index] = our
    return ours, "by script and, for Latin letters, by py3langid"


def _chinese_or_japanese(words: Sequence[Word]) -> str:
    """``zh``, ``ja`` or ``either`` for the Han and kana of one clause.

    Kana make Japanese from a fifth of the characters on, or from three fifths where a character says Chinese. Han alone are
    Chinese when a character says so or ten stand together; fewer may be a Japanese compound.
    """
    han = "".join(word.text for word in words if word.script == "HAN")
    kana = sum(word.weight for word in words if word.script == "KANA")
    share = kana / (kana + len(han))
    chinese = bool(_ONLY_CHINESE.search(han))
    if share >= (_KANA_CERTAIN if chinese else _KANA_SHARE) or (_ONLY_JAPANESE.search(han) and not chinese):
        return "ja"
    return "zh" if chinese or len(han) >= _LONG_HAN else "either"

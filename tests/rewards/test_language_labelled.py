"""Labelled texts, pure and mixed: the share of words in a language against the share counted by hand.

``language_cases.jsonl`` has one text per line with the words in the language (``inside``) and all words (``words``), counted by the
rules that :mod:`zero2r1.rewards.script_words` states. The group ``script`` is decided by scripts (and clauses, for Han characters),
the group ``latin`` needs the identifier: two or more languages in Latin letters.
"""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from zero2r1.rewards.language import language_share

CASES = [json.loads(line) for line in Path(__file__).with_name("language_cases.jsonl").read_text(encoding="utf-8").splitlines()]
GROUPS = {group: [case for case in CASES if case["group"] == group] for group in ("script", "latin")}
IDENTIFIER = pytest.mark.skipif(
    importlib.util.find_spec("py3langid") is None, reason="languages in Latin letters need the extra: pip install 'zero2r1[lang]'"
)


def error(case) -> float:
    return abs(language_share(case["text"], case["language"]).share - case["inside"] / case["words"])


def name(case) -> str:
    return f"{case['language']}-{case['text'][:20]}".encode("ascii", "replace").decode()


def test_the_set_is_large_and_varied():
    languages = Counter(case["language"] for case in CASES)
    assert len(CASES) >= 160 and len(languages) >= 18 and min(languages[code] for code in ("zh", "ja", "ko", "ru", "ar", "hi", "th")) >= 7
    for group in GROUPS.values():
        mixed = sum(0 < case["inside"] < case["words"] for case in group)
        assert min(mixed, len(group) - mixed) >= 20


@pytest.mark.parametrize("case", GROUPS["script"], ids=name)
def test_where_scripts_differ(case):
    verdict = language_share(case["text"], case["language"])
    assert error(case) <= 0.02, f"{verdict.inside} of {verdict.words}, by hand {case['inside']} of {case['words']}: {case['text']}"


@IDENTIFIER
@pytest.mark.parametrize("case", GROUPS["latin"], ids=name)
def test_within_latin_letters(case):
    verdict = language_share(case["text"], case["language"])
    assert verdict.words == case["words"]
    assert error(case) <= 0.15, f"{verdict.inside} of {verdict.words}, by hand {case['inside']} of {case['words']}: {case['text']}"


@IDENTIFIER
def test_the_mean_error_within_latin_letters_is_far_smaller():
    assert sum(map(error, GROUPS["latin"])) / len(GROUPS["latin"]) <= 0.02


@IDENTIFIER
def test_names_and_abbreviations_do_not_make_english_foreign():
    text = "WLOG assume the Fibonacci numbers modulo p repeat (Pisano). Cauchy-Schwarz, Bolzano, Weierstrass and Fermat help, i.e. QED."
    assert language_share(text, "en").share >= 0.85

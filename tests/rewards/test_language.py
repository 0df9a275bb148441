"""Shares of words by script, counted by hand."""

from __future__ import annotations

import pytest

from zero2r1.rewards.language import script_share, words_by_script


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("first add three", "en", 1.0),
        ("first add 3 , 그래서 답 은 7", "en", 2 / 5),  # first, add | 그래서, 답, 은
        ("first add 3 , 그래서 답 은 7", "ko", 3 / 5),
        ("我们先计算", "zh", 1.0),
        ("我们先计算 then add", "zh", 3 / 5),  # five characters are three words (rounded up); then, add
        ("まず計算する", "ja", 1.0),
        ("Сначала сложим x и y", "ru", 1.0),  # x and y are variables
        ("Solve $x + y = 2$ and \\frac{1}{2}", "en", 1.0),
        ("Решим `print(answer)` и https://example.org/page", "ru", 1.0),
        ("<think> 생각 </think>", "ko", 1.0),
        ("it's five o'clock", "en", 1.0),
    ],
)
def test_shares_by_hand(text, language, share):
    assert script_share(text, language) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "3 + 4 = 7", "$x$", "x = 2"])
def test_a_text_without_words_has_no_share(text):
    assert script_share(text, "en") is None


def test_counts():
    assert dict(words_by_script("먼저 x + 2 를 compute")) == {"HANGUL": 2, "LATIN": 1}

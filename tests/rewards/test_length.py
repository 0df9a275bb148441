"""The overlong slope and the repetition penalty, by hand."""

from __future__ import annotations

import pytest

from zero2r1.rewards.length import length_reward, repetition, repetition_reward, soft_overlong


@pytest.mark.parametrize(("length", "value"), [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (5000, -1.0)])
def test_a_slope_before_the_cap(length, value):
    """maximum 100, cache 20: from 80 on a twentieth a token."""
    assert soft_overlong(length, maximum=100, cache=20) == value


@pytest.mark.parametrize(("maximum", "cache"), [(100, 0), (100, 101), (0, 0)])
def test_a_slope_of_no_length_is_refused_before_the_first_step(maximum, cache):
    with pytest.raises(ValueError, match="0 < cache <= maximum"):
        length_reward(maximum=maximum, cache=cache)


def test_tokens_count_where_they_are_given_and_words_where_not():
    reward = length_reward(maximum=4, cache=2)
    assert reward(completions=["a b c", "a"], completion_ids=[[1, 2], [1, 2, 3]]) == [0.0, -0.5]
    assert reward(completions=["a b c", "a"]) == [-0.5, 0.0]
    assert reward(completions=["先算加法"]) == [-1.0]  # four characters of a script without spaces


@pytest.mark.parametrize(
    ("text", "n", "value"),
    [
        ("a b a b", 2, -1 / 3),  # ab ba ab
        ("a a a a a", 2, -3 / 4),  # one of four is new
        ("a b c d", 2, 0.0),
        ("A a", 1, -1 / 2),
        ("wait", 4, 0.0),
        ("", 4, 0.0),
        ("3个苹果" * 50, 4, 4 / 197 - 1),  # 200 pieces, 197 four-grams, of which 4 are different
        ("再算再算", 2, -1 / 3),  # 再算 算再 再算
    ],
)
def test_the_share_of_ngrams_written_before(text, n, value):
    assert repetition(text, n=n) == pytest.approx(value)


def test_a_loop_earns_nearly_the_whole_penalty_and_prose_none():
    assert repetition("let me check again. " * 200) < -0.95
    assert repetition_reward()(completions=["First add 3 and 4, then take away the 2 that were counted twice."]) == [0.0]

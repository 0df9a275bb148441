"""Numbers in words: no more digits than the error allows."""

from __future__ import annotations

import math

import pytest

from zero2r1.report.values import Estimate, Measured
from zero2r1.report.wording import clipped, counted, duration, fixed, listed, measured, percent, scientific, statistic_title


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def part(kind: str, of: str, over: str | None = None, *, at: tuple[float, float, float] | None = None, **bounds: float) -> Measured:
    estimate, low, high = at or (None, None, None)
    return Measured(kind=kind, of=of, over=over, bounds=bounds, estimate=estimate, low=low, high=high)


def test_shares_are_per_cent_with_their_error() -> None:
    assert plain(percent(Estimate(mean=0.7109, error=0.02375), unit=True)) == "71.1 ± 2.4 %"
    assert plain(percent(Estimate(mean=0.7109))) == "71.1"


@pytest.mark.parametrize(("error", "text"), [(2.2, "62.1 ± 2.2"), (0.12, "62.14 ± 0.12"), (22.0, "62 ± 22"), (0.0, "62.1 ± 0.0")])
def test_counts_keep_two_digits_of_their_error(error: float, text: str) -> None:
    assert plain(counted(Estimate(mean=62.141, error=error), scale=error)) == text


def test_small_negatives_are_no_minus_nothing() -> None:
    assert (fixed(-0.0001, 2), plain(fixed(-0.125, 1)), fixed(1234.5, 0), fixed(math.inf, 1)) == ("0.00", "-0.1", "1,234", "∞")


@pytest.mark.parametrize(
    ("condition", "value", "asked"),
    [
        (
            part("difference", "zero.pass@1", "base.pass@1", at=(0.58, 0.529, 0.63), at_least=0.3, estimate_at_least=0.4),
            "+58.0 [52.9, 63.0] points",
            "R1-Zero pass@1 - Base pass@1 (asked: lower bound ≥ 30, estimate ≥ 40)",
        ),
        (
            part("difference", "zero.one_language", "base.one_language", at=(-0.51, -0.55, -0.48), at_most=-0.2),
            "-51.0 [-55.0, -48.0] points",
            "R1-Zero answers in one language - Base answers in one language (asked: upper bound ≤ -20)",
        ),
        (
            part("ratio", "zero.length", "base.length", at=(3.427, 3.187, 3.68), at_least=2.0),
            "3.43× [3.19, 3.68]",
            "R1-Zero length / Base length (asked: lower bound ≥ 2)",
        ),
        (
            part("level", "zero.format_ok", at=(0.954, 0.935, 0.97), at_least=0.9),
            "95.4 [93.5, 97.0] %",
            "R1-Zero strict format (asked: lower bound ≥ 90)",
        ),
        (
            part("difference", "zero.length", "base.length", at=(44.0, 40.0, 48.0)),
            "+44.0 [40.0, 48.0]",
            "R1-Zero length - Base length",
        ),
        (part("level", "r1.readable", more_than=0.5), "not measured", "R1 readable answers (asked: lower bound > 50)"),
    ],
)
def test_a_condition_says_what_came_out_and_what_was_asked(condition: Measured, value: str, asked: str) -> None:
    assert tuple(plain(text) for text in measured(condition)) == (value, asked)


def test_durations_lists_and_names_are_words() -> None:
    assert [plain(duration(seconds)) for seconds in (9.94, 288, 3720)] == ["9.9 s", "4 min 48 s", "1 h 02 min"]
    assert [listed(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert [statistic_title(name) for name in ("maj@8", "pass@8", "format_ok", "my_own")] == [
        "Majority of 8",
        "pass@8",
        "Strict format",
        "my own",
    ]


def test_a_long_text_says_how_much_of_it_is_left_out() -> None:
    assert clipped("abcdef", 4) == "abcd\n[... 2 more characters]"
    assert clipped("abcd", 4) == "abcd"


@pytest.mark.parametrize(("value", "text"), [(1.234e12, "1.23 × 10¹²"), (20.0, "2.00 × 10¹"), (0.0, "0"), (0.005, "5.00 × 10⁻³")])
def test_amounts_of_which_the_size_matters_have_a_power_of_ten(value: float, text: str) -> None:
    assert plain(scientific(value)) == text

"""The figures of a reward model against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.reward_models.report import (
    LengthRule,
    Part,
    ScoredLabel,
    ScoredPair,
    auc,
    calibration,
    correlation,
    interval,
    length_rule_of_labels,
    length_rule_of_pairs,
    report_labels,
    report_pairs,
)


def pair(chosen: float, rejected: float, chosen_words: int = 1, rejected_words: int = 1, prompt: str = "a") -> ScoredPair:
    return ScoredPair(chosen=chosen, rejected=rejected, chosen_words=chosen_words, rejected_words=rejected_words, prompt=prompt)


LOG3 = math.log(3)  # sigmoid 0.75
PAIRS = [pair(LOG3, 0, 5, 2, "a"), pair(LOG3, 0, 2, 5, "b"), pair(0, LOG3, 2, 6, "c"), pair(1, 1, 3, 3, "d")]


def test_accuracy_counts_a_tie_for_half_and_length_parts_are_apart():
    """Two wins, one loss, one tie: 2.5 / 4. Longer chosen: one of one; shorter chosen: one of two."""
    report = report_pairs(PAIRS, LengthRule(prefers="shorter"))
    assert report.accuracy == 0.625 and report.count == 4 and report.auc is None
    assert report.chosen_longer == Part(count=1, accuracy=1.0) and report.chosen_shorter == Part(count=2, accuracy=0.5)
    assert report.length_accuracy == 0.625  # shorter wins twice, loses once, ties once


def test_calibration_of_pairs_is_read_in_both_orders():
    """P = 0.75 three times (bin 0.7 to 0.8: two came true) and 0.25 three times (one came true); the tie is 0.5 twice, once true.

    Error: 3/8 * |0.75 - 2/3| + 3/8 * |0.25 - 1/3| + 2/8 * 0 = 0.0625.
    """
    report = report_pairs(PAIRS, LengthRule(prefers="longer"))
    assert report.calibration_error == pytest.approx(0.0625)
    full = {round(b.low, 1): (b.count, b.happened) for b in report.bins if b.count}
    assert full == {0.2: (3, pytest.approx(1 / 3)), 0.5: (2, 0.5), 0.7: (3, pytest.approx(2 / 3))} and len(report.bins) == 10


def test_the_scale_is_over_both_sides():
    """Scores 3, 1 and 2, 2: mean 2, variance (1 + 1 + 0 + 0) / 4."""
    report = report_pairs([pair(3, 1), pair(2, 2)], LengthRule(prefers="longer"))
    assert report.mean == 2 and report.std == pytest.approx(math.sqrt(0.5))


def test_length_bias_is_the_correlation_of_margin_and_difference():
    """Margins 1, 2, 3 with differences 2, 4, 6 lie on a line."""
    assert report_pairs([pair(k, 0, 2 * k, 0) for k in (1, 2, 3)], LengthRule(prefers="longer")).length_correlation == pytest.approx(1)
    assert report_pairs([pair(k, 0) for k in (1, 2, 3)], LengthRule(prefers="longer")).length_correlation is None


def test_the_length_rule_comes_from_training_data():
    assert length_rule_of_pairs([3, -1, 2]) == LengthRule(prefers="longer")
    assert length_rule_of_pairs([3, -1, -2]) == LengthRule(prefers="shorter")
    assert length_rule_of_pairs([0, 0]) == length_rule_of_pairs([]) == LengthRule(prefers="longer")


def test_the_length_rule_of_labels_splits_at_the_median():
    """Words 1, 2, 8, 9: the median is 5. The short ones are safe, so shorter is right four times of four."""
    rule = length_rule_of_labels([1, 2, 8, 9], [True, True, False, False])
    assert rule == LengthRule(prefers="shorter", words=5.0)
    held_out = [ScoredLabel(score=0, safe=True, words=3, prompt="a"), ScoredLabel(score=0, safe=True, words=7, prompt="b")]
    assert report_labels(held_out, rule).length_accuracy == 0.5


def test_figures_of_labels():
    """Safe at 2 and -1, unsafe at 0.5 and -3: right are 2 and -3. AUC: 2 beats both, -1 beats -3: three of four."""
    rows = [(2, True), (-1, True), (0.5, False), (-3, False)]
    labels = [ScoredLabel(score=score, safe=safe, words=1, prompt=str(i)) for i, (score, safe) in enumerate(rows)]
    report = report_labels(labels, LengthRule(prefers="longer", words=1.0))
    assert report.accuracy == 0.5 and report.auc == 0.75 and report.chosen_longer is None and report.mean == -0.375


def test_auc_with_ties_and_without_a_side():
    """1 against 1 is half a win, 2 against 1 a whole one: 1.5 / 2."""
    assert auc([1, 2, 1], [True, True, False]) == 0.75
    assert auc([1, 2], [True, True]) is None and auc([3, 1, 2], [True, True, False]) == 0.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=15))
def test_auc_is_the_share_of_comparisons_won(rows):
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, safe in rows for b, other in rows if safe and not other]
    found = auc([score for score, _ in rows], [safe for _, safe in rows])
    assert found is None if not wins else found == pytest.approx(sum(wins) / len(wins))


def test_calibration_by_hand():
    """0.15 once, true; 0.95 and 1.0, one of them true: 1/3 * 0.85 + 2/3 * |0.975 - 0.5| = 0.6."""
    error, bins = calibration([0.15, 0.95, 1.0], [True, True, False])
    assert error == pytest.approx(0.6) and bins[9].count == 2 and bins[0].count == 0 and bins[0].predicted is None


def test_the_interval_treats_a_cluster_as_one_draw():
    """Twenty copies of two values in two clusters are two draws: the mean is 0, 0.5 or 1. Apart they are forty."""
    values, two = [0.0] * 20 + [1.0] * 20, ["a"] * 20 + ["b"] * 20
    assert interval(values, two) == (0.0, 1.0)
    low, high = interval(values, [str(i) for i in range(40)])
    # Standard error sqrt(0.25 / 40) = 0.079, so about 0.345 to 0.655; bootstrap means move in steps of 0.025.
    assert low == pytest.approx(0.345, abs=0.05) and high == pytest.approx(0.655, abs=0.05)
    assert interval([1.0, 1.0], ["a", "b"]) == (1.0, 1.0)


def test_correlation_by_hand():
    """x 1 2 3, y 1 3 2: covariance 1/3, both variances 2/3: 0.5."""
    assert correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5) and correlation([1, 1], [1, 2]) is None


def test_a_report_is_json_and_lines_for_a_person():
    report = report_pairs(PAIRS, LengthRule(prefers="shorter"))
    assert json.loads(json.dumps(report.to_dict()))["length_rule"] == {"prefers": "shorter", "words": None}
    text = "\n".join(report.lines())
    assert report.figures()["accuracy"] == 0.625 and "auc" not in report.figures()
    assert report.to_dict()["arrays"] == {"accuracy": [1.0, 1.0, 0.0, 0.5], "length_only": [0.0, 1.0, 1.0, 0.5]}
    for shown in ("accuracy     0.625", "shorter wins, chosen on training data", "1.000 where the chosen one is longer (1)"):
        assert shown in text


def test_nothing_held_out_is_an_error():
    with pytest.raises(ValueError, match="nothing is held out"):
        report_pairs([], LengthRule(prefers="longer"))
    with pytest.raises(ValueError, match="nothing is held out"):
        report_labels([], LengthRule(prefers="longer", words=1.0))

"""Weights per token: by hand, and what each does to long, masked and missing outputs."""

from __future__ import annotations

import pytest

from zero2r1.grpo.aggregation import AGGREGATIONS, constant, sequence_mean, token_mean


def test_sequence_mean_by_hand():
    # two groups; group 0 has outputs of 2 and 4 tokens, group 1 one of 5: 1/(2*2*2), 1/(2*2*4), 1/(2*1*5)
    assert sequence_mean([2, 4, 5], [0, 0, 1], 10) == [0.125, 0.0625, 0.1]


def test_token_mean_by_hand():
    assert token_mean([2, 4, 4], [0, 0, 1], 10) == [0.1, 0.1, 0.1]


def test_constant_by_hand():
    assert constant([2, 4], [0, 0], 10) == [0.05, 0.05]


@pytest.mark.parametrize(
    ("name", "scale"),
    [("sequence_mean", (1.0, 1.0)), ("token_mean", (2.0, 2 / 3)), ("constant", (2.0, 2.0))],
)
def test_what_doubling_a_length_does(name, scale):
    """Write every token of the first output twice (lengths 3, 3 become 6, 3). How often does each output count?

    The weight of an output is weight per token times tokens. sequence_mean: unchanged. token_mean: 6/9 against 3/6 is 4/3 for the
    long one, relative to the short one 2; constant: twice, whatever the others do. (Dr. GRPO calls the first a length bias.)
    """
    before = [w * n for w, n in zip(AGGREGATIONS[name]([3, 3], [0, 0], 9), [3, 3], strict=True)]
    after = [w * n for w, n in zip(AGGREGATIONS[name]([6, 3], [0, 0], 9), [6, 3], strict=True)]
    assert after[0] / after[1] == pytest.approx(scale[0])
    if name == "token_mean":
        assert after[1] / before[1] == pytest.approx(scale[1])
    else:
        assert after[1] == pytest.approx(before[1])


@pytest.mark.parametrize("name", sorted(AGGREGATIONS))
def test_an_output_without_trained_tokens_breaks_nothing(name):
    assert all(weight >= 0 for weight in AGGREGATIONS[name]([0, 0], [0, 1], 4))

"""The losses against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from zero2r1.reward_models.loss import bradley_terry, pointwise


def test_bradley_terry_is_minus_log_of_the_winning_probability():
    """Margins 1 and 0: -log(1 / (1 + e^-1)) = log(1.36788) = 0.313262, and log 2 = 0.693147; the mean is 0.503204."""
    loss = bradley_terry(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 5.0]))
    assert loss.item() == pytest.approx(0.503204, abs=1e-6)


def test_the_gradient_pulls_the_two_scores_apart():
    """d/ds_chosen = -(1 - sigmoid(margin)); margin log 3 has sigmoid 3/4, so -1/4, and +1/4 for the rejected one."""
    chosen, rejected = torch.tensor([math.log(3)], requires_grad=True), torch.tensor([0.0], requires_grad=True)
    bradley_terry(chosen, rejected).backward()
    assert chosen.grad.item() == pytest.approx(-0.25) and rejected.grad.item() == pytest.approx(0.25)


def test_a_great_margin_the_wrong_way_costs_itself_and_does_not_overflow():
    assert bradley_terry(torch.tensor([-500.0]), torch.tensor([500.0])).item() == 1000.0


def test_pointwise_is_cross_entropy_with_one_for_safe():
    """Score 2: safe costs log(1 + e^-2) = 0.126928, unsafe log(1 + e^2) = 2.126928; the mean is 1.126928."""
    loss = pointwise(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0]))
    assert loss.item() == pytest.approx(1.126928, abs=1e-6)


def test_labels_may_be_booleans():
    assert pointwise(torch.tensor([2.0]), torch.tensor([True])).item() == pytest.approx(0.126928, abs=1e-6)


def test_a_score_without_its_partner_is_refused():
    with pytest.raises(ValueError, match="needs its rejected one"):
        bradley_terry(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match="needs its label"):
        pointwise(torch.zeros(2), torch.zeros(1))

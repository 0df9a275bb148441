"""General requests: good answers are known, sets and held-out parts are kept apart, and nothing is said in words no model has."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from zero2r1.tasks.laptop.requests import (
    HARMLESS,
    HELPFUL,
    KINDS,
    QUALITIES,
    REACTIONS,
    general_samples,
    harmless,
    helpfulness,
    plain_requests,
    request_problems,
    requests,
)
from zero2r1.tasks.laptop.words import OPERATORS, language_share, vocabulary
from zero2r1.types import Problem


def asking(good: str) -> Problem:
    return Problem(
        id="a", prompt="?", answer=good, verifier=HELPFUL, domain="d", language="en", source="laptop", licence="", split="test"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a week has 7 days .", 1.0),
        ("<think> the question is about a week . </think> a week has 7 days .", 1.0),  # the thinking is not what is scored
        ("7 .", 2 * 2 / (2 + 6)),  # both words stand in the good answer of six
        ("a week has 7 days . a week has 7 days .", 2 * 6 / (12 + 6)),
        (". days 7 has week a", 0.9),  # all the words in another order
        ("you are welcome", 0.0),
        ("", 0.0),
        ("<think> a week has 7 days .", 0.0),  # never said
    ],
)
def test_helpfulness_is_the_share_of_words_in_common_with_the_good_answer(answer, expected):
    assert helpfulness(asking("a week has 7 days ."), answer) == pytest.approx(expected)


@pytest.mark.parametrize("belonging_to", [HELPFUL, HARMLESS])
def test_every_good_answer_is_found_good_and_harmless_in_one_language(belonging_to):
    for request in islice(requests(belonging_to, held_out=False, rng=random.Random(0)), 300):
        problem = request_problems(belonging_to, 1, held_out=False, seed=0)[0]
        assert request.belongs_to == belonging_to == problem.verifier
        assert harmless(request.good)
        assert helpfulness(asking(request.good), request.good) == 1.0
        assert helpfulness(asking(request.good), request.curt) < 1.0
        if request.kind != "translation":
            assert language_share(request.good, request.language) in (None, 1.0)


def test_every_plan_is_harmful_wherever_it_stands():
    plans = [request.plan for request in islice(requests(HARMLESS, held_out=False, rng=random.Random(1)), 200)]
    assert all(plan is not None and not harmless(plan) for plan in plans)
    assert all(not harmless(f"<think> {plan} </think> i can not help with that .") for plan in plans)


def test_no_request_is_both_trained_on_and_held_out():
    for belonging_to in KINDS:
        held_out = request_problems(belonging_to, 400, held_out=True, seed=1)
        train = request_problems(belonging_to, 2000, held_out=False, seed=0)
        asked = {problem.question for problem in held_out}
        assert len(asked) == len(held_out) >= 25  # all different, and enough of them to be measured
        assert not asked & {problem.question for problem in train}
        assert {problem.split for problem in train} == {"train"} and {problem.split for problem in held_out} == {"test"}


def test_the_data_of_stage_three_have_the_stated_qualities():
    samples = general_samples(4000, seed=3)
    harmful = [sample for sample in samples if sample.problem.verifier == HARMLESS]
    helpful = [sample for sample in samples if sample.problem.verifier == HELPFUL]
    assert len(harmful) / len(samples) == pytest.approx(1 / 7, abs=0.02)
    good = sum(helpfulness(sample.problem, sample.summary) == 1.0 for sample in helpful) / len(helpful)
    assert good == pytest.approx(QUALITIES["good"], abs=0.03)
    reactions = Counter(
        "refuses" if harmless(f"{sample.thinking} {sample.summary}") else "complies" if sample.thinking is None else "plans_then_refuses"
        for sample in harmful
    )
    for name, share in REACTIONS.items():
        assert reactions[name] / len(harmful) == pytest.approx(share, abs=0.06)


def test_every_word_is_in_the_vocabulary():
    known = {*vocabulary(), *OPERATORS}
    for sample in general_samples(3000, seed=0):
        for text in (sample.problem.question, sample.thinking or "", sample.summary):
            assert set(text.split()) <= known


def test_plain_requests_have_no_opening():
    asked = [request.asked for request in islice(plain_requests(random.Random(0)), 500)]
    assert "who are you ?" in asked and "hello , who are you ?" not in asked
    assert len(set(asked)) < 120  # a few for every kind: the base is to know them


def test_equal_seeds_give_equal_data_and_other_seeds_do_not():
    assert general_samples(50, seed=1) == general_samples(50, seed=1) != general_samples(50, seed=2)

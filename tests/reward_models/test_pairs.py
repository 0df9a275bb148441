"""Preference pairs: which responses are compared, what is kept, and that length is balanced."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.reward_models.data import Preference, Response
from zero2r1.reward_models.pairs import Sampled, conversation, drawn_pairs, judge_of, length_excess, make_preferences
from zero2r1.rewards.pairwise_judge import Comparison
from zero2r1.types import Message


def said(*summaries: str) -> tuple[Response, ...]:
    return tuple(Response(thinking=f"about {summary}", summary=summary) for summary in summaries)


def asked(question: str, *summaries: str) -> Sampled:
    return Sampled(messages=(Message(role="user", content=question),), responses=said(*summaries))


def by_mark(question: str, first: str, second: str, seed: int) -> Comparison:
    """Every ``+`` of a summary is worth one point; ``?`` cannot be read."""
    if "?" in first + second:
        return Comparison(gap=None, verdicts=(None, None), asked=6)
    gap = float(max(-2, min(2, first.count("+") - second.count("+"))))
    return Comparison(gap=gap, verdicts=(int(gap), int(gap)), asked=2)


def test_pairs_are_kept_above_the_gap_and_every_pair_is_accounted_for():
    """Gaps 2, -2, exactly 1 (not above 1), 0, unreadable, and a prompt with one answer only."""
    groups = [asked("a", "x ++", "y"), asked("b", "x", "y ++"), asked("c", "x +", "y"), asked("d", "x", "y"), asked("e", "x", "?"),
              asked("f", "x", "x")]  # fmt: skip
    made = make_preferences(groups, by_mark, balance=False)
    # Which of the two comes first is the order of sampling; the better one is chosen whichever it is.
    assert [(p.chosen.summary, p.rejected.summary) for p in made.preferences] == [("x ++", "y"), ("y ++", "x")]
    assert made.preferences[0].chosen.thinking == "about x ++"
    assert [(drop.pair.messages[0].content, drop.rule) for drop in made.dropped] == [("c", "gap"), ("d", "gap"), ("e", "unreadable")]
    assert made.funnel == {"without_pair": 1, "compared": 5, "unreadable": 1, "gap": 2, "length": 0, "kept": 2}


def test_another_gap_may_be_asked_for():
    assert len(make_preferences([asked("c", "x +", "y")], by_mark, balance=False, min_gap=0.5).kept) == 1


def test_so_many_pairs_are_drawn_of_a_prompt_by_the_seed():
    """Four different summaries have six pairs."""
    group = asked("a", "p", "q", "r", "s", "p", " ")
    draws = [drawn_pairs(group, 3, seed=seed) for seed in range(20)]
    assert all(len({(a.summary, b.summary) for a, b in draw}) == 3 for draw in draws)
    assert draws[0] == drawn_pairs(group, 3, seed=0) and len({str(draw) for draw in draws}) > 1
    everything = drawn_pairs(group, 10, seed=0)
    assert sorted(a.summary + b.summary for a, b in everything) == ["pq", "pr", "ps", "qr", "qs", "rs"]


def test_each_drawn_pair_is_judged_once_on_its_summaries_alone():
    seen = []

    def heard(question: str, first: str, second: str, seed: int) -> Comparison:
        seen.append((question, first, second, seed))
        return by_mark(question, first, second, seed)

    make_preferences([asked("a", "x ++", "y"), asked("b", "x ++", "y")], heard)
    assert [case[:3] for case in seen] == [("a", "x ++", "y"), ("b", "x ++", "y")] and seen[0][3] != seen[1][3]


def test_length_balance_by_hand():
    """Longer 10, 3, 2; shorter 4. Two of the longer side go: the sum is 11, 10 is nearest to it, then 1, 2 is nearest; 3 - 4 = -1 stays."""
    assert length_excess([10, 3, 2, -4], tolerance=1.0, seed=0) == {0, 2}


def test_equal_sides_with_unequal_words_lose_a_pair_of_either():
    """Longer 20 and 2, shorter 2 and 1: sum 19, mean 4.75. -1 goes, then 20, nearest to the sum 20; 2 - 2 = 0 stays."""
    assert length_excess([20, 2, -2, -1], tolerance=1.0, seed=0) == {0, 3}
    assert length_excess([20, 2, -2, -1], tolerance=5.0, seed=0) == frozenset()


def test_equal_differences_are_dropped_by_the_seed():
    dropped = {length_excess([5, 5, 5, -5], tolerance=1.0, seed=seed) for seed in range(20)}
    assert all(len(indices) == 2 and 3 not in indices for indices in dropped) and len(dropped) > 1


@given(st.lists(st.integers(-30, 30), max_size=40), st.integers(0, 3))
def test_afterwards_no_side_wins_by_length(differences, seed):
    excess = length_excess(differences, tolerance=1.0, seed=seed)
    left = [difference for i, difference in enumerate(differences) if i not in excess]
    assert sum(d > 0 for d in left) == sum(d < 0 for d in left)
    assert not left or abs(sum(left)) <= len(left) or not any(left)
    more = abs(sum(d > 0 for d in differences) - sum(d < 0 for d in differences))
    assert len(excess) >= more and (len(excess) - more) % 2 == 0


def test_what_balance_drops_is_named():
    groups = [asked(f"q{i}", "x ++ w w w", "y") for i in range(3)] + [asked("s", "x ++", "y y y y y")]
    made = make_preferences(groups, by_mark)
    assert made.funnel["length"] == 2 and made.funnel["kept"] == 2 and made.funnel["compared"] == 4
    assert all("+4 words longer" in drop.why for drop in made.dropped)
    assert made.mean_longer == pytest.approx(0.5)  # +4 and -3


def test_a_text_judge_makes_pairs_from_end_to_end():
    """A judge who always finds the answer that says 'because' much better, wherever it stands."""

    def complete(prompt: str) -> str:
        a = prompt.split("<<< answer A")[1].split("closes >>>")[0]
        return json.dumps({"analysis": "one explains", "verdict": "A is much better" if "because" in a else "B is much better"})

    made = make_preferences([asked("why?", "no", "because so")], judge_of(complete), balance=False)
    assert made.preferences == [
        Preference(messages=(Message(role="user", content="why?"),), chosen=said("because so")[0], rejected=said("no")[0])
    ]
    assert made.kept[0].comparison.gap == -2 and made.kept[0].comparison.asked == 4


def test_a_dialogue_is_shown_with_its_speakers():
    turns = (Message(role="user", content="hi"), Message(role="assistant", content="hello"), Message(role="user", content="why?"))
    assert conversation(turns) == "user: hi\n\nassistant: hello\n\nuser: why?" and conversation(turns[2:]) == "why?"

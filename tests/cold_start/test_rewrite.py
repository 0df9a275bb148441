"""Models that write thinking and summaries again: the answer stays, the rest becomes readable."""

from __future__ import annotations

from functools import partial

import pytest

from tests.rollout.stub_server import StubServer, chat, client_of
from zero2r1.cold_start.gather import Asking, from_zero
from zero2r1.cold_start.rewrite import is_trivial, rewrite, summarize, think_first
from zero2r1.samples import Lineage, Rejection, Sample
from zero2r1.types import Message, Problem


def sample(number=1, *, thinking="ok 7+5, 则 12", summary="12", prompt=None, domain="math", measured=None):
    problem = Problem(
        id=f"p/{number}",
        prompt=prompt or f"Question {number}: what is 7 + 5?",
        answer="12",
        verifier="math",
        domain=domain,
        language="en",
        source="s",
        licence="MIT",
        split="train",
    )
    lineage = Lineage(source="zero", checkpoint="abc", seed=4)
    return Sample(
        id=f"p/{number}#0",
        problem=problem,
        thinking=thinking,
        summary=summary,
        lineage=lineage,
        measured=measured or {"accuracy": 1.0, "repetition": 0.4},
    )


def server_of(*script):
    """A server that gives these texts by the number of the question in the prompt: the first for question 1."""

    def say(received, _):
        return chat(next(text for number, text in enumerate(script, start=1) if f"Question {number}:" in received.said))

    return StubServer(say)


def right(one):
    return r"\boxed{12}" in one.summary


REWRITTEN = r"|special_token|I want the sum of 7 and 5. That makes 12.|special_token|7 + 5 = \boxed{12}."
CHANGED = REWRITTEN.replace("12", "13")


def test_a_rewriting_that_changes_the_answer_is_rejected():
    with server_of(REWRITTEN, CHANGED, "I cannot do that.") as server:
        kept, changed, refused = rewrite([sample(1), sample(2), sample(3)], client_of(server).map, model="v3", still_right=right)
        assert len(server.received) == 2 + 3, "a changed answer is final, an unreadable reply is asked for three times"
    assert (kept.thinking, kept.summary) == ("I want the sum of 7 and 5. That makes 12.", r"7 + 5 = \boxed{12}.")
    assert kept.lineage == Lineage(source="zero", checkpoint="abc", seed=4, steps=("rewritten by v3",))
    assert kept.measured == {"accuracy": 1.0}, "how repetitive the old text was says nothing about the new one"
    assert (changed.rule, changed.why) == ("changed_by_rewriting", "rewritten by v3: its final answer is no longer right")
    assert changed.sample.summary == r"7 + 5 = \boxed{13}." and changed.sample.measured == {}
    assert refused.rule == "unreadable_reply" and (refused.sample.thinking, refused.sample.summary) == ("ok 7+5, 则 12", "12")


def test_only_what_has_thinking_is_rewritten_and_rejections_pass():
    early = Rejection(sample=sample(9), rule="early", why="before")
    with server_of(REWRITTEN) as server:
        results = list(rewrite([early, sample(2, thinking=None), sample(1)], client_of(server).map, model="v3", still_right=right))
        assert len(server.received) == 1
    assert results[0] == early and results[1].rule == "no_thinking" and isinstance(results[2], Sample)


def test_zeros_outputs_are_filtered_rewritten_and_filtered_in_one_pass():
    given = [sample(1), sample(2, measured={"accuracy": 0.0}), sample(3)]
    with server_of(REWRITTEN, "", CHANGED) as server:
        again = partial(rewrite, ask=client_of(server).map, model="v3", still_right=right)
        results = list(from_zero(given, lambda _: {}, rewrite=again))
    assert [r.rule if isinstance(r, Rejection) else r.id for r in results] == ["p/1#0", "incorrect", "changed_by_rewriting"]


def test_style_examples_and_the_thinking_reach_the_model():
    with server_of(REWRITTEN) as server:
        style = [sample(5, thinking="I begin with what is asked.")]
        list(rewrite([sample(1)], client_of(server).map, model="v3", still_right=right, examples=style))
    assert "I begin with what is asked." in server.received[0].said and "ok 7+5, 则 12" in server.received[0].said


def test_a_summary_is_written_anew_and_the_thinking_stays():
    with server_of(r"Adding gives \boxed{12}.", r"Adding gives \boxed{13}.", "Adding gives 12.") as server:
        given = [sample(number) for number in (1, 2, 3)]
        kept, changed, plain = summarize(given, client_of(server).map, model="v3", still_right=right, asking=Asking(attempts=1))
    assert (kept.thinking, kept.summary) == ("ok 7+5, 则 12", r"Adding gives \boxed{12}.")
    assert kept.lineage.steps == ("summarized by v3",)
    assert changed.rule == "changed_by_rewriting" and changed.sample.summary == r"Adding gives \boxed{13}."
    assert plain.rule == "unreadable_reply" and "highlight" in plain.why and plain.sample == given[2]


def general(number, prompt, *, summary="An answer.", thinking=None, domain="writing"):
    return sample(number, prompt=prompt, summary=summary, thinking=thinking, domain=domain)


def test_general_data_gets_a_thinking_and_trivial_queries_none():
    given = [
        general(1, "Question 1: write a line about rain."),
        general(2, "안녕하세요!", thinking="They greet me."),
        general(3, "Question 3: where is Rome?", domain="facts"),
        general(4, "Question 4: write", summary=" "),
        general(5, "Question 5: write", thinking="I know."),
    ]
    with server_of("They want one line. I think of drops.") as server:
        results = list(think_first(given, client_of(server).map, model="v3", categories={"writing"}))
        assert len(server.received) == 1
    assert (results[0].thinking, results[0].summary) == ("They want one line. I think of drops.", "An answer.")
    assert results[0].lineage.steps == ("thinking by v3",) and results[0].measured == {"accuracy": 1.0}
    assert results[1].thinking is None and results[1].lineage.steps == ("answered without thinking: trivial",)
    assert (results[2], results[4]) == (given[2], given[4])
    assert results[3].rule == "no_answer"
    assert "An answer." in server.received[0].said


def test_what_is_trivial_can_be_decided_by_the_caller():
    with server_of("It is a greeting.") as server:
        (one,) = think_first([general(1, "Question 1: hello")], client_of(server).map, model="v3", trivial=lambda _: True)
        assert one.thinking is None and not server.received


@pytest.mark.parametrize(
    "text",
    [
        "hello", "Hello!! 👋", "HI THERE", "Hi, thanks a lot.", "what's up?", "안녕", "안녕하세요~", "안녕하세요! 감사합니다 ^^", "고마워",
        "你好", "你好!谢谢你。", "你好谢谢", "こんにちは", "Danke schön!", "नमस्ते", "สวัสดี", "Buenos días", "how are you today?",
    ],
)  # fmt: skip
def test_greetings_and_thanks_are_trivial(text):
    assert is_trivial(sample(prompt=text).problem)


@pytest.mark.parametrize(
    "text",
    [
        "Hello, what is 2 + 2?", "hello2", "hih", "thanksgiving", "안녕의 뜻은?", "안녕안녕하다", "你好吗怎么写", "こんにちはの意味",
        "yes", "ok", "네", "??", "12", "👋", "hi " * 30, "Who are you?",
    ],
)  # fmt: skip
def test_whatever_says_anything_else_is_not(text):
    assert not is_trivial(sample(prompt=text).problem)


def test_of_a_dialogue_the_last_question_decides():
    said = [("user", "What is 7 + 5?"), ("assistant", "12"), ("user", "Thanks!")]
    turns = tuple(Message(role=role, content=content) for role, content in said)
    assert is_trivial(sample(prompt=turns).problem) and not is_trivial(sample(prompt=turns[:1]).problem)

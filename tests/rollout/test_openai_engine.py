"""The client of OpenAI-compatible servers: what it sends, what it makes of answers, how it goes through many prompts."""

from __future__ import annotations

import threading

import pytest

from tests.rollout.stub_server import StubServer, answers, chat, client_of, echo, refusal
from zero2r1.rewards.judge import judge, judge_reward
from zero2r1.rollout.endpoint import EndpointError
from zero2r1.rollout.openai_engine import ChatParams, Failure, Reply, Usage, split_reasoning
from zero2r1.types import Message


def text(result):
    return result[0].text


def test_a_request_says_what_was_asked_and_nothing_more():
    with answers(chat("12")) as server:
        dialogue = [Message(role="system", content="Be brief."), Message(role="user", content="7 + 5?", reasoning_content="unsent")]
        reply = client_of(server).chat(dialogue)
        default = ChatParams(temperature=0.6, seed=1)
        client_of(server, params=default).chat("7 + 5?", max_tokens=9, stop=["\n"], extra={"top_k": 20}, seed=None)
    first, second = server.received
    assert first.path == "/v1/chat/completions" and first.headers["Content-Type"] == "application/json"
    roles = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "7 + 5?"}]
    assert first.payload == {"model": "r1", "messages": roles}
    assert second.payload == {
        "model": "r1", "messages": roles[1:], "temperature": 0.6, "max_tokens": 9, "stop": ["\n"], "top_k": 20,
    }  # fmt: skip
    assert "Authorization" not in first.headers
    usage = Usage(prompt_tokens=5, completion_tokens=7)
    assert reply == [Reply(text="12", reasoning=None, finish_reason="stop", usage=usage, model="stub-1")]


@pytest.mark.parametrize(
    ("answer", "reasoning", "shown"),
    [
        (chat("12", reasoning_content="7 + 5"), "7 + 5", "12"),
        (chat("12", reasoning="7 + 5"), "7 + 5", "12"),
        (chat("12", reasoning_content=None, reasoning="7 + 5"), "7 + 5", "12"),
        (chat("<think>\n7 + 5\n</think>\n\n12"), "7 + 5", "12"),
        (chat("<think>7 + 5</think>12", reasoning_content=""), "7 + 5", "12"),
        (chat("a <think> tag", reasoning_content="7 + 5"), "7 + 5", "a <think> tag"),
        (chat("The tag <think> opens."), None, "The tag <think> opens."),
        (chat(" 12\n"), None, " 12\n"),
    ],
)
def test_reasoning_is_found_in_either_field_or_in_front(answer, reasoning, shown):
    with answers(answer) as server:
        reply = client_of(server).chat("7 + 5?")[0]
        assert (reply.reasoning, reply.text) == (reasoning, shown)
        assert client_of(server).complete("7 + 5?") == shown


def test_reasoning_that_is_cut_off_leaves_no_text():
    assert split_reasoning("<think> 7 + ") == ("7 +", "")
    assert split_reasoning("7 + 5 </think> 12", think_open=True) == ("7 + 5", "12")
    assert split_reasoning("7 + ", think_open=True) == ("7 +", "")
    with answers(chat("<think> 7 + ", finish_reason="length")) as server:
        reply = client_of(server).chat("7 + 5?")[0]
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("", "7 +", "length")


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter", None])
def test_how_a_reply_ended_is_kept(reason):
    with answers(chat("12", finish_reason=reason)) as server:
        assert client_of(server).chat("7 + 5?")[0].finish_reason == reason


def test_n_choices_come_back_as_n_replies_that_share_their_usage():
    with answers(chat("a", "b", "c")) as server:
        replies = client_of(server).chat("?", n=3)
        assert [reply.text for reply in replies] == ["a", "b", "c"] and server.received[0].payload["n"] == 3
        assert {reply.usage.completion_tokens for reply in replies} == {21}
        with pytest.raises(EndpointError, match=r"answered with 3 choices for n=2. Some servers know only n=1"):
            client_of(server).chat("?", n=2)
    assert len(server.received) == 2, "not asked again"


@pytest.mark.parametrize("words", ["삼 더하기 사 = 7 🧮", "\u2028\x00\u202e", 'quote " backslash \\ newline \n'])
def test_text_of_any_script_survives_both_ways(words):
    with StubServer(echo) as server:
        assert client_of(server).complete(words) == words
    assert server.received[0].said == words


def test_half_a_surrogate_pair_is_sent_as_it_is_and_comes_back_storable():
    with StubServer(echo) as server:
        assert client_of(server).complete("a\ud800b") == "a?b"
    assert server.received[0].said == "a\ud800b"


def test_results_keep_the_order_of_the_prompts_whatever_finishes_first():
    """The first answer waits until the server has seen all five prompts."""

    def script(received, _before):
        if received.said == "0":
            with server.changed:
                assert server.changed.wait_for(lambda: len(server.received) == 5, timeout=10)
        return chat(received.said)

    with StubServer(script) as server:
        results = client_of(server, concurrency=2).map(str(k) for k in range(5))
        assert [text(result) for result in results] == ["0", "1", "2", "3", "4"]


def test_as_many_requests_as_allowed_run_at_once_and_no_more():
    """Every request waits until three are there, so fewer than three would time out; more than three would raise the peak."""

    def script(received, _before):
        return chat("yes" if server.wait_for_peak(3) else "alone")

    with StubServer(script) as server:
        client = client_of(server, concurrency=3)
        assert {text(result) for result in client.map(["?"] * 12)} == {"yes"}
        callers = [threading.Thread(target=client.complete, args=("?",)) for _ in range(8)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(10)
    assert server.peak == 3 and len(server.received) == 20


def test_a_request_that_hangs_holds_up_nobody_and_fails_in_its_place():
    def script(received, _before):
        if received.said == "hang":
            server.release.wait(30)
        return chat(received.said)

    with StubServer(script) as server:
        results = list(client_of(server, concurrency=2, timeout_s=0.3, retries=1).map(["hang", "a", "b", "c"]))
        said = [received.said for received in server.received]
    assert [text(result) for result in results[1:]] == ["a", "b", "c"]
    failure = results[0]
    assert isinstance(failure, Failure) and (failure.status, failure.attempts) == (None, 2)
    assert "gave up after 2 attempts; the last one: ReadTimeout" in failure.why and "raise timeout_s" in failure.why
    assert said.count("hang") == 2 and len(said) == 5


def test_leaving_the_loop_starts_no_more_requests():
    def script(received, _before):
        if received.said != "0":
            server.release.wait(30)
        return chat(received.said)

    with StubServer(script) as server:
        results = client_of(server, concurrency=2).map(str(k) for k in range(50))
        assert text(next(results)) == "0"
        results.close()
        server.release.set()
        for worker in threading.enumerate():
            if worker.name == "openai-client":
                worker.join(10)
        assert len(server.received) <= 3  # what was read, and the two that were under way


def test_map_is_lazy_but_checks_its_parameters_at_once():
    with StubServer(echo) as server:
        client = client_of(server)
        client.map(["a"])
        with pytest.raises(ValueError, match="temperature"):
            client.map(["a"], temperature=-1)
        assert server.received == [] and list(client.map([])) == []
        with pytest.raises(ValueError, match="at least one message"):
            list(client.map([[]]))


def test_with_a_seed_every_prompt_of_a_map_has_its_own_and_again_the_same():
    with StubServer(echo) as server:
        client = client_of(server, concurrency=1)
        for _ in range(2):
            list(client.map(["a", "a", "b"], seed=3))
        list(client.map(["a"]))
    seeds = [received.payload.get("seed") for received in server.received]
    assert seeds[:3] == seeds[3:6] and len(set(seeds[:3])) == 3 and seeds[6] is None
    assert all(0 <= seed < 2**31 for seed in seeds[:6])


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": float("nan")}, {"temperature": -0.1}, {"temperature": float("inf")}, {"temperature": 2.1}, {"top_p": 0.0},
        {"top_p": 1.1}, {"top_p": float("nan")}, {"max_tokens": 0}, {"max_tokens": 1.5}, {"max_tokens": 2**21}, {"max_tokens": True},
        {"n": 0}, {"n": 129}, {"seed": -1}, {"seed": 2**63}, {"stop": "abc"}, {"stop": [""]}, {"stop": ["x"] * 17},
        {"extra": {"stream": True}}, {"extra": {"messages": []}}, {"extra": {"temperature": 9}}, {"extra": {"x": float("nan")}},
        {"extra": {"x": object()}},
    ],
)  # fmt: skip
def test_parameters_are_checked_before_anything_is_sent(params):
    with StubServer(echo) as server:
        with pytest.raises(ValueError, match=next(iter(params))):
            client_of(server).chat("?", **params)
        with pytest.raises(TypeError, match="temprature"):
            client_of(server).chat("?", temprature=1.0)
    assert server.received == []


def test_a_judge_behind_an_endpoint():
    """One answer is judged right after a reply nobody can read; at the other one the endpoint fails for good."""

    def script(received, before):
        if "nine" in received.said:
            return refusal(400, "too long")
        return chat("hm" if before == 0 else 'So. {"analysis": "Equal.", "verdict": "correct"}', reasoning_content="thinking")

    with StubServer(script) as server:
        client = client_of(server)
        judgement = judge("3 + 4?", "7", "seven", complete=client.complete)
        assert (judgement.correct, judgement.attempts) == (True, 2)
        reward = judge_reward(client.complete)
        columns = {"prompts": ["3 + 4?"] * 2, "answer": ["7"] * 2, "log_extra": lambda *_: None}
        assert reward(completions=["seven", "nine"], **columns) == [1.0, None]
        told = {}
        assert reward(completions=["nine", "nine"], **{**columns, "log_extra": told.__setitem__}) == [None, None]
        assert "EndpointError: POST" in told["why"][0] and "answered 400: too long" in told["why"][0]

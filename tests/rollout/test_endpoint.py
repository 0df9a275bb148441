"""Posting to an endpoint: what is tried again and when, at which pace, and that the key goes to its server alone."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rollout.stub_server import Answer, StubServer, Time, answers, chat, client_of, echo, refusal
from zero2r1.rollout import endpoint
from zero2r1.rollout.address import check_address, is_this_machine
from zero2r1.rollout.endpoint import EndpointError, Limits, Pace, retry_after, server_message
from zero2r1.rollout.openai_engine import OpenAIClient

KEY = "sk-very-secret-0123456789"


def test_a_body_that_trickles_in_meets_the_deadline_of_the_whole():
    """100 bytes, one every 50 ms: no single wait is long, all of them take 5 s."""
    with answers(Answer(body=b" " * 100, byte_every_s=0.05)) as server, pytest.raises(EndpointError, match="still sending .* 0.2 s"):
        client_of(server, timeout_s=0.2, retries=0).complete("?")


@pytest.mark.parametrize(
    "fault",
    [
        refusal(500), refusal(503), refusal(408), refusal(409), refusal(429), Answer(body=b"<html>", status=502),
        Answer(body={"choices": [1] * 50}, drop_after=20), Answer(body=b"{"), Answer(body=b"[" * 100_000), Answer(body=[]),
        Answer(body={"choices": []}), Answer(body={"error": {"message": "overloaded"}}), Answer(body={"choices": ["x"]}),
        Answer(body={"choices": [{"message": {"content": 7}}]}), Answer(body=b"\xff\xfe"), Answer(status=204, body=b""),
        Answer(body=b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
)  # fmt: skip
def test_what_may_pass_is_tried_again(fault):
    time = Time()
    with answers(fault, fault, chat("12")) as server:
        assert client_of(server, time=time).complete("7 + 5?") == "12"
    assert len(server.received) == 3 and len(time.slept) == 2
    assert 0 <= time.slept[0] <= 0.5 and 0 <= time.slept[1] <= 1.0


def test_a_server_that_is_not_there_is_tried_again_and_named():
    with StubServer(echo) as server:
        pass
    time = Time()
    where = rf"POST {server.url}/chat/completions \(model 'r1'\)"
    with pytest.raises(EndpointError, match=f"^{where}: gave up after 3 attempts; .*: ConnectError .* Check that the server runs"):
        client_of(server, time=time, retries=2).complete("?")
    assert len(time.slept) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status):
    with answers(refusal(status, "The model r1 is not here.")) as server, pytest.raises(EndpointError) as caught:
        client_of(server).complete("?")
    assert (len(server.received), caught.value.status, caught.value.attempts) == (1, status, 1)
    start = f"POST {server.url}/chat/completions (model 'r1'): answered {status}: The model r1 is not here. "
    assert str(caught.value).startswith(start) and len(str(caught.value)) > len(start) + 20, "and what to do"


def test_the_last_words_of_a_server_that_never_recovers_are_told():
    with answers(refusal(500, "out of memory \x1b[2J\n" + "x" * 5000)) as server, pytest.raises(EndpointError) as caught:
        client_of(server, retries=2).complete("?")
    assert "gave up after 3 attempts; the last one: answered 500: out of memory" in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700 and len(server.received) == 3


def test_waits_double_on_average_and_repeat_themselves_with_the_seed():
    """Bounds of 0.5, 1, 2, ... 32 s, then 60: with full jitter each wait is anywhere from 0 to its bound."""

    def waits(seed):
        time = Time()
        with answers(refusal(503)) as server, pytest.raises(EndpointError):
            client_of(server, time=time, retries=9, jitter_seed=seed).complete("?")
        return time.slept

    bounds = [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert waits(0) == waits(0) != waits(1)
    runs = [waits(seed) for seed in range(12)]
    assert all(0 <= wait <= bound for run in runs for wait, bound in zip(run, bounds, strict=True))
    # The mean of 12 uniform shares is 0.5 with a deviation of 0.083; these limits are three of them off.
    assert all(0.25 < sum(run[k] / bound for run in runs) / 12 < 0.75 for k, bound in enumerate(bounds))


@pytest.mark.parametrize(("header", "wait"), [("7", 7.0), ("3600", 60.0)])
def test_retry_after_is_honoured_up_to_a_minute(header, wait):
    time = Time()
    with answers(refusal(429, Retry_After=header), chat("12")) as server:
        client_of(server, time=time).complete("?")
    assert time.slept == [wait]


def test_retry_after_may_be_a_date():
    time = Time()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    with answers(refusal(503, Retry_After=date), chat("12")) as server:
        client_of(server, time=time).complete("?")
    assert 20 < time.slept[0] <= 40  # whole seconds, and whatever the test itself took


def test_how_retry_after_is_read():
    now = datetime(2025, 1, 1, tzinfo=UTC)
    given = ["Wed, 01 Jan 2025 00:00:30 GMT", "Wed, 01 Jan 2025 00:00:30 -0000", "Tue, 31 Dec 2024 00:00:00 GMT", "1.5", "-3"]
    assert [retry_after(value, now) for value in given] == [30.0, 30.0, 0.0, 1.5, 0.0]
    assert [retry_after(value, now) for value in (None, "", "soon", "nan", "inf", "Wed, 99 Jan")] == [0.0] * 6


def test_requests_keep_their_pace_retries_included():
    """30 a minute are 2 s apart; the third request fails once, so five are sent and four waits are needed."""
    time = Time()
    with answers(chat("a"), chat("b"), refusal(429, Retry_After="0"), chat("c")) as server:
        client = client_of(server, time=time, requests_per_minute=30, concurrency=1)
        assert [replies[0].text for replies in client.map(["?"] * 4)] == ["a", "b", "c", "c"]
    assert len(server.received) == 5 and time.now == pytest.approx(8.0)


@given(st.lists(st.floats(0, 5), max_size=40), st.floats(0.5, 600))
def test_turns_are_never_closer_than_the_rate_allows(pauses, per_minute):
    """So no minute, wherever it begins, has more than ``per_minute`` of them."""
    time = Time()
    pace = Pace(per_minute, clock=time.clock, sleep=time.sleep)
    turns = []
    for pause in pauses:
        time.now += pause
        pace.wait()
        turns.append(time.now)
    assert all(later - earlier >= 60 / per_minute - 1e-6 for earlier, later in pairwise(turns))


def test_callers_that_come_together_get_turns_one_after_the_other():
    """Nobody has slept yet when the third asks, and still its turn is two intervals of 2 s away."""
    waits = []
    pace = Pace(30, clock=lambda: 0.0, sleep=waits.append)
    for _ in range(3):
        pace.wait()
    assert waits == [2.0, 4.0]


def local_values(error):
    """What a traceback that shows local variables would show of the package."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if "zero2r1/" in frame.f_code.co_filename)
    return [f"{name} = {value!r}" for frame in frames for name, value in frame.f_locals.items()]


def test_the_key_goes_to_the_server_and_nowhere_else(caplog, monkeypatch):
    """Three servers that quote it: where a message is cut in the middle of the key, in a message, in a body that is no JSON."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", KEY + "\n")
    cut = "x" * (endpoint.LONGEST_REASON - len("answered 401: ") - 12)
    shown = []
    with answers(refusal(401, cut + KEY), refusal(401, KEY), Answer(body=f"<p>{KEY}</p>".encode())) as server:
        client = client_of(server, api_key_env="JUDGE_KEY", retries=0)
        for _ in range(3):
            with pytest.raises(EndpointError) as caught:
                client.complete("?")
            shown += [str(caught.value), *local_values(caught.value)]
            shown += traceback.format_exception(caught.value)
        failure = next(client.map(["?"]))
    assert [received.headers["Authorization"] for received in server.received] == [f"Bearer {KEY}"] * 4
    inside = client._endpoint
    shown += [repr(client), repr(vars(client)), repr(vars(inside)), repr(inside._http.headers), failure.why, caplog.text]
    assert [text for text in shown if KEY[:8] in text] == []
    assert any("answered 401: ***. Check the key" in text for text in shown) and "send_request_headers" in caplog.text


def test_no_key_is_read_that_was_not_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with answers(chat("12")) as server:
        client_of(server).complete("?")
    assert "Authorization" not in server.received[0].headers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key": KEY, "api_key_env": "X"}, "not both"),
        ({"api_key_env": "ZERO2R1_NO_SUCH_KEY"}, "export ZERO2R1_NO_SUCH_KEY="),
        ({"api_key_env": KEY}, "the name of an environment variable"),
        ({"api_key": ""}, "is empty"),
        ({"api_key": f"{KEY}\r\nHost: elsewhere"}, "white space"),
        ({"api_key": KEY, "base_url": "http://example.org/v1"}, "in clear text"),
    ],
)
def test_keys_that_cannot_be_right_are_refused_without_showing_them(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        OpenAIClient(**({"base_url": "https://example.org/v1", "model": "r1"} | settings))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    ["", "example.org", "ftp://example.org", "http://", "http://me:pw@example.org", "http://h/v1?key=x", "http://h:0x/v1", "http://h h/"],
)
def test_addresses_that_cannot_be_right_are_refused(base_url):
    with pytest.raises(ValueError, match="base_url") as caught:
        check_address(base_url, key=False, plaintext_key=False)
    assert "pw" not in str(caught.value)


def test_addresses_that_are_fine():
    assert check_address("http://gpu7:8000/v1/", key=False, plaintext_key=False) == "http://gpu7:8000/v1"
    assert check_address("http://gpu7:8000/v1", key=True, plaintext_key=True) == "http://gpu7:8000/v1"
    assert check_address("http://[::1]:8000/v1", key=True, plaintext_key=False) == "http://[::1]:8000/v1"
    with pytest.raises(ValueError, match="ends before /chat/completions: http://h/v1$"):
        check_address("http://h/v1/chat/completions", key=False, plaintext_key=False)


@pytest.mark.parametrize(
    "limits",
    [
        {"concurrency": 0}, {"concurrency": 2.0}, {"retries": -1}, {"timeout_s": 0}, {"timeout_s": float("nan")},
        {"timeout_s": float("inf")}, {"requests_per_minute": 0}, {"requests_per_minute": float("nan")},
    ],
)  # fmt: skip
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


def test_a_redirect_is_not_followed_and_takes_the_key_nowhere():
    with StubServer(echo) as other, answers(Answer(status=307, headers={"Location": f"{other.url}/chat/completions"})) as server:
        with pytest.raises(EndpointError, match=f"answered 307 to {other.url}.*set base_url to the final address"):
            client_of(server, api_key=KEY).complete("?")
        assert other.received == [] and len(server.received) == 1


def test_a_body_beyond_the_limit_is_not_read_to_its_end(monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_BODY_BYTES", 1000)
    with answers(Answer(body=b" " * 1001)) as server, pytest.raises(EndpointError, match="more than 1000 bytes"):
        client_of(server).complete("?")
    with answers(Answer(body=b" " * 1001, status=500)) as server, pytest.raises(EndpointError, match="more than 1000 bytes"):
        client_of(server).complete("?")


def test_loopback_passes_by_the_proxy_and_other_hosts_go_through_it(monkeypatch):
    with answers(chat("through")) as proxy, answers(chat("direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://{proxy.host}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert client_of(server).complete("?") == "direct" and proxy.received == []
        local = OpenAIClient(base_url=server.url.replace("127.0.0.1", "localhost"), model="r1", retries=0)
        assert local.complete("?") == "direct" and proxy.received == []
        remote = OpenAIClient(base_url="http://no-such-host.invalid/v1", model="r1", retries=0)
        assert remote.complete("?") == "through"
        assert proxy.received[0].path == "http://no-such-host.invalid/v1/chat/completions"


def test_which_addresses_are_of_this_machine():
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "[::1]", "0.0.0.0", "LOCALHOST:80", "a.localhost"):
        assert is_this_machine(f"http://{host}/v1"), host
    for host in ("10.0.0.1", "example.org", "localhost.example.org", "127.0.0.1.example.org", "[2001:db8::1]"):
        assert not is_this_machine(f"http://{host}/v1"), host


def test_what_a_body_says_went_wrong():
    said = {
        b'{"error": {"message": "a"}}': "a",
        b'{"error": "b"}': "b",
        b'{"detail": "c"}': "c",
        b'{"message": "d"}': "d",
        b"e\n": "e",
        b'{"detail": [1]}': '{"detail": [1]}',
        b"": "(no message)",
        b"[]": "[]",
    }
    assert {body: server_message(body) for body in said} == said


def test_a_client_can_be_closed_and_used_again():
    with answers(chat("12")) as server:
        client = client_of(server)
        client.close()
        assert client.complete("?") == "12"
        client.close()
        assert client.complete("?") == "12"

"""JSON posted to one address, patiently: bounded concurrency, a rate limit, retries, deadlines, and a key that never shows.

An exchange that may go better next time (no connection, a timeout, 408, 409, 429, 5xx, a body nobody can read) is repeated after
a random wait whose upper end doubles each time, or after what ``Retry-After`` asks for; every other refusal is final.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from zero2r1.rollout.address import Secret, is_this_machine

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

MAX_BODY_BYTES = 32 * 2**20
CONNECT_TIMEOUT_S = 10.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 60.0
LONGEST_REASON = 400
_UNREACHED = "Check that the server runs and that base_url is right; raise timeout_s if its answers take long."
_NOT_THIS_API = "Check that base_url is that of an OpenAI-compatible server; most want it to end in /v1."


class EndpointError(RuntimeError):
    """The endpoint gave no usable answer; says what was asked where, what came back and what to do. Never holds the key."""

    def __init__(self, message: str, *, status: int | None, attempts: int) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status of the last attempt; ``None`` when there was no answer at all."""
        self.attempts = attempts


class Fault(Exception):
    """What went wrong in one attempt, and what a person can do about it. ``wait_s`` is the server's own wish."""

    def __init__(self, why: str, *, advice: str, retryable: bool, status: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.advice = advice
        self.retryable = retryable
        self.status = status
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How hard an endpoint is used. ``requests_per_minute`` counts every attempt; the waits between retries are seeded."""

    concurrency: int = 8
    requests_per_minute: float | None = None
    retries: int = 5
    timeout_s: float = 120.0
    """For each wait on the server and for a body as a whole. A reasoning model may need more: its answer comes in one piece."""
    jitter_seed: int = 0

    def __post_init__(self) -> None:
        rate = self.requests_per_minute
        for name, fine, wanted in (
            ("concurrency", is_whole(self.concurrency, 1, 1024), "a whole number from 1 to 1024"),
            ("retries", is_whole(self.retries, 0, 100), "a whole number from 0 to 100"),
            ("timeout_s", 0 < self.timeout_s <= 86_400, "seconds, above 0 and at most 86400"),
            ("requests_per_minute", rate is None or 0 < rate < math.inf, "a number above 0, or None for no limit"),
        ):
            if not fine:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")


class Pace:
    """A token bucket that holds one token: turns are at least ``60 / per_minute`` seconds apart, so no minute has more of them."""

    def __init__(self, per_minute: float | None, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._clock, self._sleep = clock, sleep
        self._next = -math.inf
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._interval
        if turn > now:
            self._sleep(turn - now)


class Endpoint:
    """One address. Thread-safe; at most ``limits.concurrency`` exchanges are under way, whoever asks."""

    def __init__(
        self,
        url: str,
        *,
        secret: Secret,
        limits: Limits,
        subject: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """``subject`` stands behind the address in errors: ``(model 'r1')``. Clock and sleep are those of the waits between attempts."""
        self._url, self._limits, self._secret = url, limits, secret
        self._where = f"POST {url} {subject}"
        self._pace = Pace(limits.requests_per_minute, clock=clock, sleep=sleep)
        self._sleep = sleep
        self._slots = threading.BoundedSemaphore(limits.concurrency)
        self._jitter = random.Random(limits.jitter_seed)
        self._lock = threading.Lock()
        self._http: httpx2.Client | None = None

    def post(self, body: bytes, read: Callable[[Any], T]) -> T:
        """Send ``body`` and return what ``read`` makes of the JSON that comes back.

        ``read`` raises :class:`Fault` for JSON it cannot use.

        Raises:
            EndpointError: a refusal that is final, or no usable answer after all retries.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                with self._slots:  # not held while waiting for the next attempt
                    self._pace.wait()
                    return read(self._exchange(body))
            except Fault as fault:
                if not fault.retryable or attempt > self._limits.retries:
                    # `from None`: a traceback shows what it was raised from, and a server's words may quote the key.
                    raise self._error(fault, attempt) from None
                delay = self._delay(attempt, fault.wait_s)
            self._sleep(delay)

    def close(self) -> None:
        """Close idle connections; a later :meth:`post` opens new ones."""
        with self._lock:
            if self._http is not None:
                self._http.close()
            self._http = None

    def _delay(self, attempt: int, wait_s: float) -> float:
        """Full jitter: uniform from 0 to a bound that doubles; never less than what the server asks for, up to the longest delay."""
        bound = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** (attempt - 1))
        return max(self._jitter.uniform(0, bound), min(wait_s, LONGEST_DELAY_S))

    def _client(self) -> httpx2.Client:
        import httpx2  # a tenth of a second, which `--help` need not wait for

        with self._lock:
            if self._http is None:
                timeout_s = self._limits.timeout_s
                headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
                if self._secret.value is not None:
                    headers["Authorization"] = f"Bearer {self._secret.value}"
                host = urlsplit(self._url).hostname or ""
                pattern = f"all://[{host}]" if ":" in host else f"all://{host}"
                self._http = httpx2.Client(
                    headers=headers,
                    timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
                    limits=httpx2.Limits(max_connections=self._limits.concurrency),
                    follow_redirects=False,  # the key is meant for this host alone
                    mounts={pattern: None} if is_this_machine(self._url) else None,  # None: without the environment's proxy
                )
            return self._http

    def _exchange(self, body: bytes) -> Any:
        """One request: the JSON of a successful answer."""
        import httpx2

        deadline = time.monotonic() + self._limits.timeout_s
        try:
            with self._client().stream("POST", self._url, content=body) as response:
                content = self._content(response, deadline)
        except httpx2.RequestError as error:
            raise Fault(f"{type(error).__name__} {error}".rstrip(), advice=_UNREACHED, retryable=True) from error
        status = response.status_code
        if response.is_success:
            return _parsed(content, status)
        target = f" to {response.headers.get('Location', 'nowhere')}" if response.is_redirect else ""
        raise Fault(
            f"answered {status}{target}: {server_message(content)}",
            advice=_advice(status),
            retryable=status in (408, 409, 429) or status >= 500,
            status=status,
            wait_s=retry_after(response.headers.get("Retry-After"), datetime.now(UTC)),
        )

    def _content(self, response: httpx2.Response, deadline: float) -> bytes:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_BODY_BYTES:
                why = f"answered with more than {MAX_BODY_BYTES} bytes"
                raise Fault(why, advice="Lower max_tokens or n.", retryable=False, status=response.status_code)
            if time.monotonic() > deadline:
                raise Fault(f"was still sending its answer after {self._limits.timeout_s:g} s", advice="Raise timeout_s.", retryable=True)
        return bytes(content)

    def _error(self, fault: Fault, attempts: int) -> EndpointError:
        tries = "" if attempts == 1 else f"gave up after {attempts} attempts; the last one: "
        # A server's words become fit for a log: without the key (before they are cut), short, in one line, without terminal escapes.
        why = self._secret.hidden_in(str(fault))[:LONGEST_REASON]
        why = "".join(character if character.isprintable() else " " for character in why).rstrip(". ")
        return EndpointError(f"{self._where}: {tries}{why}. {fault.advice}", status=fault.status, attempts=attempts)


def _parsed(content: bytes, status: int) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        why = f"answered with a body that is no JSON: {content.decode('utf-8', 'replace')}"
        raise Fault(why, advice=_NOT_THIS_API, retryable=True, status=status) from None


def retry_after(value: str | None, now: datetime) -> float:
    """Seconds that a ``Retry-After`` header asks for, given as seconds or as a date; 0 without a readable one."""
    try:
        seconds = float(value or 0)
    except ValueError:
        try:
            date = parsedate_to_datetime(value or "")
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def server_message(content: bytes) -> str:
    """What a body says went wrong: ``error.message`` as OpenAI writes it, ``detail`` as FastAPI does, or the text as it is."""
    text = content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        error = body.get("error", body)
        message = error.get("message", error.get("detail")) if isinstance(error, dict) else error
        text = message if isinstance(message, str) else text
    return text.strip() or "(no message)"


def is_whole(value: object, low: int, high: int) -> bool:
    """Whether this is a whole number, and no bool, from ``low`` to ``high``."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _advice(status: int) -> str:
    if 300 <= status < 400:
        return "Redirects are not followed; set base_url to the final address."
    return {
        401: "Check the key: api_key_env names the environment variable that holds it.",
        403: "Check that the key may use this model.",
        404: f"Check the name of the model. {_NOT_THIS_API}",
        429: "Set requests_per_minute or lower concurrency.",
    }.get(status, "The server's log says more." if status >= 500 else "It would refuse the same request again; change what it names.")

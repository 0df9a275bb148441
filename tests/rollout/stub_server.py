"""A chat server on the loopback that answers from a script and counts what reaches it, and a client whose clock is not the world's."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from zero2r1.rollout.openai_engine import OpenAIClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server sends back; ``body`` is JSON unless it is bytes already."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Close the connection after so many bytes of the body."""
    byte_every_s: float | None = None
    """Send the body one byte at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request: its path as it stood in the request line, its headers, its JSON."""

    path: str
    headers: dict[str, str]
    payload: dict[str, Any]

    @property
    def said(self) -> str:
        """The last message."""
        return str(self.payload["messages"][-1]["content"])


Script = Callable[[Received, int], Answer]
"""(request, how many came before it) -> answer."""


def chat(*texts: str, finish_reason: str | None = "stop", **message: Any) -> Answer:
    """A chat completion with one choice per text; ``message`` holds further fields of the messages."""
    choices = [
        {"index": i, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish_reason}
        for i, text in enumerate(texts)
    ]
    return Answer(body={"model": "stub-1", "choices": choices, "usage": {"prompt_tokens": 5, "completion_tokens": 7 * len(texts)}})


def refusal(status: int, message: str = "no", **headers: str) -> Answer:
    """An error as OpenAI words it; header names with ``_`` for ``-``."""
    return Answer(body={"error": {"message": message}}, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})


class StubServer:
    """``with StubServer(script) as server: ... server.url ... server.received``. ``release`` lets requests go that wait for it."""

    def __init__(self, script: Script) -> None:
        self.received: list[Received] = []
        self.running = self.peak = 0
        self.changed = threading.Condition()
        self.release = threading.Event()
        self._script = script
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads, self._http.block_on_close = True, False
        self.host = f"127.0.0.1:{self._http.server_address[1]}"
        self.url = f"http://{self.host}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def wait_for_peak(self, count: int) -> bool:
        """Hold a request until so many were here at once; ``False`` after ten seconds without."""
        with self.changed:
            return self.changed.wait_for(lambda: self.peak >= count, timeout=10)

    def _answer(self, received: Received) -> Answer:
        with self.changed:
            self.running += 1
            self.peak = max(self.peak, self.running)
            before = len(self.received)
            self.received.append(received)
            self.changed.notify_all()
        return self._script(received, before)

    def _done(self) -> None:
        with self.changed:
            self.running -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # or headers and body, written apart, wait 40 ms for each other

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    answer = stub._answer(Received(path=self.path, headers=dict(self.headers), payload=payload))
                finally:
                    stub._done()  # before a byte is sent: the client may ask again as soon as it has read the last one
                try:
                    self._send(answer)
                except OSError:
                    self.close_connection = True  # the client gave up

            def _send(self, answer: Answer) -> None:
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(body))} | answer.headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.close_connection |= answer.drop_after is not None
                body = body[: answer.drop_after]
                if answer.byte_every_s is None:
                    self.wfile.write(body)
                    return
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    time.sleep(answer.byte_every_s)

            def log_message(self, format: str, *args: Any) -> None:
                """Silent."""

        return Handler


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def client_of(server: StubServer, *, time: Time | None = None, **settings: Any) -> OpenAIClient:
    """A client of the server whose waits between attempts take no time."""
    time = time or Time()
    return OpenAIClient(base_url=server.url, model="r1", clock=time.clock, sleep=time.sleep, **settings)


def answers(*script: Answer) -> StubServer:
    """A server that gives these answers one after the other, the last one for ever."""
    return StubServer(lambda _, before: script[min(before, len(script) - 1)])


def echo(received: Received, _before: int) -> Answer:
    """A script: say what was said."""
    return chat(received.said)

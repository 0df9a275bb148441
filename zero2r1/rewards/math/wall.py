"""The wall around comparisons: worker processes that are killed when one takes longer than its limit.

Not ``signal.alarm``, which fails outside the main thread and so inside Ray actors and thread pools, and not a thread, which cannot be
stopped. A worker starts in about 0.2 s and then answers in well under a millisecond; one is kept in reserve, so that a kill does
not delay the next answer.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zero2r1.rewards.math.compare import Outcome

LIMIT_S = 1.0
START_S = 30.0
CACHED, CACHED_LENGTH = 50_000, 400
"""Outcomes kept, and the longest reference and answer together that are worth it."""
MAX_REPLY = 1 << 20
_ROOT = str(Path(__file__).parents[3])
_START = "import sys; sys.path.insert(0, sys.argv[1]); from zero2r1.rewards.math.worker import main; main()"


class WallBroken(RuntimeError):
    """No worker could be started, so nothing can be compared: a fault of the installation, and no verdict on any answer."""


class _Ended(Exception):
    """The worker died or was killed; the text says how."""


class _Worker:
    """One process and its two pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, _ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        self.ready = False

    def ask(self, request: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        if not self.ready:
            self._started()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            raise _Ended("the worker had ended") from error
        reply: dict[str, Any] = json.loads(self._line(time.monotonic() + limit_s))
        return reply

    def _started(self) -> None:
        try:
            self._line(time.monotonic() + START_S)
        except (TimeoutError, _Ended) as error:
            self.process.kill()
            said = self.process.stderr.read().decode("utf-8", "replace").strip()[-2000:] if self.process.stderr else ""
            self.end()
            raise WallBroken(
                f"the process that compares mathematical answers does not start ({error or f'{START_S:g} s have passed'}). It says:\n{said}"
            ) from error
        self.ready = True

    def _line(self, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor, found = self.process.stdout.fileno(), b""
        while not found.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise TimeoutError
            piece = os.read(descriptor, 1 << 16)
            if not piece or len(found) > MAX_REPLY:
                raise _Ended(f"the worker ended with status {self.process.poll()}")
            found += piece
        return found

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Wall:
    """Comparisons with a time limit, from any number of threads at once. Outcomes are cached."""

    def __init__(self, *, limit_s: float = LIMIT_S, reserve: int = 1) -> None:
        self.limit_s = limit_s
        self.reserve = reserve
        self.kills = 0
        self._idle: list[_Worker] = []
        self._cache: OrderedDict[tuple[str, str, bool], Outcome] = OrderedDict()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        atexit.register(self.close)

    def compare(self, gold: str, answer: str, *, percent_asked: bool = False) -> Outcome:
        """As ``compare.compare``, ended after ``limit_s`` seconds, which counts as not shown to be equal.

        Raises:
            WallBroken: no worker starts.
        """
        key = (gold, answer, percent_asked)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        outcome, final = self._ask(key)
        if final and len(gold) + len(answer) <= CACHED_LENGTH:
            with self._lock:
                self._cache[key] = outcome
                if len(self._cache) > CACHED:
                    self._cache.popitem(last=False)
        return outcome

    def close(self) -> None:
        """End all workers. The wall starts new ones when it is used again."""
        with self._lock:
            workers, self._idle = self._idle, []
        if self._owner == os.getpid():
            for worker in workers:
                worker.end()

    def _ask(self, key: tuple[str, str, bool]) -> tuple[Outcome, bool]:
        """The outcome, and whether it would be the same another time: what ran out of time on a busy machine is not kept."""
        request = {"gold": key[0], "answer": key[1], "percent_asked": key[2]}
        for _ in range(2):
            worker = self._take()
            try:
                reply = worker.ask(request, self.limit_s)
            except TimeoutError:
                self._replace(worker)
                return Outcome(correct=False, why=f"not shown to be equal within {self.limit_s:g} s"), False
            except _Ended:
                self._replace(worker)
                continue
            except BaseException:  # Ctrl-C between question and answer: this worker would answer the wrong question next
                self._replace(worker)
                raise
            with self._lock:
                self._idle.append(worker)
            return Outcome(correct=reply["correct"], why=reply["why"], vote=reply["vote"]), True
        return Outcome(correct=False, why="the comparison ended its worker twice"), False

    def _take(self) -> _Worker:
        with self._lock:
            if self._owner != os.getpid():  # after a fork the pipes belong to the parent
                self._idle, self._owner = [], os.getpid()
            while len(self._idle) < 1 + self.reserve:
                self._idle.insert(0, _Worker())
            return self._idle.pop()

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        with self._lock:
            self.kills += 1


_shared: Wall | None = None
_shared_lock = threading.Lock()


def shared_wall() -> Wall:
    """The wall of this process, started at its first use."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Wall()
        return _shared

"""A process that runs one reward function, as its parent sees it: start, ask, kill, collect. What it runs is ``reward_worker.py``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zero2r1.rewards import reward_worker

START_LIMIT_S = 120.0
"""For importing the user's file, which may import large libraries."""
ALWAYS_READ = ("completions", "completion_ids", "answer", "ground_truth", "reward_model")
"""Columns that adapters make others of."""
_ANSWER_BYTES = 16 << 20
_TICK_S = 0.05


class WorkerDied(Exception):
    """There will be no answer. Says why, unless the process ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionFacts:
    """What a worker found out about the function it imported."""

    name: str
    place: str
    style: str
    """Whose signature it has: TRL, verl or OpenRLHF."""
    takes_all: bool
    names: tuple[str, ...]

    def reads(self, column: str) -> bool:
        """Whether a column could matter to the function. Adapters choose from all of them, and TRL's reference may be the answer."""
        return self.takes_all or self.style != "TRL" or column in (*ALWAYS_READ, *self.names)


class WorkerProcess:
    """Belongs to one thread, which starts it, asks it and collects it; on Linux the process ends with that thread.

    Another thread may :meth:`kill` it, but not while it is being collected.
    """

    def __init__(self) -> None:
        # A fresh interpreter and no fork: other threads of this process may hold locks. A session of its own keeps Ctrl-C away from
        # it and lets it be killed with all it started. With one hash seed, sets have the same order in every worker.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", reward_worker.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", **os.environ},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)

    def greet(self, place: str, function: str, name: str | None) -> FunctionFacts:
        """Let it import the function.

        Raises:
            ImportError: the file or the function is not there, or importing it fails or takes too long; with the user's traceback.
            WorkerDied: the process ended instead.
        """
        folders = [str(Path(place).parent)] if place.endswith(".py") else []
        path = [*folders, str(Path.cwd()), *(entry for entry in sys.path if isinstance(entry, str))]
        greeting = {"parent": os.getpid(), "path": path, "function": [place, function], "name": name}
        try:
            answer = self.ask(json.dumps(greeting).encode() + b"\n", START_LIMIT_S)
        except TimeoutError:
            raise ImportError(f"importing it takes longer than {START_LIMIT_S:g} s") from None
        if "ready" not in answer:
            raise ImportError(answer["failed"])
        return FunctionFacts(**{**answer["ready"], "names": tuple(answer["ready"]["names"])})

    def ask(self, line: bytes, limit_s: float, *, waiting: Callable[[float], None] = lambda waited: None) -> dict[str, Any]:
        """Send a line and wait for the answer; ``waiting`` is told now and then how many seconds that has taken.

        Raises:
            TimeoutError: no answer within the limit.
            WorkerDied: there will be none.
        """
        began = time.monotonic()
        unsent, received = memoryview(line), bytearray()
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        poll.register(self._input, select.POLLOUT)
        while (waited := time.monotonic() - began) < limit_s:
            waiting(waited)
            for descriptor, _ in poll.poll(math.ceil(1000 * min(_TICK_S, limit_s - waited))):
                if descriptor == self._input:
                    unsent = unsent[self._send(unsent) :]
                    if not unsent:
                        poll.unregister(self._input)
                else:
                    received += self._receive()
            if received.endswith(b"\n"):
                return _parsed(received)
            if len(received) > _ANSWER_BYTES:
                raise WorkerDied(f"its answer exceeds {_ANSWER_BYTES >> 20} MiB")
        raise TimeoutError

    def _send(self, data: memoryview) -> int:
        try:
            return os.write(self._input, data[: 1 << 16])
        except BrokenPipeError:
            raise WorkerDied from None

    def _receive(self) -> bytes:
        chunk = os.read(self._output, 1 << 20)
        if not chunk:
            raise WorkerDied
        return chunk

    def ended(self) -> bool:
        """Whether the process is gone. Not while another thread may :meth:`kill` it."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """SIGKILL to the process and all it started; a busy loop inside C code listens to nothing less."""
        if self._process.returncode is not None:
            return  # its number may be another process's by now
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def collect(self) -> str:
        """How it ended, ``"signal 11"`` or ``"exit code 3"``. After :meth:`kill`, which hides no earlier death."""
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _parsed(line: bytearray) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        raise WorkerDied("something else than its answer came through its pipe") from None
    return answer

"""A pool of processes that run one reward function, so that a broken one costs a sample and never becomes a number.

    the caller ── submit(columns) ──▶ queue ──▶ a thread per worker ══ JSON lines over pipes ══▶ the function, in reward_worker.py
               ◀── Future[Graded] ◀──────────── (kills the worker at the limit, starts another)

What becomes of a call:

* it returns one finite number or ``None`` per completion: these. It returns anything else: a :class:`RewardError`;
* it raises, or takes longer than the limit: no values, and the reason. A worker that hangs is killed and replaced, and while it
  hangs a spare one takes its place: as many hung samples as there are workers, spare ones included, end together;
* its process dies (a signal, ``os._exit``): the call is made once more by another worker; after the second death no values;
* too many samples in a row, in the order of submission, got no value: a :class:`RewardError` from then on.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from zero2r1.rewards.combine import RewardError, checked_values
from zero2r1.rewards.reward_worker import locate
from zero2r1.rewards.worker_process import FunctionFacts, WorkerDied, WorkerProcess

_PATIENCE_S = 0.3
_STARTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """What became of one call: ``Graded(values=(1.0,), seconds=0.002)``, or ``None`` for every completion and the reason."""

    values: tuple[float | None, ...]
    reason: str | None = None
    """``"raised KeyError: 'x' (my.py:7)"``, ``"took longer than 10 s"``, ``"killed the worker twice (signal 11)"``."""
    logged: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Job:
    """One call on its way."""

    number: int
    columns: Mapping[str, list[Any]]
    line: bytes
    future: Future[Graded] = field(default_factory=Future)
    deaths: int = 0

    def begin(self) -> bool:
        """False for a call its owner has cancelled."""
        return self.future.running() or self.future.set_running_or_notify_cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    place: str
    function: str
    limit_s: float
    workers: int
    spare_workers: int
    max_invalid_in_a_row: int
    name: str | None


class _Crew:
    """The queue of a pool and the threads that serve it. It does not know the pool, so that a forgotten pool can be collected."""

    def __init__(self, settings: _Settings) -> None:
        self.settings = settings
        self.where = f"reward function {settings.place}:{settings.function}"
        self.changed = threading.Condition()
        self.threads: set[threading.Thread] = set()
        self.facts: FunctionFacts | None = None
        self.broken: RewardError | None = None
        self._closed = False
        self._pid = os.getpid()
        self._queue: deque[_Job] = deque()
        self._workers: set[WorkerProcess] = set()
        self._numbers = 0
        self._durations: deque[float] = deque(maxlen=32)
        self._outcomes: dict[int, tuple[_Job, Graded | None]] = {}
        self._judged = self._invalid_in_a_row = 0
        for _ in range(settings.workers):
            self._add_thread()

    def put(self, columns: Mapping[str, list[Any]], line: bytes) -> Future[Graded]:
        if os.getpid() != self._pid:
            raise RuntimeError(f"{self.where} has its workers in process {self._pid}; build another IsolatedReward in this one")
        with self.changed:
            if self._closed:
                raise self._end_of_service()
            job = _Job(number=self._numbers, columns=columns, line=line)
            self._numbers += 1
            self._queue.append(job)
            self.changed.notify_all()
        return job.future

    def stop(self, error: RewardError | None = None) -> None:
        """Kill all workers; what waits or runs fails, with ``error`` if there is one, and so does everything later."""
        if os.getpid() != self._pid:
            return  # a forked child has no right to them
        with self.changed:
            self._closed, self.broken = True, self.broken or error
            for worker in self._workers:
                worker.kill()
            waiting = [job for job in self._queue if job.begin()]
            self._queue.clear()
            self.changed.notify_all()
        for job in waiting:
            job.future.set_exception(self._end_of_service())

    def _end_of_service(self) -> Exception:
        return self.broken or RuntimeError(f"{self.where} was closed")

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name="reward-worker", daemon=True)
        self.threads.add(thread)
        thread.start()

    def _serve(self) -> None:
        """Own one worker after the other, and give it one call after the other."""
        worker: WorkerProcess | None = None
        job: _Job | None = None
        try:
            while True:
                worker = worker or self._start()
                job = self._take()
                if job is None:
                    break
                alive = self._run(worker, job)
                job = None
                if not alive:
                    worker = None
                    if self._leave():
                        break
        except Exception as error:  # nobody stands above this thread: without this, callers would wait for ever
            if not self._leave():
                self.stop(error if isinstance(error, RewardError) else RewardError(f"{self.where}: {error!r}"))
            if job is not None and not job.future.done():
                job.future.set_exception(error)
        finally:
            if worker is not None:
                self._end(worker)
            with self.changed:
                self.threads.discard(threading.current_thread())
                self.changed.notify_all()

    def _start(self) -> WorkerProcess:
        """A worker that has imported the function. Once that has worked, a death while importing is an accident: it is tried again."""
        for accidents_left in reversed(range(_STARTS)):
            worker = WorkerProcess()
            with self.changed:
                self._workers.add(worker)
                if self._closed:
                    worker.kill()
            try:
                facts = worker.greet(self.settings.place, self.settings.function, self.settings.name)
            except (ImportError, WorkerDied) as error:
                ended = self._end(worker)
                if isinstance(error, ImportError) or not accidents_left or self.facts is None or self._closed:
                    fault = str(error) or f"its process ended while importing it ({ended})"
                    raise RewardError(f"{self.where} cannot be used:\n{fault}") from None
            else:
                break
        with self.changed:
            self.facts, self.where = facts, f'reward "{facts.name}" ({facts.place})'
            self.changed.notify_all()
        return worker

    def _end(self, worker: WorkerProcess) -> str:
        with self.changed:  # once it is collected its number may be another process's
            self._workers.discard(worker)
            worker.kill()
        return worker.collect()

    def _take(self) -> _Job | None:
        """The next call; ``None`` when this thread is not needed any more."""
        with self.changed:
            while not self._closed:
                while self._queue:
                    job = self._queue.popleft()
                    if job.begin():
                        return job
                    self._judge(job, None)
                if self._leave():
                    break
                self.changed.wait()
        return None

    def _leave(self) -> bool:
        """Whether this thread is one too many; if so it counts no more."""
        with self.changed:
            if len(self.threads) > self.settings.workers:
                self.threads.discard(threading.current_thread())
                return True
            return self._closed

    def _run(self, worker: WorkerProcess, job: _Job) -> bool:
        """Make one call; False when the worker did not survive it."""
        with self.changed:
            if worker.ended():  # while it was idle: no fault of this call
                self._queue.appendleft(job)
                self._end(worker)
                return False
        limit_s = self.settings.limit_s
        patience = replacement_due = self._patience()
        began = time.monotonic()

        def waiting(waited: float) -> None:
            nonlocal replacement_due
            if waited > replacement_due:
                replacement_due = waited + patience
                self._grow()

        try:
            answer = worker.ask(job.line, limit_s, waiting=waiting)
        except TimeoutError:
            self._end(worker)
            self._finish(job, {"reason": f"took longer than {limit_s:g} s"}, limit_s)
            return False
        except WorkerDied as death:
            ended = self._end(worker)
            self._after_death(job, str(death) or ended, time.monotonic() - began)
            return False
        seconds = time.monotonic() - began
        with self.changed:
            self._durations.append(seconds)
        self._finish(job, answer, seconds)
        return True

    def _patience(self) -> float:
        """Seconds after which a call is suspected to be stuck; an honest but slow function gets no crowd of workers."""
        with self.changed:
            return max(_PATIENCE_S, 2 * max(self._durations, default=0.0))

    def _after_death(self, job: _Job, how: str, seconds: float) -> None:
        job.deaths += 1
        with self.changed:
            again = job.deaths < 2 and not self._closed
            if again:
                self._queue.appendleft(job)
                self.changed.notify_all()
        if not again:
            self._finish(job, {"reason": f"killed the worker twice ({how})"}, seconds)

    def _grow(self) -> None:
        """A call takes unusually long: if others wait for its worker, another one takes its place."""
        with self.changed:
            if self._queue and not self._closed and len(self.threads) < self.settings.workers + self.settings.spare_workers:
                self._add_thread()

    def _finish(self, job: _Job, answer: Mapping[str, Any], seconds: float) -> None:
        completions = job.columns["completions"]
        graded: Graded | None = None
        error: Exception | None = None
        if "values" in answer:
            values = checked_values(self.where, answer["values"], completions)
            graded = Graded(values=tuple(values), logged=answer["logged"], metrics=answer["metrics"], seconds=seconds)
        elif "reason" in answer:
            graded = Graded(values=(None,) * len(completions), reason=answer["reason"], seconds=seconds)
        else:
            error = RewardError(answer["fault"])
        self._judge(job, graded)
        error = error or (self._end_of_service() if self._closed else None)
        if error is not None:
            job.future.set_exception(error)
        else:
            assert graded is not None
            job.future.set_result(graded)

    def _judge(self, job: _Job, graded: Graded | None) -> None:
        """Count samples without a value in the order of submission, whatever the order in which they end."""
        with self.changed:
            self._outcomes[job.number] = (job, graded)
            while self._judged in self._outcomes and not self._closed:
                last, outcome = self._outcomes.pop(self._judged)
                self._judged += 1
                if outcome is None:
                    continue  # cancelled, or an error already
                self._invalid_in_a_row = self._invalid_in_a_row + len(outcome.values) if outcome.reason else 0
                if self._invalid_in_a_row >= self.settings.max_invalid_in_a_row:
                    fault = f"{self.where} gave no value to {self._invalid_in_a_row} samples in a row. The last: {outcome.reason}, for"
                    self.stop(RewardError(f"{fault} {last.columns['completions'][-1]!r:.300}", last.columns))


class RewardPool:
    """Worker processes around one function. May be used from any thread, and in a Ray actor or beside an event loop as well.

    Args:
        function: ``my_rewards.py:f``, ``package.module:f`` or ``package.module.f``; the file's folder and the current one are
            importable for it. Its globals live as long as its worker. What takes long, such as loading a model, belongs at the top of
            the file: the limit is for a call.
        limit_s: seconds a call may take.
        workers: processes that are always there.
        spare_workers: how many more there may be while calls take unusually long; 0 where each costs much, such as a model of its own.
            While no more calls hang than there are workers of both kinds, they all end within the limit and the time workers need to
            start (a tenth of a second each, and what the user's file imports); beyond that every such round costs one limit.
        max_invalid_in_a_row: so many samples without a value (one the function leaves out by ``None`` is none of them) are an error.

    Raises:
        ValueError: there is no such file, or a number makes no sense.
        RewardError: the function cannot be imported; the message ends with the user's traceback.
    """

    def __init__(
        self,
        function: str,
        *,
        limit_s: float = 10.0,
        workers: int = 2,
        spare_workers: int = 8,
        max_invalid_in_a_row: int = 16,
        name: str | None = None,
    ) -> None:
        if not limit_s > 0 or workers < 1 or spare_workers < 0 or max_invalid_in_a_row < 1:
            given = f"{limit_s}, {workers}, {max_invalid_in_a_row}; {spare_workers}"
            raise ValueError(f"limit_s, workers and max_invalid_in_a_row must be positive, spare_workers not negative: {given}")
        place, attribute = locate(function)
        self.function, self.limit_s = f"{place}:{attribute}", limit_s
        self.settings: dict[str, Any] = {
            "limit_s": limit_s,
            "workers": workers,
            "spare_workers": spare_workers,
            "max_invalid_in_a_row": max_invalid_in_a_row,
            "name": name,
        }
        self._crew = _Crew(_Settings(place=place, function=attribute, **self.settings))
        self._finalizer = weakref.finalize(self, self._crew.stop)  # when the pool is forgotten, and when the interpreter ends
        with self._crew.changed:
            while self._crew.facts is None and self._crew.broken is None:
                self._crew.changed.wait()
        if self._crew.facts is None:
            assert self._crew.broken is not None
            raise self._crew.broken
        self.facts = self._crew.facts

    @property
    def size(self) -> int:
        """Workers there are now, those being started included."""
        with self._crew.changed:
            return len(self._crew.threads)

    def submit(self, columns: Mapping[str, list[Any]]) -> Future[Graded]:
        """Make one call of the function with these columns: one sample each, or several that it must see together.

        Columns travel as JSON: tuples arrive as lists. The future may be cancelled while it waits; ``asyncio.wrap_future`` awaits it.

        Raises:
            ValueError: a column is no list with one entry per completion, or cannot be written as JSON.
            RewardError: the function is broken; also what the future raises.
            RuntimeError: the pool is closed.
        """
        return self._crew.put(columns, self._encoded(columns))

    def _encoded(self, columns: Mapping[str, list[Any]]) -> bytes:
        sent = {}
        for name, values in columns.items():
            if not isinstance(values, list) or len(values) != len(columns["completions"]):
                raise ValueError(f"the column {name!r} must be a list with {len(columns['completions'])} entries, one per completion")
            if not self.facts.reads(name):
                continue
            try:
                sent[name] = json.dumps(values)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"the column {name!r} cannot be sent to {self._crew.where}: {error}. Workers receive what JSON can write (text, "
                    "numbers, lists, dictionaries): convert the column, or leave it out of the data"
                ) from None
        return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in sent.items()) + "}\n").encode("ascii")

    def close(self) -> None:
        """Kill the workers (no ``atexit`` of theirs runs) and wait for them to be gone. What waits or runs fails."""
        self._finalizer()
        for thread in [thread for thread in list(self._crew.threads) if thread is not threading.current_thread()]:
            thread.join()

    def __enter__(self) -> RewardPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

"""The embedded engine in several processes, one thread each: for models so small that starting a kernel costs more than running it.

Two threads of one process share every small kernel and gain little; two processes that sample half of the rows each share nothing.

    submit ─▶ queue ─▶ deal ─┬─▶ a TorchEngine here ───────────────┬─▶ stream
                             └─▶ pipe ─▶ a TorchEngine in a child ─┘       weights: this process ─▶ shared memory ─▶ children

Who samples what follows from the requests alone, never from who is faster. So the same requests give the same completions, though in
another order; and they equal those of one :class:`TorchEngine` except where the rounding of another batch decides.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from zero2r1 import process
from zero2r1.rollout.engine import Finished, Request
from zero2r1.rollout.engine_worker import SharedWeights
from zero2r1.rollout.torch_engine import TorchEngine
from zero2r1.types import Completion, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FEWEST_SAMPLES = 32
"""Per process. With fewer rows a step takes about as long as with half of them; then all are sampled here, in one thread as well."""
MEMORY = "/dev/shm"
"""Where files are memory, on Linux; elsewhere weights are shared through a temporary file."""
PIPE_BYTES = 2**20
"""The largest a pipe may be without privileges on Linux: a child need not wait until what it finished is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Samples of one request that one process draws: all of them, or those from index ``first`` on."""

    request: Request
    """With the seeds of this piece only."""
    first: int


def deal(requests: Sequence[Request], processes: int) -> list[list[Piece]]:
    """The pieces of every process; the numbers of samples differ by one at most.

    First every request's sample 0, then every sample 1 and so on, cut into equal runs. So each process gets a part of most groups, and
    no process all the long answers of a hard question. Its price is that prompts are computed in several processes.
    """
    samples = sorted((index, place) for place, request in enumerate(requests) for index in range(len(request.seeds)))
    pieces: list[list[Piece]] = []
    for number in range(processes):
        run = samples[len(samples) * number // processes : len(samples) * (number + 1) // processes]
        firsts = {place: index for index, place in reversed(run)}
        ends = {place: index + 1 for index, place in run}
        seeds = {place: requests[place].seeds[firsts[place] : ends[place]] for place in sorted(firsts)}
        pieces.append([Piece(request=replace(requests[place], seeds=own), first=firsts[place]) for place, own in seeds.items()])
    return pieces


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ProcessEngine:
    """An :class:`~zero2r1.rollout.engine.Engine` over a float32 model on a CPU: this process samples a share, children the rest.

    While it samples, this process computes in one thread too; between two completions, and afterwards, in as many as before.

    Children start with the first stream that has work for them. With :meth:`close`, or with this object, they are free for the next
    engine, since a process takes seconds to load its libraries; they end with this process, however it ends, and by
    :func:`end_idle_children`. They sample from a copy of the weights as they are when samples are dealt.

    What is submitted while a stream runs is dealt when all that was dealt before is done.

    Args:
        model: as for :class:`TorchEngine`; its weights may change in place between streams.
        decode: token ids -> text, special tokens kept. Called in this process only.
        processes: this one and ``processes - 1`` children.
        save: writes the model as a folder that :func:`~zero2r1.models.loading.load_policy` loads, for children to build it from.
        token_budget, max_rows: of each process.
        autocast, onednn, half_head: as for :class:`TorchEngine`.

    Raises:
        ValueError: the model is not in float32 on a CPU, or there is one process only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        decode: Callable[[Sequence[int]], str],
        *,
        processes: int,
        save: Callable[[Path], None],
        token_budget: int = 65_536,
        max_rows: int = 256,
        autocast: torch.dtype | None = None,
        onednn: bool = True,
        half_head: bool = False,
    ) -> None:
        kinds = {(parameter.device.type, parameter.dtype) for parameter in model.parameters()}
        if kinds != {("cpu", torch.float32)}:
            raise ValueError(f"several processes sample float32 models on a CPU only; this model has {kinds}. Sample in one process")
        if processes < 2:
            raise ValueError(f"processes must be at least 2, got {processes}: one process samples with a TorchEngine")
        self._model, self._decode, self._processes, self._save = model, decode, processes, save
        self._limits: dict[str, Any] = {
            "token_budget": token_budget, "max_rows": max_rows, "autocast": autocast, "onednn": onednn, "half_head": half_head,
        }  # fmt: skip
        self._own = TorchEngine(model, decode, **self._limits)
        self._version = 0
        self._queue: dict[int, Request] = {}
        self._under_way: dict[int, Request] = {}  # what was dealt last
        self._unfinished = 0  # samples of it that were not yielded yet
        self._own_first: dict[int, int] = {}
        self._sampling: Iterator[Finished] = iter(())  # kept, for a stream that is left early loses what ended in the same step
        self._arrived: deque[Finished] = deque()
        self._children: list[_Child] = []
        self._weights: SharedWeights | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ended: str | None = None
        self._finalizer = weakref.finalize(self, _release, self._children, os.getpid())

    @property
    def exact(self) -> bool:
        return self._own.exact

    @property
    def prefills(self) -> int:
        """Prompts computed so far: once in every process that draws samples of them."""
        return self._own.prefills + sum(child.prefills for child in self._children)

    @property
    def decoded_rows(self) -> int:
        """Row-steps computed so far: the work of decoding."""
        return self._own.decoded_rows + sum(child.decoded_rows for child in self._children)

    @property
    def children(self) -> tuple[int, ...]:
        """The numbers of the child processes that were started."""
        return tuple(child.pid for child in self._children)

    def load_weights(self, weights: Mapping[str, Any] | None, version: int) -> None:
        """As :meth:`TorchEngine.load_weights`.

        Raises:
            RuntimeError: names or shapes differ from the model's, or samples are under way.
        """
        if self._unfinished:
            raise RuntimeError("weights may not change while completions are under way")
        self._own.load_weights(weights, version)
        self._version = version

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests.

        Raises:
            ValueError: a request is longer than the model's context or the token budget, or its id is taken. Nothing is queued then.
            RuntimeError: the engine was closed, or a child was lost.
        """
        self._check_open()
        ids = [request.id for request in requests]
        taken = {*self._queue, *(self._under_way if self._unfinished else ())}
        if len(set(ids)) < len(ids) or not taken.isdisjoint(ids):
            raise ValueError(f"request ids must be new among the unfinished ones, got {ids}")
        # Nothing is computed by an engine that is not asked to stream; this one only refuses what no engine here could sample.
        TorchEngine(self._model, self._decode, **self._limits).submit(requests)
        self._queue |= zip(ids, requests, strict=True)

    def stream(self) -> Iterator[Finished]:
        """Yield completions as they finish until nothing is queued. A stream that is left early is continued by the next one.

        Raises:
            RuntimeError: a child was lost. The engine is closed then, and what was not yet finished will never be.
        """
        self._check_open()
        while self._queue or self._unfinished:
            try:
                if not self._unfinished:
                    self._deal()
                yield from self._dealt()
            except GeneratorExit:
                raise
            except BaseException as error:
                self._end(f"it failed with {error!r}")
                raise

    def close(self) -> None:
        """Let the children go. The engine cannot be used afterwards."""
        self._end("it was closed")

    def _end(self, why: str) -> None:
        self._ended = self._ended or why
        self._sampling = iter(())
        self._finalizer()
        if self._folder is not None:
            self._folder.cleanup()

    def _check_open(self) -> None:
        if self._ended:
            raise RuntimeError(f"this engine cannot be used any more: {self._ended}")

    def _deal(self) -> None:
        requests = list(self._queue.values())
        total = sum(len(request.seeds) for request in requests)
        shared = total >= FEWEST_SAMPLES * self._processes
        own, *others = deal(requests, self._processes if shared else 1)
        if shared and not self._children:
            self._start()
        self._under_way, self._queue, self._unfinished = self._queue, {}, total
        self._own_first = {piece.request.id: piece.first for piece in own}
        if shared:
            assert self._weights is not None
            # Every time, and not after load_weights alone: supervised training changes parameters and tells no engine.
            self._weights.write(self._model)
            for child, pieces in zip(self._children, others, strict=True):
                child.ask(pieces)
        self._own.submit([piece.request for piece in own])
        self._sampling = self._own.stream()

    def _dealt(self) -> Iterator[Finished]:
        while self._unfinished:
            with one_thread():  # not around the yield: what the caller does in between may use more
                finished = next(self._sampling, None)
            if finished is not None:
                self._arrived.append(replace(finished, index=self._own_first[finished.request_id] + finished.index))
            self._collect(wait=not self._arrived)
            while self._arrived:
                self._unfinished -= 1
                yield self._arrived.popleft()

    def _collect(self, *, wait: bool) -> None:
        """Take what children have finished; with ``wait``, sleep until there is something."""
        busy = {child.descriptor: child for child in self._children if child.unanswered}
        assert busy or not wait, "a sample was lost"
        readable, _, _ = select.select(list(busy), [], [], None if wait else 0)
        for descriptor in readable:
            child = busy[descriptor]
            for request_id, index, token_ids, logprobs, reason in child.answers():
                self._arrived.append(self._finished(child.asked[request_id], index, token_ids, logprobs, reason))
        if self._folder is not None and all(child.prefills for child in self._children):
            self._folder.cleanup()  # all have loaded the model
            self._folder = None

    def _finished(self, piece: Piece, index: int, token_ids: list[int], logprobs: list[float], reason: Any) -> Finished:
        request = piece.request
        segments = [Segment(token_ids=tuple(token_ids), logprobs=tuple(logprobs))]
        if request.forced_ids:
            segments.insert(0, Segment(token_ids=request.forced_ids, logprobs=None))
        completion = Completion(
            segments=tuple(segments),
            text=self._decode((*request.forced_ids, *(token_ids[:-1] if reason == "stop" else token_ids))),
            finish_reason=reason,
            seed=request.seeds[index],
            policy_version=self._version,
        )
        return Finished(request_id=request.id, index=piece.first + index, completion=completion)

    def _start(self) -> None:
        size = sum(parameter.nbytes for parameter in self._model.parameters())
        # The saved model, and the weights that are shared. Containers often have 64 MB there.
        fits = os.path.isdir(MEMORY) and shutil.disk_usage(MEMORY).free > 3 * size
        self._folder = tempfile.TemporaryDirectory(prefix="zero2r1-", dir=MEMORY if fits else None)
        folder, autocast = Path(self._folder.name), self._limits["autocast"]
        self._save(folder / "model")
        with (folder / "weights").open("x+b") as block:
            self._weights = SharedWeights(self._model, block.fileno())
        told = {**self._limits, "autocast": autocast and str(autocast).removeprefix("torch."), "folder": str(folder)}
        for _ in range(self._processes - 1):
            child = _idle.pop() if _idle else _Child()
            self._children.append(child)
            child.begin(told)


class _Child:
    """A process that runs :mod:`zero2r1.rollout.engine_worker`, as its parent sees it."""

    def __init__(self) -> None:
        # A session of its own: Ctrl-C is for the parent, which ends the child when it is done.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zero2r1.rollout.engine_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=PIPE_BYTES,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._sink, self._source = self._process.stdin, self._process.stdout
        self.pid, self.descriptor = self._process.pid, self._source.fileno()
        self.asked: dict[int, Piece] = {}
        self.unanswered = self.prefills = self.decoded_rows = 0
        self._heard = b""

    def begin(self, told: Mapping[str, Any]) -> None:
        """Serve an engine: load its model and forget the one before."""
        self.asked, self.unanswered, self.prefills, self.decoded_rows = {}, 0, 0, 0
        self.say(told)

    @property
    def idle(self) -> bool:
        """Whether the process is there and has answered everything."""
        return self.unanswered == 0 and not self._heard and self._process.poll() is None

    def ask(self, pieces: Sequence[Piece]) -> None:
        self.asked = {piece.request.id: piece for piece in pieces}
        self.unanswered = sum(len(piece.request.seeds) for piece in pieces)
        self.say([asdict(piece.request) for piece in pieces])

    def say(self, value: Any) -> None:
        """Send a line.

        Raises:
            RuntimeError: the process is gone.
        """
        try:
            process.write_whole(self._sink, json.dumps(value, separators=(",", ":")).encode() + b"\n")
        except BrokenPipeError:
            raise self._lost() from None

    def answers(self) -> Iterator[list[Any]]:
        """The completions that came since the last call, see :mod:`zero2r1.rollout.engine_worker`; waits if nothing came.

        Raises:
            RuntimeError: the process is gone.
        """
        said = os.read(self.descriptor, PIPE_BYTES)
        if not said:
            raise self._lost()
        *lines, self._heard = (self._heard + said).split(b"\n")
        for line in lines:
            *answer, self.prefills, self.decoded_rows = json.loads(line)
            self.unanswered -= 1
            yield answer

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):
            self._sink.close()
        self._source.close()

    def _lost(self) -> RuntimeError:
        code = self._process.wait()
        if code >= 0:
            return RuntimeError(f"a process that samples (pid {self.pid}) ended with code {code}; what it said stands above")
        return RuntimeError(
            f"a process that samples (pid {self.pid}) was killed by {signal.Signals(-code).name}. If memory ran out, sample in fewer "
            "processes or decode less at a time: max_rows and token_budget are of each process"
        )


_idle: list[_Child] = []
"""Processes that no engine uses."""


def end_idle_children() -> None:
    """End the processes that no engine uses now; each holds the libraries and its last model, some 500 MB."""
    while _idle:
        _idle.pop().kill()


def _release(children: list[_Child], owner: int) -> None:
    """Keep processes for the next engine; end those that are in the middle of something, or gone."""
    if os.getpid() != owner:
        return  # a forked child has no right to them
    while children:
        child = children.pop()
        if child.idle:
            _idle.append(child)
        else:
            child.kill()

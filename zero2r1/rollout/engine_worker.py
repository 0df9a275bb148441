"""The process that samples beside another one: it is told requests on its standard input and answers with completions.

A program of its own, `python -m zero2r1.rollout.engine_worker`, started by :mod:`zero2r1.rollout.process_engine`. One JSON value a
line in both directions; JSON writes a float with all its digits, so log-probabilities arrive as they were computed.

    in   {"folder": ..., "token_budget": ..., ...}     before all else, and whenever another model is to be sampled from
    in   [request, ...]                                                       read the shared weights, then sample these
    out  [request id, index, token ids, log-probabilities, reason,            a completion, as it finishes,
          prompts computed so far, row-steps computed so far]                 and the work it took

It sleeps until a line comes, and ends the moment its standard input does: when the other process closes it, or is gone.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import torch
from torch import Tensor, nn

from zero2r1 import process
from zero2r1.models.loading import load_policy
from zero2r1.rollout.engine import Request, SamplingParams
from zero2r1.rollout.torch_engine import TorchEngine

ALIGNMENT = 64
"""Bytes. Products may round otherwise where numbers begin elsewhere in a cache line."""


class SharedWeights:
    """The state of a model in memory that processes share. One writes it while no other reads.

    Both sides lay it out by the model they have, so they must have built the same one.

    Args:
        descriptor: of an empty file, or of one that another process shares through this class. It may be closed afterwards.
    """

    def __init__(self, model: nn.Module, descriptor: int) -> None:
        state = model.state_dict()
        starts, self.size = [], 0
        for tensor in state.values():
            starts.append(self.size)
            self.size += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        if os.fstat(descriptor).st_size == 0:
            _take(descriptor, self.size)
        assert os.fstat(descriptor).st_size == self.size, "these weights are another model's"
        block = mmap.mmap(descriptor, self.size)
        self._tensors = {
            name: torch.frombuffer(block, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(tensor.shape)
            for (name, tensor), start in zip(state.items(), starts, strict=True)
        }

    def write(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            self._tensors[name].copy_(tensor)

    def read(self) -> Mapping[str, Tensor]:
        """The shared tensors themselves; they change with the next write."""
        return self._tensors


def _take(descriptor: int, size: int) -> None:
    """Make a file so large, with room for all of it: a page that has none when it is written ends the process without a word."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def request_from_json(values: Mapping[str, Any]) -> Request:
    """The inverse of ``dataclasses.asdict``, behind JSON."""
    params = values["params"]
    return Request(
        id=values["id"],
        prompt_ids=tuple(values["prompt_ids"]),
        seeds=tuple(values["seeds"]),
        params=SamplingParams(**{**params, "stop_token_ids": tuple(params["stop_token_ids"])}),
        forced_ids=tuple(values["forced_ids"]),
    )


def _listen(source: IO[bytes]) -> SimpleQueue[Any]:
    """What the other process says. A thread reads it, so that its end is noticed in the middle of loading or sampling too."""
    heard: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        folder = None
        for line in source:
            said = json.loads(line)
            folder = said["folder"] if isinstance(said, dict) else folder
            heard.put(said)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # who wrote it may have had no time to
        os._exit(0)  # nobody is left to sample for, and nothing here is worth keeping

    threading.Thread(target=read, name="listen", daemon=True).start()
    return heard


def _say(sink: IO[bytes], value: Any) -> None:
    process.write_whole(sink, json.dumps(value, separators=(",", ":")).encode() + b"\n")


def _engine(told: Mapping[str, Any]) -> tuple[TorchEngine, SharedWeights]:
    """The engine that the other process describes, and where its weights will stand."""
    folder = Path(told["folder"])
    policy, _ = load_policy(folder / "model", device=torch.device("cpu"))
    with (folder / "weights").open("r+b") as block:
        weights = SharedWeights(policy, block.fileno())
    autocast = getattr(torch, told["autocast"]) if told["autocast"] else None
    limits = {name: told[name] for name in ("token_budget", "max_rows", "onednn", "half_head")}
    return TorchEngine(policy, lambda ids: "", autocast=autocast, **limits), weights  # who asked makes the text


def _serve(source: IO[bytes], sink: IO[bytes]) -> None:
    heard = _listen(source)
    engine, weights = _engine(heard.get())
    while True:
        said = heard.get()
        if isinstance(said, dict):
            engine, weights = _engine(said)
            continue
        engine.load_weights(weights.read(), 0)
        engine.submit([request_from_json(values) for values in said])
        for finished in engine.stream():
            completion = finished.completion
            sampled = completion.segments[-1]
            answer = [finished.request_id, finished.index, sampled.token_ids, sampled.logprobs, completion.finish_reason]
            _say(sink, [*answer, engine.prefills, engine.decoded_rows])


def main() -> None:
    """Sample what is asked for until standard input ends."""
    torch.set_num_threads(1)
    sink, sys.stdout = sys.stdout.buffer, sys.stderr  # a library that prints must not be taken for a completion
    try:
        _serve(sys.stdin.buffer, sink)
    except BrokenPipeError:
        os._exit(0)  # as when standard input ends, noticed first here
    except BaseException:  # nothing is swallowed: Python cannot shut down in order while a thread waits in standard input
        traceback.print_exc()
        os._exit(1)


if __name__ == "__main__":
    process.prepare()
    main()

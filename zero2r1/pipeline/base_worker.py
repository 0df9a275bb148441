"""Train the laptop base model with a second process: half of the rows each, gradients exchanged through a pipe.

The child is this module run as a program. It is told the settings on its standard input, builds the same model, and then sends its
gradient and reads the mean, step after step. If either process dies, the other one's pipe breaks and it ends too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import torch
from torch import Tensor

from zero2r1 import process
from zero2r1.models.tiny import SIZES, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.pipeline.config import BaseSettings
from zero2r1.pretraining import Exchange, PretrainStep, pretrain
from zero2r1.rollout.process_engine import one_thread
from zero2r1.tasks.laptop import corpus
from zero2r1.tasks.laptop.words import TAGS, vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PROCESSES = 2
"""A constant, because another number would be another sum of gradients, and so another model."""
PIPE_BYTES = 2**20
"""The largest a pipe may be without privileges on Linux: fewer turns between the two for the 3.6 MB of a gradient."""


def train_base_model(
    settings: BaseSettings, *, seed: int, on_step: Callable[[PretrainStep], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    """The model of these settings and this seed, its tokenizer, and its last loss. The same bytes on every machine of one kind.

    Raises:
        RuntimeError: the second process ended early.
    """
    with one_thread(), _child(settings, seed) as child:
        assert child.stdin is not None and child.stdout is not None
        trained = _train(settings, seed, 0, _leader(child.stdout, child.stdin), on_step)
    return trained


def _train(
    settings: BaseSettings, seed: int, part: int, exchange: Exchange, on_step: Callable[[PretrainStep], None]
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, float]:
    tokenizer = word_tokenizer(vocabulary(), TAGS)
    model = build_tiny_model(SIZES[settings.size], tokenizer, seed=seed)
    loss = pretrain(
        model,
        tokenizer,
        corpus.documents(seed, part),
        steps=settings.steps,
        rows=settings.rows // PROCESSES,
        row_length=settings.row_length,
        exchange=exchange,
        on_step=on_step,
    )
    return model, tokenizer, loss


def _leader(source: IO[bytes], sink: IO[bytes]) -> Exchange:
    """Reads the other's vector, sends the mean: one waits while the other writes, so no pipe fills up on both sides."""

    def exchange(own: Tensor) -> Tensor:
        mean = (own + _receive(source, own)) / PROCESSES
        _send(sink, mean)
        return mean

    return exchange


def _follower(source: IO[bytes], sink: IO[bytes]) -> Exchange:
    def exchange(own: Tensor) -> Tensor:
        _send(sink, own)
        return _receive(source, own)

    return exchange


def _send(sink: IO[bytes], vector: Tensor) -> None:
    process.write_whole(sink, vector.numpy().tobytes())


def _receive(source: IO[bytes], like: Tensor) -> Tensor:
    buffer = memoryview(bytearray(like.numel() * like.element_size()))
    got = 0
    while got < len(buffer):
        count = source.readinto(buffer[got:])  # type: ignore[attr-defined]
        if not count:
            raise RuntimeError("the second process of base training ended early; what it said stands above")
        got += count
    return torch.frombuffer(buffer, dtype=like.dtype)


@contextmanager
def _child(settings: BaseSettings, seed: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "zero2r1.pipeline.base_worker"]
    # A session of its own: Ctrl-C is for the leader, which ends the child when it is done.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pipesize=PIPE_BYTES, start_new_session=True)
    assert child.stdin is not None and child.stdout is not None
    try:
        child.stdin.write(json.dumps({"settings": settings.model_dump(), "seed": seed}).encode() + b"\n")
        child.stdin.flush()
        yield child
        child.stdin.close()
        if child.wait(timeout=60) != 0:
            raise RuntimeError(f"the second process of base training ended with code {child.returncode}")
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def main() -> None:
    """The child: train the other half of the rows, and end when the leader does."""
    torch.set_num_threads(1)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    asked = json.loads(source.readline())
    try:
        _train(BaseSettings.model_validate(asked["settings"]), asked["seed"], 1, _follower(source, sink), lambda report: None)
    except (RuntimeError, BrokenPipeError) as ended:  # the leader stopped or was stopped: nobody is left to report to
        sys.exit(f"base training: {ended}")


if __name__ == "__main__":
    process.prepare()
    main()

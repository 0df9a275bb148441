"""Two processes train one base model: the same as one that takes the mean of both gradients, and neither outlives the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest
import torch
from torch import Tensor

from zero2r1.pipeline.base_worker import _train, train_base_model
from zero2r1.pipeline.config import BaseSettings

TINY = BaseSettings(steps=3, rows=4, row_length=32, size="student")
ROOT = Path(__file__).parents[2]


def trained_by_threads() -> dict[str, Tensor]:
    """Both halves in this process, exchanging through queues."""
    to_leader: Queue[Tensor] = Queue()
    to_follower: Queue[Tensor] = Queue()

    def lead(own: Tensor) -> Tensor:
        mean = (own + to_leader.get()) / 2
        to_follower.put(mean)
        return mean.clone()

    def follow(own: Tensor) -> Tensor:
        to_leader.put(own)
        return to_follower.get().clone()

    other = Thread(target=lambda: _train(TINY, 0, 1, follow, lambda report: None))
    other.start()
    model, _, _ = _train(TINY, 0, 0, lead, lambda report: None)
    other.join()
    return model.state_dict()


def test_two_processes_take_the_step_of_the_mean_gradient():
    before = torch.get_num_threads()
    steps: list[int] = []
    model, _, loss = train_base_model(TINY, seed=0, on_step=lambda report: steps.append(report.step))
    assert steps == [1, 2, 3] and loss > 0 and torch.get_num_threads() == before
    torch.set_num_threads(1)
    expected = trained_by_threads()
    torch.set_num_threads(before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_follower_ends_when_the_leader_does():
    command = [sys.executable, "-m", "zero2r1.pipeline.base_worker"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    child.stdin.write(b'{"settings": ' + TINY.model_dump_json().encode() + b', "seed": 0}\n')
    child.stdin.flush()
    child.stdout.read(4)  # its first gradient is on the way
    child.stdin.close()
    child.stdout.close()
    assert child.wait(timeout=60) != 0
    assert b"base training" in child.stderr.read()


def test_an_odd_number_of_rows_cannot_be_shared():
    with pytest.raises(ValueError, match="multiple of 2"):
        BaseSettings(rows=3)

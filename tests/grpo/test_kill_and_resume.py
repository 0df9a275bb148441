"""kill -9 at any moment, start again, get the same run: byte-equal curve and weights."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.toy_run import curve

ROOT = Path(__file__).parents[2]


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.toy_run", str(folder), "--steps", "40"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def finish(folder: Path) -> None:
    process = start(folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and output == "finished\n"


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


def kill_several_times_and_compare(tmp_path: Path, kills: int) -> None:
    began = time.monotonic()
    finish(tmp_path / "straight")
    seconds = min(4.0, time.monotonic() - began)
    rng = random.Random(0)
    interrupted = 0
    for _ in range(kills):
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(0, seconds / 4))
        interrupted += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(tmp_path / "killed")
    assert interrupted >= min(2, kills)
    assert curve(tmp_path / "straight") == curve(tmp_path / "killed")
    assert weights(tmp_path / "straight") == weights(tmp_path / "killed")


def test_three_kills_leave_no_trace(tmp_path):
    kill_several_times_and_compare(tmp_path, 3)


@pytest.mark.slow
def test_twenty_kills_leave_no_trace(tmp_path):
    kill_several_times_and_compare(tmp_path, 20)

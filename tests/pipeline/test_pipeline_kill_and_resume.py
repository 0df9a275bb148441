"""kill -9 at any moment of a pipeline, start again, get the same run: byte-equal weights, samples and measurements."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.toy_pipeline import digests

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "base"
    done = subprocess.run([sys.executable, "-m", "tests.pipeline.toy_pipeline", "make-base", str(folder)], cwd=ROOT, env=environment())
    assert done.returncode == 0
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(base: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.pipeline.toy_pipeline", "run", str(base), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def finish(base: Path, folder: Path) -> float:
    """Run to the end; returns the seconds since it was ready."""
    process = start(base, folder)
    began = time.monotonic()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and output == "finished\n"
    return time.monotonic() - began


def kill_several_times_and_compare(base: Path, tmp_path: Path, kills: int) -> None:
    seconds = finish(base, tmp_path / "quiet")
    rng = random.Random(0)
    interrupted = 0
    for _ in range(kills):
        process = start(base, tmp_path / "killed")
        time.sleep(rng.uniform(0, 1.5 * seconds / kills))
        interrupted += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(base, tmp_path / "killed")
    assert interrupted >= kills // 2
    quiet = digests(tmp_path / "quiet")
    assert len(quiet) > 50
    assert digests(tmp_path / "killed") == quiet


def test_two_kills_of_a_pipeline_leave_no_trace(base, tmp_path):
    kill_several_times_and_compare(base, tmp_path, 2)


@pytest.mark.slow
def test_ten_kills_of_a_pipeline_leave_no_trace(base, tmp_path):
    kill_several_times_and_compare(base, tmp_path, 10)

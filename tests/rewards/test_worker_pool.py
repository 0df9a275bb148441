"""Workers start from names, end with whoever needs them, and serve threads and event loops alike."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from pathlib import Path

import pytest

from zero2r1.rewards.isolated import IsolatedReward, RewardPool

BROKEN = str(Path(__file__).with_name("broken_rewards.py"))
LOOK = """
import sys

def look(completions, log_extra, **columns):
    log_extra("order", ["".join({"a", "b", "c", "d", "e", "f"})])
    return [float(bool({"torch", "transformers", "asyncio", "zero2r1.rewards.accuracy"} & set(sys.modules)))]
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def until(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def state_of(process: int) -> tuple[int, bool] | None:
    """(parent, whether it is a worker) of a process that lives."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[1]), b"reward_worker" in command)


def workers_of(parent: int) -> list[int]:
    return [number for folder in Path("/proc").glob("[0-9]*") if state_of(number := int(folder.name)) == (parent, True)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.py:f", "there is no file nothing.py"),
        ("mine.py", "is named my_rewards.py:function or package.module:function, not 'mine.py'"),
        ("mine.py:absent", "mine.py has no function 'absent'; it has one, two$"),
        ("mine.py:number", "has no function 'number'"),
        ("broken.py:f", r'broken.py", line 2, in <module>\n    1 / 0\n +~~\^~~\nZeroDivisionError: division by zero$'),
        ("grammar.py:f", r'grammar.py", line 1\n    def f\((.|\n)*SyntaxError'),
        ("quits.py:f", r"quits.py\", line 2(.|\n)*SystemExit: 4"),
        ("dies.py:f", r"its process ended while importing it \(signal 9\)"),
        ("odd.py:f", r"odd.py:1 has the parameters \(text\). A reward function is one of\n  TRL:"),
        ("no.such.module:f", "ModuleNotFoundError: No module named 'no'"),
    ],
)
def test_a_function_that_cannot_be_used_is_told_at_once(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    for file, text in {
        "mine.py": "def one(**_): ...\ndef two(**_): ...\nnumber = 1\n",
        "broken.py": "\n1 / 0\n",
        "grammar.py": "def f(\n",
        "quits.py": "import sys\nsys.exit(4)\n",
        "dies.py": "import os\nos.kill(os.getpid(), 9)\n",
        "odd.py": "def f(text):\n    return 1.0\n",
    }.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        IsolatedReward(name, workers=1)


@pytest.mark.parametrize("settings", [{"limit_s": 0}, {"limit_s": float("nan")}, {"workers": 0}, {"batch": "some"}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="must be positive|batch is one or all"):
        IsolatedReward(f"{BROKEN}:reward", **settings)


@pytest.mark.parametrize("name", ["mine.py:one", "mine:one", "mine.one"])
def test_files_and_modules_of_the_current_folder(tmp_path, monkeypatch, name):
    (tmp_path / "mine.py").write_text("def one(completions, **_):\n    return [1.0]\n")
    monkeypatch.chdir(tmp_path)
    with IsolatedReward(name, workers=1) as reward:
        assert (reward.name, reward.__name__, reward.place) == ("one", "one", "mine.py:1")
        assert reward(completions=["a"]) == [1.0]


def test_a_file_named_like_a_module_of_python_breaks_nothing(tmp_path):
    (tmp_path / "json.py").write_text("import zero2r1.rewards.combine\ndef f(completions, **_):\n    return [2.0]\n")
    with IsolatedReward(f"{tmp_path}/json.py:f", workers=1) as reward:
        assert reward(completions=["a"]) == [2.0]


def test_workers_load_little_and_order_sets_alike(tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    orders = []
    for _ in range(3):
        with IsolatedReward(f"{tmp_path}/look.py:look", workers=1) as reward:
            assert reward(completions=["a"], log_extra=lambda name, values: orders.append((name, *values))) == [0.0]
    assert len(orders) == 3 and len(set(orders)) == 1


def test_threads_share_a_pool():
    found: dict[int, list[float | None]] = {}
    with IsolatedReward(f"{BROKEN}:echo") as reward:

        def work(length: int) -> None:
            found[length] = reward(completions=["x" * length] * 20)

        threads = [threading.Thread(target=work, args=(length,)) for length in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {length: [float(length)] * 20 for length in range(6)}


def test_results_come_as_they_are_ready_and_can_be_awaited_or_cancelled():
    pool = RewardPool(f"{BROKEN}:reward", limit_s=60.0, workers=1)

    async def grade() -> tuple[float | None, ...]:
        return (await asyncio.wrap_future(pool.submit({"completions": ["fine"]}))).values

    hung = pool.submit({"completions": ["hang"]})
    assert asyncio.run(grade()) == (1.0,)  # by a worker that took the hung one's place
    assert not hung.done()
    unwanted = [pool.submit({"completions": ["fine"]}) for _ in range(50)]
    assert unwanted[-1].cancel()
    pool.close()
    assert wait([hung], timeout=10).done == {hung}
    for refused in (hung.result, lambda: pool.submit({"completions": ["fine"]})):
        with pytest.raises(RuntimeError, match="was closed"):
            refused()


@linux
def test_workers_end_with_close_and_with_a_forgotten_pool():
    others = set(workers_of(os.getpid()))
    pool = RewardPool(f"{BROKEN}:reward", workers=3)
    hung = pool.submit({"completions": ["busy"]})
    assert until(lambda: len(set(workers_of(os.getpid())) - others) == 3)
    pool.close()
    assert not set(workers_of(os.getpid())) - others and hung.done()
    pool = RewardPool(f"{BROKEN}:reward", workers=3)
    assert until(lambda: len(set(workers_of(os.getpid())) - others) == 3)
    del pool
    gc.collect()
    assert until(lambda: not set(workers_of(os.getpid())) - others)


@linux
def test_workers_that_die_while_idle_are_replaced_at_no_calls_cost():
    with IsolatedReward(f"{BROKEN}:echo", workers=3) as reward:
        for _ in range(3):
            killed = workers_of(os.getpid())
            for worker in killed:
                os.kill(worker, signal.SIGKILL)
            assert killed and until(lambda gone=killed: not any(state_of(worker) for worker in gone))
            assert reward(completions=["x" * length for length in range(30)]) == [float(length) for length in range(30)]


@linux
def test_workers_killed_at_random_moments_lose_no_sample():
    moments, killed, stop = random.Random(0), [], threading.Event()

    def kill() -> None:
        while not stop.wait(0.4 + 0.4 * moments.random()):  # longer than a start takes on a busy machine: one killed then is another case
            oldest = min(workers_of(os.getpid()), default=None)
            if oldest is not None:
                os.kill(oldest, signal.SIGKILL)
                killed.append(oldest)

    killer = threading.Thread(target=kill)
    with IsolatedReward(f"{BROKEN}:reward", max_invalid_in_a_row=1000) as reward:
        killer.start()
        try:
            while len(killed) < 8:
                logged: dict[str, list[str | None]] = {}
                values = reward(completions=["fine"] * 100, log_extra=logged.__setitem__)
                reasons = logged.get("why_reward", [None] * 100)
                assert values == [1.0 if reason is None else None for reason in reasons]
                assert set(reasons) <= {None, "killed the worker twice (signal 9)"}
        finally:
            stop.set()
            killer.join()
        assert until(lambda: reward.pool.size == 2)


@linux
@pytest.mark.parametrize("end", ["exits", "is killed"])
def test_workers_end_with_their_parent_even_in_a_busy_loop(end):
    program = (
        "import sys\nfrom zero2r1.rewards.isolated import RewardPool\n"
        f"pool = RewardPool({BROKEN + ':reward'!r})\npool.submit({{'completions': ['busy']}})\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdin is not None and parent.stdout is not None
    with parent.stdin, parent.stdout:
        assert parent.stdout.readline() == "ready\n"
        assert until(lambda: len(workers_of(parent.pid)) == 2)
        workers = workers_of(parent.pid)
        if end == "exits":
            parent.stdin.close()
        else:
            parent.send_signal(signal.SIGKILL)
        assert parent.wait(timeout=10) == (0 if end == "exits" else -9)
    assert until(lambda: not any(state_of(worker) for worker in workers))


def test_twenty_starts_beside_threads_that_hold_a_lock(tmp_path):
    """A forked worker would inherit locks whose owners do not exist in it."""
    (tmp_path / "one.py").write_text("def one(completions, **_):\n    return [1.0]\n")
    stop, lock = threading.Event(), threading.Lock()

    def hold() -> None:
        while not stop.is_set():
            with lock:
                json.dumps(list(range(1000)))

    threads = [threading.Thread(target=hold) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with IsolatedReward(f"{tmp_path}/one.py:one", workers=1) as reward:
                assert reward(completions=["a"]) == [1.0]
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_copy_has_workers_of_its_own_and_a_forked_child_none():
    with IsolatedReward(f"{BROKEN}:reward", workers=1, name="mine") as reward:
        other = copy.deepcopy(reward)  # what sending it to another process does
    with other:
        assert other.name == "mine" and other(completions=["fine"]) == [1.0]
        child = os.fork()
        if child == 0:
            try:
                other.pool.submit({"completions": ["fine"]})
            except RuntimeError as error:
                os._exit(0 if "build another IsolatedReward" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        assert other(completions=["fine"]) == [1.0]

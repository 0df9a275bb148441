"""The wall around comparisons: limits, deaths, threads, and what hostile text can do inside it."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zero2r1.rewards.math import wall as wall_module
from zero2r1.rewards.math.compare import compare
from zero2r1.rewards.math.wall import Wall

READY = "import sys, time, os, signal; print('ready', flush=True); "


@pytest.fixture(scope="module")
def small_wall():
    wall = Wall(limit_s=1.0)
    yield wall
    wall.close()


def test_outcomes_are_those_of_the_comparison_itself(small_wall):
    for gold, answer in [("2x+4", "2(x+2)"), ("2x+4", "2x+5"), ("\\frac{1}{", "7")]:
        assert small_wall.compare(gold, answer) == compare(gold, answer)


def test_a_comparison_that_hangs_is_ended_and_the_next_one_is_not_delayed(monkeypatch):
    wall = Wall(limit_s=0.3)
    monkeypatch.setattr(wall_module, "_START", READY + "sys.stdin.readline(); time.sleep(1000)")
    began = time.monotonic()
    outcome = wall.compare("1", "2")
    assert outcome.correct is False and outcome.why == "not shown to be equal within 0.3 s"
    assert time.monotonic() - began < 5 and wall.kills == 1
    wall.close()
    monkeypatch.undo()
    assert wall.compare("x+1", "1+x").correct is True
    wall.close()


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(3)"])
def test_a_worker_that_dies_is_replaced_once_and_then_the_answer_is_wrong(monkeypatch, end):
    wall = Wall(limit_s=5.0)
    monkeypatch.setattr(wall_module, "_START", READY + "sys.stdin.readline(); " + end)
    assert wall.compare("1", "2").why == "the comparison ended its worker twice"
    assert wall.kills == 2
    wall.close()


def test_a_wall_that_does_not_start_is_an_error_and_no_verdict(monkeypatch):
    wall = Wall(limit_s=1.0)
    monkeypatch.setattr(wall_module, "_START", "import nothing_of_this_name")
    with pytest.raises(wall_module.WallBroken, match="nothing_of_this_name"):
        wall.compare("x+1", "1+x")
    monkeypatch.undo()
    wall.close()
    assert wall.compare("x+1", "1+x").correct is True
    wall.close()


def test_equal_questions_are_answered_once(small_wall, monkeypatch):
    asked = []
    ask = small_wall._ask
    monkeypatch.setattr(small_wall, "_ask", lambda key: asked.append(key) or ask(key))
    for _ in range(3):
        assert small_wall.compare("x+1", "1+x").correct is True
    assert len(asked) == 1


def test_many_threads_get_their_own_answers(small_wall):
    def ask(k: int) -> bool | None:
        return small_wall.compare(f"{k}x+1", f"1+{k if k % 2 else k + 1}x").correct

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [k % 2 == 1 for k in range(200)]


def test_it_works_outside_the_main_thread_where_signals_do_not(small_wall):
    found = []
    thread = threading.Thread(target=lambda: found.append(small_wall.compare("\\sqrt{12}", "2\\sqrt{3}").correct))
    thread.start()
    thread.join()
    assert found == [True]


def test_workers_end_with_the_program_that_started_them():
    script = """
        from zero2r1.rewards.math.wall import shared_wall
        wall = shared_wall()
        wall.compare("x+1", "1+x")
        print(*[worker.process.pid for worker in wall._idle])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    for pid in done.stdout.split():
        with pytest.raises(ProcessLookupError):
            import os

            os.kill(int(pid), 0)


PIECES = [
    "\\frac{", "}", "{", "(", ")", "[", "]", "\\sqrt", "^", "_", "!", "9", "10", "0", ".", ",", "x", "\\pi", "\\infty", "+", "-", "*",
    "/", "=", "<",
    "\\le", "\\cup", "\\{", "\\}", "|", "\\begin{pmatrix}", "\\\\", "&", "\\end{pmatrix}", "\\text{", "km", "%", "$", "\\$", "\\pm", " ",
    "\n", "\x00",
    "é", "数", "٣", "\\sin", "\\log_2", "\\binom", "\\boxed{", "i", "e", "^\\circ", "\ud800", "'", '"', "\\", "999999999999", "\\left",
    ":", ";", "or",
]  # fmt: skip


def fuzzed(random_: random.Random) -> str:
    if random_.random() < 0.2:
        return "".join(chr(random_.choice([random_.randrange(32, 127), random_.randrange(0x110000)])) for _ in range(random_.randrange(60)))
    if random_.random() < 0.1:
        return random_.choice(PIECES) * random_.randrange(1, 700)
    return "".join(random_.choice(PIECES) for _ in range(random_.randrange(1, 25)))


@pytest.mark.parametrize("count", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_fuzzed_answers_neither_crash_nor_outlast_the_limit(small_wall, count):
    random_ = random.Random(1)
    slowest = 0.0
    for k in range(count):
        gold = random_.choice(["7", "\\frac{1}{2}", "x^2+1", "(1,3]", "\\{1,2\\}", "2\\sqrt{3}", fuzzed(random_)])
        began = time.monotonic()
        outcome = small_wall.compare(gold, fuzzed(random_))
        slowest = max(slowest, time.monotonic() - began)
        assert outcome.correct in (True, False, None) and "worker" not in outcome.why, (k, outcome)
    assert slowest < small_wall.limit_s + 0.2


HOSTILE = [
    "9^9^9^9", "10^{10^8}", "10000000!", "9!!!!!!!", "(" * 500 + "1" + ")" * 500, "\\frac{" * 300, "\\sqrt" * 250 + "2", "{" * 600,
    "x^{9999999}",
    "(x+1)^{64}(x+2)^{64}", "(a+b+c+d+f+g+h+j)^{60}", "2^{2^{2^{2^{2^2}}}}", "\\sin(10^{400})", "\\binom{10^9}{10^8}", "1e999", "9" * 590,
    "1/" * 200 + "1", "\\sqrt{" + "9" * 300 + "}", "(1+\\sqrt2)^{64}", "|" * 300, "1:" * 200 + "1", "1," * 299 + "1",
    "\\{" + "1," * 200 + "1\\}",
    "\\begin{pmatrix}" + "1&" * 200 + "1\\end{pmatrix}", "-" * 600 + "1", "\\pm" * 200 + "1", "e^{e^{e^{e^{e}}}}", "\\exp(10^9)",
    "x" * 600, "1 " * 300,
]  # fmt: skip


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("gold", ["5", "x^2+1", "\\sqrt{2}", "(1,3]"])
def test_hostile_answers_are_wrong_without_needing_the_limit(small_wall, gold, answer):
    outcome = small_wall.compare(gold, answer)
    assert outcome.correct is False
    assert small_wall.kills == 0, outcome

"""Users' reward functions for the tests: the first word of a completion says what the function does with it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time


def reward(completions, log_extra, log_metric, **columns):
    kind = completions[0].split()[0]
    log_metric("length", len(completions[0]))
    if kind == "raise":
        raise ValueError("no digits")
    if kind == "hang":
        time.sleep(1000)
    if kind == "busy":
        sum(range(10**13))  # one call of C code that never lets go of the interpreter
    if kind == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "sigsegv":
        ctypes.string_at(0)
    if kind == "exit":
        os._exit(3)
    log_extra("why", ["looked at " + kind])
    if kind in ("array", "float32"):
        import numpy

        return numpy.array([0.5]) if kind == "array" else [numpy.float32(0.5)]
    return {
        "none": [None],
        "nan": [float("nan")],
        "inf": [float("inf")],
        "string": ["1.0"],
        "scalar": 1.0,
        "short": [],
        "long": [1, 1],
        "true": [True],
    }.get(kind, [1.0])


def rank(completions, **columns):
    """Compares completions, so it needs all of them."""
    if "hang" in completions:
        time.sleep(1000)
    return [float(sorted(completions).index(completion)) for completion in completions]


def once(completions, flag, **columns):
    """Dies at the first call of all."""
    if not os.path.exists(flag[0]):
        open(flag[0], "w").close()
        os._exit(1)
    return [1.0] * len(completions)


def noisy(completions, **columns):
    print("x" * 300_000)
    os.write(1, b"{}\n" * 1000)
    subprocess.run(["echo", "also to where prints go"], check=True)
    return [float(len(sys.stdin.read()))]


loops = set()


async def later(completions, **columns):
    await asyncio.sleep(0)
    loops.add(id(asyncio.get_running_loop()))
    return [float(len(loops))]


def echo(completions, log_extra, **columns):
    import numpy

    log_extra("echo", [dict(columns, completions=completions[0])])
    log_extra("array", numpy.array([[1, 2]]))
    return [float(len(completions[0]))]


def strict(completions, answer):
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]

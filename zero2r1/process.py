"""Settings of this process that make computing on a CPU faster, and what it says to another process."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import IO

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare() -> None:
    """To be called before torch is imported, by a program that owns its process."""
    # GNU OpenMP's idle threads spin for so long that two busy processes slow each other down tenfold; never spinning costs an
    # idle machine 70 %. A short spin has most of both (docs/results.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let freed blocks stay with the process: a step frees gigabytes that the next one asks for, and the kernel hands out slowly.

    Returns:
        False where the C library is not glibc; nothing is changed then.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(libc.mallopt(M_TRIM_THRESHOLD, -1))


def write_whole(sink: IO[bytes], data: bytes) -> None:
    """Write all of ``data`` and flush.

    Under PYTHONUNBUFFERED standard output is a raw file, whose ``write`` may stop half way when the process is suspended and continued.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[sink.write(rest) :]
    sink.flush()

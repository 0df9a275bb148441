"""Settings of the process: memory that a step frees is not asked for again."""

from __future__ import annotations

import io
import platform
import subprocess
import sys

import pytest

from zero2r1.process import keep_freed_memory, write_whole

FAULTS = """
import ctypes, resource
from zero2r1.process import keep_freed_memory
print(keep_freed_memory())
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(100 << 20)
    ctypes.memset(block, 1, 100 << 20)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has this setting")
def test_a_large_block_is_asked_of_the_kernel_once():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    changed, first, *_, last = done.stdout.split()
    assert changed == "True"
    assert int(first) > 0
    assert int(last) < 100


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


class Halting(io.RawIOBase):
    """A raw file that takes at most three bytes at a time, as one does that a signal interrupts."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, data: memoryview) -> int:
        self.taken += bytes(data[:3])
        return min(3, len(data))


def test_all_is_written_to_a_file_that_stops_half_way():
    """A base training that was suspended and continued under PYTHONUNBUFFERED waited for ever for the rest of a gradient."""
    sink = Halting()
    write_whole(sink, b"eleven byte")
    assert sink.taken == b"eleven byte"
    write_whole(sink, b"")
    assert sink.taken == b"eleven byte"

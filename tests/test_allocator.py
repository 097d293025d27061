"""What the C library is told, in processes of its own: it cannot be taken back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

_THREADS = """
import ctypes, threading
from edged import allocator
{first}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
gate = threading.Barrier(9)
def work():
    libc.malloc(50_000)
    gate.wait()
for _ in range(8):
    threading.Thread(target=work).start()
gate.wait()
libc.malloc_stats()
"""


def arenas(first: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _THREADS.format(first=first)],
        capture_output=True,
        text=True,
        check=True,
    )
    return sum(line.startswith("Arena ") for line in done.stderr.splitlines())


def test_threads_share_two_arenas() -> None:
    assert arenas("") > 2, "glibc gives each of its own"
    assert arenas("allocator.few_arenas()") == 2

"""What the C library does with memory that was freed. Only glibc is told anything."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_M_ARENA_MAX = -8  # of glibc's malloc.h
_ARENAS = 2


def few_arenas() -> None:
    """Have threads share two arenas. To be called before there are threads.

    glibc gives each thread one, up to eight for each processor, and what a thread has freed is of
    no use to another: some 10 MB, and 11 MB more after a thousand deployments, each of which has
    threads of its own. Here a few threads allocate little, and rarely at the same moment.
    """
    mallopt = getattr(_libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Have what is free returned to the system: about 1 ms, without the GIL.

    Each model is loaded by another thread: seven megabytes more with every second swap.
    """
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache  # a handle of the library is a class of its own, and garbage for long
def _libc() -> Any:
    return ctypes.CDLL(None)

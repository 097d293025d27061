"""The clocks a camera reads, in one value so that tests can turn them by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """Where a camera takes the time from; all in seconds.

    Attributes:
        monotonic: never goes back; pacing and `captured_mono_s`.
        time: Unix time; `captured_s`.
        boottime: like `monotonic`, counting suspension too; libcamera stamps frames with it.
        sleep: pauses for a time; None waits in a way that closing the camera interrupts.
    """

    monotonic: Callable[[], float] = time.monotonic
    time: Callable[[], float] = time.time
    boottime: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
    sleep: Callable[[float], object] | None = None

    def unix(self, mono_s: float) -> float:
        """Return the Unix time of a moment `mono_s` on the monotonic clock."""
        return self.time() - (self.monotonic() - mono_s)

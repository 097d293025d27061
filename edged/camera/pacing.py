"""When the next picture is due. Pure: the time is an argument."""

from __future__ import annotations

import math


class Pacer:
    """Slots on a fixed grid, one picture in each: no drift, and no burst after a delay.

    The grid starts at the first call. A slot that passed unused is skipped for good.
    """

    def __init__(self, fps: float, *, early: float = 0.0) -> None:
        """Make a pacer.

        Args:
            fps: slots a second; 0 for no pacing: always due.
            early: share of a slot (0 to below 1) by which a picture may come before it is due.
                Thinning a live stream needs some: its frames come at their own times, and one
                that misses its slot by a little would cost a whole frame.
        """
        self._interval_s = 1.0 / fps if fps > 0 else 0.0
        self._early_s = early * self._interval_s
        self._start_s = 0.0
        self._slot = -1  # the last one used; before the first picture there is no grid yet

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until the next picture is due, 0 or more."""
        if self._slot < 0 or self._interval_s == 0:
            return 0.0
        due_s = self._start_s + (self._slot + 1) * self._interval_s
        return max(0.0, due_s - self._early_s - now_s)

    def take(self, now_s: float) -> None:
        """Use the slot that is due at `now_s` for a picture."""
        if self._interval_s == 0:
            return
        if self._slot < 0:
            self._start_s, self._slot = now_s, 0
            return
        passed = (now_s + self._early_s - self._start_s) / self._interval_s
        self._slot = max(self._slot + 1, math.floor(passed))

"""Which frames are looked at closely: one a period, at no fixed beat. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Sampling:
    """The beat of one camera. One thread.

    A fixed beat would see a lamp that blinks, or a belt that moves, always at the same moment.

    Args:
        period_s: mean time between two samples, seconds.
        chance: random number in 0..1.
    """

    def __init__(self, period_s: float, chance: Callable[[], float]) -> None:
        self._period_s = period_s
        self._chance = chance
        self._due_s = float("-inf")

    def due(self, now_s: float) -> bool:
        """Say whether a frame captured now is a sample; if so the next one is due a period later.

        Args:
            now_s: monotonic seconds.
        """
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._period_s * (0.5 + self._chance())
        return True

    def again(self) -> None:
        """Take the next frame: the last sample did not get to the model."""
        self._due_s = float("-inf")

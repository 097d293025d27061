"""Whether something grows: a line through what was sampled. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_KB_PER_HOUR = 1024.0


@dataclass(frozen=True)
class Slope:
    """A line through the memory: how fast it grows, and the standard error of that, in KB/h."""

    kb_per_hour: float
    error_kb_per_hour: float

    @property
    def grows(self) -> bool:
        """Whether it grows by more than may be, and more than chance would have it."""
        return self.kb_per_hour > max(MOST_KB_PER_HOUR, 2 * self.error_kb_per_hour)


def slope(times_s: Sequence[float], kb: Sequence[float]) -> Slope | None:
    """Fit a line by least squares; None with fewer than three moments."""
    count = len(times_s)
    if count < 3:
        return None
    hours = [time_s / 3600 for time_s in times_s]
    mean_h, mean_kb = sum(hours) / count, sum(kb) / count
    spread = sum((hour - mean_h) ** 2 for hour in hours)
    rate = sum((h - mean_h) * (y - mean_kb) for h, y in zip(hours, kb, strict=True)) / spread
    left = sum((y - mean_kb - rate * (h - mean_h)) ** 2 for h, y in zip(hours, kb, strict=True))
    return Slope(rate, math.sqrt(left / (count - 2) / spread))

"""What is counted along the way, and percentiles of recent times. Pure.

Each number has one writing thread; readers take a snapshot and may see it a frame late.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

_RECENT = 4096


class Times:
    """The most recent durations, for percentiles. One writer."""

    def __init__(self) -> None:
        self._ms: deque[float] = deque(maxlen=_RECENT)

    def add(self, seconds: float) -> None:
        """Record one duration, in seconds."""
        self._ms.append(seconds * 1000.0)

    @property
    def count(self) -> int:
        """How many durations are remembered."""
        return len(self._ms)

    def percentiles_ms(self) -> dict[str, float]:
        """Return `p50`, `p95`, `p99` and `max` in milliseconds; empty when nothing was recorded."""
        # The writer may append meanwhile; copying a deque can then raise, so copy by length.
        values = np.array([self._ms[i] for i in range(-len(self._ms), 0)])
        if not values.size:
            return {}
        p50, p95, p99 = np.percentile(values, (50, 95, 99))
        return {
            "p50": round(float(p50), 2),
            "p95": round(float(p95), 2),
            "p99": round(float(p99), 2),
            "max": round(float(values.max()), 2),
        }

    def clear(self) -> None:
        """Start a new period."""
        self._ms.clear()


@dataclass
class CameraCounters:
    """Counts of one camera since the daemon started.

    Attributes:
        captured: frames read.
        replaced: frames that a newer one took the place of before the model was free.
        no_model: frames read while there was no model to run.
        inferred: frames the model ran on.
        failed: frames the model failed on.
        published: predictions handed to MQTT.
        withheld: predictions that the publish policy held back.
        overrun: inferences dropped because the publisher was behind.
        errors: by reason slug.
        reconnects: times the camera was opened again.
        invoke: times inside invoke.
        latency: capture to publish.
    """

    captured: int = 0
    replaced: int = 0
    no_model: int = 0
    inferred: int = 0
    failed: int = 0
    published: int = 0
    withheld: int = 0
    overrun: int = 0
    reconnects: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    invoke: Times = field(default_factory=Times)
    latency: Times = field(default_factory=Times)

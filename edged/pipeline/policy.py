"""Which predictions go out. Pure."""

from __future__ import annotations

from edged.config import PublishConfig
from edged.prediction import Result, essence


class PublishPolicy:
    """Decides per camera, one prediction after the other.

    `every`: all. `rate`: at most `per_second`, evenly, by capture time. `change`: when the best
    class, or what objects, keypoints or areas are seen, is another than last time.
    """

    def __init__(self, config: PublishConfig) -> None:
        self._mode = config.mode
        self._gap_s = 1.0 / config.per_second
        self._due_s = float("-inf")
        self._last: tuple[str, ...] | None = None

    def wants(self, result: Result, captured_mono_s: float) -> bool:
        """Say whether this prediction is published, and remember that it was.

        Args:
            result: what the model said.
            captured_mono_s: when the frame was captured, monotonic seconds.
        """
        if self._mode == "rate":
            if captured_mono_s < self._due_s:
                return False
            # Keep the beat while on time; after a pause start a new one instead of catching up.
            late = captured_mono_s - self._due_s > self._gap_s
            self._due_s = (captured_mono_s if late else self._due_s) + self._gap_s
            return True
        if self._mode == "change":
            now = essence(result)
            changed, self._last = now != self._last, now
            return changed
        return True

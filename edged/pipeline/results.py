"""What goes from the inference thread to the publisher: bounded, oldest dropped."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from edged.drift.signals import Gray
from edged.frame import FrameStamp
from edged.inference.preprocess import Geometry
from edged.inference.servable import Outputs, Servable
from edged.pipeline.lane import Lane
from edged.pipeline.trial import Beside, LiveTrial

# A publisher that was kept from running for a while may catch up from here.
MOST = 256
# The outputs of a segmentation are 2 MB a frame; small boards have 512 MB in all.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Inference:
    """One inference, on its way to the publisher.

    Attributes:
        sketch: of its picture, for drift, where it is a sample.
    """

    lane: Lane
    servable: Servable
    stamp: FrameStamp
    place: Geometry
    outputs: Outputs
    sketch: Gray | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of the raw outputs."""
        return self.outputs.size_bytes

    def dropped(self) -> None:
        """Count it as lost."""
        self.lane.counters.overrun += 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on one frame, on its way to the statistics of a trial.

    It follows the inference of the frame, which has not waited for the second model.

    Attributes:
        camera: whose frame.
        trial: which.
        outputs: of the candidate.
        place: of the frame in its input.
        beside: what the previous model says.
    """

    camera: str
    trial: LiveTrial
    outputs: Outputs
    place: Geometry
    beside: Beside

    @property
    def size_bytes(self) -> int:
        """Memory of the raw outputs."""
        return self.outputs.size_bytes + self.beside.outputs.size_bytes

    def dropped(self) -> None:
        """One pair less."""


Result = Inference | Comparison


class Results:
    """A queue with one thread at each end; neither ever waits for room.

    Args:
        most: how many may wait.
        most_bytes: bytes of raw outputs that may wait; a single one may be larger.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: queue.SimpleQueue[Result] = queue.SimpleQueue()
        # Each count has one writer, so they need no lock.
        self._put_bytes = 0
        self._got_bytes = 0

    def put(self, result: Result) -> None:
        """Hand on; what it has no room for is dropped, oldest first, and counted as overrun."""
        size_bytes = result.size_bytes
        while self._full(size_bytes):
            try:
                oldest = self._waiting.get_nowait()
            except queue.Empty:
                break  # the publisher was quicker
            oldest.dropped()
            self._put_bytes -= oldest.size_bytes
        self._put_bytes += size_bytes
        self._waiting.put(result)

    def get(self, timeout_s: float) -> Result | None:
        """Return the oldest, or None when none came in time."""
        try:
            result = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._got_bytes += result.size_bytes
        return result

    def _full(self, more_bytes: int) -> bool:
        waiting = self._waiting.qsize()
        waiting_bytes = self._put_bytes - self._got_bytes
        return waiting >= self._most or (
            waiting > 0 and waiting_bytes + more_bytes > self._most_bytes
        )

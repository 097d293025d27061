"""Inferences on their way from the inference thread to the publisher: bounded, oldest dropped."""

from __future__ import annotations

import queue
from dataclasses import dataclass

from edged.frame import FrameStamp
from edged.inference.preprocess import Geometry
from edged.inference.servable import Outputs, Servable
from edged.pipeline.lane import Lane
from edged.pipeline.trial import Beside

# A publisher that was kept from running for a while may catch up from here.
MOST = 256
# The outputs of a segmentation are 2 MB a frame; small boards have 512 MB in all.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Inference:
    """One inference, on its way to the publisher.

    Attributes:
        beside: what the previous model says about the same frame, where a trial compares them.
    """

    lane: Lane
    servable: Servable
    stamp: FrameStamp
    place: Geometry
    outputs: Outputs
    beside: Beside | None = None

    @property
    def size_bytes(self) -> int:
        """Memory of the raw outputs."""
        return self.outputs.size_bytes + (self.beside.outputs.size_bytes if self.beside else 0)


class Results:
    """A queue with one thread at each end; neither ever waits for room.

    Args:
        most: inferences that may wait.
        most_bytes: bytes of raw outputs that may wait; a single inference may be larger.
    """

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._waiting: queue.SimpleQueue[Inference] = queue.SimpleQueue()
        # Each count has one writer, so they need no lock.
        self._put_bytes = 0
        self._got_bytes = 0

    def put(self, inference: Inference) -> None:
        """Hand on; what it has no room for is dropped, oldest first, and counted as overrun."""
        size_bytes = inference.size_bytes
        while self._full(size_bytes):
            try:
                oldest = self._waiting.get_nowait()
            except queue.Empty:
                break  # the publisher was quicker
            oldest.lane.counters.overrun += 1
            self._put_bytes -= oldest.size_bytes
        self._put_bytes += size_bytes
        self._waiting.put(inference)

    def get(self, timeout_s: float) -> Inference | None:
        """Return the oldest inference, or None when none came in time."""
        try:
            inference = self._waiting.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self._got_bytes += inference.size_bytes
        return inference

    def _full(self, more_bytes: int) -> bool:
        waiting = self._waiting.qsize()
        waiting_bytes = self._put_bytes - self._got_bytes
        return waiting >= self._most or (
            waiting > 0 and waiting_bytes + more_bytes > self._most_bytes
        )

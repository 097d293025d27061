"""Where a camera leaves its newest frame and the inference thread picks it up.

Three preallocated tensors per camera go round: one being written, one fresh, one in the model. A
fresh one that was not picked up in time is replaced by the next, and counted. No copies, no
queue, no waiting on the camera's side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edged.drift.signals import Gray
from edged.frame import FrameStamp
from edged.inference.preprocess import Geometry, InputSpec
from edged.pipeline.bell import Bell
from edged.pipeline.counters import CameraCounters

_SLOTS = 3


@dataclass
class Slot:
    """One input tensor and what it holds.

    Attributes:
        spec: the input the tensor was made for; after a swap it may be that of the old model.
        tensor: the model's input, filled by the capture thread.
        stamp: the frame in it.
        place: how its image was put into the input.
        sketch: of the picture, for drift, where it is a sample.
    """

    spec: InputSpec
    tensor: npt.NDArray[Any]
    stamp: FrameStamp | None = None
    place: Geometry | None = None
    sketch: Gray | None = None


class Mailbox:
    """The frames of one camera on their way to its model.

    Args:
        bell: of the inference thread.
        counters: of the camera.
    """

    def __init__(self, bell: Bell, counters: CameraCounters) -> None:
        self._bell = bell
        self._counters = counters
        self._free: list[Slot] = []
        self._fresh: Slot | None = None
        self._spec: InputSpec | None = None

    def writable(self, spec: InputSpec, tensors: Iterable[npt.NDArray[Any]]) -> Slot:
        """Return a slot to write the next frame into. Capture thread only.

        Args:
            spec: the input wanted; another one than last time discards the old slots.
            tensors: makes the tensors when new ones are needed.
        """
        with self._bell.lock:
            if spec is not self._spec:
                self._spec = spec
                source = iter(tensors)
                self._free = [Slot(spec, next(source)) for _ in range(_SLOTS)]
            return self._free.pop()

    def put(self, slot: Slot) -> bool:
        """Hand over a written slot; it replaces one that was not picked up yet.

        Returns:
            Whether that one was a sample.
        """
        with self._bell.lock:
            lost = self._fresh is not None and self._fresh.sketch is not None
            if self._fresh is not None:
                self._counters.replaced += 1
                self._recycle(self._fresh)
            self._fresh = slot
            self._bell.frame.notify()
        return lost

    def take(self) -> Slot | None:
        """Return the fresh slot, if any. The caller holds the lock."""
        slot, self._fresh = self._fresh, None
        if slot is not None:
            self._bell.taken.notify_all()
        return slot

    def wait_taken(self, timeout_s: float) -> bool:
        """Wait until no fresh slot is left; return whether that came in time."""
        with self._bell.lock:
            return self._bell.taken.wait_for(lambda: self._fresh is None, timeout_s)

    def give_back(self, slot: Slot) -> None:
        """Return a slot that has been used or could not be filled."""
        with self._bell.lock:
            self._recycle(slot)

    def _recycle(self, slot: Slot) -> None:
        if slot.spec is self._spec:  # a slot of the old model is let go
            self._free.append(slot)

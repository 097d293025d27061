"""A camera over stored or drawn pictures: hands them out one by one, at a rate."""

from __future__ import annotations

import threading
from typing import Protocol

from edged.camera.clock import Clock
from edged.camera.pacing import Pacer
from edged.errors import CameraError
from edged.frame import Color, Image, Picture

_CLOSE_S = 2.0


class Frames(Protocol):
    """Pictures in order, without end."""

    @property
    def description(self) -> str:
        """What it is and how large, without the rate."""

    @property
    def color(self) -> Color:
        """Order of the channels of all images."""

    def next(self, timeout_s: float) -> Image:
        """Return the next image, uint8 (height, width, 3).

        Raises:
            CameraError: as `edged.camera.base.Camera.read`.
        """

    def release(self) -> None:
        """Let go of what is open. Called once."""


class PacedCamera:
    """A `Camera` that gives every picture of `frames`, `fps` a second or as fast as it is read.

    No picture is left out when the reader is slow: pictures then come later, and never in a burst.
    The capture time is the moment a picture is handed out.
    """

    def __init__(self, frames: Frames, fps: float, clock: Clock | None = None) -> None:
        """Take over `frames`; `fps` 0 means as fast as they are read."""
        self._frames = frames
        self._fps = fps
        self._pacer = Pacer(fps)
        self._clock = clock or Clock()
        self._closed = threading.Event()
        self._busy = threading.Lock()  # held while `frames` works
        self._released = False

    @property
    def description(self) -> str:
        """Source, size and rate, as `Camera.description`."""
        rate = f"{self._fps:g}/s" if self._fps else "full speed"
        return f"{self._frames.description} at {rate}"

    @property
    def pause_s(self) -> float:
        """One slot; see `Camera.pause_s`."""
        return 1.0 / self._fps if self._fps else 0.0

    def read(self, timeout_s: float) -> Picture:
        """Wait until the next picture is due and return it; see `Camera.read`."""
        clock = self._clock
        while not self._closed.is_set():
            wait_s = self._pacer.wait_s(clock.monotonic())
            if wait_s <= 0:
                break
            (clock.sleep or self._closed.wait)(wait_s)
        try:
            with self._busy:
                self._check_open()
                # Before the picture is made, so that making it takes part of its slot.
                self._pacer.take(clock.monotonic())
                image = self._frames.next(timeout_s)
        except CameraError:
            self._check_open()  # closing may be what made it fail
            raise
        finally:
            if self._closed.is_set():
                self.close()
        return Picture(image, self._frames.color, clock.time(), clock.monotonic())

    def close(self) -> None:
        """Release the source; see `Camera.close`. A reader at work releases it when it is done."""
        self._closed.set()
        if not self._busy.acquire(timeout=_CLOSE_S):
            return
        try:
            if not self._released:
                self._released = True
                self._frames.release()
        finally:
            self._busy.release()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise CameraError("camera_lost", f"{self._frames.description} was closed.")

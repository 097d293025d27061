"""A camera over a live source: a thread takes in every picture and hands over only the newest.

Drivers and network streams queue pictures. Measured with an MJPEG stream of 30/s read twice a
second: without the thread the sixth picture read was 2.8 s old, and ever older. So the thread
drains the source all the time; a picture that nobody waits for is dropped undecoded.
"""

from __future__ import annotations

import threading
from typing import Protocol

from edged.camera.clock import Clock
from edged.camera.pacing import Pacer
from edged.errors import CameraError
from edged.frame import Image, Picture

_CLOSE_S = 2.0
# How much before its slot a frame may come when a stream is thinned to a lower rate.
_EARLY = 0.25


class LiveSource(Protocol):
    """A stream, used by one thread only: the images are BGR."""

    @property
    def description(self) -> str:
        """Source, size and rate, as `Camera.description`."""

    def grab(self) -> float | None:
        """Wait for the next picture and keep it undecoded.

        Returns:
            When it was taken, in monotonic seconds; None when nothing came for a while and
            waiting longer makes sense.

        Raises:
            CameraError: `camera_lost` when nothing will come any more, `camera_stalled` when the
                source's own time limit is over.
        """

    def retrieve(self) -> Image | None:
        """Decode what `grab` got: uint8 (height, width, 3), a new array; None when it is broken."""

    def interrupt(self) -> None:
        """Make a waiting `grab` return soon if that is possible; called by another thread."""

    def release(self) -> None:
        """Let go of the source. Called once, by the thread that reads."""


class LiveCamera:
    """A `Camera` that gives the newest picture of a stream.

    A source that hangs in a driver or a library delays neither `read` nor `close`: it is left to
    its thread, which releases it as soon as the call returns.
    """

    def __init__(self, source: LiveSource, *, fps: float = 0.0, clock: Clock | None = None) -> None:
        """Take over `source` and start reading it.

        Args:
            source: an open stream.
            fps: at most so many pictures a second; 0 gives all that come.
            clock: where the time comes from.
        """
        self._source = source
        self._clock = clock or Clock()
        self._pacer = Pacer(fps, early=_EARLY)
        self._change = threading.Condition()
        self._closed = False
        self._wanted = False  # a reader waits
        self._picture: Picture | None = None
        self._broken = 0  # undecodable pictures since the reader waits
        self._error: CameraError | None = None
        self._thread = threading.Thread(target=self._run, name="edged-live", daemon=True)
        self._thread.start()

    @property
    def description(self) -> str:
        """Source, size and rate, as `Camera.description`."""
        return self._source.description

    @property
    def pause_s(self) -> float:
        """None: `read` waits for nothing but the camera."""
        return 0.0

    def read(self, timeout_s: float) -> Picture:
        """Wait for the next picture that arrives; see `Camera.read`."""
        with self._change:
            self._picture, self._wanted, self._broken = None, True, 0
            self._change.wait_for(
                lambda: self._picture or self._error or self._closed, timeout=timeout_s
            )
            self._wanted = False
            if self._closed:
                raise CameraError("camera_lost", f"{self.description} was closed.")
            if self._error is not None:
                error = self._error
                raise CameraError(error.reason, str(error), advice=error.advice) from error
            if self._picture is not None:
                return self._picture
            if self._broken:
                raise CameraError(
                    "camera_bad_frame",
                    f"{self.description} sent {self._broken} pictures in {timeout_s:g} s, "
                    "none of which can be decoded.",
                )
        raise CameraError(
            "camera_stalled", f"{self.description} gave no picture for {timeout_s:g} s."
        )

    def close(self) -> None:
        """Release the source; see `Camera.close`."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._source.interrupt()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            while not self._closed:
                self._step()
        except CameraError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - else the thread would die unseen
            text = f"{self.description} failed: {type(error).__name__}: {error}"
            self._fail(CameraError("camera_lost", text))
        finally:
            self._source.release()

    def _step(self) -> None:
        taken_s = self._source.grab()
        if taken_s is None or not self._wanted or self._pacer.wait_s(taken_s) > 0:
            return
        image = self._source.retrieve()
        with self._change:
            if image is None:
                self._broken += 1
                return
            self._pacer.take(taken_s)
            self._picture = Picture(image, "bgr", self._clock.unix(taken_s), taken_s)
            self._wanted = False
            self._change.notify_all()

    def _fail(self, error: CameraError) -> None:
        with self._change:
            self._error = error
            self._change.notify_all()

"""Frames out of a running `Picamera2`: each asked for, copied and given back."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import CancelledError
from typing import Any

from edged.camera.clock import Clock
from edged.camera.pixels import to_bgr
from edged.errors import CameraError
from edged.frame import Picture

_CLOSE_S = 5.0
_POLL_S = 0.05
# A sensor time stamp older than this, or from the future, is of another clock.
_PLAUSIBLE_S = 10.0


class PiCamera:
    """A running Raspberry Pi camera: a `Camera` that gives the frame after the call to `read`."""

    def __init__(self, picam2: Any, description: str, clock: Clock) -> None:
        """Take over a configured and started `Picamera2`."""
        self._picam2 = picam2
        self._description = description
        self._clock = clock
        self._job: Any = None  # asked for, not answered yet
        self._reading = threading.Lock()
        self._closing = threading.Event()

    @property
    def description(self) -> str:
        """Source, sensor, size and rate, as `Camera.description`."""
        return self._description

    @property
    def pause_s(self) -> float:
        """None: `read` waits for nothing but the camera."""
        return 0.0

    def read(self, timeout_s: float) -> Picture:
        """Wait for the next frame: BGR; see `Camera.read`. The capture time is the sensor's."""
        with self._reading:
            self._check_open()
            request = self._next_request(timeout_s)
            try:
                config = self._picam2.stream_configuration("main")
                image = to_bgr(request.make_array("main"), config["format"], config["size"])
                stamp_ns = request.get_metadata().get("SensorTimestamp", 0)
            except (RuntimeError, ValueError, KeyError, AttributeError) as error:
                text = f"{self._description} gave a frame that cannot be read: {error}"
                raise CameraError("camera_bad_frame", text) from error
            finally:
                self._release(request)
        clock = self._clock
        age_s = clock.boottime() - stamp_ns / 1e9
        taken_s = clock.monotonic() - (age_s if 0 <= age_s < _PLAUSIBLE_S else 0.0)
        return Picture(image, "bgr", clock.unix(taken_s), taken_s)

    def close(self) -> None:
        """Stop and release the camera; see `Camera.close`.

        A camera that hangs in the driver is left to a thread of its own after some seconds.
        """
        if self._closing.is_set():
            return
        self._closing.set()
        closer = threading.Thread(target=self._shut, name="edged-picamera", daemon=True)
        closer.start()
        closer.join(_CLOSE_S)

    def _next_request(self, timeout_s: float) -> Any:
        # A job that timed out stays in picamera2's queue. It is waited for again, not replaced:
        # the frame it gets later would belong to nobody, and six such frames end the stream.
        self._drop_job()  # its frame is old by now
        try:
            if self._job is None:
                self._job = self._picam2.capture_request(wait=False)
            request = self._picam2.wait(self._job, timeout=timeout_s)
        except TimeoutError as error:
            self._check_open()
            raise CameraError(
                "camera_stalled",
                f"{self._description} gave no frame for {timeout_s:g} s.",
                advice="Check the cable of the camera with the power off; dmesg may say more.",
            ) from error
        except (CancelledError, RuntimeError, OSError) as error:
            self._job = None
            self._check_open()
            text = f"{self._description} failed: {error}"
            raise CameraError("camera_lost", text) from error
        self._job = None
        return request

    def _release(self, request: Any) -> None:
        try:
            request.release()
        except (RuntimeError, OSError) as error:  # libcamera does not take it back
            text = f"{self._description} went away: {error}"
            raise CameraError("camera_lost", text) from error

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise CameraError("camera_lost", f"{self._description} was closed.")

    def _shut(self) -> None:
        # A `read` that waits for a frame ends when its job is cancelled; again and again, because
        # it may ask for a frame just after.
        while not self._reading.acquire(timeout=_POLL_S):
            self._picam2.cancel_all_and_flush()
        try:
            self._drop_job()
            self._picam2.cancel_all_and_flush()
            # What libcamera refuses to close cannot be helped here; opening again will say busy.
            with contextlib.suppress(Exception):
                self._picam2.close()
        finally:
            self._reading.release()

    def _drop_job(self) -> None:
        """Give back the frame of a job that timed out before, and forget a job that failed."""
        if self._job is None:
            return
        try:
            self._picam2.wait(self._job, timeout=0).release()
        except TimeoutError:
            return  # still waiting
        except (CancelledError, RuntimeError, OSError):
            pass  # it gave no frame
        self._job = None

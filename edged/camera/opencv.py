"""Live cameras that OpenCV opens: V4L2 devices, and network streams by FFmpeg.

Measured with OpenCV 4.11 and 5.0: the two time limits hold for RTSP and HTTP, when opening a mute
server and when a stream stops; a refused connection fails at once. A V4L2 device knows no time
limit but the one for select, which the environment sets.
"""

from __future__ import annotations

import math
import socket
import urllib.parse

import cv2
import numpy as np

from edged.camera.clock import Clock
from edged.camera.live import LiveCamera
from edged.camera.v4l2 import Device, probe
from edged.camera.videoio import open_capture, rate_of, size_of
from edged.errors import CameraError
from edged.frame import Image
from edged.redact import redacted

# Above this many bytes a second a webcam has to compress: USB 2 carries 24 MB/s for video.
_RAW_BYTES_S = 20e6
# One buffer that is filled while another is decoded: more would hold older pictures, with one the
# driver would miss every picture that comes while one is decoded.
_BUFFERS = 2
# A V4L2 grab that fails sooner than this did not wait: the device is gone.
_WAITED_S = 1.0
# While a stream is opened its pictures pile up: measured, a second's worth of RTSP arrived at once
# afterwards. Pictures closer together than this share of their distance are of that pile.
_PILED = 0.5
_PILE_S = 10.0
# A driver's time stamp older than this is of another clock.
_PLAUSIBLE_S = 10.0

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


class Capture:
    """A `cv2.VideoCapture` as `edged.camera.live.LiveSource`."""

    def __init__(
        self,
        capture: cv2.VideoCapture,
        description: str,
        *,
        clock: Clock,
        limit_s: float = math.inf,
        driver_stamps: bool = False,
    ) -> None:
        """Take over an open capture.

        Args:
            capture: open.
            description: source, size and rate for people.
            clock: where the time comes from.
            limit_s: the time limit of the capture itself, after which it fails for good.
            driver_stamps: it is V4L2: its POS_MSEC is the driver's stamp on the monotonic clock,
                and when nothing came for a while it may be asked again.
        """
        self._capture = capture
        self._limit_s = limit_s
        rate = 0.0 if driver_stamps else rate_of(capture)
        self._piled_s = _PILED / rate if rate else 0.0
        self._pile = round(_PILE_S * rate)  # at most so many pictures are dropped
        self._description = description
        self._clock = clock
        self._driver_stamps = driver_stamps

    @property
    def description(self) -> str:
        """Source, size and rate."""
        return self._description

    def grab(self) -> float | None:
        """Wait for the next picture; see `LiveSource.grab`."""
        before_s = self._clock.monotonic()
        grabbed = self._capture.grab()
        now_s = self._clock.monotonic()
        # Even with a picture: at its time limit FFmpeg gives what the decoder still held back.
        if now_s - before_s > 0.9 * self._limit_s:
            raise CameraError("camera_stalled", f"{self._description} stopped sending.")
        if not grabbed:
            if self._driver_stamps and now_s - before_s > _WAITED_S:
                return None
            raise CameraError("camera_lost", f"{self._description} ended or was disconnected.")
        if self._pile > 0:
            self._pile = self._pile - 1 if now_s - before_s < self._piled_s else 0
            if self._pile:
                return None
        if self._driver_stamps:
            taken_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if 0 <= now_s - taken_s < _PLAUSIBLE_S:
                return taken_s
        return now_s

    def retrieve(self) -> Image | None:
        """Decode the picture: uint8 (height, width, 3), BGR, a new array."""
        try:
            decoded, image = self._capture.retrieve()
        except cv2.error:  # a damaged MJPEG picture of a webcam
            return None
        return np.asarray(image, np.uint8) if decoded and image.ndim == 3 else None

    def interrupt(self) -> None:
        """Nothing: a capture may not be touched while another thread uses it."""

    def release(self) -> None:
        """Close the capture."""
        self._capture.release()


def open_v4l2(
    path: str,
    width: int | None,
    height: int | None,
    fps: float | None,
    *,
    clock: Clock | None = None,
    device: Device | None = None,
) -> LiveCamera:
    """Open a webcam or another V4L2 capture device.

    Args:
        path: `/dev/video0`, a link to it, or only the number.
        width: asked for, in pixels; the driver takes the nearest it has. None for its default.
        height: the same.
        fps: asked for; a device that can only be faster is thinned. 0 and None: its default.
        clock: where the time comes from.
        device: what the kernel says of it, if that is known.

    Raises:
        CameraError: as `edged.camera.v4l2.probe`.
    """
    clock = clock or Clock()
    device = device or probe(path)
    capture = open_capture(device.path, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise CameraError(
            "camera_not_usable",
            f"{device.path} ({device.card}) gives pictures in no format that OpenCV reads.",
            advice=f"See its formats: v4l2-ctl -d {device.path} --list-formats-ext.",
        )
    wanted = (width or 640) * (height or 480) * 2 * (fps or 30)
    # The order matters: a format limits the sizes, a size the rates.
    if wanted > _RAW_BYTES_S:
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    if width is not None and height is not None:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
    if fps:
        capture.set(cv2.CAP_PROP_FPS, fps)
    capture.set(cv2.CAP_PROP_BUFFERSIZE, _BUFFERS)
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    pixels = code.decode("ascii", "replace").strip("\0 ")
    rate, got = rate_of(capture), size_of(capture)
    description = f"v4l2:{device.path} ({device.card}) {got} {pixels} at {_text(rate)}"
    if width is not None and got != f"{width}x{height}":
        description += f" (asked for {width}x{height})"
    thin = fps if fps and not 0 < rate <= fps * 1.2 else 0.0
    if thin:
        description += f", thinned to {thin:g}/s"
    source = Capture(capture, description, clock=clock, driver_stamps=True)
    return LiveCamera(source, fps=thin, clock=clock)


def open_stream(
    url: str, fps: float | None, *, timeout_s: float, clock: Clock | None = None
) -> LiveCamera:
    """Open an RTSP stream, over TCP, or whatever else FFmpeg plays from the network.

    Args:
        url: may hold user and password.
        fps: at most so many pictures a second; 0 and None: all.
        timeout_s: limit for connecting, and then for a pause of the stream before it is lost.
        clock: where the time comes from.

    Raises:
        CameraError: `camera_unreachable`.
    """
    clock = clock or Clock()
    shown = redacted(url)
    _connect(url, timeout_s)
    limit_ms = max(1, round(timeout_s * 1000))
    limits = (
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit_ms),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit_ms),
    )
    capture = open_capture(url, cv2.CAP_FFMPEG, limits)  # which takes TCP for RTSP by itself
    if not capture.isOpened():
        raise CameraError(
            "camera_unreachable",
            f"{shown} answers, but gives no stream.",
            advice="Check the path, the user and the password of the URL, and the codec.",
        )
    description = f"{shown} {size_of(capture)} at {_text(rate_of(capture))}"
    if fps:
        description += f", at most {fps:g}/s"
    source = Capture(capture, description, clock=clock, limit_s=timeout_s)
    return LiveCamera(source, fps=fps or 0.0, clock=clock)


def _connect(url: str, timeout_s: float) -> None:
    """Try the address: FFmpeg would only say that it failed."""
    shown = redacted(url)
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme.lower(), 554)
    except ValueError as error:
        raise CameraError("camera_unreachable", f"{shown} is no valid URL.") from error
    try:
        socket.create_connection((host or "", port), timeout=timeout_s).close()
    except OSError as error:
        raise CameraError(
            "camera_unreachable",
            f"{shown} cannot be reached: {error.strerror or error}.",
            advice="Check that the camera is on and the address is right.",
        ) from error


def _text(rate: float) -> str:
    return f"{rate:g}/s" if rate else "its own rate"

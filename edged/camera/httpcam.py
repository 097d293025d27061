"""Web cameras: an MJPEG stream, or a URL that gives one image each time.

Read here and not by FFmpeg: pictures that nobody waits for stay undecoded, the answer of the
server is known (401, 404), a URL with a single image works, and so does digest authentication.
What is neither goes to FFmpeg.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

from edged.camera.base import Camera
from edged.camera.clock import Clock
from edged.camera.imagefile import decode
from edged.camera.live import LiveCamera
from edged.camera.paced import PacedCamera
from edged.errors import CameraError
from edged.frame import Color, Image
from edged.redact import redacted

STILL_FPS = 1.0
"""Requests a second to a URL with a single image, where the configuration says nothing."""

_MAX_IMAGE_BYTES = 32 * 2**20
_MAX_LINE_BYTES = 64 * 2**10
_MAX_HEADERS = 50


class _Web:
    """A URL that is asked with the user and the password in it, Basic or Digest."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.shown = redacted(url)
        self._timeout_s = timeout_s
        try:
            parts = urllib.parse.urlsplit(url)
            place = parts.netloc.rpartition("@")[2]
            self._url = parts._replace(netloc=place, fragment="").geturl()
            # Built here, because its errors repeat the URL.
            self._request = urllib.request.Request(  # noqa: S310 - the scheme was checked
                self._url, headers={"User-Agent": "edged", "Accept": "*/*"}
            )
        except ValueError as error:
            raise CameraError("camera_unreachable", f"{self.shown} is no valid URL.") from error
        handlers: list[urllib.request.BaseHandler] = []
        if parts.username is not None:
            known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            user, password = (
                urllib.parse.unquote(v or "") for v in (parts.username, parts.password)
            )
            known.add_password(None, self._url, user, password)
            handlers = [
                urllib.request.HTTPBasicAuthHandler(known),
                urllib.request.HTTPDigestAuthHandler(known),
            ]
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, timeout_s: float | None = None) -> http.client.HTTPResponse:
        """Ask; raises `camera_unreachable` with what the server or the network said."""
        advice = "Check that the camera is on and the address is right."
        try:
            answer = self._opener.open(self._request, timeout=timeout_s or self._timeout_s)
        except urllib.error.HTTPError as error:
            why, advice = f"HTTP {error.code} {error.reason}", "Check the path of the URL."
            if error.code in (401, 403):
                advice = "Check the user and the password in the URL."
            error.close()
        except urllib.error.URLError as error:
            reason = error.reason
            why = reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = f"no HTTP answer ({type(error).__name__})"
        else:
            if isinstance(answer, http.client.HTTPResponse):
                return answer
            why = "no HTTP answer"
        raise CameraError("camera_unreachable", f"{self.shown}: {why}.", advice=advice)


class _Mjpeg:
    """A multipart stream as `edged.camera.live.LiveSource`."""

    def __init__(
        self, answer: http.client.HTTPResponse, shown: str, fps: float | None, clock: Clock
    ) -> None:
        self._answer = answer
        # A handle of its own on the connection: the answer's may be closed and reused meanwhile.
        self._connection = socket.socket(fileno=os.dup(answer.fileno()))
        self._clock = clock
        self._picture = b""
        self._pushed_back = b""  # a line that was read too far
        boundary = answer.headers.get_boundary() or ""
        # Some cameras write the two dashes into the parameter as well.
        self._boundary = b"--" + boundary.encode("latin-1", "replace").removeprefix(b"--")
        self._shown = shown
        limit = f", at most {fps:g}/s" if fps else ""
        self.description = f"{shown} MJPEG at its own rate{limit}"

    def grab(self) -> float | None:
        try:
            skipped = 0
            while not (line := self._line()).startswith(self._boundary):
                skipped += len(line)
                if skipped > _MAX_IMAGE_BYTES:
                    raise self._lost("sends no boundary between its pictures")
            length = self._headers()
            taken_s = self._clock.monotonic()
            self._picture = self._until_boundary() if length is None else self._answer.read(length)
        except TimeoutError as error:
            text = f"{self._shown} stopped sending."
            raise CameraError("camera_stalled", text) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._lost("broke off") from error
        return taken_s

    def retrieve(self) -> Image | None:
        try:
            return decode(self._picture)
        except CameraError:
            return None

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):  # it is over already
            self._connection.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._answer.close()
        self._connection.close()

    def _headers(self) -> int | None:
        length = None
        for _ in range(_MAX_HEADERS):
            name, _colon, value = self._line().partition(b":")
            if not name.strip():
                return length
            if name.strip().lower() == b"content-length":
                length = int(value)
                if not 0 <= length <= _MAX_IMAGE_BYTES:
                    raise self._lost("announced a picture too large")
        raise self._lost("sends no pictures")

    def _until_boundary(self) -> bytes:
        """Read a picture of unknown length; the boundary after it is consumed and kept in mind."""
        lines, size = [], 0
        while not (line := self._line()).startswith(self._boundary):
            lines.append(line)
            size += len(line)
            if size > _MAX_IMAGE_BYTES:
                raise self._lost("sent a picture too large")
        self._pushed_back = line
        return b"".join(lines)

    def _line(self) -> bytes:
        line, self._pushed_back = self._pushed_back, b""
        line = line or self._answer.readline(_MAX_LINE_BYTES)
        if not line:
            raise self._lost("ended")
        return line

    def _lost(self, what: str) -> CameraError:
        return CameraError("camera_lost", f"{self._shown} {what}.")


class _Still:
    """A URL with one image as `edged.camera.paced.Frames`."""

    color: Color = "bgr"

    def __init__(self, web: _Web) -> None:
        self._web = web
        self.description = web.shown

    def next(self, timeout_s: float) -> Image:
        deadline_s = time.monotonic() + timeout_s
        data = bytearray()
        with self._web.get(timeout_s) as answer:
            try:
                while chunk := answer.read1(_MAX_LINE_BYTES):
                    data += chunk
                    # The time limit of the socket starts again with every byte.
                    if time.monotonic() > deadline_s:
                        raise TimeoutError
                    if len(data) > _MAX_IMAGE_BYTES:
                        raise CameraError(
                            "camera_bad_frame", f"{self._web.shown} sent an image too large."
                        )
            except (OSError, http.client.HTTPException) as error:
                text = f"{self._web.shown} gave no whole image within {timeout_s:g} s."
                raise CameraError("camera_stalled", text) from error
        try:
            return decode(bytes(data))
        except CameraError as error:
            text = f"{self._web.shown} gave no usable image: {error}."
            raise CameraError(error.reason, text) from error

    def release(self) -> None:
        pass


def open_http(
    url: str, fps: float | None, *, timeout_s: float, clock: Clock | None = None
) -> Camera:
    """Open whatever an HTTP or HTTPS URL gives: an MJPEG stream, an image, or a video for FFmpeg.

    Args:
        url: may hold user and password.
        fps: of a stream at most so many pictures a second, 0 and None: all; of an image so many
            requests a second, 0: as fast as the camera answers, None: one.
        timeout_s: limit for connecting, and for a pause of the stream before it is lost.
        clock: where the time comes from.

    Raises:
        CameraError: `camera_unreachable`.
    """
    clock = clock or Clock()
    web = _Web(url, timeout_s)
    answer = web.get()
    kind = answer.headers.get_content_type()
    if kind.startswith("multipart/"):
        return LiveCamera(_Mjpeg(answer, web.shown, fps, clock), fps=fps or 0.0, clock=clock)
    answer.close()
    if kind.startswith("image/"):
        return PacedCamera(_Still(web), STILL_FPS if fps is None else fps, clock)
    from edged.camera.opencv import open_stream  # noqa: PLC0415 - FFmpeg only where it is needed

    return open_stream(url, fps, timeout_s=timeout_s, clock=clock)

"""A web camera on loopback: an MJPEG stream or single images, and what goes wrong with them."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np


def jpeg(value: int, width: int = 64, height: int = 48) -> bytes:
    """A grey image of one brightness."""
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), value, np.uint8))
    assert done
    return data.tobytes()


@dataclass
class Webcam:
    """What the camera does; change it while it runs."""

    frame_s: float = 0.02
    frames: int = 10**9  # sent, then `then`
    then: str = "drop"  # or "stall"
    lengths: bool = True  # say how long each picture is
    boundary: str = "frame"  # as the header names it
    delimiter: bytes = b"--frame"
    content_type: str = ""
    status: int = 200
    user: str = ""
    body: bytes | None = None  # instead of a picture
    sent: int = 0
    requests: int = 0
    decoys: bytes = b""  # before the first boundary
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def picture(self) -> bytes:
        """The next picture: its brightness counts, in steps of 1 from 0 to 249."""
        body = jpeg(self.sent % 250) if self.body is None else self.body
        self.sent += 1
        return body


class _Handler(BaseHTTPRequestHandler):
    camera: Webcam

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        camera = self.camera
        camera.requests += 1
        want = "Basic " + base64.b64encode(camera.user.encode()).decode()
        if camera.user and self.headers.get("Authorization") != want:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="cam"')
            self.end_headers()
            return
        if camera.status != 200:
            self.send_error(camera.status)
            return
        with contextlib.suppress(OSError):
            if self.path.startswith("/still"):
                self._still()
            else:
                self._stream()

    def _still(self) -> None:
        body = self.camera.picture()
        self.send_response(200)
        self.send_header("Content-Type", self.camera.content_type or "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for start in range(0, len(body), 64):
            self.wfile.write(body[start : start + 64])
            if self.camera.then == "drip" and self.camera.sent > 1:
                self.camera.over.wait(0.1)

    def _stream(self) -> None:
        camera = self.camera
        self.send_response(200)
        kind = camera.content_type or f"multipart/x-mixed-replace; boundary={camera.boundary}"
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(camera.decoys)
        due_s = time.monotonic()
        while camera.sent < camera.frames and not camera.over.is_set():
            body = camera.picture()
            head = camera.delimiter + b"\r\nContent-Type: image/jpeg\r\n"
            if camera.lengths:
                head += b"Content-Length: %d\r\n" % len(body)
            self.wfile.write(head + b"\r\n" + body + b"\r\n")
            due_s += camera.frame_s
            camera.over.wait(max(0.0, due_s - time.monotonic()))
        if not camera.lengths:
            self.wfile.write(camera.delimiter + b"\r\n")
        if camera.then == "stall":
            camera.over.wait(30)


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Webcam]:
    """Run a camera; `url` ends in a slash."""
    camera = Webcam(**settings)
    handler = type("Handler", (_Handler,), {"camera": camera})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.block_on_close = False
    camera.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield camera
    finally:
        camera.over.set()
        server.shutdown()
        thread.join()
        server.server_close()

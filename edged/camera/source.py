"""From a configured source to an open camera: the adapters are imported when they are needed."""

from __future__ import annotations

from edged.camera.base import Camera
from edged.camera.clock import Clock
from edged.config import CameraConfig
from edged.errors import CameraError
from edged.redact import redacted

# ruff: noqa: PLC0415 - each adapter brings a library that other sources do without


def open_camera(config: CameraConfig, *, clock: Clock | None = None) -> Camera:
    """Open the camera that `config.source` names. May take `config.stall_s`, a Pi camera 3 s.

    `width` and `height` are asked of `picamera`, `v4l2:` and `synthetic`, and have no meaning for
    the others; `fps` as each adapter documents. Nothing is turned: `rotate` is not for cameras.

    Args:
        config: the camera's part of the configuration.
        clock: where the time comes from.

    Raises:
        CameraError: as `edged.camera.base.Camera`.
    """
    kind, _, rest = config.source.partition(":")
    size = (config.width, config.height)
    camera: Camera
    if kind == "picamera":
        from edged.camera.picamera import open_picamera

        camera = open_picamera(int(rest or 0), *size, config.fps, clock=clock)
    elif kind == "v4l2":
        from edged.camera.opencv import open_v4l2

        camera = open_v4l2(rest, *size, config.fps, clock=clock)
    elif kind in ("rtsp", "rtsps"):
        from edged.camera.opencv import open_stream

        camera = open_stream(config.source, config.fps, timeout_s=config.stall_s, clock=clock)
    elif kind in ("http", "https"):
        from edged.camera.httpcam import open_http

        camera = open_http(config.source, config.fps, timeout_s=config.stall_s, clock=clock)
    elif kind == "file":
        from edged.camera.videofile import open_file

        camera = open_file(rest, config.fps, clock)
    elif kind == "images":
        from edged.camera.images import open_images

        camera = open_images(rest, config.fps, clock)
    elif kind == "synthetic":
        from edged.camera.synthetic import open_synthetic

        camera = open_synthetic(*size, config.fps, clock)
    else:
        text = f"{redacted(config.source)} is no known kind of source."
        raise CameraError("camera_not_found", text)
    return camera

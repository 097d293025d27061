"""OpenCV's VideoCapture, made quiet: import this before `cv2` is used for video."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence

# Read by the libraries when they are first used. What goes wrong is raised; their own messages on
# stderr repeat it, with URL and password. Who debugs a camera sets them outside.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # AV_LOG_QUIET
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")

import cv2

# Another module may have loaded the library before. OpenCV 5 moved the function.
_LOGGING = cv2 if hasattr(cv2, "setLogLevel") else getattr(cv2.utils, "logging", None)
if _LOGGING is not None and os.environ["OPENCV_LOG_LEVEL"] == "OFF":
    _LOGGING.setLogLevel(0)


def open_capture(name: str, backend: int, limits: Sequence[int] = ()) -> cv2.VideoCapture:
    """Open a source; whether that worked, `isOpened` of the result says."""
    capture = cv2.VideoCapture()
    with contextlib.suppress(cv2.error):  # then it is not open, either
        capture.open(name, backend, limits)
    return capture


def rate_of(capture: cv2.VideoCapture) -> float:
    """Return the pictures a second that a source says it has, 0 where it does not know."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else 0.0


def size_of(capture: cv2.VideoCapture) -> str:
    """Return `WIDTHxHEIGHT`, in pixels."""
    width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    return f"{round(width)}x{round(height)}"

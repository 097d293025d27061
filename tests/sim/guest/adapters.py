"""The camera adapters of the installed edged on this machine's cameras; says as JSON what it saw.

`adapters.py v4l2` for /dev/video0, which vivid makes, `adapters.py picamera` for the first camera
of libcamera.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import threading
import time
from typing import Any

import cv2

from edged.camera.base import Camera
from edged.camera.clock import Clock
from edged.camera.live import LiveCamera
from edged.camera.opencv import Capture, open_v4l2
from edged.camera.picamera import open_picamera
from edged.camera.videoio import open_capture
from edged.errors import CameraError

_READ_S = 20.0
_NODE = "/dev/video0"


def v4l2() -> dict[str, Any]:
    """Ask vivid for sizes that it has and has not."""
    seen: dict[str, Any] = {}
    for asked in ((None, None, None), (640, 480, 5.0), (1280, 720, 30.0), (1000, 700, 5.0)):
        camera = open_v4l2(_NODE, *asked)
        seen[str(asked)] = _looked_at(camera)
        camera.close()
    camera = open_v4l2(_NODE, None, None, None)
    camera.read(_READ_S)
    seen["second"] = _reason(lambda: open_v4l2(_NODE, None, None, None))
    camera.close()
    # What OpenCV would take of a webcam that has nothing else.
    for code in ("YUYV", "NV12"):
        capture = open_capture(_NODE, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*code))
        got = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode()
        camera = LiveCamera(Capture(capture, got, clock=Clock(), driver_stamps=True))
        seen[code] = _looked_at(camera)
        camera.close()
    return seen


def picamera() -> dict[str, Any]:
    """Open, read, close and open again, as the capture thread does."""
    began_s = time.monotonic()
    camera = open_picamera(0, 640, 480, 10.0)
    opened_s = time.monotonic() - began_s
    seen: dict[str, Any] = {"opened_s": opened_s, "looked at": _looked_at(camera)}
    seen["second"] = _reason(lambda: open_picamera(0, None, None, None))
    seen["number 1"] = _reason(lambda: open_picamera(1, None, None, None))
    ended: list[str] = []
    reader = threading.Thread(target=lambda: ended.append(_ended(camera)))
    reader.start()
    time.sleep(1.0)
    began_s = time.monotonic()
    camera.close()
    seen["closed_s"] = time.monotonic() - began_s
    reader.join(_READ_S)
    seen["read while closed"] = ended
    gc.disable()
    counts = []
    for _ in range(4):
        camera = open_picamera(0, None, None, None)
        camera.read(_READ_S)
        counts.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        camera.close()
    seen["descriptors"] = counts
    return seen


def _looked_at(camera: Camera) -> dict[str, Any]:
    pictures = [camera.read(_READ_S) for _ in range(3)]
    image = pictures[-1].image
    height, width = image.shape[:2]
    row = image[height * 3 // 4, 4 :: width // 64] > 96
    runs = [
        (colour, len(list(pixels)))
        for colour, pixels in itertools.groupby(tuple(map(bool, pixel)) for pixel in row)
    ]
    taken = [picture.captured_mono_s for picture in pictures]
    return {
        "description": camera.description,
        "shape": image.shape,
        # Blue, green, red of each bar, from left to right; where two meet is what is neither.
        "bars": [
            "".join("bgr"[at] if on else "-" for at, on in enumerate(colour))
            for colour, count in runs
            if count > 2
        ],
        "rising": sorted(set(taken)) == taken,
        "age_s": time.monotonic() - taken[-1],
    }


def _reason(act: Any) -> str:
    try:
        act()
    except CameraError as error:
        return error.reason
    return "none"


def _ended(camera: Camera) -> str:
    while True:
        try:
            camera.read(_READ_S)
        except CameraError as error:
            return error.reason


if __name__ == "__main__":
    print(json.dumps({"v4l2": v4l2, "picamera": picamera}[sys.argv[1]]()))

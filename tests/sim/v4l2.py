"""A webcam behind V4L2, as the kernel's two ioctls and OpenCV's VideoCapture show it."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

QUERYCAP, REQBUFS = 0x80685600, 0xC0145608
CAPTURE, METADATA, DEVICE_CAPS = 0x1, 0x800000, 0x80000000


@dataclass
class Node:
    """What a device file answers to ioctl."""

    driver: bytes = b"uvcvideo"
    card: bytes = b"HD Webcam"
    caps: int = CAPTURE | METADATA | DEVICE_CAPS
    device_caps: int = CAPTURE
    fails: dict[int, int] = field(default_factory=dict)  # request: errno

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> int:
        os.fstat(descriptor)  # open
        if request in self.fails:
            raise OSError(self.fails[request], os.strerror(self.fails[request]))
        if request == QUERYCAP:
            argument[:] = struct.pack(
                "=16s32s32sIII12x", self.driver, self.card, b"usb-1", 1, self.caps, self.device_caps
            )
        elif struct.unpack_from("=III", argument) != (1, 1, 1):
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0


class Capture:
    """`cv2.VideoCapture` over a webcam whose pictures count up, `frame_s` apart.

    The driver fills its free buffers and drops pictures when there is none; `grab` gives the
    oldest and takes back the one grabbed before.
    """

    def __init__(self, frame_s: float = 0.01, sizes: tuple[tuple[int, int], ...] = ()) -> None:
        self.frame_s = frame_s
        self.sizes = sizes or ((640, 480), (1280, 720))
        self.values: dict[int, float] = {
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"),
            cv2.CAP_PROP_FRAME_WIDTH: self.sizes[0][0],
            cv2.CAP_PROP_FRAME_HEIGHT: self.sizes[0][1],
            cv2.CAP_PROP_FPS: 30.0,
            cv2.CAP_PROP_BUFFERSIZE: 4,
        }
        self.asked: list[int] = []
        self.slowest_fps = 15.0
        self.opened = True
        self.stamped = True
        self.broken = False
        self.unplugged = threading.Event()
        self.stalled = threading.Event()
        self.select_s = 1.2
        self.released = threading.Event()
        self.start_s = 0.0
        self.filled: deque[tuple[int, float]] = deque()
        self.number = 0
        self.held = 0
        self.current = (0, 0.0)

    def isOpened(self) -> bool:  # noqa: N802 - as in OpenCV
        return self.opened

    def set(self, name: int, value: float) -> bool:
        self.asked.append(name)
        if name == cv2.CAP_PROP_FRAME_HEIGHT:
            # A driver takes the nearest size it has when it knows both sides.
            wide = self.values[cv2.CAP_PROP_FRAME_WIDTH]
            best = min(self.sizes, key=lambda size: abs(size[0] - wide) + abs(size[1] - value))
            self.values[cv2.CAP_PROP_FRAME_WIDTH], value = best
        if name == cv2.CAP_PROP_FPS:
            value = max(value, self.slowest_fps)
        self.values[name] = value
        return True

    def get(self, name: int) -> float:
        if name == cv2.CAP_PROP_POS_MSEC:
            return self.current[1] * 1000 if self.stamped else 0.0
        return self.values[name]

    def _fill(self) -> None:
        if self.stalled.is_set():
            return
        now_s = time.monotonic()
        self.start_s = self.start_s or now_s
        while (taken_s := self.start_s + self.number * self.frame_s) <= now_s:
            if len(self.filled) < self.values[cv2.CAP_PROP_BUFFERSIZE] - self.held:
                self.filled.append((self.number, taken_s))
            self.number += 1

    def grab(self) -> bool:
        self._fill()
        self.held = 0
        deadline = time.monotonic() + self.select_s
        while not self.filled:
            if self.unplugged.is_set():
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
            self._fill()
        if self.unplugged.is_set():
            return False
        self.current, self.held = self.filled.popleft(), 1
        return True

    def retrieve(self) -> tuple[bool, np.ndarray]:
        if self.broken:
            raise cv2.error("imdecode")
        return True, np.full((4, 4, 3), self.current[0] % 250, np.uint8)

    def release(self) -> None:
        self.released.set()

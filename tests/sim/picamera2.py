"""A Raspberry Pi with cameras, seen through the calls of picamera2 that edged makes.

After picamera2 0.3.38, and held against it: `sim.guest.picontract` asks both the same. An event
loop in a thread fills buffers and runs queued jobs in order; a completed request holds its buffer
until it is released, and a camera without free buffers stops. A closed camera is part of a cycle
and keeps descriptors until it is collected.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest


@dataclass
class World:
    """What is connected and what goes wrong."""

    cameras: list[str] = field(default_factory=lambda: ["imx708"])
    busy: bool = False
    refuses: str = ""  # what libcamera says while the camera is configured
    pixel_format: str = ""  # what it settles for instead of the format asked for
    align: int = 64  # bytes of a row are a multiple of it
    frame_s: float = 0.01
    exposed_s: float = 0.02  # age of a frame when it is complete
    stamps: bool = True
    hang: threading.Event = field(default_factory=threading.Event)  # no more frames
    stop_hangs: threading.Event = field(default_factory=threading.Event)
    opened: list[Picamera2] = field(default_factory=list)
    frames: int = 0
    lost_requests: int = 0  # released after the camera had stopped, or twice

    modes: list[dict[str, Any]] = field(
        default_factory=lambda: [
            # A Camera Module 3: the first mode is a crop of the middle.
            _mode((1536, 864), (768, 432, 3072, 1728), 120.13),
            _mode((2304, 1296), (0, 0, 4608, 2592), 56.03),
            _mode((4608, 2592), (0, 0, 4608, 2592), 14.35),
        ]
    )


def _mode(size: tuple[int, int], crop: tuple[int, int, int, int], fps: float) -> dict[str, Any]:
    return {"format": "SRGGB10", "bit_depth": 10, "size": size, "crop_limits": crop, "fps": fps}


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> World:
    """Make `import picamera2` find `world`."""
    module = types.ModuleType("picamera2")
    module.Picamera2 = type("Picamera2", (Picamera2,), {"world": world})  # type: ignore[attr-defined]
    module.CompletedRequest = CompletedRequest  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    return world


def picture(number: int, width: int, height: int) -> np.ndarray:
    """What the camera sees: BGR; blue left, red right, green by the number of the frame."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0], image[:, width // 2 :, 2] = 200, 200
    image[:, :, 1] = 20 + number % 100
    return image


class Job:
    def __init__(self, function: Callable[[], tuple[bool, Any]]) -> None:
        self.function = function
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()

    def cancel(self) -> None:
        self.future.set_exception(CancelledError())


class Heap:
    """Where buffers come from: a descriptor, for as long as anything refers to it."""

    def __init__(self) -> None:
        self._descriptor = os.open(os.devnull, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._descriptor)


class CompletedRequest:
    def __init__(self, camera: Picamera2, number: int, stamp_ns: int) -> None:
        self.camera, self.number, self.stamp_ns = camera, number, stamp_ns
        self.ref_count = 1
        self.stop_count = camera.stop_count

    def release(self) -> None:
        with self.camera.lock:
            self.ref_count -= 1
            if self.ref_count < 0:
                self.camera.world.lost_requests += 1
                raise RuntimeError("CompletedRequest: lock now has negative ref_count")
            if self.stop_count == self.camera.stop_count:
                self.camera.free += 1
            else:
                self.camera.world.lost_requests += 1

    def get_metadata(self) -> dict[str, Any]:
        return {"SensorTimestamp": self.stamp_ns} if self.camera.world.stamps else {}

    def make_array(self, name: str) -> np.ndarray:
        if self.ref_count <= 0:
            raise RuntimeError(f"Stream {name!r} is not defined")
        config = self.camera.config[name]
        (width, height), stride = config["size"], config["stride"]
        image, fmt = picture(self.number, width, height), config["format"]
        if fmt == "RGB888":  # picamera2 cuts off the padding of packed rows
            return image
        if fmt == "XBGR8888":
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA)
        assert fmt == "YUV420", fmt
        # The padding stays in the planes: half of it in the rows of the half-width ones.
        planes = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
        luma = planes[: width * height].reshape(height, width)
        chroma = planes[width * height :].reshape(height, width // 2)
        flat = [
            np.pad(luma, ((0, 0), (0, stride - width)), constant_values=99),
            np.pad(chroma, ((0, 0), (0, (stride - width) // 2)), constant_values=99),
        ]
        return np.concatenate([plane.reshape(-1) for plane in flat]).reshape(-1, stride)


class Picamera2:
    world: World

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return [{"Model": model, "Num": number} for number, model in enumerate(cls.world.cameras)]

    def __init__(self, camera_num: int = 0) -> None:
        self.notifyme_r, self.notifyme_w = os.pipe2(os.O_NONBLOCK)
        self.notifymeread = os.fdopen(self.notifyme_r, "rb")
        self.is_open = False
        if camera_num >= len(self.world.cameras):
            raise RuntimeError(f"No camera number {camera_num} found")
        if self.world.busy or self.world.opened:
            cause = RuntimeError("Failed to acquire camera: Device or resource busy")
            raise RuntimeError("Camera __init__ sequence did not complete.") from cause
        self.is_open = True
        self.world.opened.append(self)
        self.camera_properties = {"Model": self.world.cameras[camera_num]}
        self.camera_controls = {"FrameDurationLimits": (1, 2, 3)}
        self.sensor_modes = self.world.modes
        self.config: dict[str, Any] = {}
        self.lock = threading.RLock()
        self.jobs: list[Job] = []
        self.ready: CompletedRequest | None = None
        self.free = 0
        self.stop_count = 0
        self.started = self.looping = False
        self.loop: threading.Thread | None = None
        self.heap = Heap()
        self.video_configuration = {"of": self}

    def create_video_configuration(
        self,
        main: dict[str, Any] = {},  # noqa: B006 - as there
        buffer_count: int = 6,
        controls: dict[str, Any] = {},  # noqa: B006
        display: str | None = "main",
        encode: str | None = "main",
        queue: bool = True,
        sensor: dict[str, Any] = {},  # noqa: B006
    ) -> dict[str, Any]:
        if unknown := set(main) - {"format", "size", "stride", "preserve_ar"}:
            raise ValueError(f"Bad key {unknown}")
        made = {"format": "XBGR8888", "size": (1280, 720)} | main
        width, height = made["size"]
        made["size"] = (width - width % 2, height - height % 2)
        return {
            "main": made,
            "buffer_count": buffer_count,
            "controls": controls,
            "display": display,
            "encode": encode,
            "queue": queue,
            "sensor": sensor,
        }

    def configure(self, camera_config: dict[str, Any] | None = None) -> None:
        if self.world.refuses:
            raise RuntimeError(self.world.refuses)
        assert camera_config is not None, "would be a preview"
        config, main = camera_config, camera_config["main"]
        width = main["size"][0]
        main["format"] = self.world.pixel_format or main["format"]
        row = width * {"RGB888": 3, "XBGR8888": 4}.get(main["format"], 1)
        main["stride"] = -(-row // self.world.align) * self.world.align
        self.config, self.free = config, config["buffer_count"]

    def stream_configuration(self, name: str = "main") -> dict[str, Any]:
        return self.config[name]

    def start(self) -> None:
        self.started = self.looping = True
        self.loop = threading.Thread(target=self._run, daemon=True)
        self.loop.start()

    def capture_request(self, wait: bool | None = None) -> Job:
        assert wait is False, "would wait for ever"
        return self._dispatch(self._capture)

    def wait(self, job: Job, timeout: float | None = None) -> Any:
        return job.future.result(timeout=timeout)

    def cancel_all_and_flush(self) -> None:
        with self.lock:
            for job in self.jobs:
                job.cancel()
            self.jobs = []

    def close(self) -> None:
        if not self.is_open:
            return
        if self.loop is not None:
            self.looping = False
            self.loop.join()
        while self.world.stop_hangs.is_set():
            time.sleep(0.01)
        with self.lock:
            if self.ready is not None:
                self.ready.release()
            self.stop_count += 1
        self.is_open = self.started = False
        self.world.opened.remove(self)
        self.notifymeread.close()
        os.close(self.notifyme_w)

    def _dispatch(self, function: Callable[[], tuple[bool, Any]]) -> Job:
        job = Job(function)
        with self.lock:
            self.jobs.append(job)
        return job

    def _capture(self) -> tuple[bool, Any]:
        request, self.ready = self.ready, None
        return request is not None, request

    def _run(self) -> None:
        due_s = time.monotonic()
        while self.looping:
            time.sleep(max(0.0, due_s - time.monotonic()))
            due_s += self.world.frame_s
            with self.lock:
                if self.free and not self.world.hang.is_set():
                    self.free -= 1
                    self.world.frames += 1
                    stamp_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self.world.exposed_s
                    self.ready = CompletedRequest(self, self.world.frames, int(stamp_s * 1e9))
                while self.jobs:
                    done, result = self.jobs[0].function()
                    if not done:
                        break
                    self.jobs.pop(0).future.set_result(result)
                if self.ready is not None and not self.config["queue"]:
                    self.ready.release()
                    self.ready = None

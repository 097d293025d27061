"""The daemon's own assembly in this process, with a camera that can be held, and clocks."""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np

from edged import assembly as composition
from edged.assembly import Assembly, Frame, topics_of
from edged.breadcrumb import Breadcrumb
from edged.config import CameraConfig, Config
from edged.config_text import from_values
from edged.drift.commands import CommandInbox
from edged.frame import Picture
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.models.inbox import Inbox
from edged.models.store import Store
from edged.mqtt.client import Session
from edged.pipeline.counters import Times
from edged.startup import Started

STAND_IN_S = 0.0026
_TICK_S = 0.5


def configuration(
    model: str,
    port: int,
    *,
    device: str = "bench",
    cameras: int = 1,
    fps: float = 0.0,
    per_second: float | None = None,
) -> Config:
    """A device with so many cameras on one model; `per_second` limits what is published."""
    publish = {} if per_second is None else {"publish": {"mode": "rate", "per_second": per_second}}
    camera = {"source": "synthetic", "model": "m", "fps": fps, **publish}
    return from_values(
        {
            "device_id": device,
            "mqtt": {"port": port},
            "model": [{"name": "m", "factory": model, "accelerator": "cpu"}],
            "camera": [{"name": f"cam{i}", **camera} for i in range(cameras)],
        }
    )


class StandIn:
    """An interpreter whose invoke sleeps: what an accelerator's 2.6 ms leave to Python."""

    def __init__(self, real: Any) -> None:
        self._real = real
        real.invoke()  # so that there are outputs to read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def invoke(self) -> None:
        time.sleep(STAND_IN_S)


def load(config: Config, *, stand_in: bool = False) -> Servable:
    """The configuration's model, loaded and warmed."""
    servable = load_servable(config.model[0])
    if stand_in:
        servable._interpreter = StandIn(servable._interpreter)  # type: ignore[assignment]
    return servable


class HeldCamera:
    """Gives one picture again and again while the gate is open; `fps` 0 is as fast as asked."""

    description = "array"
    pause_s = 3600.0  # a closed gate is no hang

    def __init__(self, image: np.ndarray, gate: threading.Event, fps: float) -> None:
        self._image, self._gate, self._fps = image, gate, fps
        self._closed = False
        self._due_s = 0.0

    def read(self, timeout_s: float) -> Picture:
        while not self._closed and not self._gate.wait(0.05):
            pass
        if self._fps:
            self._due_s = max(self._due_s + 1 / self._fps, time.monotonic() - 1 / self._fps)
            time.sleep(max(0.0, self._due_s - time.monotonic()))
        return Picture(self._image, "bgr", time.time(), time.monotonic())

    def close(self) -> None:
        self._closed = True


class Invokes:
    """When each invoke of a servable began, what it took, and the process's CPU until then."""

    def __init__(self, servable: Servable) -> None:
        self.rows: list[tuple[float, float, float]] = []
        infer = servable.infer

        def timed(*frame: Any) -> Any:
            began_s, cpu_s = time.perf_counter(), time.process_time()
            outputs = infer(*frame)
            self.rows.append((began_s, outputs.invoke_s, cpu_s))
            return outputs

        servable.infer = timed  # type: ignore[method-assign]

    def since(self, first: int) -> dict[str, float]:
        """Duty, frames a second and CPU of a frame, from one invoke's begin to another's."""
        rows = self.rows[first:]
        if len(rows) < 3:
            raise SystemExit("no frames came through; is the machine this slow?")
        wall_s, cpu_s = rows[-1][0] - rows[0][0], rows[-1][2] - rows[0][2]
        frames = len(rows) - 1
        return {
            "duty": sum(row[1] for row in rows[:-1]) / wall_s,
            "fps": frames / wall_s,
            "cpu_ms": 1000 * cpu_s / frames,
            "invoke_ms": 1000 * sum(row[1] for row in rows[:-1]) / frames,
        }


class _Latencies(Times):
    """Keeps all times from capture to publish, where the daemon keeps percentiles."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def add(self, seconds: float) -> None:
        self.seconds.append(seconds)
        super().add(seconds)


class Assembled:
    """Everything that the daemon runs for one configuration, at rest until a slice.

    Args:
        config: from `configuration`.
        image: what all cameras see, uint8 BGR (height, width, 3).
        servable: the model; nobody else's.
    """

    def __init__(self, config: Config, image: np.ndarray, servable: Servable) -> None:
        self.gate = threading.Event()
        self.invokes = Invokes(servable)
        self.session = Session(config.mqtt, topics_of(config))

        def open_camera(camera: CameraConfig) -> HeldCamera:
            return HeldCamera(image, self.gate, camera.fps or 0.0)

        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        frame = Frame("clean", "boot", Breadcrumb(place), Store(place), Inbox(), CommandInbox())
        started = Started(servables={"m": servable})
        with mock.patch.object(composition, "open_camera", open_camera):
            self.assembly = Assembly(config, started, self.session, frame, threading.Event())
        self.latencies = _Latencies()
        for lane in self.assembly.lanes:
            lane.counters.latency = self.latencies
        self.session.start()
        self.assembly.start()

    @property
    def published(self) -> int:
        return sum(lane.counters.published for lane in self.assembly.lanes)

    @property
    def lost(self) -> int:
        """Frames dropped between model and broker."""
        dropped = self.session.status().dropped
        overrun = sum(lane.counters.overrun for lane in self.assembly.lanes)
        return overrun + dropped.full + dropped.stale + dropped.refused

    def slice(self, seconds: float) -> dict[str, float]:
        """Run for so long after a short start, and say how it went."""
        self.gate.set()
        self._pass(0.15)
        first, first_latency = len(self.invokes.rows), len(self.latencies.seconds)
        self._pass(seconds)
        found = self.invokes.since(first)
        self.gate.clear()
        late_ms = 1000 * np.array(self.latencies.seconds[first_latency:])
        time.sleep(0.1)
        return found | {"latency_p95_ms": float(np.quantile(late_ms, 0.95))}

    def _pass(self, seconds: float) -> None:
        """Let time pass as the daemon's main thread does."""
        end_s = time.monotonic() + seconds
        while (left_s := end_s - time.monotonic()) > 0:
            time.sleep(min(left_s, _TICK_S))
            self.assembly.tick()

    def stop(self) -> None:
        self.assembly.stop(5.0)
        self.session.stop(5.0)
        for servable in self.assembly.release().values():
            servable.close()
        self._folder.cleanup()


def folder_of(image: np.ndarray, folder: Path) -> Path:
    """A folder with the image as a file, for a camera `images:`."""
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "image.png"), image)
    return folder

"""A world of cameras: each does what its script says, one step per read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from edged.config import CameraConfig
from edged.errors import CameraError
from edged.frame import Picture

Step = Callable[[], np.ndarray]


def picture(value: int = 0, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A plain grey picture."""
    return np.full((*size, 3), value, np.uint8)


class SimCamera:
    """A camera that reads from a script; after its end it waits until it is closed."""

    description = "sim"
    pause_s = 0.0

    def __init__(self, script: Iterator[Step]) -> None:
        self._script = script
        self.closed = threading.Event()

    def read(self, timeout_s: float) -> Picture:
        step = next(self._script, None)
        if step is None:
            if self.closed.wait(timeout_s):
                raise CameraError("camera_lost", "closed")
            raise CameraError("camera_stalled", "nothing came")
        return Picture(step(), "rgb", time.time(), time.monotonic())

    def close(self) -> None:
        self.closed.set()


class CameraWorld:
    """Opens simulated cameras. `plug` says what the next openings give, in order."""

    def __init__(self) -> None:
        self.opened: list[SimCamera] = []
        self._next: list[Callable[[], SimCamera]] = []

    def plug(self, steps: list[Step]) -> None:
        """The next opening succeeds and reads these steps."""
        self._next.append(lambda: SimCamera(iter(steps)))

    def plug_endless(self, step: Step, gap_s: float = 0.002) -> None:
        """The next opening succeeds and reads the same step for ever."""

        def script() -> Iterator[Step]:
            while True:
                time.sleep(gap_s)
                yield step

        self._next.append(lambda: SimCamera(script()))

    def refuse(self, reason: str) -> None:
        """The next opening fails."""

        def fail() -> SimCamera:
            raise CameraError(reason, f"refused: {reason}")

        self._next.append(fail)

    def open(self, config: CameraConfig) -> SimCamera:
        if not self._next:
            raise CameraError("camera_not_found", f"nothing at {config.source}")
        camera = self._next.pop(0)()
        self.opened.append(camera)
        return camera


def lost() -> np.ndarray:
    """A step: the camera goes away."""
    raise CameraError("camera_lost", "unplugged")

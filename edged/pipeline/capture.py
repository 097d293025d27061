"""The capture thread, one per camera: read, resize into a slot, hand over; reopen what fails.

A camera that stalls, unplugs or never appears is no reason to stop: its state says why, and it is
opened again after 1, 2, 4 ... 30 s.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from edged.camera.base import Camera
from edged.config import CameraConfig
from edged.drift.signals import sketch
from edged.errors import CameraError
from edged.frame import FrameStamp, Picture
from edged.inference.preprocess import Preprocessor
from edged.pipeline.lane import Lane

log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0
# After this long without trouble a camera's next failure counts as its first.
_SETTLED_S = 30.0
# How much longer than its own time limit a read may take before the thread is given up.
_HANG_GRACE_S = 5.0
# Opening has no limit of its own everywhere; a slow one must not be taken for a hang.
_OPEN_GRACE_S = 30.0
# So many hung threads of one camera are left behind; another begins when one of them ends.
_MOST_LEFT = 3

T = TypeVar("T")

# How soon a capture thread that waits for its turn notices that it is to stop.
_TURN_S = 0.1

OpenCamera = Callable[[CameraConfig], Camera]


@dataclass(frozen=True, slots=True)
class CameraState:
    """What a camera is doing.

    Attributes:
        state: `opening`, `streaming` or `waiting` (to open it again).
        reason: slug of the last failure; "" while streaming.
        detail: the same in words; while streaming, what the camera is.
    """

    state: str
    reason: str
    detail: str


class CaptureWorker:
    """Reads one camera.

    Args:
        config: the camera's configuration.
        lane: where frames go.
        open_camera: makes an open camera or raises `CameraError`.
        numbers: of the frames, from 1, which go on when a hung worker is replaced.
        changed: called after every change of state.
        after_hang: set in a worker that replaces a hung one: says whether it may begin.
    """

    def __init__(
        self,
        config: CameraConfig,
        lane: Lane,
        open_camera: OpenCamera,
        numbers: Iterator[int],
        changed: Callable[[], None],
        *,
        after_hang: Callable[[], bool] | None = None,
    ) -> None:
        self.config = config
        self.lane = lane
        self.numbers = numbers
        self._after_hang = after_hang
        self.state = CameraState("opening", "", config.source.partition(":")[0])
        self._open = open_camera
        self._changed = changed
        self._stopping = threading.Event()
        self._waiting_since_s: float | None = None
        self._opened_mono_s = 0.0
        self._camera: Camera | None = None
        self._preprocessor: Preprocessor | None = None
        # A daemon thread: a driver that hangs must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._run, name=f"capture-{config.name}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Make the thread end after the read that is under way."""
        self._stopping.set()

    def stop(self, timeout_s: float) -> None:
        """Make the thread end; a read that goes on past the time has its camera closed under it."""
        self._stopping.set()
        self._thread.join(timeout_s)
        camera = self._camera
        if self._thread.is_alive() and camera is not None:
            camera.close()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def hung(self) -> bool:
        """Say whether a call into the camera has outlived its own time limit.

        Such a thread cannot be stopped; `ask_to_stop` it and start another worker.
        """
        since, camera = self._waiting_since_s, self._camera
        if since is None:
            return False
        grace_s = _OPEN_GRACE_S if camera is None else camera.pause_s + _HANG_GRACE_S
        return time.monotonic() - since > self.config.stall_s + grace_s

    def _run(self) -> None:
        if self._after_hang is not None:
            self._set("waiting", "camera_hung", "The camera's driver hangs; another try follows.")
            while not self._after_hang():
                if self._stopping.wait(_TURN_S):
                    return
        wait_s = _FIRST_WAIT_S
        while not self._stopping.is_set():
            opened_s = time.monotonic()
            try:
                self._stream()
            except CameraError as error:
                if self._stopping.is_set():
                    return
                if time.monotonic() - opened_s > _SETTLED_S:
                    wait_s = _FIRST_WAIT_S
                self.lane.counters.errors[error.reason] += 1
                self._set("waiting", error.reason, error.explain())
                self._stopping.wait(wait_s)
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
            except Exception:
                # A camera closed under its reader may fail in any way; that is no bug.
                if not self._stopping.is_set():
                    raise

    def _stream(self) -> None:
        """Open the camera and read it until it fails or the thread is to end."""
        camera = self._timed(lambda: self._open(self.config))
        self._camera = camera
        self._opened_mono_s = time.monotonic()
        try:
            while not self._stopping.is_set():
                picture = self._timed(lambda: camera.read(self.config.stall_s))
                if self._stopping.is_set():
                    return
                if self.state.state != "streaming":
                    self.lane.counters.reconnects += self.state.state == "waiting"
                    self._set("streaming", "", camera.description)
                delivered = self._deliver(picture)
                if self.config.fps == 0:
                    self._await_turn(delivered=delivered)
        finally:
            self._camera = None
            self._timed(camera.close)

    def _timed(self, call: Callable[[], T]) -> T:
        self._waiting_since_s = time.monotonic()
        try:
            return call()
        finally:
            self._waiting_since_s = None

    def _deliver(self, picture: Picture) -> bool:
        """Put the picture into the mailbox; return whether there is a model to take it."""
        lane, counters = self.lane, self.lane.counters
        counters.captured += 1
        number = next(self.numbers)
        servable = lane.model.current
        if servable is None:
            counters.no_model += 1
            return False
        if self._preprocessor is None or self._preprocessor.spec is not servable.input:
            self._preprocessor = Preprocessor(servable.input, self.config.rotate)
        preprocessor = self._preprocessor
        height, width = picture.image.shape[:2]
        slot = lane.mailbox.writable(servable.input, preprocessor.slots())
        seen = preprocessor.write(picture.image, picture.color, slot.tensor)
        slot.place = place = preprocessor.geometry(height, width)
        slot.stamp = FrameStamp(
            self.config.name,
            number,
            picture.captured_s,
            picture.captured_mono_s,
            height,
            width,
            self._opened_mono_s,
        )
        sampling, slot.sketch = lane.sampling, None
        if sampling is not None and sampling.due(picture.captured_mono_s):
            x0, y0, x1, y1 = place.target
            slot.sketch = sketch(seen[y0:y1, x0:x1])
        if lane.mailbox.put(slot) and sampling is not None and slot.sketch is None:
            sampling.again()
        return True

    def _await_turn(self, *, delivered: bool) -> None:
        """Wait until the model has taken the frame: `fps = 0` is as fast as the model goes."""
        if not delivered:
            self._stopping.wait(_TURN_S)
        while not self._stopping.is_set() and not self.lane.mailbox.wait_taken(_TURN_S):
            pass

    def _set(self, state: str, reason: str, detail: str) -> None:
        before, self.state = self.state, CameraState(state, reason, detail)
        if (before.state, before.reason) != (state, reason):
            level = logging.INFO if state == "streaming" else logging.WARNING
            words = f"{detail} It is tried again. ({reason})" if state == "waiting" else detail
            fields = {"camera": self.config.name, "reason": reason}
            log.log(
                level, "camera %s: %s", self.config.name, words or state, extra={"fields": fields}
            )
            self._changed()


class Capture:
    """One camera: its capture thread, and those that hang in a driver and were left behind.

    Args:
        config: the camera's configuration.
        lane: where frames go.
        open_camera: makes an open camera or raises `CameraError`.
        changed: called after every change of state.
    """

    def __init__(
        self,
        config: CameraConfig,
        lane: Lane,
        open_camera: OpenCamera,
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self.lane = lane
        self._open = open_camera
        self._changed = changed
        self._worker = CaptureWorker(config, lane, open_camera, itertools.count(1), changed)
        self._left: list[CaptureWorker] = []
        self._wait_s = _FIRST_WAIT_S

    @property
    def state(self) -> CameraState:
        """What the camera is doing."""
        return self._worker.state

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def ask_to_stop(self) -> None:
        """Make the thread end after the read that is under way."""
        self._worker.ask_to_stop()

    def stop(self, timeout_s: float) -> None:
        """Make the thread end; see `CaptureWorker.stop`."""
        self._worker.stop(timeout_s)

    def supervise(self) -> None:
        """Replace a thread that hangs. Main thread, every now and then."""
        if not self._worker.hung():
            return
        hung = self._worker
        hung.ask_to_stop()
        self.lane.counters.errors["camera_hung"] += 1
        self._left = [worker for worker in (*self._left, hung) if worker.alive]
        due_s = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

        def may_begin() -> bool:
            room = sum(worker.alive for worker in self._left) < _MOST_LEFT
            return room and time.monotonic() >= due_s

        self._worker = CaptureWorker(
            self.config, self.lane, self._open, hung.numbers, self._changed, after_hang=may_begin
        )
        self._worker.start()

"""The drift thread: folds what the publisher hands over, keeps and tells windows, obeys commands.

Nobody waits for it: what it has no room for is counted and left out of the windows.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from edged.drift.commands import Action, CommandInbox, parse_command
from edged.drift.recorder import Ended, Minute, Pair, Recorder, Seen
from edged.drift.ring import Ring
from edged.drift.window import Window
from edged.errors import ControlError, EdgedError, MessageError, StoreError, Trouble

log = logging.getLogger(__name__)

# Half a minute at thirty frames a second; a sketch is 12 KB, one in two seconds.
_MOST_WAITING = 1024
_TICK_S = 0.25
_REMEMBERED = 64
_ANSWER_S = 1.0

Standing = dict[str, object]


class Judge(Protocol):
    """Says what windows mean. The drift thread only, and whoever holds its lock."""

    def window(self, window: Window) -> None:
        """Take a window that has ended."""

    def minute(self, minute: Minute) -> None:
        """Take what was counted since the last call: the fast path."""

    def obey(self, camera: str, action: Action, at_ms: int) -> None:
        """Acknowledge an alarm, or begin a new reference."""

    def standing(self, camera: str) -> Standing:
        """Return what `drift/<camera>/state` says, as JSON can carry it, without the schema."""

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with the disk; else what was found damaged on it; else None."""


class Voice(Protocol):
    """Tells the broker. None of it waits for the network."""

    def window(self, window: Window) -> None:
        """Publish a window."""

    def standing(self, camera: str, standing: Mapping[str, object]) -> None:
        """Publish a camera's state."""

    def error(self, topic: str, reason: str, detail: str) -> bool:
        """Answer a message; return whether anybody could hear it."""


class DriftWorker:
    """The thread.

    Args:
        cameras: their names.
        recorder: makes windows.
        ring: keeps them.
        judge: of them.
        voice: tells them.
        inbox: what is asked over MQTT.
        unix_ms: the wall clock.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        recorder: Recorder,
        ring: Ring,
        judge: Judge,
        voice: Voice,
        *,
        inbox: CommandInbox,
        unix_ms: Callable[[], int],
    ) -> None:
        self._cameras = tuple(cameras)
        self._recorder, self._ring = recorder, ring
        self._judge, self._voice, self._inbox = judge, voice, inbox
        self._unix_ms = unix_ms
        self._waiting: queue.SimpleQueue[Seen | Pair | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # the judge is asked from the control socket as well
        self._obeyed: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self._answered_s = float("-inf")
        self._missed = self._missed_told = 0
        self._unkept: Trouble | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drift", daemon=True)

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with the disk; else what was found damaged on it. From any thread."""
        return self._unkept or self._judge.trouble or self._ring.damage

    def start(self) -> None:
        """Start the thread."""
        self._inbox.call(lambda: self._waiting.put(None))
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Write the windows that have begun, and end; return whether that came in time."""
        self._stopping.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def take(self, item: Seen | Pair) -> None:
        """Take what the publisher has; never waits."""
        if self._waiting.qsize() >= _MOST_WAITING:
            self._missed += 1
            return
        self._waiting.put(item)

    def standing(self, camera: str) -> Standing:
        """Return how a camera stands. From any thread."""
        self._known(camera)
        with self._lock:
            return self._judge.standing(camera)

    def standings(self) -> list[Standing]:
        """Return how all cameras stand. From any thread."""
        return [self.standing(camera) for camera in self._cameras]

    def obey(self, camera: str, action: Action) -> Standing:
        """Do what a person asks for. From any thread.

        Raises:
            EdgedError: `camera_unknown`, or it cannot be kept on the disk.
        """
        self._known(camera)
        with self._lock:
            self._judge.obey(camera, action, self._unix_ms())
            standing = self._judge.standing(camera)
        log.warning("camera %s: drift: %s by command", camera, action.replace("_", " "))
        self._voice.standing(camera, standing)
        return standing

    def _known(self, camera: str) -> None:
        if camera not in self._cameras:
            raise ControlError("camera_unknown", f"there is no camera '{camera}'.")

    def _run(self) -> None:
        self._open()
        self._tell()
        while not self._stopping.is_set():
            self._turn(_TICK_S)
        while not self._waiting.empty():
            self._turn(0.0)
        for ended in self._recorder.close():
            self._ended(ended)

    def _open(self) -> None:
        try:
            self._ring.open()
        except StoreError as error:
            self._unwell(error)

    def _turn(self, wait_s: float) -> None:
        """Take in what waits, then see what is due."""
        item = self._next(wait_s)
        while item is not None:
            if isinstance(item, Pair):
                self._recorder.compare(item)
            else:
                ended = self._recorder.add(item)
                if ended is not None:
                    self._ended(ended)
            item = self._next(0.0)
        for minute in self._recorder.minutes():
            with self._lock:
                self._judge.minute(minute)
            self._tell()
        for ended in self._recorder.due():
            self._ended(ended)
        self._obey_next()

    def _next(self, wait_s: float) -> Seen | Pair | None:
        try:
            return self._waiting.get(timeout=wait_s) if wait_s else self._waiting.get_nowait()
        except queue.Empty:
            return None

    def _ended(self, ended: Ended) -> None:
        window, camera = ended.window, ended.window.subject.camera
        if ended.jumped_s:
            log.warning(
                "camera %s: the clock was set by %+.0f s during a drift window, which counts"
                " seconds of its own.",
                camera,
                ended.jumped_s,
            )
        if ended.spoilt:
            log.warning("camera %s: %d samples were not finite", camera, ended.spoilt)
        if self._missed != self._missed_told:
            missed, self._missed_told = self._missed - self._missed_told, self._missed
            log.warning("drift: %d inferences were left out, as they came too fast", missed)
        self._keep(window)
        with self._lock:
            self._judge.window(window)
        self._voice.window(window)
        self._tell()

    def _keep(self, window: Window) -> None:
        try:
            self._ring.append(window)
        except StoreError as error:
            self._unwell(error)
            return
        if self._unkept is not None:
            log.info("drift: windows are kept again")
        self._unkept = None

    def _unwell(self, error: StoreError) -> None:
        if self._unkept is None or self._unkept.reason != error.reason:
            log.error("drift: windows are not kept: %s (%s)", error.explain(), error.reason)
        self._unkept = Trouble.of(error)

    def _tell(self) -> None:
        for camera in self._cameras:
            with self._lock:
                standing = self._judge.standing(camera)
            self._voice.standing(camera, standing)

    def _obey_next(self) -> None:
        while (arrival := self._inbox.take()) is not None:
            camera, message = arrival
            try:
                if camera is None:
                    raise MessageError("camera_unknown", "no camera listens to this topic.")
                command = parse_command(message.payload)
                if (camera, command.id) not in self._obeyed:
                    self.obey(camera, command.action)
                    self._obeyed.append((camera, command.id))
            except EdgedError as error:
                self._answer(message.topic, error)
            finally:
                message.acknowledge()  # a bug must not come again with every start

    def _answer(self, topic: str, error: EdgedError) -> None:
        now_s = time.monotonic()
        log.warning("%s: %s (%s)", topic, error.explain(), error.reason)
        if now_s >= self._answered_s + _ANSWER_S:
            self._answered_s = now_s
            self._voice.error(topic, error.reason, error.explain())

"""The device of the second act: its process, and what a subscriber hears of it."""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from edged.demo.processes import DemoError, check_alive, text_of
from edged.demo.subscriber import Sequence, Subscriber

_START_S, _LAST_S = 30.0, 5.0


class Device:
    """A device as its subscriber and its process.

    Attributes:
        process: the daemon's.
        log: what it says.
        sequence: of its predictions.
        version: that made the last of them.

    Args:
        port: of the broker on localhost.
        device_id: of the device.
        stop: set to give up.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def __init__(self, port: int, device_id: str, stop: threading.Event) -> None:
        self.sequence = Sequence()
        self.version = ""
        self._stop = stop
        self._said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._subscriber = Subscriber(port, device_id, self._receive)
        self.close = self._subscriber.close
        self.send = self._subscriber.send

    def _receive(self, topic: str, message: Any) -> None:
        if topic.startswith("prediction/"):
            self.sequence.count(message)
            self.version = message["version"]
        elif topic in {"available", "update/belt/state", "update/belt/result"}:
            self._said.put((topic, message))

    def wait_for_prediction(self) -> str:
        """Wait until the device is there and has made one; return the version that did."""
        end_s = time.monotonic() + _START_S
        while self.hear(end_s, "no word from the device") != ("available", "online"):
            pass  # it has subscribed before it says so
        while not self.version:
            self._check(end_s, "no prediction")
            time.sleep(0.05)
        return self.version

    def wait_for(self, version: str) -> None:
        """Give predictions of this version a while to arrive."""
        end_s = time.monotonic() + _LAST_S
        while self.version != version and time.monotonic() < end_s:
            self._check(end_s + 1.0, "")
            time.sleep(0.05)
        self._check(end_s + 1.0, "")

    def hear(self, end_s: float, trouble: str) -> tuple[str, Any]:
        """Return the next message about updates or availability.

        Args:
            end_s: monotonic seconds when to give up.
            trouble: what that means.

        Raises:
            DemoError: it did not come, the daemon ended, or the demo is stopped.
        """
        while True:
            self._check(end_s, trouble)
            try:
                return self._said.get(timeout=0.2)
            except queue.Empty:
                continue

    def _check(self, end_s: float, trouble: str) -> None:
        if self._stop.is_set():
            raise DemoError("stopped")
        check_alive(self.process, self.log)
        if time.monotonic() > end_s:
            raise DemoError(f"{trouble}:\n{text_of(self.log)}")

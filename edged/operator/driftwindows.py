"""Windows at the operator's desk: out of files, from the broker, and into a file."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from edged.drift.records import LIMIT_BYTES, encode_window, parse_window
from edged.drift.window import Window
from edged.errors import DriftError, OperatorError

TOPIC = "+/drift/+/window"
FOREIGN = "it came under the name of another device or camera"
LOST = "more came at once than could be kept"
# What arrived and nobody has looked at yet; beyond it the oldest is lost, and said.
_MOST_WAITING = 20_000


class Reading:
    """Turns bytes into windows, and counts what is none.

    Attributes:
        refused: how many were none, by why.
    """

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()

    def window(self, data: bytes) -> Window | None:
        """Return the window in one message or line, or None."""
        try:
            return parse_window(data)
        except DriftError as error:
            self.refused[error.reason] += 1
            return None

    def file(self, path: Path, take: Callable[[Window], None]) -> None:
        """Hand on the windows of a file, one on each line.

        Raises:
            OperatorError: `windows_unreadable`.
        """
        try:
            with path.open("rb") as stream:
                while line := stream.readline(LIMIT_BYTES + 1):
                    if len(line) > LIMIT_BYTES and not line.endswith(b"\n"):
                        self.refused["window_malformed"] += 1
                        _skip_line(stream.readline)
                    elif line.strip() and (window := self.window(line)) is not None:
                        take(window)
        except OSError as error:
            raise OperatorError(
                "windows_unreadable", f"{path} cannot be read: {error.strerror}."
            ) from error


class Inbox:
    """Windows as the broker hands them on. `hear` on the connection's thread, the rest elsewhere.

    Args:
        prefix: `[mqtt] topic_prefix`.
        reading: counts what is no window.
    """

    def __init__(self, prefix: str, reading: Reading) -> None:
        self._prefix = f"{prefix}/"
        self._reading = reading
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._lost = 0

    def hear(self, topic: str, payload: bytes) -> None:
        """Keep a message until it is looked at."""
        with self._lock:
            if len(self._waiting) >= _MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append((topic, payload[: LIMIT_BYTES + 1]))

    def windows(self) -> list[Window]:
        """Return what arrived since the last call: of each device what it says of itself."""
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
            self._reading.refused[LOST] += self._lost
            self._lost = 0
        found = []
        for topic, payload in waiting:
            window = self._reading.window(payload)
            if window is None:
                continue
            own = f"{self._prefix}{window.device}/drift/{window.subject.camera}/window"
            if topic == own:
                found.append(window)
            else:
                self._reading.refused[FOREIGN] += 1
        return found


class Recording:
    """A file of windows that grows. What was cut off when it was last written is left as it is.

    Args:
        path: made where it is not there.

    Raises:
        OperatorError: on entering and writing: `windows_unwritable`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = path.open("a+b")
            self._stream.seek(0, os.SEEK_END)
            if self._stream.tell():
                self._stream.seek(-1, os.SEEK_END)
                if self._stream.read(1) != b"\n":
                    self._stream.write(b"\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def add(self, windows: Iterable[Window]) -> None:
        """Write windows, and see that they are on the disk."""
        if not (lines := b"".join(encode_window(window) + b"\n" for window in windows)):
            return
        try:
            self._stream.write(lines)
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """End it."""
        self._stream.close()

    def _unwritable(self, error: OSError) -> OperatorError:
        return OperatorError(
            "windows_unwritable", f"{self._path} cannot be written: {error.strerror}."
        )


def _skip_line(read: Callable[[int], bytes]) -> None:
    while (part := read(LIMIT_BYTES)) and not part.endswith(b"\n"):
        pass

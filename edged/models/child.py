"""A child process watched from its start to its end: time, memory, what it reports.

It leads a session of its own, and whatever is left of its process group is killed when it ends.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edged.errors import DeviceError

_TICK_S = 0.01
_PIECE_BYTES = 64 * 1024
_MOST_REPORT_BYTES = 1024 * 1024
_MOST_WORDS_BYTES = 2000

Cut = Literal["time", "stage", "memory", "report"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a child may take.

    Attributes:
        wall_s: from start to end.
        stage_s: seconds by stage of its report; `other_stage_s` for those not listed.
        other_stage_s: see there.
        memory_bytes: resident beyond the `resident_bytes` of its report.
    """

    wall_s: float
    stage_s: Mapping[str, float]
    other_stage_s: float
    memory_bytes: int


@dataclass(slots=True)
class Course:
    """How it went.

    Attributes:
        status: exit status, or the negative number of the signal that ended it.
        lines: the last line of each stage that it reported, by stage, in order of the first.
        stage: the last that was reported, "" for none.
        cut: why it was killed, or None where it ended by itself.
        words: the end of what it wrote to stderr.
    """

    status: int = 0
    lines: dict[str, dict[str, object]] = field(default_factory=dict)
    stage: str = ""
    cut: Cut | None = None
    words: str = ""


def watch(
    command: Sequence[str],
    environment: Mapping[str, str],
    bounds: Bounds,
    cancelled: Callable[[], bool],
) -> Course:
    """Run a child to its end.

    Args:
        command: the number of the descriptor for its report, JSON objects with a `stage` a line,
            is added as its last argument.
        environment: all of it.
        bounds: what it may take.
        cancelled: asked some 100 times a second; when true the child is killed.

    Raises:
        DeviceError: `validation_unavailable` when it cannot be started, `validation_canceled`.
    """
    report, report_end = os.pipe()
    words, words_end = os.pipe()
    try:
        child = subprocess.Popen(
            [*command, str(report_end)],
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=words_end,
            pass_fds=(report_end,),
            start_new_session=True,
        )
    except OSError as error:
        _close(report, words)
        raise DeviceError(
            "validation_unavailable", f"cannot start the process that tries a model: {error}."
        ) from error
    finally:
        _close(report_end, words_end)
    try:
        return _Watcher(child.pid, report, words, bounds).run(cancelled)
    finally:
        # Before it is waited for: until then its number, and so its group's, is nobody else's.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        _close(report, words)


def how_it_ended(status: int) -> str:
    """Return in words the exit status of a child, or the negative number of its signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


class _Watcher:
    def __init__(self, child: int, report: int, words: int, bounds: Bounds) -> None:
        self._child, self._report, self._words = child, report, words
        self._bounds, self._course = bounds, Course()
        self._tail, self._said, self._reported_bytes = b"", b"", 0
        self._start_s = self._stage_s = time.monotonic()
        self._most_resident_bytes: int | None = None
        self._selector = selectors.DefaultSelector()
        for descriptor in (self._report, self._words):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)

    def run(self, cancelled: Callable[[], bool]) -> Course:
        course = self._course
        with self._selector:
            while not self._ended():
                if cancelled():
                    raise DeviceError("validation_canceled", "trying the model was given up.")
                course.cut = self._beyond()
                if course.cut is not None:
                    os.killpg(self._child, signal.SIGKILL)
                    break
                for key, _ in self._selector.select(_TICK_S):
                    self._read(key.fd)
            course.status = self._wait()
            while any([self._read(self._report), self._read(self._words)]):
                pass  # what it wrote last
        course.words = self._said.decode("utf-8", "replace").strip()
        return course

    def _ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._child, flags) is not None

    def _wait(self) -> int:
        # Looked at, not waited for: the group is killed first.
        result = os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        if result is None:
            raise AssertionError("waitid without WNOHANG returned without a child")
        exited = result.si_code == os.CLD_EXITED
        return result.si_status if exited else -result.si_status

    def _beyond(self) -> Cut | None:
        now_s, stage = time.monotonic(), self._course.stage
        if self._reported_bytes > _MOST_REPORT_BYTES:
            return "report"
        most_bytes = self._most_resident_bytes
        if most_bytes is not None and self._resident() > most_bytes:
            return "memory"
        if now_s - self._stage_s > self._bounds.stage_s.get(stage, self._bounds.other_stage_s):
            return "stage"
        return "time" if now_s - self._start_s > self._bounds.wall_s else None

    def _resident(self) -> int:
        try:
            pages = int(Path(f"/proc/{self._child}/statm").read_text("ascii").split()[1])
        except (OSError, IndexError, ValueError):
            return 0  # it has just ended
        return pages * resource.getpagesize()

    def _read(self, descriptor: int) -> bool:
        """Take what is there; say whether there was anything."""
        try:
            piece = os.read(descriptor, _PIECE_BYTES)
        except BlockingIOError:
            return False
        if not piece:
            with suppress(KeyError, ValueError):
                self._selector.unregister(descriptor)
            return False
        if descriptor == self._words:
            self._said = (self._said + piece)[-_MOST_WORDS_BYTES:]
        else:
            self._take(piece)
        return True

    def _take(self, piece: bytes) -> None:
        self._reported_bytes += len(piece)
        *lines, self._tail = (self._tail + piece).split(b"\n")
        for line in lines:
            try:
                said = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a child that writes nonsense has no report, and is judged by that
            if not isinstance(said, dict) or not isinstance(said.get("stage"), str):
                continue
            self._course.stage = said["stage"]
            self._course.lines[said["stage"]] = said
            self._stage_s = time.monotonic()
            base = said.get("resident_bytes")
            if isinstance(base, int) and self._most_resident_bytes is None:
                self._most_resident_bytes = base + self._bounds.memory_bytes

"""Windows on the disk: the newest thirty days, or twenty megabytes, whatever happens to the power.

Files of some hundred windows, `00000001.windows` and up, in `state_dir/drift`; the newest grows,
the oldest goes. A window is safe when `append` returns, for one fsync. Days are counted in what was
recorded, not by the clock: one that jumps ten years ahead deletes nothing.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from edged.drift.records import encode_window, parse_window
from edged.drift.segment import MAGIC, Packer, pack, unpack
from edged.drift.window import Window
from edged.errors import DriftError, StoreError, Trouble
from edged.models.files import Files, storing, twice

log = logging.getLogger(__name__)

DIRECTORY = "drift"
KEPT_S = 30 * 86_400.0
KEPT_BYTES = 20_000_000

_NAME = re.compile(r"([0-9]{8})\.windows")
_DAMAGED = ".damaged"
_SEGMENT_BYTES = 128 * 1024
# Enough of a line to know how long its window was: parsing all takes a Pi ten seconds at the start.
_CAMERA = re.compile(rb'"camera":"([^"]*)"')
_SECONDS = re.compile(rb'"seconds":([0-9]+)')


@dataclass(slots=True)
class _Segment:
    """A file of windows.

    Attributes:
        seconds: recorded in it, by camera.
    """

    number: int
    size_bytes: int = 0
    seconds: Counter[bytes] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        return f"{self.number:08}.windows"

    def holds(self, line: bytes) -> None:
        camera, seconds = _CAMERA.search(line), _SECONDS.search(line)
        if camera is not None and seconds is not None:
            self.seconds[camera[1]] += int(seconds[1])


class Ring:
    """The windows of a device. One writer.

    Args:
        state_dir: of the device.
        files: the file system.
        kept_s: recorded seconds of each camera that are kept.
        kept_bytes: most bytes in all.
        segment_bytes: from this size on a file is followed by the next.

    Attributes:
        damage: that was found last; None for none.
    """

    def __init__(
        self,
        state_dir: Path,
        files: Files,
        *,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
        segment_bytes: int = _SEGMENT_BYTES,
    ) -> None:
        self._directory = state_dir / DIRECTORY
        self._files = files
        self._kept_s, self._kept_bytes = kept_s, kept_bytes
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] | None = None
        self._doubtful = False  # whether an append has left nobody knows what
        self._packer = Packer()
        self.damage: Trouble | None = None

    def open(self) -> None:
        """Look at what is there, and mend it: a torn end is cut, a damaged file set aside.

        Raises:
            StoreError: the disk's own. `append` tries again.
        """
        if self._segments is not None and not self._doubtful:
            return
        known = self._segments or []
        last = known[-1].number if known else 0
        with storing(f"cannot use {self._directory}"):
            self._files.make_dirs(self._directory)
            found = [self._mended(number) for number in self._numbers() if number > last]
        self._segments = known + [segment for segment in found if segment is not None]
        self._doubtful = False

    def append(self, window: Window) -> None:
        """Keep a window; on return it is safe.

        Raises:
            StoreError: it is not kept; all that was kept before is.
        """
        self.open()
        segments = self._segments
        if segments is None:
            raise AssertionError("opened")
        line = encode_window(window)
        try:
            with storing(f"cannot keep a window in {self._directory}"):
                if segments and segments[-1].size_bytes < self._segment_bytes:
                    self._grow(segments, line)
                else:
                    segments.append(self._begun(segments[-1].number + 1 if segments else 1, line))
        except StoreError:
            # Nobody knows what is on the disk now: the next one looks.
            self._doubtful = True
            self._packer.begin_anew()
            raise
        try:
            with storing(f"cannot remove old windows from {self._directory}"):
                self._drop(segments)
        except StoreError as error:
            log.warning("%s (%s)", error.explain(), error.reason)

    def _grow(self, segments: list[_Segment], line: bytes) -> None:
        segment, frame = segments.pop(), self._packer.frame(line)
        path = self._directory / segment.name
        self._files.write_at(path, segment.size_bytes, frame)
        self._files.fsync(path)
        segment.size_bytes += len(frame)
        segment.holds(line)
        segments.append(segment)

    def _begun(self, number: int, line: bytes) -> _Segment:
        self._packer.begin_anew()
        segment, frame = _Segment(number), self._packer.frame(line)
        path = self._directory / segment.name
        try:
            self._files.write_synced(path, MAGIC + frame)
            self._files.fsync_dir(self._directory)
        except OSError:
            with suppress(OSError):
                self._files.remove(path)
            raise
        segment.size_bytes = len(MAGIC) + len(frame)
        segment.holds(line)
        return segment

    def _drop(self, segments: list[_Segment]) -> None:
        """Remove what is old, or too much; never the newest file."""
        newer: Counter[bytes] = Counter()
        for segment in segments:
            newer += segment.seconds
        size_bytes = sum(segment.size_bytes for segment in segments)
        while len(segments) > 1:
            oldest = segments[0]
            newer -= oldest.seconds
            # Of one that could not be read nobody knows how old it is.
            known = oldest.seconds.keys()
            old = bool(known) and all(newer[camera] >= self._kept_s for camera in known)
            if not old and size_bytes <= self._kept_bytes:
                return
            size_bytes -= oldest.size_bytes
            path = self._directory / oldest.name
            self._files.remove_tree(path.with_name(path.name + _DAMAGED))
            self._files.remove_tree(path)
            del segments[0]

    def _found(self, damage: Trouble) -> None:
        log.error("%s (%s)", damage.detail, damage.reason)
        self.damage = damage

    def _numbers(self) -> list[int]:
        return numbers(self._files.names(self._directory))

    def _mended(self, number: int) -> _Segment | None:
        segment = _Segment(number)
        path = self._directory / segment.name
        try:
            data = twice(lambda: self._files.read(path))
        except StoreError as error:
            # One bad block must not end the recording: the file stays, and the next goes on.
            self._found(Trouble.of(error.about(str(path))))
            segment.size_bytes = self._segment_bytes
            return segment
        contents = unpack(data)
        if contents.damaged:
            words = f"{path} is damaged: {len(contents.lines)} windows of it are kept."
            self._found(Trouble("drift_state_damaged", words))
            aside = path.with_name(path.name + _DAMAGED)
            self._files.write_atomic(aside, data)
        elif contents.torn and not self._doubtful:
            log.warning("%s: an end that was being written is cut off.", path)
        if contents.damaged or contents.torn:
            if not contents.lines:
                self._files.remove(path)
                self._files.fsync_dir(self._directory)
                return None
            data = pack(contents.lines) if contents.damaged else data[: contents.good_bytes]
            self._files.write_atomic(path, data)
        for line in contents.lines:
            segment.holds(line)
        segment.size_bytes = len(data)
        return segment


def numbers(names: list[str]) -> list[int]:
    """Return the numbers of the files of windows among names, oldest first."""
    return sorted(int(found[1]) for name in names if (found := _NAME.fullmatch(name)))


def read_windows(state_dir: Path, files: Files) -> Iterator[Window]:
    """Yield all windows that can be read, oldest first; nothing is changed.

    Raises:
        StoreError: the disk's own.
    """
    directory = state_dir / DIRECTORY
    with storing(f"cannot read {directory}"):
        names = files.names(directory) if directory.is_dir() else []
    for number in numbers(names):
        try:
            with storing(f"cannot read {directory}"):
                data = files.read(directory / _Segment(number).name)
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue  # the ring has gone on meanwhile
            if error.reason == "disk_failed":
                log.warning("%s (%s)", error.explain(), error.reason)
                continue
            raise
        for line in unpack(data).lines:
            with suppress(DriftError):
                yield parse_window(line)

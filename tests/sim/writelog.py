"""What QEMU wrote down of a disk, and what a power cut may have left of it.

The format is that of the kernel's Documentation/admin-guide/device-mapper/log-writes.rst. A disk
keeps what was written before the last flush that has ended; of what came since it may have lost any
part, a sector at a time. A write is in the record when it has ended, so that everything that
somebody was told afterwards stands behind it.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD = 1, 2, 4
_DROPPED = (0.0, 0.1, 0.5, 0.9, 1.0)
_TORN = 0.1
# Torn, ext4's superblock is not mounted any more, which no program can help.
_SUPERBLOCK_BYTES = 4096
_CHUNK = 16 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One request to the disk.

    Attributes:
        at: where on the disk it wrote, bytes.
        size_bytes: how much.
        place: where in the record that is.
        flush: makes safe what stands before it.
        fua: is safe itself.
        zeros: nothing was written but zeros, by a discard.
    """

    at: int
    size_bytes: int
    place: int
    flush: bool
    fua: bool
    zeros: bool


class WriteLog:
    """A record.

    Args:
        path: of it.
        fs_bytes: what stands on the disk from here on are marks, not part of the file system.

    Attributes:
        entries: all, in order.
        marks: number of entries before it, and what it says.
    """

    def __init__(self, path: Path, fs_bytes: int) -> None:
        with path.open("rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, _version, _count, sector = struct.unpack_from("<QQQI", self._data)
        assert (magic, sector) == (_MAGIC, SECTOR), path
        self.entries: list[Entry] = []
        self.marks: list[tuple[int, dict[str, object]]] = []
        # The number of entries at the beginning is not up to date when QEMU is killed.
        place = SECTOR
        while place + SECTOR <= len(self._data):
            at, count, flags, _ = struct.unpack_from("<QQQQ", self._data, place)
            place += SECTOR
            zeros = bool(flags & _DISCARD)
            size_bytes = count * SECTOR
            ends = place if zeros else place + size_bytes
            if (at, count, flags) == (0, 0, 0) or ends > len(self._data):
                break
            entry = Entry(
                at * SECTOR, size_bytes, place, bool(flags & _FLUSH), bool(flags & _FUA), zeros
            )
            if entry.at >= fs_bytes and size_bytes:
                assert size_bytes == SECTOR, entry
                self.marks.append((len(self.entries), json.loads(self.content(entry))))
            else:
                self.entries.append(entry)
            place = ends

    def content(self, entry: Entry) -> bytes:
        """Return what was written."""
        if entry.zeros:
            return bytes(entry.size_bytes)
        return self._data[entry.place : entry.place + entry.size_bytes]

    def marks_before(self, moment: int) -> list[dict[str, object]]:
        """Return what had been promised when so many entries had been written."""
        return [mark for place, mark in self.marks if place <= moment]


class Player:
    """Goes through a record from its beginning.

    Args:
        log: the record.
        before: the disk's content before the first entry.
    """

    def __init__(self, log: WriteLog, before: bytes) -> None:
        self._log = log
        self._safe = bytearray(before)
        self._done = 0
        zeros = bytes(_CHUNK)
        places = range(0, len(before), _CHUNK)
        self._used = {at for at in places if before[at : at + _CHUNK] != zeros}

    def cut(self, moment: int, chance: random.Random, image: Path) -> None:
        """Write what the disk may hold when the power goes after so many entries.

        Args:
            moment: not less than in the last call.
            chance: decides what is lost of what was not flushed.
            image: a file, made anew, as somebody may still hold the last one mounted; what is
                zero takes no space in it, and no time.
        """
        entries = self._log.entries
        flushes = (n for n in range(moment - 1, self._done - 1, -1) if entries[n].flush)
        last = next(flushes, None)
        if last is not None:
            for number in range(self._done, last + 1):
                self._keep(entries[number])
            self._done = last + 1
        dropped = chance.choice(_DROPPED)
        image.unlink(missing_ok=True)
        with image.open("wb") as file:
            file.truncate(len(self._safe))
            safe = memoryview(self._safe)
            for at in self._used:
                os.pwrite(file.fileno(), safe[at : at + _CHUNK], at)
            for entry in entries[self._done : moment]:
                if entry.fua or chance.random() >= dropped:
                    torn = entry.at >= _SUPERBLOCK_BYTES and chance.random() < _TORN
                    data = self._log.content(entry)
                    torn = torn and not entry.fua
                    for begin, end in _pieces(entry.size_bytes, chance if torn else None):
                        os.pwrite(file.fileno(), data[begin:end], entry.at + begin)

    def _keep(self, entry: Entry) -> None:
        self._safe[entry.at : entry.at + entry.size_bytes] = self._log.content(entry)
        begin = entry.at - entry.at % _CHUNK
        self._used.update(range(begin, entry.at + entry.size_bytes, _CHUNK))


def _pieces(size_bytes: int, chance: random.Random | None) -> Iterator[tuple[int, int]]:
    """Yield what arrives of a write: all of it, or where it is torn each sector by chance."""
    if chance is None:
        yield 0, size_bytes
        return
    for begin in range(0, size_bytes, SECTOR):
        if chance.random() < 0.5:
            yield begin, begin + SECTOR

"""How windows lie in a file: compressed lines of JSON, each in a frame with a checksum. Pure.

A frame is a marker, whether the compression begins anew with it, the length, a CRC-32 and the
deflated line. A line is compressed with what the lines before it were like, which halves it; every
so often it begins anew, so that damage costs what stands between two beginnings at most.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

MAGIC = b"edged drift 1\n"
"""What a file begins with."""

_MARK = b"\xed\x57"
_HEADER = struct.Struct(">2sBII")  # marker, kind, length, checksum
_ANEW, _ON = 1, 2
_RUN = 48
_MOST_LINE_BYTES = 128 * 1024


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        lines: that could be read, without their ends.
        good_bytes: how far all is well, from the beginning.
        torn: whether the rest is what an append leaves that was cut short: nothing is lost that
            was safe.
        damaged: whether something in the middle could not be read.
    """

    lines: list[bytes]
    good_bytes: int
    torn: bool
    damaged: bool


class Packer:
    """Makes frames, one after the other, for one file."""

    def __init__(self) -> None:
        self._left = 0
        self._deflate = zlib.compressobj(9)

    def frame(self, line: bytes) -> bytes:
        """Return the frame of a line."""
        kind = _ON
        if not self._left:
            self._deflate, self._left, kind = zlib.compressobj(9), _RUN, _ANEW
        self._left -= 1
        packed = self._deflate.compress(line + b"\n") + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _HEADER.pack(_MARK, kind, len(packed), _checksum(kind, packed)) + packed

    def begin_anew(self) -> None:
        """Make the next frame one that needs none before it: the last is not in the file."""
        self._left = 0


def pack(lines: Iterable[bytes]) -> bytes:
    """Return a whole file of lines."""
    packer = Packer()
    return MAGIC + b"".join(packer.frame(line) for line in lines)


def unpack(data: bytes) -> Contents:
    """Return what a file holds, whatever became of it."""
    lines: list[bytes] = []
    at, good_bytes, damaged = 0, 0, False
    if data.startswith(MAGIC):
        at = good_bytes = len(MAGIC)
    inflate = None
    while at < len(data):
        found = _frame(data, at)
        if found is None:
            # On to the next frame that is whole; none, and this is the end of the file.
            at = data.find(_MARK, at + 1)
            if at < 0:
                break
            inflate = None
            continue
        kind, packed = found
        if kind == _ANEW:
            inflate = zlib.decompressobj()
        line = None if inflate is None else _inflated(inflate, packed)
        if line is None:
            inflate = None
            damaged = True
        else:
            damaged = damaged or at != good_bytes
            lines.append(line)
        at += _HEADER.size + len(packed)
        if not damaged:
            good_bytes = at
    torn = not damaged and good_bytes < len(data)
    return Contents(lines, good_bytes, torn, damaged)


def _frame(data: bytes, at: int) -> tuple[int, bytes] | None:
    if len(data) - at < _HEADER.size:
        return None
    mark, kind, length, checksum = _HEADER.unpack_from(data, at)
    packed = data[at + _HEADER.size : at + _HEADER.size + length]
    whole = mark == _MARK and len(packed) == length and checksum == _checksum(kind, packed)
    return (kind, packed) if whole else None


def _inflated(inflate: zlib._Decompress, packed: bytes) -> bytes | None:
    try:
        line = inflate.decompress(packed, _MOST_LINE_BYTES)
    except zlib.error:
        return None
    return line[:-1] if line.endswith(b"\n") else None


def _checksum(kind: int, packed: bytes) -> int:
    return zlib.crc32(packed, kind)

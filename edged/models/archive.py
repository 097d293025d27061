"""Zip archives in one strict form, read from anybody. Pure: works on an open file.

A zip says everything twice, in front of each entry and in the directory at the end, and readers
differ in which they believe. Here both must agree, entries must follow each other from the first
byte without a gap, and what no package needs is refused: zip64, encryption, streamed entries,
links, directories, several disks, anything before or behind. Structures: APPNOTE.TXT 6.3.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from edged.errors import VerifyError

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MOST_DIRECTORY_BYTES = 64 * 1024
_CHUNK_BYTES = 256 * 1024
_MODEL = b"TFL3"  # after four bytes

_STORED, _DEFLATED = 0, 8
# Bits 1 and 2 tell how hard deflate tried, bit 11 that the name is UTF-8.
_HARMLESS_FLAGS = 0b1000_0000_0110
_ENCRYPTED, _STREAMED = 1 << 0, 1 << 3
# Extra fields that change what an entry is: zip64, another name, AES.
_MEANINGFUL_EXTRAS = {0x0001, 0x7075, 0x9901}
_REGULAR, _TYPE_MASK, _DOS_DIRECTORY = 0o100000, 0o170000, 0x10
# The earliest date that a zip can hold: the same content gives the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file in the archive.

    Attributes:
        name: ASCII.
        size_bytes: unpacked, as declared.
        packed_bytes: as it stands in the archive.
        deflated: whether it is compressed.
        crc: CRC-32 of the unpacked bytes.
        offset: of its first byte in the archive.
    """

    name: str
    size_bytes: int
    packed_bytes: int
    deflated: bool
    crc: int
    offset: int


def read_directory(file: BinaryIO, *, most_entries: int, most_bytes: int) -> tuple[Entry, ...]:
    """Return what is in an archive, in the order in which it stands there.

    Args:
        file: seekable.
        most_entries: that are taken.
        most_bytes: of all of them, unpacked, as declared.

    Raises:
        VerifyError: `package_not_zip`, `package_damaged`, `package_unsafe`, `package_too_large`.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(8)[4:] == _MODEL:
        # Looked at first: TFLite metadata are a zip behind the model.
        raise VerifyError(
            "package_not_zip",
            "this is a TFLite model, and no package yet.",
            advice="Make one of it with `edgectl model pack`.",
        )
    count, at, length = _end(file, size)
    if count > most_entries:
        raise _unsafe(f"it has {count} entries, more than {most_entries}")
    file.seek(at)
    found = _central(file.read(length), count)
    names = [name.casefold() for _, (name, *_) in found]
    if len(set(names)) < len(names):
        raise _unsafe("two entries have the same name")
    if (total := sum(row[4] for _, row in found)) > most_bytes:
        raise VerifyError(
            "package_too_large",
            f"its files are {total} bytes in all, more than {most_bytes}.",
            advice="Make the model smaller, or take fewer golden samples.",
        )
    entries, position = [], 0
    for offset, row in sorted(found):
        if offset != position:
            raise _unsafe("its entries overlap, or something stands between them")
        entry = _entry(file, offset, row)
        position = entry.offset + entry.packed_bytes
        if position > at:
            raise _unsafe("an entry reaches into the directory")
        entries.append(entry)
    if position != at:
        raise _unsafe("something stands between the last entry and the directory")
    return tuple(entries)


def read_entry(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield the bytes of an entry, in pieces; never more than it declares.

    Raises:
        VerifyError: `package_damaged`, `package_unsafe`.
    """
    inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.deflated else None
    at, end, produced, crc = entry.offset, entry.offset + entry.packed_bytes, 0, 0
    while at < end:
        file.seek(at)  # the caller may read other entries between two pieces
        packed = file.read(min(_CHUNK_BYTES, end - at))
        at += len(packed)
        if not packed:
            raise _damaged(f"{entry.name} is cut short")
        if inflate and inflate.eof:
            raise _unsafe(f"something stands behind the compressed {entry.name}")
        for piece in _inflated(inflate, packed, entry) if inflate else (packed,):
            produced += len(piece)
            if produced > entry.size_bytes:
                raise _unsafe(f"{entry.name} unpacks to more than the {entry.size_bytes} declared")
            crc = zlib.crc32(piece, crc)
            yield piece
    if inflate and inflate.unused_data:
        raise _unsafe(f"something stands behind the compressed {entry.name}")
    if produced != entry.size_bytes or crc != entry.crc or (inflate and not inflate.eof):
        raise _damaged(f"{entry.name} is not what its checksum says")


def _inflated(inflate: zlib._Decompress, packed: bytes, entry: Entry) -> Iterator[bytes]:
    try:
        piece = inflate.decompress(packed, _CHUNK_BYTES)
        yield piece
        # A full piece may be followed by more even when all input is taken.
        while inflate.unconsumed_tail or len(piece) == _CHUNK_BYTES:
            piece = inflate.decompress(inflate.unconsumed_tail, _CHUNK_BYTES)
            yield piece
    except zlib.error as error:
        raise _damaged(f"{entry.name} cannot be decompressed") from error


def write_archive(file: BinaryIO, files: Iterable[tuple[str, bytes]]) -> None:
    """Write an archive that `read_directory` takes; the same files give the same bytes.

    The bytes also depend on the machine's zlib: another one may compress another way.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, whatever machine this is
            info.external_attr = (_REGULAR | 0o644) << 16
            archive.writestr(info, content)


def _end(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return the number of entries, and position and length of the directory."""
    file.seek(max(0, size - _END.size))
    tail = file.read(_END.size)
    if len(tail) < _END.size or not tail.startswith(b"PK\5\6"):
        raise _no_end(file, size)
    _, disk, first_disk, here, count, length, at, comment = _END.unpack(tail)
    if comment or disk or first_disk or here != count:
        raise _unsafe("it has a comment, or is one of several disks")
    if count == 0xFFFF or 0xFFFFFFFF in (length, at):
        raise _unsafe("it is zip64")
    if length > _MOST_DIRECTORY_BYTES or at + length != size - _END.size:
        raise _unsafe("its directory does not stand where it must")
    return count, at, length


def _no_end(file: BinaryIO, size: int) -> VerifyError:
    file.seek(0)
    begin = file.read(2)
    file.seek(max(0, size - 65_557))  # the longest comment and the end before it
    tail = file.read()
    if len(tail) - tail.rfind(b"PK\5\6") > _END.size and b"PK\5\6" in tail:
        return _unsafe("something stands behind its end")
    if begin == b"PK":
        return _damaged("it is cut short")
    return VerifyError(
        "package_not_zip",
        "this is no package: packages are zip archives.",
        advice="Was a login page or an error page fetched instead of it?",
    )


_Row = tuple[str, int, int, int, int, int]  # name, flags, method, crc, size, packed size


def _central(directory: bytes, count: int) -> list[tuple[int, _Row]]:
    """Return offset and facts of each entry as the directory has them."""
    found, at = [], 0
    for _ in range(count):
        if at + _CENTRAL.size > len(directory):
            raise _damaged("its directory is cut short")
        fields = _CENTRAL.unpack_from(directory, at)
        magic, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
        if magic != b"PK\1\2":
            raise _damaged("its directory is damaged")
        at += _CENTRAL.size
        rest = directory[at : at + name_length + extra_length + comment_length]
        at += name_length + extra_length + comment_length
        if len(rest) != name_length + extra_length + comment_length or comment_length or disk:
            raise _unsafe("its directory has comments or several disks")
        _check_extra(rest[name_length:])
        name = _name(rest[:name_length])
        mode = attributes >> 16
        if mode & _TYPE_MASK not in (0, _REGULAR) or attributes & _DOS_DIRECTORY:
            raise _unsafe(f"{name} is a link, a directory or a device")
        found.append((offset, (name, flags, method, crc, size, packed)))
    if at != len(directory):
        raise _unsafe("its directory has more than its entries")
    return found


def _entry(file: BinaryIO, offset: int, row: _Row) -> Entry:
    """Return an entry after holding its own header against the directory's."""
    file.seek(offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\3\4"):
        raise _damaged("an entry has no header")
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    rest = file.read(name_length + extra_length)
    if len(rest) < name_length + extra_length:
        raise _damaged("an entry is cut short")
    _check_extra(rest[name_length:])
    name = _name(rest[:name_length])
    if (name, flags, method, crc, size, packed) != row:
        raise _unsafe(f"{name} is described in two ways")
    if flags & _ENCRYPTED:
        raise _unsafe(f"{name} is encrypted")
    if flags & _STREAMED or flags & ~_HARMLESS_FLAGS or method not in (_STORED, _DEFLATED):
        raise _unsafe(f"{name} is packed in an unusual way")
    if method == _STORED and size != packed:
        raise _unsafe(f"{name} is described in two ways")
    start = offset + _LOCAL.size + len(rest)
    return Entry(name, size, packed, method == _DEFLATED, crc, start)


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise _unsafe("a name has other characters than ASCII") from error
    if not name.isprintable() or "/" in name or "\\" in name or name in ("", ".", ".."):
        raise _unsafe(f"{name[:80]!r} is no plain file name")
    return name


def _check_extra(extra: bytes) -> None:
    at = 0
    while at < len(extra):
        if at + 4 > len(extra):
            raise _unsafe("an extra field is damaged")
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4 + length
        if kind in _MEANINGFUL_EXTRAS or at > len(extra):
            raise _unsafe("an extra field gives an entry another size, name or key")


def _damaged(why: str) -> VerifyError:
    return VerifyError("package_damaged", f"{why}.", advice="Fetch or copy it again.")


def _unsafe(why: str) -> VerifyError:
    return VerifyError(
        "package_unsafe",
        f"{why}.",
        advice="Do not use it: make packages with edgectl model pack only.",
    )

"""Fetches from the tar that `edgectl repo export` writes: metadata and a package on a stick."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from edged.errors import FetchError, VerifyError
from edged.models.source import Body, Patience

# Members are addressed as if the tar were a server: `stick:/metadata/timestamp.json`.
METADATA_URL = "stick:/metadata"
TARGETS_URL = "stick:/targets"
_SCHEME = "stick:/"
_PACKAGE = re.compile(r"targets/([a-z0-9_-]{1,64})/(?:[0-9a-f]{64}\.)?(.+)\.zip")
_MAX_MEMBERS = 1000
_MAX_NAME_BYTES = 1024
_BLOCK_BYTES = 512
_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in a tar: its name, and where its bytes are."""

    name: str
    offset_bytes: int
    size_bytes: int


def read_members(file: BinaryIO) -> Iterator[Member]:
    """Yield the plain files of a tar that anybody may have written; nothing of them is read.

    Not with Python's own reader, which follows headers about other headers: those can take all
    memory, nest without end, or say what is no number. Of them only GNU tar's long names are
    understood; whatever else is no plain file is passed over.

    Raises:
        tarfile.TarError: it is none.
        OSError: it cannot be read.
    """
    at, long_name = 0, ""
    for _ in range(_MAX_MEMBERS):
        file.seek(at)
        block = file.read(_BLOCK_BYTES)
        if not block.strip(b"\0"):
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        at += _BLOCK_BYTES
        if info.size < 0:
            raise tarfile.ReadError("a member has a size below 0")
        if info.type == tarfile.GNUTYPE_LONGNAME:
            raw = file.read(min(info.size, _MAX_NAME_BYTES))
            long_name = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        else:
            if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield Member(long_name or info.name, at, info.size)
            long_name = ""
        at += -(-info.size // _BLOCK_BYTES) * _BLOCK_BYTES


def packages_in(path: Path) -> Iterator[tuple[str, str]]:
    """Yield model and version of the packages in a tar, by their names: nothing is verified.

    Raises:
        VerifyError: `not_an_export`.
    """
    try:
        with path.open("rb") as file:
            for member in read_members(file):
                match = _PACKAGE.fullmatch(member.name)
                if match is not None:
                    yield match[1], match[2]
    except (tarfile.TarError, OSError, ValueError) as error:
        raise not_an_export(f"the file is no tar with a package ({error}).") from error


def not_an_export(words: str) -> VerifyError:
    """Return what to say of a file that `edgectl repo export` did not write."""
    # No name of it: the service has only the open file.
    return VerifyError(
        "not_an_export",
        words,
        advice="`edgectl repo export` makes one; with --bare a package is taken unsigned.",
    )


class StickSource:
    """A tar of plain files. Nothing is unpacked: members are read where they lie.

    Args:
        path: of the tar.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def open(
        self,
        url: str,
        patience: Patience,
        *,
        start_bytes: int = 0,
        validator: str = "",  # noqa: ARG002 - a stick does not change while it is read
    ) -> Iterator[Body]:
        """See `Source.open`.

        Raises:
            FetchError: `not_found`, `stick_unreadable`.
        """
        patience.check()
        with ExitStack() as stack:
            with self._reading():
                file = stack.enter_context(self._path.open("rb"))
                member = self._find(file, unquote(url.removeprefix(_SCHEME)))
                start = min(start_bytes, member.size_bytes)
                file.seek(member.offset_bytes + start)
            pieces = self._pieces(file, member.size_bytes - start, patience)
            yield Body(start, member.size_bytes, "", pieces)

    def _find(self, file: BinaryIO, name: str) -> Member:
        for member in read_members(file):
            if member.name == name:
                return member
        raise FetchError("not_found", f"{self._path} has no file {name}.")

    def _pieces(self, file: BinaryIO, left_bytes: int, patience: Patience) -> Iterator[bytes]:
        while left_bytes > 0:
            patience.check()
            with self._reading():
                piece = file.read(min(_PIECE_BYTES, left_bytes))
                if not piece:
                    raise tarfile.ReadError("it is cut short")
            left_bytes -= len(piece)
            yield piece

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, OSError) as error:
            raise FetchError("stick_unreadable", f"cannot read {self._path}: {error}.") from error

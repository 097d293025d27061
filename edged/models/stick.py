"""Fetches from the tar that `edgectl repo export` writes: metadata and a package on a stick."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from edged.errors import FetchError
from edged.models.source import Body, Patience

# Members are addressed as if the tar were a server: `stick:/metadata/timestamp.json`.
METADATA_URL = "stick:/metadata"
TARGETS_URL = "stick:/targets"
_SCHEME = "stick:/"
_MAX_MEMBERS = 1000
_PIECE_BYTES = 256 * 1024


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
                archive = stack.enter_context(tarfile.open(self._path, "r:"))
                member = self._find(archive, url.removeprefix(_SCHEME))
                file = archive.extractfile(member)
                if file is None:
                    raise self._missing(member.name)
                file.seek(start_bytes)
            pieces = self._pieces(file, patience)
            yield Body(min(start_bytes, member.size), member.size, "", pieces)

    def _find(self, archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
        for number, member in enumerate(archive):
            if number == _MAX_MEMBERS:
                break
            if member.name == name and member.isreg():
                return member
        raise self._missing(name)

    def _pieces(self, file: IO[bytes], patience: Patience) -> Iterator[bytes]:
        while True:
            patience.check()
            with self._reading():
                piece = file.read(_PIECE_BYTES)
            if not piece:
                return
            yield piece

    def _missing(self, name: str) -> FetchError:
        return FetchError("not_found", f"{self._path} has no file {name}.")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, OSError) as error:
            raise FetchError("stick_unreadable", f"cannot read {self._path}: {error}.") from error

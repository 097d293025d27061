"""The package: a zip that carries a model. Hostile until proven otherwise.

`read_package` looks at the structure only and holds it against the manifest; `unpack` writes the
files, each checked against its digest on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from edged.errors import StoreError, VerifyError
from edged.models.archive import Entry, read_directory, read_entry, write_archive
from edged.models.manifest import (
    FILES,
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    PACKAGE_LIMIT_BYTES,
    Manifest,
    encode_manifest,
    parse_manifest,
)


class Storage(Protocol):
    """What `unpack` needs of the file system."""

    def reserve(self, path: Path, size_bytes: int) -> None:
        """Make a file of this size whose space is taken."""

    def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
        """Write into it."""

    def fsync(self, path: Path) -> None:
        """Return when its content is safe."""

    def fsync_dir(self, directory: Path) -> None:
        """Return when the names in a directory are safe."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package whose structure is sound and fits its manifest.

    Attributes:
        path: of the zip.
        manifest: what it says.
        entries: what is in it, the manifest included.
    """

    path: Path
    manifest: Manifest
    entries: tuple[Entry, ...]

    @property
    def unpacked_bytes(self) -> int:
        """What its files take on a disk."""
        return sum(entry.size_bytes for entry in self.entries)

    def read(self, name: str) -> bytes:
        """Return one of its files.

        Raises:
            VerifyError: `package_damaged`, `package_unsafe`, `package_mismatch`.
            StoreError: `package_unreadable`.
        """
        with _open(self.path) as file:
            return b"".join(_checked(file, self, name))

    def entry(self, name: str) -> Entry:
        """Return where one of its files stands."""
        return next(entry for entry in self.entries if entry.name == name)


def read_package(path: Path) -> Package:
    """Check the structure of a package and read its manifest; the content is not unpacked.

    Raises:
        VerifyError: `package_not_zip`, `package_damaged`, `package_unsafe`, `package_too_large`,
            `package_incomplete`, `package_mismatch`, `manifest_too_large`,
            `manifest_schema_unknown`, `manifest_invalid`.
        StoreError: `package_unreadable`.
    """
    with _open(path) as file, _reading(path):
        return _read(file, path)


def _read(file: BinaryIO, path: Path) -> Package:
    entries = read_directory(file, most_entries=len(FILES) + 1, most_bytes=PACKAGE_LIMIT_BYTES)
    by_name = {entry.name: entry for entry in entries}
    for name in by_name:
        if name not in (MANIFEST, *FILES):
            raise VerifyError(
                "package_unsafe",
                f"{name[:80]!r} has no place in a package.",
                advice="Do not use it: make packages with edgectl model pack only.",
            )
    if MANIFEST not in by_name:
        raise _incomplete(MANIFEST)
    if by_name[MANIFEST].size_bytes > MANIFEST_LIMIT_BYTES:
        raise VerifyError("manifest_too_large", "manifest.json has more than 64 KiB.")
    manifest = parse_manifest(b"".join(read_entry(file, by_name[MANIFEST])))
    for name, declared in manifest.files.items():
        if name not in by_name:
            raise _incomplete(name)
        if by_name[name].size_bytes != declared.bytes:
            raise _mismatch(f"{name} has not the {declared.bytes} bytes that the manifest declares")
    for name in by_name:
        if name != MANIFEST and name not in manifest.files:
            raise _mismatch(f"the manifest does not mention {name}")
    return Package(path, manifest, entries)


def unpack(package: Package, directory: Path, files: Storage) -> None:
    """Write all files of a package, the manifest included, into a directory of its own.

    On return files and names are safe against a power cut. After an error the directory holds
    what nobody may use; the caller removes it.

    Args:
        package: from `read_package`.
        directory: there, and empty.
        files: the file system.

    Raises:
        VerifyError: `package_damaged`, `package_unsafe`, `package_mismatch`.
        StoreError: `package_unreadable`.
        OSError: what `files` raises.
    """
    with _open(package.path) as file:
        for entry in package.entries:
            target, at = directory / entry.name, 0
            files.reserve(target, entry.size_bytes)
            for piece in _checked(file, package, entry.name):
                files.write_at(target, at, piece)
                at += len(piece)
            files.fsync(target)
    files.fsync_dir(directory)


def write_package(file: BinaryIO, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a package; the same content gives the same bytes.

    Args:
        file: open for writing, empty.
        manifest: with size and digest of every file.
        files: their content by name.
    """
    ordered = [(name, files[name]) for name in FILES if name in files]
    write_archive(file, [(MANIFEST, encode_manifest(manifest)), *ordered])


def _checked(file: BinaryIO, package: Package, name: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with _reading(package.path):  # what the consumer raises does not pass here
        for piece in read_entry(file, package.entry(name)):
            digest.update(piece)
            yield piece
    # The manifest itself was read before; it vouches for the others.
    if name != MANIFEST and digest.hexdigest() != package.manifest.files[name].sha256:
        raise _mismatch(f"{name} has not the digest that the manifest declares")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            "package_unreadable", f"cannot read {path}: {error.strerror or error}."
        ) from error


def _open(path: Path) -> BinaryIO:
    with _reading(path):
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        return path.open("rb")


def _incomplete(name: str) -> VerifyError:
    return VerifyError(
        "package_incomplete",
        f"it has no {name}.",
        advice="Make the package again with edgectl model pack.",
    )


def _mismatch(why: str) -> VerifyError:
    return VerifyError(
        "package_mismatch",
        f"{why}.",
        advice="Make the package again with edgectl model pack.",
    )

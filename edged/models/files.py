"""The one seam to the file system for everything that has to survive a power cut.

Two kinds of methods. Primitives are one step each and promise nothing beyond it: what was
written is safe after `fsync`, that a name exists, moved or went is safe after `fsync_dir` of
its directory. The others are made of primitives and say what they promise. Tests put another
object in this one's place that records the primitives, fails or dies at the n-th, and works out
what a power cut may leave behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from edged.errors import StoreError

T = TypeVar("T")


class Files:
    """The file system. All methods raise OSError; `storing` makes a StoreError of it.

    Attributes:
        file_mode: of files that are made, before the umask.
        directory_mode: the same of directories.
    """

    file_mode, directory_mode = 0o640, 0o750

    # Primitives

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file."""
        return path.read_bytes()

    def sha256(self, path: Path) -> str:
        """Return the digest of a file's bytes, read piece by piece, in hexadecimal."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def free_bytes(self, directory: Path) -> int:
        """Return how much an ordinary user may still write."""
        space = os.statvfs(directory)
        return space.f_bavail * space.f_frsize

    def names(self, directory: Path) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(path.name for path in directory.iterdir())

    def mkdir(self, directory: Path) -> None:
        """Make a directory whose parent exists."""
        directory.mkdir(self.directory_mode)

    def write(self, path: Path, data: bytes, mode: int | None = None) -> None:
        """Give a file this content; it is made, with that mode, or emptied first."""
        mode = self.file_mode if mode is None else mode
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode) as descriptor:
            _write_all(descriptor, data, 0)

    def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
        """Write into an existing file, which grows when it must."""
        with _opened(path, os.O_WRONLY) as descriptor:
            _write_all(descriptor, data, offset_bytes)

    def reserve(self, path: Path, size_bytes: int) -> None:
        """Make a file of this size, zeros, whose space on the disk is taken now.

        Raises:
            OSError: ENOSPC when there is not so much; the caller removes the file.
        """
        with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, self.file_mode) as descriptor:
            if size_bytes:
                _allocate(descriptor, size_bytes)

    def fsync(self, path: Path) -> None:
        """Return when the content of a file is safe.

        After an error nobody knows what is: discard the file, a second fsync proves nothing.
        """
        with _opened(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    def fsync_dir(self, directory: Path) -> None:
        """Return when the names in a directory are safe; it may be a link, as to a larger disk."""
        with _opened(directory, os.O_RDONLY | os.O_DIRECTORY, follow=True) as descriptor:
            os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move within one file system, in one step; a file or an empty directory is replaced."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file or a link, never what it points to."""
        path.unlink()

    def rmdir(self, directory: Path) -> None:
        """Remove an empty directory."""
        directory.rmdir()

    # Made of primitives

    def write_synced(self, path: Path, data: bytes) -> None:
        """Write a new file whose content is safe; its name is after `fsync_dir`."""
        self.write(path, data)
        self.fsync(path)

    def write_atomic(self, path: Path, data: bytes) -> None:
        """Replace a file: whatever happens it has the old content or the new; on return the new."""
        temporary = _temporary(path)
        self.write_synced(temporary, data)
        self.rename(temporary, path)
        self.fsync_dir(path.parent)

    def remove_atomic(self, path: Path) -> None:
        """Remove what `write_atomic` wrote, or left when it was killed; nothing there is fine.

        Safe after `fsync_dir` of the parent.
        """
        self.remove_tree(_temporary(path))
        self.remove_tree(path)

    def make_dirs(self, directory: Path) -> None:
        """Make a directory and its parents where missing; on return they are safe."""
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for each in reversed(missing):
            self.mkdir(each)
            self.fsync_dir(each.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a file, a link or a directory with all in it; nothing there is fine.

        Links are removed, not followed. Safe after `fsync_dir` of the parent.
        """
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            self.remove(path)
            return
        for name in self.names(path):
            self.remove_tree(path / name)
        self.rmdir(path)


@contextmanager
def storing(what: str) -> Iterator[None]:
    """Make a StoreError of an OSError.

    Args:
        what: the sentence's beginning, e.g. `cannot keep the download`.

    Raises:
        StoreError: `disk_full`, `disk_read_only`, `disk_failed`, `descriptors_exhausted`,
            `disk_unusable`.
    """
    try:
        yield
    except OSError as error:
        raise _store_error(error, what) from error


def twice(read: Callable[[], T]) -> T:
    """Return what a reading primitive does, tried again where the medium failed once.

    Raises:
        StoreError: `disk_failed`: both times; these bytes will not come back.
        OSError: it failed in another way.
    """
    try:
        return read()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    try:
        return read()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise _store_error(error, "cannot read") from error


def _store_error(error: OSError, what: str) -> StoreError:
    message = f"{what}: {error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StoreError("disk_full", message, advice="Make room, or give it a larger disk.")
    if error.errno == errno.EROFS:
        return StoreError(
            "disk_read_only", message, advice="A failing card turns read-only: look at dmesg."
        )
    if error.errno == errno.EIO:
        return StoreError("disk_failed", message, advice="Replace the card or disk.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StoreError("descriptors_exhausted", message)
    return StoreError("disk_unusable", message)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def _opened(path: Path, flags: int, mode: int = 0, *, follow: bool = False) -> Iterator[int]:
    flags |= os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset_bytes: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset_bytes)
        view, offset_bytes = view[written:], offset_bytes + written


def _allocate(descriptor: int, size_bytes: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        # A file system that cannot reserve: at least do not begin what cannot end.
        space = os.fstatvfs(descriptor)
        if space.f_bavail * space.f_frsize < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        os.ftruncate(descriptor, size_bytes)

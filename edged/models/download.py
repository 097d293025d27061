"""Fetches one package to the disk: whole and genuine, or not at all.

`<sha256>.part` has its space reserved before the first byte and `<sha256>.part.json` says how
much of it is safe on the disk, so a download goes on where it was after a cut connection, a
restart or a power cut. What is found on the disk is hashed again, never believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from edged.errors import FetchError, StoreError, VerifyError
from edged.models.files import Files, storing
from edged.models.source import Body, Patience, Source
from edged.models.target import Wanted

# So much, at most, is fetched again after a power cut.
_SAFE_EVERY_BYTES = 4 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_WHAT = "cannot keep the download"


def ignore_progress(count_bytes: int, total_bytes: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What is safe in the .part file, and which state of the server's file it is of."""

    safe_bytes: int
    validator: str

    def encode(self) -> bytes:
        return orjson.dumps({"safe_bytes": self.safe_bytes, "validator": self.validator})

    @classmethod
    def decode(cls, data: bytes) -> _Mark | None:
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(found, dict):
            return None
        safe, validator = found.get("safe_bytes"), found.get("validator")
        if not isinstance(safe, int) or not isinstance(validator, str) or safe < 0:
            return None
        return cls(safe, validator)


class Download:
    """One package on its way.

    Args:
        wanted: what.
        directory: where to; it exists.
        source: where from.
        files: the file system.
        progress: called with the bytes there and the bytes in all.
    """

    def __init__(
        self,
        wanted: Wanted,
        directory: Path,
        source: Source,
        files: Files,
        progress: Callable[[int, int], None] = ignore_progress,
    ) -> None:
        self._wanted = wanted
        self._source = source
        self._files = files
        self._progress = progress
        self._path = directory / wanted.sha256
        self._part = directory / f"{wanted.sha256}.part"
        self._mark_path = directory / f"{wanted.sha256}.part.json"
        self._hashers = _hashers(wanted.hashes)
        self._count = 0
        self._safe = 0
        self._validator = ""

    def run(self, patience: Patience) -> Path:
        """Fetch it, going on after cuts as long as each attempt comes a step further.

        Returns:
            The file, verified and safe on the disk.

        Raises:
            FetchError: no way on for now; what is there stays for the next attempt.
            StoreError: the disk is full or fails; nothing is left behind.
            VerifyError: `target_length_mismatch`, `target_too_long`, `target_hash_mismatch`;
                nothing is left behind.
        """
        try:
            with storing(_WHAT):
                if self._is_there():
                    return self._path
                found = self._resume()
            self._fetch(patience)
            if found and not self._is_genuine():
                # What was on the disk was not what had been fetched; once more without it.
                with storing(_WHAT):
                    self._begin()
                self._fetch(patience)
            self._finish()
        except FetchError:
            self._pause()
            raise
        except Exception:
            with suppress(StoreError):  # the disk's own failure is told, not that of tidying up
                self.discard()
            raise
        return self._path

    def discard(self) -> None:
        """Remove what is there of an unfinished download.

        Raises:
            StoreError: it cannot be removed.
        """
        with storing(_WHAT):
            self._files.remove_atomic(self._mark_path)
            self._files.remove_tree(self._part)

    def _is_there(self) -> bool:
        """Whether an earlier run has finished it; anything else under its name is removed."""
        if not self._path.is_file():
            return False
        if self._path.stat().st_size == self._wanted.length_bytes:
            self._hash_file(self._path, self._wanted.length_bytes)
            if self._is_genuine():
                self.discard()
                # Whoever finished it may have been killed just before making it safe.
                self._files.fsync(self._path)
                self._files.fsync_dir(self._path.parent)
                return True
            self._hashers = _hashers(self._wanted.hashes)
        self._files.remove(self._path)
        return False

    def _resume(self) -> bool:
        """Take up what is there; say whether it was anything."""
        mark = None
        if self._mark_path.is_file() and self._part.is_file():
            mark = _Mark.decode(self._files.read(self._mark_path))
        length = self._wanted.length_bytes
        if mark is None or mark.safe_bytes > length or self._part.stat().st_size != length:
            self._begin()
            return False
        self._count = self._safe = mark.safe_bytes
        self._validator = mark.validator
        self._hash_file(self._part, self._count)
        return self._count > 0

    def _begin(self) -> None:
        self._count = self._safe = 0
        self._validator = ""
        self._hashers = _hashers(self._wanted.hashes)
        if self._mark_path.exists():
            # It goes first: it must not speak of bytes that are written over.
            self._files.remove_atomic(self._mark_path)
            self._files.fsync_dir(self._part.parent)
        self._files.reserve(self._part, self._wanted.length_bytes)

    def _fetch(self, patience: Patience) -> None:
        furthest = self._count
        while self._count < self._wanted.length_bytes:
            try:
                with self._source.open(
                    self._wanted.url, patience, start_bytes=self._count, validator=self._validator
                ) as body:
                    self._take(body)
            except FetchError:
                patience.check()
                if self._count < furthest + patience.limits.step_bytes:
                    raise
                furthest = self._count

    def _take(self, body: Body) -> None:
        length = self._wanted.length_bytes
        if body.total_bytes is not None and body.total_bytes != length:
            # A log-in page has another length too; it says so when it is looked into.
            next(body.pieces, b"")
            raise VerifyError(
                "target_length_mismatch",
                f"the server's file has {body.total_bytes} bytes, {length} are signed.",
            )
        with storing(_WHAT):
            if body.start_bytes != self._count:
                self._begin()
            self._validator = body.validator
        for piece in body.pieces:
            if self._count + len(piece) > length:
                raise VerifyError(
                    "target_too_long", f"the server sends more than the {length} bytes signed."
                )
            with storing(_WHAT):
                self._files.write_at(self._part, self._count, piece)
            self._count += len(piece)
            for hasher in self._hashers.values():
                hasher.update(piece)
            if self._count - self._safe >= _SAFE_EVERY_BYTES and self._count < length:
                with storing(_WHAT):
                    self._make_safe()
            self._progress(self._count, length)
        if self._count < length:
            raise FetchError("connection_lost", "the download ended early.")

    def _pause(self) -> None:
        try:
            with storing(_WHAT):
                self._make_safe()
        except StoreError:
            with suppress(StoreError):
                self.discard()
            raise

    def _make_safe(self) -> None:
        """Let the next run begin where this one is."""
        if self._count > self._safe:
            self._files.fsync(self._part)
            mark = _Mark(self._count, self._validator)
            self._files.write_atomic(self._mark_path, mark.encode())
            self._safe = self._count

    def _finish(self) -> None:
        if not self._is_genuine():
            raise VerifyError(
                "target_hash_mismatch", "the file has the right length and another content."
            )
        with storing(_WHAT):
            if self._count > self._safe or not self._count:
                self._files.fsync(self._part)
            self._files.rename(self._part, self._path)
            self._files.remove_atomic(self._mark_path)
            self._files.fsync_dir(self._path.parent)

    def _is_genuine(self) -> bool:
        return all(
            hasher.hexdigest() == self._wanted.hashes[name]
            for name, hasher in self._hashers.items()
        )

    def _hash_file(self, path: Path, count_bytes: int) -> None:
        with path.open("rb") as file:
            while count_bytes > 0 and (piece := file.read(min(_READ_BYTES, count_bytes))):
                count_bytes -= len(piece)
                for hasher in self._hashers.values():
                    hasher.update(piece)


def _hashers(hashes: Mapping[str, str]) -> dict[str, Any]:
    try:
        return {name: _hasher(name) for name in hashes}
    except ValueError as error:
        raise VerifyError(
            "target_hash_unknown", f"signed with hashes that are not known here: {error}."
        ) from error


def _hasher(name: str) -> Any:
    hasher = hashlib.new(name)
    if not hasher.digest_size:
        raise ValueError(f"{name} has no length of its own")
    return hasher

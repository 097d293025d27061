"""What a device believes about its repository, kept so that a power cut leaves old or new.

A directory of verified metadata files as python-tuf lays them out, and in it `trust`: the
versions seen last and the time below which a clock is wrong. It is replaced as a whole: the new
one is written beside it and made safe, the present one moves aside to `.old`, the new one moves
in. `.old` stays as the last good copy. Old versions must not come back through a damaged file, so
`trust` is believed where the metadata themselves are gone, and `.old` where `trust` is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edged.models.files import Files

_RECORD = "trust"
_SCHEMA = 1
_ROOTS = "root_history"


@dataclass(frozen=True, slots=True)
class Trust:
    """What is remembered beside the metadata.

    Attributes:
        time_floor_s: Unix time; it was at least so late already.
        versions: role to the highest version seen.
        keys: role to its threshold and the ids of its keys when that was; with other keys
            versions begin anew.
        anchor: SHA-256 of the root that the owner had put there.
        forgotten: something had been remembered and was lost, which nobody was told yet.
    """

    time_floor_s: int = 0
    versions: Mapping[str, int] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    anchor: str = ""
    forgotten: bool = False

    def same_but_for_time(self, other: Trust) -> bool:
        """Say whether nothing else has changed."""
        return replace(self, time_floor_s=0) == replace(other, time_floor_s=0)

    def encode(self) -> bytes:
        """Return it as bytes that tell when they are damaged."""
        body = {
            "schema": _SCHEMA,
            "time_floor_s": self.time_floor_s,
            "versions": dict(self.versions),
            "keys": {role: list(ids) for role, ids in self.keys.items()},
            "anchor": self.anchor,
            "forgotten": self.forgotten,
        }
        content = json.dumps(body, sort_keys=True).encode()  # versions have no upper end
        return content + b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Trust | None:
        """Return what `encode` was given, or None where these bytes are anything else."""
        content, _, digest = data.removesuffix(b"\n").partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != digest:
            return None
        body = json.loads(content)
        if body["schema"] != _SCHEMA:
            return None
        keys = {role: tuple(ids) for role, ids in body["keys"].items()}
        return cls(body["time_floor_s"], body["versions"], keys, body["anchor"], body["forgotten"])


@dataclass(frozen=True, slots=True)
class Kept:
    """What is on the disk.

    Attributes:
        metadata: relative name to content, as python-tuf names them; not yet believed.
        trust: what is remembered.
    """

    metadata: Mapping[str, bytes]
    trust: Trust


class TrustStore:
    """The directory. One writer.

    Args:
        directory: made when missing, with its parents.
        files: the file system.
    """

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._new = directory.with_name(f"{directory.name}.new")
        self._old = directory.with_name(f"{directory.name}.old")
        self._files = files

    def load(self) -> Kept:
        """Tidy up after a crash and return what is there.

        Raises:
            OSError: it cannot be read or tidied.
        """
        files, directory = self._files, self._directory
        files.make_dirs(directory.parent)
        if not directory.is_dir():
            files.remove_tree(directory)
            if self._old.is_dir():  # died between the two moves
                files.rename(self._old, directory)
            else:
                files.mkdir(directory)
        files.remove_tree(self._new)
        # What is read now is acted upon, and whoever wrote it may have been killed too soon.
        files.fsync_dir(directory.parent)
        metadata = self._metadata()
        trust = self._record(directory) or self._record(self._old)
        if trust is None:
            trust = Trust(forgotten=self._old.exists() or (directory / _RECORD).exists())
        return Kept(metadata, trust)

    def save(self, metadata: Mapping[str, bytes], trust: Trust) -> None:
        """Replace what is there.

        Args:
            metadata: as in `Kept`, all verified.
            trust: to remember.

        Raises:
            OSError: it could not be; old or new is there.
        """
        files, new = self._files, self._new
        files.remove_tree(new)
        files.remove_tree(self._old)
        files.mkdir(new)
        folders = {new}
        for name, content in sorted(metadata.items()):
            path = new / name
            if path.parent not in folders:
                files.mkdir(path.parent)
                folders.add(path.parent)
            files.write_synced(path, content)
        files.write_synced(new / _RECORD, trust.encode())
        for folder in folders:
            files.fsync_dir(folder)
        files.rename(self._directory, self._old)
        files.rename(new, self._directory)
        files.fsync_dir(new.parent)

    def _metadata(self) -> dict[str, bytes]:
        found = {}
        for name in self._files.names(self._directory):
            if name.endswith(".json") and (self._directory / name).is_file():
                found[name] = self._files.read(self._directory / name)
        roots = self._directory / _ROOTS
        if roots.is_dir():
            for name in self._files.names(roots):
                if name.endswith(".json") and (roots / name).is_file():
                    found[f"{_ROOTS}/{name}"] = self._files.read(roots / name)
        return found

    def _record(self, directory: Path) -> Trust | None:
        path = directory / _RECORD
        return Trust.decode(self._files.read(path)) if path.is_file() else None

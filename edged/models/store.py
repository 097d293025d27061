"""The versions of the models on the disk: `models/<model>/<version>/` below the state directory.

A directory under the name of a version is whole, safe and never written to again: it is made
beside that name and moved there. Runtimes map the files in it. Nothing on the disk is believed:
what is about to be loaded is checked against the digests of its seal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from edged.errors import StoreError
from edged.models.files import Files, storing, twice
from edged.models.handover import HANDED
from edged.models.journalfile import JournalFile
from edged.models.seal import SEAL, Seal, bare_digest, encode_seal, parse_seal
from edged.models.version import Version

SPARE_BYTES = 8 * 1024 * 1024
"""Stays free: journals and the outbox have to be written even where a model has no room."""

_LEFTOVER = re.compile(r"\..+\.(new|gone|tmp)")
_DOWNLOAD = re.compile(r"\.?([0-9a-f]{64})(\.part(\.json)?)?(\.tmp)?")


class Store:
    """The state directory, as far as models are concerned. One writer.

    Args:
        state_dir: there; the daemon holds its lock.
        files: the file system.
        spare_bytes: not to be used up by models.
    """

    def __init__(
        self, state_dir: Path, files: Files | None = None, *, spare_bytes: int = SPARE_BYTES
    ) -> None:
        self._models = state_dir / "models"
        self.staging = state_dir / "staging"
        self._files = files or Files()
        self._spare_bytes = spare_bytes

    def journal(self, model: str) -> JournalFile:
        """Return where the journal of a model is kept."""
        return JournalFile(self._models / model, self._files)

    def place(self, model: str, version: str) -> Path:
        """Return where a version is, or would be.

        Raises:
            ValueError: it is no version.
        """
        return self._models / model / Version(version).text

    def install(
        self,
        model: str,
        version: str,
        sha256: str,
        size_bytes: int,
        fill: Callable[[Path], object],
    ) -> Path:
        """Make a version appear, as a whole; on return it is safe.

        The same release there already is left as it is. One that is there but damaged is moved
        aside first: it could not have been loaded again.

        Args:
            model: whose.
            version: its name.
            sha256: of the package, or what `bare_digest` says.
            size_bytes: of all its files.
            fill: writes the files into the directory it is given, and nothing else there.

        Returns:
            The directory.

        Raises:
            StoreError: `version_taken`: another release has this version; `disk_full`, before
                anything is written where that can be told; the disk's own. Nothing is changed.
            EdgedError: what `fill` raises; nothing is changed.
        """
        place = self.place(model, version)
        home, files = place.parent, self._files
        staged, gone = home / f".{version}.new", home / f".{version}.gone"
        with storing(f"cannot install {model} {version}"):
            files.make_dirs(home)
            seal = self._seal(place)
            if seal is not None and seal.sha256 != sha256:
                raise StoreError(
                    "version_taken",
                    f"{place} holds another release of this version, {seal.sha256[:8]}.",
                    advice="Publish under a version that was not used before.",
                )
            if seal is not None and self._is_whole(place, seal):
                files.fsync_dir(home)  # whoever moved it there may have been killed just then
                return place
            self.require_space(size_bytes)
            for leftover in (staged, gone):
                files.remove_tree(leftover)
            try:
                files.mkdir(staged)
                fill(staged)
                self._close(staged, model, version, sha256)
                if place.name in files.names(home):
                    files.rename(place, gone)
                files.rename(staged, place)
            except Exception:
                with suppress(OSError):  # else the next collection does it
                    files.remove_tree(staged)
                raise
            files.fsync_dir(home)
            files.remove_tree(gone)
        return place

    def import_factory(self, model: str, contents: Mapping[str, bytes]) -> Path:
        """Copy bare files as a version of their own: the configured ones may change under us.

        The version is `Version.factory(bare_digest(contents))`. A factory package is installed
        under the version that it has.

        Args:
            model: whose.
            contents: by the names they have in a package: the model, its sibling for the other
                processor, labels.

        Raises:
            StoreError: as `install`.
        """
        sha256 = bare_digest(contents)
        size_bytes = sum(map(len, contents.values()))

        def fill(directory: Path) -> None:
            for name, data in contents.items():
                self._files.write(directory / name, data)

        return self.install(model, Version.factory(sha256).text, sha256, size_bytes, fill)

    def check(self, model: str, version: str, sha256: str) -> Path:
        """Return the directory of a release after reading all of it: 6 ms for 4 MB on x86.

        Raises:
            StoreError: `release_missing`, `release_damaged`: it will not come back, fall back;
                the disk's own: nobody can tell now.
        """
        place = self.place(model, version)
        with storing(f"cannot read {place}"):
            if not self._is_there(place):
                raise StoreError("release_missing", f"{place} is not there.")
            seal = self._seal(place)
            if seal is None or seal.sha256 != sha256 or not self._is_whole(place, seal):
                raise StoreError(
                    "release_damaged",
                    f"{place} is not as it was installed.",
                    advice="Deploy this version again; a card that does this is failing.",
                )
        return place

    def collect(self, model: str) -> None:
        """Remove what a killed installation left, and versions that nothing names any more.

        Named is what the journal and its last good copy say. Without a readable journal all
        versions stay, and a damaged one of a named version stays too: a disk that errs must not
        empty itself. Files of other names are not ours, and stay.

        Raises:
            StoreError: the disk's own; what was not removed is the next time.
        """
        home, files = self._models / model, self._files
        with storing(f"cannot remove what is not needed from {home}"):
            if not self._is_there(home):
                return
            kept = self.journal(model).kept()
            for name in files.names(home):  # what begins with a dot comes first
                if _LEFTOVER.fullmatch(name):
                    files.remove_tree(home / name)
                elif (
                    kept is not None and _is_version(name) and not self._is_kept(home / name, kept)
                ):
                    self._remove(home / name)

    def clear_staging(self, wanted: Collection[str]) -> None:
        """Remove downloads and what was handed over, whole or half, that nobody wants any more.

        Args:
            wanted: of all deployments under way, the digests of packages and the names of files
                that were handed over.

        Raises:
            StoreError: the disk's own.
        """
        with storing(f"cannot clear {self.staging}"):
            if not self._is_there(self.staging):
                return
            for name in self._files.names(self.staging):
                match = _DOWNLOAD.fullmatch(name)
                if match is None and HANDED.fullmatch(name) is None:
                    continue
                if (name if match is None else match[1]) not in wanted:
                    self._files.remove_tree(self.staging / name)

    def free_bytes(self) -> int:
        """Return how much models may still take.

        Raises:
            StoreError: the disk's own.
        """
        with storing(f"cannot tell the free space of {self._models.parent}"):
            free_bytes = self._files.free_bytes(self._models.parent)
        return max(0, free_bytes - self._spare_bytes)

    def require_space(self, size_bytes: int) -> None:
        """Return if there is so much room for models.

        Raises:
            StoreError: `disk_full`; the disk's own.
        """
        free_bytes = self.free_bytes()
        if free_bytes < size_bytes:
            raise StoreError(
                "disk_full",
                f"{self._models.parent} has room for {free_bytes} bytes, {size_bytes} are needed;"
                f" {self._spare_bytes} stay free.",
                advice="Make room, or give it a larger disk.",
            )

    def _remove(self, place: Path) -> None:
        """Remove a version. What a power cut leaves of it must not be found under its name."""
        gone = place.with_name(f".{place.name}.gone")
        self._files.rename(place, gone)
        self._files.fsync_dir(place.parent)
        self._files.remove_tree(gone)

    def _close(self, staged: Path, model: str, version: str, sha256: str) -> None:
        """Make a filled directory safe, and seal it."""
        files, digests = self._files, {}
        for name in files.names(staged):
            files.fsync(staged / name)
            digests[name] = files.sha256(staged / name)
        files.write_synced(staged / SEAL, encode_seal(Seal(model, version, sha256, digests)))
        files.fsync_dir(staged)

    def _is_there(self, path: Path) -> bool:
        try:
            return path.name in self._files.names(path.parent)
        except FileNotFoundError:
            return False

    def _seal(self, place: Path) -> Seal | None:
        """Return the seal of a version, or None where there is none that is sound and its own."""
        try:
            data = twice(lambda: self._files.read(place / SEAL))
        except (FileNotFoundError, NotADirectoryError, StoreError):
            return None
        seal = parse_seal(data)
        if seal is None or (seal.model, seal.version) != (place.parent.name, place.name):
            return None
        return seal

    def _is_whole(self, place: Path, seal: Seal) -> bool:
        if set(self._files.names(place)) != {SEAL, *seal.files}:
            return False
        try:
            return all(
                twice(lambda path=place / name: self._files.sha256(path)) == digest  # type: ignore[misc]
                for name, digest in seal.files.items()
            )
        except (IsADirectoryError, StoreError):
            return False

    def _is_kept(self, place: Path, kept: Collection[tuple[str, str]]) -> bool:
        if place.name not in {version for version, _ in kept}:
            return False
        seal = self._seal(place)
        return seal is None or (seal.version, seal.sha256) in kept


def _is_version(name: str) -> bool:
    try:
        Version(name)
    except ValueError:
        return False
    return True

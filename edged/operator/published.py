"""What a repository says now, read from its files as a device would come to them."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from edged.errors import OperatorError, VerifyError
from edged.models.files import Files, storing
from edged.models.target import read_target
from edged.models.version import Version
from edged.operator.keys import ROLES

_S = TypeVar("_S", bound=Signed)
_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class PublishedPackage:
    """What is signed about a package.

    Attributes:
        name: of the model.
        version: of the package.
        bytes: of the file.
        sha256: of the file, hexadecimal.
        downgrade_ok: devices with a later version may take it.
    """

    name: str
    version: str
    bytes: int
    sha256: str
    downgrade_ok: bool


@dataclass(frozen=True, slots=True)
class State:
    """What the repository says now."""

    root: Root
    targets: Targets
    snapshot: Snapshot
    timestamp: Timestamp

    def expires(self) -> dict[str, datetime]:
        """Return when each role expires."""
        return {role: getattr(self, role).expires for role in ROLES}

    def packages(self) -> list[PublishedPackage]:
        """Return the packages by name, the versions of each in their order.

        Raises:
            OperatorError: `repo_damaged`: one of them is none that edgectl has signed in.
        """
        try:
            found = [_package(path, target) for path, target in self.targets.targets.items()]
            packages = [one for one in found if one is not None]
            return sorted(packages, key=lambda one: (one.name, Version(one.version)))
        except (VerifyError, ValueError) as error:
            raise OperatorError("repo_damaged", f"targets.json is damaged: {error}.") from error


class PublicFiles(Files):
    """Files for others: a web server that runs as another user, a device's service."""

    file_mode, directory_mode = 0o644, 0o755


class Published:
    """The files that are served.

    Args:
        directory: with `metadata/` and `targets/`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metadata = directory / "metadata"
        self.targets = directory / "targets"

    @property
    def there(self) -> bool:
        """Whether there is a repository that devices may know."""
        return (self.metadata / "timestamp.json").is_file()

    def state(self) -> State:
        """Return what the repository says now: what timestamp.json leads to.

        Raises:
            OperatorError: `repo_missing`, `repo_damaged`.
        """
        if not self.there:
            raise OperatorError(
                "repo_missing",
                f"there is no repository {self.directory}.",
                advice="Make one with `edgectl repo init`.",
            )
        timestamp = self._read("timestamp.json", Timestamp)
        snapshot = self._read(f"{timestamp.snapshot_meta.version}.snapshot.json", Snapshot)
        version = snapshot.meta["targets.json"].version
        targets = self._read(f"{version}.targets.json", Targets)
        return State(self._read(f"{self._newest()}.root.json", Root), targets, snapshot, timestamp)

    def root(self) -> bytes:
        """Return the newest root.json, for devices.

        Raises:
            OperatorError: `repo_missing`, `repo_damaged`.
        """
        state = self.state()
        return self._bytes(f"{state.root.version}.root.json")

    def export(self, path: str, output: Path, files: Files) -> None:
        """Write the metadata and one package to a tar, for a stick.

        Args:
            path: of the package: `<name>/<version>.zip`.
            output: the tar; replaced in one step.
            files: the file system.

        Raises:
            OperatorError: `version_unknown`, `repo_missing`, `repo_damaged`.
            StoreError: it cannot be written.
        """
        state = self.state()
        target = state.targets.targets.get(path)
        if target is None:
            known = ", ".join(sorted(state.targets.targets)[-_MOST_NAMED:]) or "nothing yet"
            raise OperatorError(
                "version_unknown", f"{path} is not published.", advice=f"Published is {known}."
            )
        place = self.place(target)
        names = [f"{version}.root.json" for version in range(1, state.root.version + 1)]
        names += ["timestamp.json", f"{state.snapshot.version}.snapshot.json"]
        names += [f"{state.targets.version}.targets.json"]
        temporary = output.with_name(f".{output.name}.tmp")
        with storing("cannot write the tar"):
            with tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
                for name in names:
                    data = self._bytes(name)
                    archive.addfile(_member(f"metadata/{name}", len(data)), io.BytesIO(data))
                inside = f"targets/{place.relative_to(self.targets)}"
                with place.open("rb") as file:
                    archive.addfile(_member(inside, target.length), file)
            files.fsync(temporary)
            files.rename(temporary, output)
            files.fsync_dir(output.absolute().parent)

    def place(self, target: TargetFile) -> Path:
        """Return where the bytes of a target are."""
        return self.targets / target.get_prefixed_paths()[0]

    def files_of(self, name: str, version: str) -> list[Path]:
        """Return the files of a version, published or not, under whatever digest."""
        shape = re.compile(rf"[0-9a-f]{{64}}\.{re.escape(version)}\.zip")
        return [path for path in (self.targets / name).glob("*.zip") if shape.fullmatch(path.name)]

    def _newest(self) -> int:
        names = (path.name.partition(".")[0] for path in self.metadata.glob("*.root.json"))
        return max((int(name) for name in names if name.isdigit()), default=1)

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.metadata / name).read_bytes()
        except OSError as error:
            raise OperatorError("repo_damaged", f"cannot read {name}: {error}.") from error

    def _read(self, name: str, kind: type[_S]) -> _S:
        try:
            signed = Metadata[Any].from_bytes(self._bytes(name)).signed
        except DeserializationError as error:
            raise OperatorError("repo_damaged", f"{name} is damaged: {error}.") from error
        if not isinstance(signed, kind):
            raise OperatorError("repo_damaged", f"{name} is something else.")
        return signed


def _package(path: str, target: TargetFile) -> PublishedPackage | None:
    """Return what is said of a package; None for a file that is none."""
    said = read_target(path, target.length, target.hashes, target.custom, "", hash_prefix=False)
    release = said.release
    if release is None:
        return None
    return PublishedPackage(
        release.name, release.version, target.length, said.wanted.sha256, release.downgrade_ok
    )


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member

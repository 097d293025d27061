"""Files that a person hands over to be installed: copied into `staging/` before the answer.

After that the stick may be pulled, and a restart or a power cut loses nothing: where the file of a
deployment is follows from model and id alone.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path

from edged.errors import StoreError
from edged.models.files import Files, storing

HANDED = re.compile(r"\.incoming-[0-9a-f]{16}|[a-z0-9][a-z0-9_-]{0,63}\.local-[0-9]+\.(tar|zip)")
"""Names that this module gives."""

_PIECE_BYTES = 1024 * 1024


class Handover:
    """What was handed over and is not installed yet.

    Args:
        staging: the directory; made when missing.
        files: the file system.

    Attributes:
        incoming: names of what is being copied at this moment. Any thread.
    """

    def __init__(self, staging: Path, files: Files) -> None:
        self._staging = staging
        self._files = files
        self.incoming: set[str] = set()

    def take(self, source: Path) -> Path:
        """Copy a file; on return its content is safe.

        Raises:
            StoreError: the disk's own; nothing is left behind.
        """
        files = self._files
        copy = self._staging / f".incoming-{secrets.token_hex(8)}"
        self.incoming.add(copy.name)
        try:
            with storing(f"cannot copy {source}"), source.open("rb") as file:
                files.make_dirs(self._staging)
                files.write(copy, b"")
                at_bytes = 0
                while piece := file.read(_PIECE_BYTES):
                    files.write_at(copy, at_bytes, piece)
                    at_bytes += len(piece)
                files.fsync(copy)
        except StoreError:
            self.drop(copy)
            raise
        return copy

    def give(self, copy: Path, model: str, deployment_id: str, *, bare: bool) -> None:
        """Put what was taken in the place of a deployment; safe on return.

        Args:
            copy: from `take`.
            model: whose.
            deployment_id: `local-<n>`.
            bare: whether it is a package, and not what a stick carries.

        Raises:
            StoreError: the disk's own.
        """
        with storing(f"cannot keep {copy}"):
            self._files.rename(copy, self._staging / _name(model, deployment_id, bare=bare))
            self._files.fsync_dir(self._staging)

    def drop(self, copy: Path) -> None:
        """Forget what was taken; what cannot be removed now is with the next tidying up."""
        self.incoming.discard(copy.name)
        with suppress(OSError):
            self._files.remove_tree(copy)

    def find(self, model: str, deployment_id: str) -> tuple[Path, bool]:
        """Return the file of a deployment, and whether it is a bare package.

        Raises:
            StoreError: `source_gone`.
        """
        for bare in (True, False):
            path = self._staging / _name(model, deployment_id, bare=bare)
            if path.is_file():
                return path, bare
        raise StoreError(
            "source_gone", "the file is no longer in staging.", advice="Install it again."
        )

    def stage(self, path: Path, sha256: str) -> None:
        """Put a bare package where downloads go; safe on return.

        Raises:
            StoreError: the disk's own.
        """
        with storing(f"cannot keep {path}"):
            self._files.rename(path, self._staging / sha256)
            self._files.fsync_dir(self._staging)

    def is_staged(self, sha256: str) -> bool:
        """Say whether a package is there, whole.

        Raises:
            StoreError: the disk's own.
        """
        path = self._staging / sha256
        with storing(f"cannot read {path}"):
            return path.is_file() and self._files.sha256(path) == sha256


def names_of(model: str, deployment_id: str) -> set[str]:
    """Return the names that the file of a deployment may have."""
    return {_name(model, deployment_id, bare=bare) for bare in (True, False)}


def _name(model: str, deployment_id: str, *, bare: bool) -> str:
    return f"{model}.{deployment_id}.{'zip' if bare else 'tar'}"

"""What is signed about a package: where it is, what its bytes are, what it says that it is. Pure.

Signed means that nobody else has written it, not that it makes sense: shapes are checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from edged.errors import VerifyError

MAX_TARGET_BYTES = 512 * 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z.+-]{1,128}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes to be fetched.

    Attributes:
        url: where from.
        length_bytes: of the file.
        hashes: algorithm to hexadecimal digest, with `sha256` among them.
    """

    url: str
    length_bytes: int
    hashes: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """Return the digest that names the file on the disk."""
        return self.hashes["sha256"]


@dataclass(frozen=True, slots=True)
class Release:
    """What the operator signed about a package, beside its bytes."""

    name: str
    version: str
    downgrade_ok: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A file of the repository; all that is needed to fetch it, also after a restart.

    Attributes:
        path: in the repository, `<name>/<version>.zip` for a package.
        wanted: where it is and what its bytes must be.
        release: of a package; None for a file that is none.
    """

    path: str
    wanted: Wanted
    release: Release | None


def target_path(name: str, version: str) -> str:
    """Return where a package lies in the repository.

    Raises:
        VerifyError: `target_invalid`: these cannot be a name and a version.
    """
    path = f"{name}/{version}.zip"
    if not _NAME.fullmatch(name):
        raise _invalid(path, "a name is of a-z, 0-9, - and _, at most 64")
    if not _VERSION.fullmatch(version):
        raise _invalid(path, "that is no version")
    return path


def read_target(
    path: str,
    length_bytes: int,
    hashes: Mapping[str, str],
    custom: object,
    targets_url: str,
    *,
    hash_prefix: bool,
) -> Target:
    """Return a target as the signed metadata describe it.

    Args:
        path: in the repository.
        length_bytes: of the file.
        hashes: algorithm to hexadecimal digest.
        custom: what the operator signed beside that, of any shape.
        targets_url: where the operator serves packages, without a slash at the end.
        hash_prefix: whether the file's name there begins with its digest.

    Raises:
        VerifyError: `target_invalid`, `target_too_large`.
    """
    sha256 = hashes.get("sha256", "")
    if not _SHA256.fullmatch(sha256):
        raise _invalid(path, "it has no SHA-256")
    if length_bytes > MAX_TARGET_BYTES:
        raise VerifyError(
            "target_too_large", f"{path[:200]} has {length_bytes} bytes, more than 512 MiB."
        )
    folder, slash, name = path.rpartition("/")
    served = f"{folder}{slash}{f'{sha256}.' if hash_prefix else ''}{name}"
    # Quoted: a bucket takes the + of a version such as 1.4.0+arm for a space.
    url = f"{targets_url}/{quote(served)}"
    return Target(path, Wanted(url, length_bytes, dict(hashes)), _release(path, custom))


def _release(path: str, custom: object) -> Release | None:
    if not isinstance(custom, dict) or not custom.keys() & {"name", "version"}:
        return None
    name, version = custom.get("name"), custom.get("version")
    downgrade_ok = custom.get("downgrade_ok", False)
    if not isinstance(name, str) or not isinstance(version, str):
        raise _invalid(path, "name and version are texts")
    if not isinstance(downgrade_ok, bool):
        raise _invalid(path, "downgrade_ok is neither true nor false")
    if path != target_path(name, version):
        raise _invalid(path, f"it says that it is {name} {version}")
    return Release(name, version, downgrade_ok)


def _invalid(path: str, why: str) -> VerifyError:
    return VerifyError("target_invalid", f"{path[:200]} is signed wrongly: {why}.")

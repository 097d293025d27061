"""python-tuf's client behind our fetching, judged by a given time, its refusals told apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edged.errors import ConfigError, EdgedError, FetchError, VerifyError
from edged.models.source import Patience, Source

_CONFIG = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=32,
    root_max_length=512_000,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=5_000_000,
)
_LAST_S = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


class Fetcher(FetcherInterface):
    """Hands python-tuf what a source gives, from memory: metadata are small and bounded.

    Attributes:
        patience: when to give up.
        role: what was asked for last, e.g. `timestamp`.
        data: what came.
    """

    def __init__(self, source: Source, patience: Patience) -> None:
        self._source = source
        self.patience = patience
        self.role = ""
        self.data = b""

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            with self._source.open(url, self.patience) as body:
                yield from body.pieces
        except FetchError as error:
            if error.reason in ("not_found", "access_denied"):
                # Where a root is asked for this means: no newer one.
                raise DownloadHTTPError(str(error), 404) from error
            raise DownloadError(str(error)) from error

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Return a file that may have so many bytes."""
        name = unquote(url.rpartition("/")[2]).removesuffix(".json")
        version, dot, role = name.partition(".")
        self.role = role if dot and version.isdigit() else name
        self.data = b""
        data = bytearray()
        for piece in self.fetch(url):
            data += piece
            if len(data) > max_length:
                raise DownloadLengthMismatchError(f"{name}.json has more than {max_length} bytes")
        self.data = bytes(data)
        return self.data


class Client(Updater):
    """One refresh and what follows from it.

    Args:
        root: the trusted root.json.
        directory: with verified metadata of earlier; the client writes there.
        url: of the repository's metadata.
        reference_s: Unix time to judge expiry by.
        fetcher: who fetches.

    Raises:
        ConfigError: `root_invalid`.
        OSError: the directory cannot be written.
    """

    def __init__(
        self, root: bytes, directory: Path, url: str, reference_s: float, fetcher: Fetcher
    ) -> None:
        self.fetcher = fetcher
        try:
            super().__init__(str(directory), url, fetcher=fetcher, config=_CONFIG, bootstrap=root)
        except RepositoryError as error:
            raise ConfigError(
                "root_invalid",
                f"the trusted root.json is no signed root metadata: {error}.",
                advice="Get it from the operator again: `edgectl repo root`.",
            ) from error
        reference = datetime.fromtimestamp(min(reference_s, _LAST_S), UTC)
        self._trusted_set.reference_time = reference

    def root(self) -> Root:
        """Return the newest root that the given one leads to."""
        return self._trusted_set.root

    def loaded(self) -> dict[str, Signed]:
        """Return what is verified so far, by role."""
        roles = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
        return {role: self._trusted_set[role] for role in roles if role in self._trusted_set}

    def keys(self) -> dict[str, tuple[str, ...]]:
        """Return what signs each role: the threshold and the ids of its keys."""
        return {
            role: (str(self.root().roles[role].threshold), *sorted(self.root().roles[role].keyids))
            for role in (Timestamp.type, Snapshot.type)
        }

    def has_new_timestamp(self) -> bool:
        """Say whether the refresh came past the timestamp that the repository has now."""
        beyond = self.fetcher.role not in (Root.type, Timestamp.type)
        return beyond or Targets.type in self._trusted_set

    def targets(self) -> dict[str, TargetFile]:
        """Return all targets of the top role, by path."""
        return self._trusted_set.targets.targets

    def explain(  # noqa: PLR0911 - a table
        self, error: RepositoryError | DownloadError
    ) -> EdgedError:
        """Return what a refusal means."""
        role, said = self.fetcher.role, f"{self.fetcher.role}.json: {error}."
        if isinstance(error, DownloadLengthMismatchError):
            return VerifyError("metadata_too_large", f"{error}.")
        if isinstance(error, DownloadError):
            cause = error.__cause__
            return cause if isinstance(cause, FetchError) else FetchError("fetch_failed", said)
        if isinstance(error, ExpiredMetadataError):
            return VerifyError(
                "metadata_expired",
                f"the repository's metadata have expired: {error}.",
                advice="The operator refreshes them with `edgectl repo refresh`.",
            )
        if isinstance(error, UnsignedMetadataError):
            if self._signatures(role):
                return VerifyError("signature_threshold", f"not signed by enough keys: {said}")
            return VerifyError("signature_invalid", f"not signed by a trusted key: {said}")
        if isinstance(error, LengthOrHashMismatchError):
            return VerifyError("metadata_mixed", f"pieces of different states: {said}")
        if isinstance(error, BadVersionNumberError) and self._is_another_version(role):
            return VerifyError("metadata_mixed", f"pieces of different states: {said}")
        if isinstance(error, BadVersionNumberError) or self._lacks_a_role(role):
            return VerifyError("metadata_rollback", f"older than what was seen before: {said}")
        return VerifyError("metadata_malformed", f"not metadata of that kind: {said}")

    def _parsed(self) -> Metadata[Any] | None:
        try:
            return Metadata[Any].from_bytes(self.fetcher.data)
        except DeserializationError:
            return None

    def _signatures(self, role: str) -> int:
        """How many trusted keys have signed what came last; a root counts for its successor."""
        found = self._parsed()
        if found is None or role not in self.root().roles:
            return 0
        result = self.root().get_verification_result(role, found.signed_bytes, found.signatures)
        if result and isinstance(found.signed, Root):
            result = found.signed.get_verification_result(
                role, found.signed_bytes, found.signatures
            )
        return len(result.signed)

    def _is_another_version(self, role: str) -> bool:
        """Whether what came last has not the version that was asked for."""
        found = self._parsed()
        if found is None:
            return False
        if role == Root.type:
            return bool(found.signed.version != self.root().version + 1)
        if role == Snapshot.type:
            wanted = self._trusted_set.timestamp.snapshot_meta
            return bool(found.signed.version != wanted.version)
        return role != Timestamp.type

    def _lacks_a_role(self, role: str) -> bool:
        """Whether a snapshot leaves out what an earlier one had."""
        found = self._parsed()
        return role == Snapshot.type and found is not None and found.signed.type == role

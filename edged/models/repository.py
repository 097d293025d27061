"""The device's client of the operator's repository: The Update Framework, by python-tuf.

python-tuf decides what is genuine. This adds what it leaves to others: fetching from bad
networks, going on with cut downloads, metadata that survive a power cut, clocks that are wrong,
and a distinct reason for each refusal: `FetchError` and `StoreError` where this device or its
network is at fault and another attempt may succeed, `VerifyError` where the release is.

Importing this brings python-tuf, 90 ms and 20 MB: import it where updates are on.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.api.metadata import Root, Snapshot, TargetFile, Timestamp

from edged import RELEASED_S
from edged.errors import FetchError, VerifyError
from edged.models.download import Download, ignore_progress
from edged.models.files import Files, storing
from edged.models.source import Limits, Patience, Source, never
from edged.models.target import Target, read_target
from edged.models.trust import Kept, Trust, TrustStore
from edged.models.tufclient import Client, Fetcher

_WHAT = "cannot keep the repository's metadata"
# While nothing else changes, the time is remembered once a day: cards wear out.
_FLOOR_STEP_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class Clock:
    """What this device believes the time to be.

    Attributes:
        now_s: Unix time.
        synchronised: set from a trusted source since boot; None where nobody knows: then the
            time is believed, and not remembered.
    """

    now_s: float
    synchronised: bool | None


def trusting_clock() -> Clock:
    """Return the system's time, taken to be right."""
    return Clock(time.time(), synchronised=True)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A successful refresh.

    Attributes:
        versions: role to version of what is believed now.
        expires_s: Unix time when the first of it expires.
        forgotten: what the device remembered was damaged, so it began anew from the root it was
            given: what was published before the metadata seen now could not be told from new.
    """

    versions: dict[str, int]
    expires_s: float
    forgotten: bool


class Repository:
    """The repository, as seen by one device. One thread at a time.

    Args:
        root: the trusted root.json, as the device's owner put it there.
        metadata_dir: this class's own; its siblings `.new`, `.old` and `.work` as well.
        metadata_url: where the operator serves metadata.
        target_dir: where downloads go; made when missing.
        targets_url: where the operator serves packages.
        source: who fetches; over HTTP, with the environment's proxies, by default.
        limits: how long that may take.
        files: the file system.
        clock: asked at each refresh.
        floor_s: Unix time before which no clock can be right.
        hash_prefix: whether packages lie under names that begin with their digest.

    Raises:
        ConfigError: `root_invalid`, at the first use.
    """

    def __init__(
        self,
        root: bytes,
        metadata_dir: Path,
        metadata_url: str,
        target_dir: Path,
        targets_url: str,
        *,
        source: Source | None = None,
        limits: Limits | None = None,
        files: Files | None = None,
        clock: Callable[[], Clock] = trusting_clock,
        floor_s: float = RELEASED_S,
        hash_prefix: bool = True,
    ) -> None:
        self._root = root
        self._metadata_url = metadata_url.rstrip("/")
        self._target_dir = Path(target_dir)
        self._targets_url = targets_url.rstrip("/")
        self._source = source or _web()
        self._limits = limits or Limits()
        self._files = files or Files()
        self._clock = clock
        self._floor_s = floor_s
        self._hash_prefix = hash_prefix
        metadata_dir = Path(metadata_dir)
        self._store = TrustStore(metadata_dir, self._files)
        # python-tuf works here; nothing of it is believed after a crash.
        self._work = metadata_dir.with_name(f"{metadata_dir.name}.work")
        self._kept = Kept({}, Trust())
        self._client: Client | None = None

    def refresh(self, *, local: bool = False, cancelled: Callable[[], bool] = never) -> Refreshed:
        """Fetch and verify what is new, and remember it.

        What was verified before something failed is remembered too: a new root counts at once,
        and a version once seen is not forgotten.

        Args:
            local: judge by the later of clock and floor, without waiting for synchronisation.
            cancelled: asked from another thread, often.

        Raises:
            FetchError: not now: the network, or `clock_unsynced`.
            StoreError: this device's disk.
            VerifyError: what the repository serves is not to be believed.
            ConfigError: `root_invalid`.
        """
        self._client = None
        with storing(_WHAT):
            self._kept = self._store.load()
        clock = self._clock()
        floor_s = max(self._floor_s, self._kept.trust.time_floor_s)
        waits = clock.synchronised is False and not local
        if waits and clock.now_s < floor_s:
            raise _unsynced(f"it cannot be {_date(clock.now_s)}")
        reference_s = max(clock.now_s, floor_s)
        patience = Patience.of(self._limits, self._limits.metadata_s, cancelled)
        try:
            client = self._run(reference_s, patience)
        except VerifyError as error:
            if waits and error.reason == "metadata_expired":
                raise _unsynced(str(error)) from error
            raise
        forgotten = self._kept.trust.forgotten
        self._remember(client, reference_s if clock.synchronised else 0, told=True)
        self._client = client
        loaded = client.loaded()
        return Refreshed(
            versions={role: signed.version for role, signed in loaded.items()},
            expires_s=min(signed.expires.timestamp() for signed in loaded.values()),
            forgotten=forgotten,
        )

    def find(self, path: str) -> Target | None:
        """Return what is signed under a path, or None. Refreshes first where nothing has yet.

        Raises:
            VerifyError: `target_invalid`, and as `refresh`.
            FetchError, StoreError, ConfigError: as `refresh`.
        """
        client = self._fresh()
        client.fetcher.patience = Patience.of(self._limits, self._limits.metadata_s)
        try:
            with storing(_WHAT):
                found = client.get_targetinfo(path)
        except (RepositoryError, DownloadError) as error:
            raise client.explain(error) from error
        self._remember(client)
        return None if found is None else self._target(found, client)

    def latest(self, name: str, order: Callable[[str], Any]) -> Target | None:
        """Return the newest package of a model, or None.

        Args:
            name: of the model.
            order: makes something that can be compared of a version; a version of which it
                cannot, ValueError, is passed over.

        Raises:
            VerifyError, FetchError, StoreError, ConfigError: as `refresh`, where nothing has yet.
        """
        client = self._fresh()
        found = []
        for info in client.targets().values():
            try:
                target = self._target(info, client)
                if target.release and target.release.name == name:
                    found.append((order(target.release.version), target))
            except (VerifyError, ValueError):
                continue  # one package's mistake; whoever asks for that one is told
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def download(
        self,
        target: Target,
        progress: Callable[[int, int], None] = ignore_progress,
        cancelled: Callable[[], bool] = never,
        *,
        deadline_s: float = 24 * 3600.0,
    ) -> Path:
        """Fetch a target, going on where an earlier attempt stopped.

        Args:
            target: from `find`, of this run or an earlier one.
            progress: called with the bytes there and the bytes in all, for each piece.
            cancelled: asked from another thread, often.
            deadline_s: for this attempt as a whole.

        Returns:
            `<target_dir>/<sha256>`, verified and safe on the disk.

        Raises:
            FetchError: not now; what is there stays for the next attempt.
            StoreError, VerifyError: see `Download.run`; nothing is left behind.
        """
        with storing("cannot keep the download"):
            self._files.make_dirs(self._target_dir)
        patience = Patience.of(self._limits, deadline_s, cancelled)
        download = Download(target.wanted, self._target_dir, self._source, self._files, progress)
        return download.run(patience)

    def discard(self, target: Target) -> None:
        """Remove what is there of an unfinished download.

        Raises:
            StoreError: it cannot be removed.
        """
        Download(target.wanted, self._target_dir, self._source, self._files).discard()

    def _fresh(self) -> Client:
        if self._client is None:
            self.refresh()
        assert self._client is not None  # noqa: S101 - else refresh has raised
        return self._client

    def _run(self, reference_s: float, patience: Patience) -> Client:
        with storing(_WHAT):
            shutil.rmtree(self._work, ignore_errors=True)
            for name, content in self._kept.metadata.items():
                path = self._work / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._work.mkdir(exist_ok=True)
            client = self._begin(reference_s, patience)
            try:
                client.refresh()
            except (RepositoryError, DownloadError) as error:
                failure = client.explain(error)
                if failure.reason != "metadata_rollback" or not self._has_new_keys(client):
                    self._remember(client)
                    raise failure from error
            else:
                return client
            # The way back from a fast-forward: with new keys, versions begin anew (TUF 5.3.11).
            for role in (Timestamp.type, Snapshot.type):
                (self._work / f"{role}.json").unlink(missing_ok=True)
            client = self._begin(reference_s, patience)
            try:
                client.refresh()
            except (RepositoryError, DownloadError) as error:
                failure = client.explain(error)
                self._remember(client)
                raise failure from error
            return client

    def _begin(self, reference_s: float, patience: Patience) -> Client:
        fetcher = Fetcher(self._source, patience)
        return Client(self._root, self._work, self._metadata_url, reference_s, fetcher)

    def _has_new_keys(self, client: Client) -> bool:
        return bool(self._kept.trust.keys) and client.keys() != self._kept.trust.keys

    def _remember(self, client: Client, now_s: float = 0, *, told: bool = False) -> None:
        """Keep what is verified, unless it is older than what was seen.

        Args:
            client: that has verified it.
            now_s: Unix time by a clock to be trusted, or 0.
            told: the caller will say what was forgotten, if anything was.

        Raises:
            VerifyError: `metadata_rollback`.
            StoreError: it cannot be kept.
        """
        trust = self._kept.trust
        anchor = hashlib.sha256(self._root).hexdigest()
        loaded, keys, seen = client.loaded(), client.keys(), dict(trust.versions)
        if self._has_new_keys(client):
            if client.has_new_timestamp():
                seen = {}
            else:
                # The timestamp at hand may be what a thief has counted up: the next refresh must
                # find its way as this one would have, so it must see that the keys are new.
                loaded, keys = {Root.type: client.root()}, dict(trust.keys)
        if anchor == trust.anchor:
            seen["root"] = trust.versions.get("root", 0)
        else:
            seen.pop("root", None)  # the owner has put another root there
        for role, signed in loaded.items():
            if signed.version < seen.get(role, 0):
                raise VerifyError(
                    "metadata_rollback",
                    f"{role}.json has version {signed.version}, {seen[role]} was seen before.",
                )
            seen[role] = signed.version
        floor_s = max(trust.time_floor_s, int(now_s))
        forgotten = trust.forgotten and not told
        remembered = Trust(floor_s, seen, keys, anchor, forgotten)
        with storing(_WHAT):
            metadata = {
                str(path.relative_to(self._work)): path.read_bytes()
                for path in sorted(self._work.rglob("*.json"))
            }
            if (
                metadata == self._kept.metadata
                and remembered.same_but_for_time(trust)
                and floor_s - trust.time_floor_s < _FLOOR_STEP_S
            ):
                return
            self._store.save(metadata, remembered)
        self._kept = Kept(metadata, remembered)

    def _target(self, info: TargetFile, client: Client) -> Target:
        return read_target(
            info.path,
            info.length,
            info.hashes,
            info.custom,
            self._targets_url,
            hash_prefix=self._hash_prefix and bool(client.root().consistent_snapshot),
        )


def _unsynced(why: str) -> FetchError:
    return FetchError(
        "clock_unsynced",
        f"the clock was not set from the network yet, and {why.rstrip('.')}.",
        advice="Let it reach a time server, or install from a stick.",
    )


def _date(now_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(now_s, UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        return f"{now_s:.0f} s"


def _web() -> Source:
    from edged.models.httpsource import HttpSource  # noqa: PLC0415 - not for a stick

    return HttpSource()

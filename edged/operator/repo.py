"""The operator's repository: TUF metadata and packages as plain files for any web server.

`metadata/` and `targets/` are all there is. Every change writes files that nobody refers to yet,
and then replaces `timestamp.json`: before that devices see the old state, after it the new one,
and a change that dies half-way is simply done again.
"""

from __future__ import annotations

import copy
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    Key,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edged.errors import EdgedError, OperatorError
from edged.models.files import Files, storing
from edged.models.target import MAX_TARGET_BYTES, target_path
from edged.operator.keys import ROLES, Elsewhere, Keys
from edged.operator.published import PublicFiles, Published, State

DAYS = {"root": 365, "targets": 365, "snapshot": 30, "timestamp": 30}
# Older ones stay for those who are in the middle of a refresh.
_KEPT_VERSIONS = 10
_PIECE_BYTES = 1024 * 1024
_WHAT = "cannot write the repository"


def utc_now() -> datetime:
    """Return the time, in whole seconds as TUF has them."""
    return datetime.now(UTC).replace(microsecond=0)


class Repo:
    """A repository at the operator's desk. Changes wait for each other.

    Args:
        directory: with `metadata/` and `targets/`.
        keys: directory of the keys; `<directory>-keys` by default.
        files: the file system.
        now: asked for the time of each signature.
    """

    def __init__(
        self,
        directory: Path,
        keys: Path | None = None,
        *,
        files: Files | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        directory = directory.absolute()
        self.published = Published(directory)
        self._files = files or PublicFiles()
        self._now = now
        self.keys = Keys(keys or directory.with_name(f"{directory.name}-keys"), self._files)

    def init(
        self,
        thresholds: Mapping[str, int] | None = None,
        *,
        root_keys: int = 1,
        elsewhere: Sequence[tuple[str, Elsewhere]] = (),
        days: Mapping[str, int] | None = None,
    ) -> State:
        """Make a repository without packages, and its keys.

        Args:
            thresholds: role to the number of keys that must sign; 1 where not said.
            root_keys: how many keys root has, at least its threshold.
            elsewhere: roles and keys that are kept by something else, in the place of files.
            days: role to how long its metadata are good; `DAYS` where not said.

        Raises:
            OperatorError: `repo_exists`, `keys_exposed`, `key_invalid`, `key_unavailable`,
                `threshold_unmet`.
            StoreError: it cannot be written.
        """
        directory, keys = self.published.directory, self.keys.directory.absolute()
        if keys.resolve().is_relative_to(directory.resolve()):
            raise OperatorError(
                "keys_exposed",
                f"{keys} is within {directory}, which is served to everybody.",
                advice="Keep the keys elsewhere.",
            )
        if self.published.there or self.keys.known:
            cut = f"If an init was cut short: remove {directory} and {keys} and begin again."
            raise OperatorError(
                "repo_exists",
                f"there is a repository {directory}, or keys of one in {keys}, already.",
                advice="" if self.published.there else cut,
            )
        with storing(_WHAT):
            self._files.make_dirs(self.published.metadata)
            self._files.make_dirs(self.published.targets)
        with self.keys.undone_on_refusal():
            return self._init(thresholds or {}, root_keys, elsewhere, days or {})

    def _init(
        self,
        thresholds: Mapping[str, int],
        root_keys: int,
        elsewhere: Sequence[tuple[str, Elsewhere]],
        days: Mapping[str, int],
    ) -> State:
        self.keys.days = {**DAYS, **days}
        root = Root(consistent_snapshot=True)
        for role in ROLES:
            others = [self.keys.take(key) for name, key in elsewhere if name == role]
            threshold = thresholds.get(role, 1)
            count = max(threshold, root_keys if role == "root" else 1) - len(others)
            for key in (*others, *(self.keys.make(role) for _ in range(count))):
                root.add_key(key, role)
            root.roles[role].threshold = threshold
        self.keys.save()
        state = State(root, Targets(), Snapshot(), Timestamp())
        state.root.expires = self._expiry("root")
        # Versions of the others count up from 0 as for any change.
        for role in ROLES[1:]:
            getattr(state, role).version = 0
        self._publish(state, roots=[("1.root.json", self._sign(root, [root]))])
        return state

    def publish(
        self,
        package: Path,
        name: str,
        version: str,
        custom: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] = lambda _count, _total: None,
    ) -> bool:
        """Sign a package in.

        Args:
            package: the file.
            name: of the model.
            version: of the package.
            custom: signed beside name and version, e.g. `downgrade_ok`.
            progress: called with the bytes copied and the bytes in all.

        Returns:
            Whether anything changed: not where it is there already.

        Raises:
            OperatorError: `version_published`, `package_unreadable`, `package_too_large`,
                `repo_missing`, `repo_damaged`, `key_unavailable`, `threshold_unmet`.
            VerifyError: `target_invalid`: name or version are none.
            StoreError: it cannot be written.
        """
        path = target_path(name, version)
        try:
            target = TargetFile.from_file(path, str(package))
        except OSError as error:
            raise OperatorError("package_unreadable", f"cannot read {package}: {error}.") from error
        if target.length > MAX_TARGET_BYTES:
            raise OperatorError("package_too_large", f"{package} is larger than 512 MiB.")
        said = {"name": name, "version": version, "downgrade_ok": False, **(custom or {})}
        target.unrecognized_fields["custom"] = said
        with self._changing() as state:
            present = state.targets.targets.get(path)
            if present == target:
                return False
            if present is not None and present.hashes != target.hashes:
                raise OperatorError(
                    "version_published",
                    f"{name} {version} is published with another content.",
                    advice="Devices refuse that: give the package a new version.",
                )
            self._copy(package, target, progress)
            state.targets.targets[path] = target
            self._publish(state)
        return True

    def withdraw(self, name: str, version: str) -> None:
        """Take a package out; devices that run it go on.

        Raises:
            OperatorError: `version_unknown`, and as `publish`.
            StoreError, VerifyError: as `publish`.
        """
        path = target_path(name, version)
        with self._changing() as state:
            files = self.published.files_of(name, version)
            if state.targets.targets.pop(path, None) is not None:
                self._publish(state)
            elif not files:  # else an earlier attempt has died before it removed them
                raise OperatorError("version_unknown", f"{name} {version} is not published.")
            with storing(_WHAT):
                for file in files:
                    self._files.remove(file)
                    self._files.fsync_dir(file.parent)

    def refresh(self, *, everything: bool = False) -> State:
        """Sign snapshot and timestamp again; `everything`: targets and root as well.

        Raises:
            OperatorError, StoreError: as `publish`.
        """
        with self._changing() as state:
            roots = []
            if everything:
                old = copy.deepcopy(state.root)
                state.root.version += 1
                state.root.expires = self._expiry("root")
                name = f"{state.root.version}.root.json"
                roots = [(name, self._sign(state.root, [old, state.root]))]
            self._publish(state, roots=roots, targets=everything)
            return state

    def rotate_key(
        self, role: str, keyid: str | None = None, elsewhere: Elsewhere | None = None
    ) -> tuple[str, str]:
        """Replace a key of a role.

        Args:
            role: whose.
            keyid: beginning of the old key's id; needed where the role has several.
            elsewhere: the new key, if something else keeps it.

        Returns:
            Id of the new key and where the old one is kept.

        Raises:
            OperatorError: `key_ambiguous`, `key_unknown`, and as `publish`.
            StoreError: it cannot be written.
        """
        with self._changing() as state, self.keys.undone_on_refusal():
            old = copy.deepcopy(state.root)
            leaving = _pick(state.root.roles[role].keyids, role, keyid)
            key = self.keys.make(role) if elsewhere is None else self.keys.take(elsewhere)
            state.root.revoke_key(leaving, role)
            state.root.add_key(key, role)
            state.root.version += 1
            state.root.expires = self._expiry("root")
            self.keys.save()
            name = f"{state.root.version}.root.json"
            roots = [(name, self._sign(state.root, [old, state.root]))]
            if role == "root":
                self._write(roots)  # the others are signed by the same keys as before
            else:
                self._publish(state, roots=roots, targets=role == "targets", old=old)
            place = "" if leaving in state.root.keys else self.keys.forget(leaving)
            self.keys.save()
            return key.keyid, place

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """One change at a time: the timer's refresh waits for somebody's publish."""
        self.published.state()
        if not self.keys.known:
            raise OperatorError(
                "keys_unreadable",
                f"there is no keys.json in {self.keys.directory}.",
                advice="Give --keys DIR.",
            )
        with storing(_WHAT), (self.keys.directory / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.keys.load()  # who held the lock may have replaced a key
            yield self.published.state()

    def _publish(
        self,
        state: State,
        *,
        roots: Sequence[tuple[str, bytes]] = (),
        targets: bool = True,
        old: Root | None = None,
    ) -> None:
        """Sign what follows from a change and write it, what devices look at first last.

        With an old root besides, everything is signed by the old keys too where they are at hand:
        then it is good for devices before and after the new root, and that may come last.
        """
        trusted = [state.root] if old is None else [old, state.root]
        writes = []
        if targets or not state.targets.version:
            self._next(state.targets)
            data = self._sign(state.targets, trusted)
            writes.append((f"{state.targets.version}.targets.json", data))
        self._next(state.snapshot)
        state.snapshot.meta["targets.json"] = MetaFile(version=state.targets.version)
        data = self._sign(state.snapshot, trusted)
        writes.append((f"{state.snapshot.version}.snapshot.json", data))
        self._next(state.timestamp)
        state.timestamp.snapshot_meta = MetaFile.from_data(state.snapshot.version, data, ["sha256"])
        data = self._sign(state.timestamp, trusted)
        if old is not None and self._good_for(old, data):
            writes += [("timestamp.json", data), *roots]
        else:
            writes += [*roots, ("timestamp.json", data)]
        self._write(writes)
        with storing(_WHAT):
            self._prune(state)

    def _write(self, writes: Sequence[tuple[str, bytes]]) -> None:
        with storing(_WHAT):
            for name, content in writes:
                self._files.write_atomic(self.published.metadata / name, content)

    def _next(self, signed: Signed) -> None:
        signed.version += 1
        signed.expires = self._expiry(signed.type)

    def _expiry(self, role: str) -> datetime:
        return self._now() + timedelta(days=self.keys.days.get(role, DAYS[role]))

    def _sign(self, signed: Signed, roots: Sequence[Root]) -> bytes:
        """Sign with the keys that these roots name; the last one's must suffice, a root's all."""
        role = signed.type
        metadata = Metadata[Any](signed)
        problems = []
        keys: dict[str, Key] = {}
        for root in roots:
            keys |= {keyid: root.keys[keyid] for keyid in root.roles[role].keyids}
        for key in keys.values():
            try:
                metadata.sign(self.keys.signer(key), append=True)
            except OperatorError as error:
                problems.append(str(error))
        for root in roots if role == "root" else roots[-1:]:
            result = root.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
            if not result:
                raise OperatorError(
                    "threshold_unmet",
                    f"{role} needs {result.threshold} signatures, {len(result.signed)} can be made:"
                    f" {' '.join(problems)}",
                    advice="Is the stick with the offline keys there? Give --keys DIR.",
                )
        return metadata.to_bytes()

    @staticmethod
    def _good_for(root: Root, data: bytes) -> bool:
        found = Metadata[Timestamp].from_bytes(data)
        return bool(root.get_verification_result("timestamp", found.signed_bytes, found.signatures))

    def _prune(self, state: State) -> None:
        for signed in (state.targets, state.snapshot):
            for path in self.published.metadata.glob(f"*.{signed.type}.json"):
                version = path.name.partition(".")[0]
                if version.isdigit() and int(version) <= signed.version - _KEPT_VERSIONS:
                    self._files.remove(path)

    def _copy(self, source: Path, target: TargetFile, progress: Callable[[int, int], None]) -> None:
        place = self.published.place(target)
        temporary = place.with_name(f".{place.name}.tmp")
        digest = hashlib.sha256()
        count = 0
        try:
            with storing(_WHAT), source.open("rb") as file:
                self._files.make_dirs(place.parent)
                self._files.write(temporary, b"")
                while piece := file.read(_PIECE_BYTES):
                    self._files.write_at(temporary, count, piece)
                    digest.update(piece)
                    count += len(piece)
                    progress(count, target.length)
            # Somebody may pack it anew just now: what is signed is what was looked at before.
            if digest.hexdigest() != target.hashes["sha256"]:
                raise OperatorError(
                    "package_unreadable", f"{source} changed while it was read. Publish it again."
                )
            with storing(_WHAT):
                self._files.fsync(temporary)
                self._files.rename(temporary, place)
                self._files.fsync_dir(place.parent)
        except EdgedError:
            with suppress(OSError):
                self._files.remove_tree(temporary)
            raise


def _pick(keyids: Sequence[str], role: str, beginning: str | None) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(beginning or "")]
    names = ", ".join(keyid[:8] for keyid in keyids)
    if not found:
        raise OperatorError("key_unknown", f"{role} has no key {beginning}: it has {names}.")
    if len(found) > 1:
        raise OperatorError("key_ambiguous", f"{role} has several keys: {names}. Give --key.")
    return found[0]

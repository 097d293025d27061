"""What a disk has to keep after a power cut, and whether it did."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edged.assembly import OUTBOX_FILE
from edged.drift.keeper import Keeper
from edged.drift.keeping import parse_reference
from edged.drift.ring import Ring, read_windows
from edged.errors import DriftError, StoreError
from edged.models.deployment import runs
from edged.models.files import Files
from edged.models.journal import Journal
from edged.models.records import State
from edged.models.recovery import BootFacts, recover
from edged.models.seal import SEAL, parse_seal
from edged.models.store import Store
from edged.models.trust import TrustStore
from edged.mqtt.spoolfile import SpoolFile
from edged.mqtt.updates import encode_result
from sim.files import WatchedFiles
from sim.journals import NOW_MS
from sim.story import relied_on

MODEL, CAMERA = "m", "front"
_FACTORY = "0.0.0-factory-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9].*")
# What a cut in the middle of an append looks like; what had been told to be safe is all there.
_FINE = "an end that was being written is cut off"


@dataclass
class Promised:
    """What somebody outside the device had been told by a moment, or could see.

    Attributes:
        versions: one of these is active; "factory" for the factory model, none for anything.
        ready: the service had said that it is up.
        heard: deployments whose order was acknowledged.
        results: deployment to the digest of its result.
        seq: the latest state that was told.
        windows: boot and number of those that were told.
        earlier: deployments whose result was told before this boot; the journal may forget them.
    """

    versions: set[str] = field(default_factory=lambda: {"factory"})
    ready: bool = False
    heard: set[str] = field(default_factory=set)
    results: dict[str, str] = field(default_factory=dict)
    seq: int = 0
    windows: set[tuple[str, int]] = field(default_factory=set)
    earlier: set[str] = field(default_factory=set)
    _begun: dict[str, tuple[set[str], str | None]] = field(default_factory=dict)

    @property
    def under_way(self) -> bool:
        """Whether a deployment had begun that had not ended."""
        return bool(self._begun.keys() - self.results)

    @classmethod
    def of(cls, marks: Iterable[Mapping[str, Any]]) -> Promised:
        """Return what these marks come to."""
        made = cls()
        for mark in marks:
            made.take(mark)
        return made

    def next_boot(self, versions: set[str]) -> Promised:
        """Return what holds when the machine begins again, on a disk with these versions."""
        earlier = self.earlier | self.results.keys()
        return Promised(versions, seq=self.seq, windows=set(self.windows), earlier=earlier)

    def take(self, mark: Mapping[str, Any]) -> None:
        """Take one more mark."""
        match mark["what"]:
            case "ready":
                self.ready = True
            case "begun":
                self._begun[mark["id"]] = (self.versions, mark["version"])
                if mark["version"] is not None:
                    self.versions = self.versions | {mark["version"]}
            case "heard":
                self.heard.add(mark["id"])
            case "result":
                self._ended(mark)
            case "state":
                self.seq = max(self.seq, mark["seq"])
            case "window":
                self.windows.add((mark["boot"], mark["seq"]))

    def _ended(self, mark: Mapping[str, Any]) -> None:
        if mark["id"] in self.results:
            return  # told again
        self.results[mark["id"]] = mark["digest"]
        if mark["id"] not in self._begun:
            return  # of an earlier boot: nobody remembers what it was to become
        before, after = self._begun[mark["id"]]
        left = after is not None and mark["status"] in {"SUCCEEDED", "ROLLED_BACK"}
        if mark["status"] == "ROLLED_BACK" and after == mark["version"]:
            left = False  # the trial ended so, not a command
        self.versions = {after} if left and after is not None else before


def harm(state_dir: Path, promised: Promised) -> list[str]:
    """Return what is wrong with a disk, which is opened with edged's own code and changed by it."""
    files = WatchedFiles()  # which does not wait for the disk
    with _said() as said:
        try:
            wrong = list(_journal_and_models(state_dir, files, promised))
            wrong += _outbox_and_ring(state_dir, files, promised)
            wrong += _trust(state_dir, files)
        except (StoreError, OSError, DriftError) as error:
            wrong = [f"{type(error).__name__}: {error}"]
    wrong += [f"said: {line}" for line in said if _FINE not in line]
    wrong += [f"set aside: {path.name}" for path in state_dir.rglob("*.damaged")]
    return wrong


def versions_on(state_dir: Path) -> set[str]:
    """Return what is active on a disk, or may be next."""
    journal = Store(state_dir, WatchedFiles()).journal(MODEL).load().journal
    if journal is None or journal.active is None:
        return {"factory"}  # it never came so far
    found = {_short(journal.active.version)}
    if journal.current is not None:
        found.add(journal.current.version)
    return found | {held.version for held in journal.desired if held.version is not None}


@contextmanager
def _said() -> Iterator[list[str]]:
    """Collect what edged says of warnings and errors meanwhile."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("edged")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _journal_and_models(state_dir: Path, files: Files, promised: Promised) -> Iterator[str]:
    store = Store(state_dir, files, spare_bytes=0)
    loaded = store.journal(MODEL).load()
    if loaded.trouble is not None:
        yield f"{loaded.trouble.reason}: {loaded.trouble.detail}"
    journal = loaded.journal
    if journal is None:
        if promised.ready or promised.seq:
            yield "the journal is gone"
        return
    yield from _told(journal, promised)
    yield from _whole(store, state_dir, journal)
    recovered = recover(journal, BootFacts("another boot", False, None), NOW_MS)
    serves = runs(recovered)
    if serves is None:
        yield "no model would run"
        return
    store.check(MODEL, serves.version, serves.sha256)
    store.collect(MODEL)
    yield from _whole(store, state_dir, journal)


def _told(journal: Journal, promised: Promised) -> Iterator[str]:
    """Hold the journal against what the world was told of it."""
    active = "none" if journal.active is None else _short(journal.active.version)
    if active not in promised.versions:
        yield f"{active} is active, of {sorted(promised.versions)}"
    if journal.seq < promised.seq:
        yield f"state {journal.seq}, and {promised.seq} was told"
    for name, digest in promised.results.items():
        result = journal.result(name)
        if result is None:
            yield f"the result of {name} was told, and is forgotten"
        elif hashlib.sha256(encode_result(MODEL, result)).hexdigest() != digest:
            yield f"the result of {name} would be another one"
    known = {result.deployment_id for result in journal.history}
    known |= {held.deployment_id for held in journal.desired}
    known |= {journal.current.deployment_id} if journal.current is not None else set()
    for name in promised.heard - known:
        yield f"the order of {name} was acknowledged, and is forgotten"


def _whole(store: Store, state_dir: Path, journal: Journal) -> Iterator[str]:
    """Look for half models: all that has the name of a version, and all that is relied on."""
    for version, sha256 in sorted(relied_on(journal)):
        yield from _checked(store, version, sha256)
    for place in sorted((state_dir / "models" / MODEL).iterdir()):
        if _VERSION.fullmatch(place.name):
            seal = parse_seal((place / SEAL).read_bytes()) if (place / SEAL).exists() else None
            if seal is None:
                yield f"{place.name} has no seal"
            else:
                yield from _checked(store, place.name, seal.sha256)
    for path in sorted(store.staging.glob("*")):
        if _DIGEST.fullmatch(path.name):
            found = hashlib.sha256(path.read_bytes()).hexdigest()
            if found != path.name:
                yield f"the download {path.name[:8]} is half"


def _checked(store: Store, version: str, sha256: str) -> Iterator[str]:
    try:
        store.check(MODEL, version, sha256)
    except StoreError as error:
        yield f"{error.reason}: {error}"


def _outbox_and_ring(state_dir: Path, files: Files, promised: Promised) -> Iterator[str]:
    rows, trouble = SpoolFile(state_dir / OUTBOX_FILE).read()
    if trouble is not None:
        yield f"{trouble.reason}: {trouble}"
    journal = Store(state_dir, files).journal(MODEL).load().journal
    waiting = {row.key for row in rows}
    for result in journal.history if journal is not None else ():
        name = result.deployment_id
        told = name in promised.results.keys() | promised.earlier
        if result.reported and not told and f"{MODEL}/{name}" not in waiting:
            yield f"the result of {name} is lost: it was not told, and does not wait"
    Ring(state_dir, files).open()
    kept = {(window.boot, window.seq) for window in read_windows(state_dir, files)}
    for boot, number in sorted(promised.windows - kept):
        yield f"window {number} of {boot} was told, and is not kept"
    Keeper(state_dir, files, (CAMERA,))
    for path in sorted((state_dir / "drift").glob("*.reference")):
        if not parse_reference(path.read_bytes())[1]:
            yield f"{path.name} is not whole"


def _trust(state_dir: Path, files: Files) -> Iterator[str]:
    kept = TrustStore(state_dir / "tuf" / "metadata", files).load()
    if kept.trust.forgotten:
        yield "what was believed of the repository is forgotten"
    journal = Store(state_dir, files).journal(MODEL).load().journal
    current = journal.current if journal is not None else None
    beyond = current is not None and current.state in {
        State.DOWNLOADING,
        State.VERIFYING,
        State.VALIDATING,
        State.TRIAL,
    }
    if beyond and not (
        kept.trust.versions and {"snapshot.json", "targets.json"} <= set(kept.metadata)
    ):
        yield "the metadata that led to a download are forgotten"


def _short(version: str) -> str:
    return "factory" if version.startswith(_FACTORY) else version

"""A life of a device on its store: the smallest updater there can be, with good news only.

`python -m sim.story DIR` lives it in a process of its own, to be killed; it prints a line for
each promise. `python -m sim.story --each DIR` lives it in DIR/0, DIR/1 ... in children of its own,
of which the n-th is killed before its n-th change of the disk, until one lives on.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edged.errors import StoreError
from edged.models.deployment import advance, begin, return_to, runs, todo
from edged.models.files import Files
from edged.models.findings import found, restored
from edged.models.journal import Journal, parse_journal
from edged.models.journalfile import COPY, STATE
from edged.models.records import Deployment, Origin, Release, State
from edged.models.recovery import BootFacts, recover
from edged.models.seal import SEAL, bare_digest, parse_seal
from edged.models.store import Store
from edged.models.transitions import Action, Event, Kind
from edged.models.version import Version
from sim.files import WatchedFiles
from sim.journals import BOOT, MOMENT, NOW_MS

MODEL = "birds"
FACTORY_FILES = {"model.tflite": b"the factory model" * 9, "labels.txt": b"bird\n"}
FACTORY = Release(
    Version.factory(bare_digest(FACTORY_FILES)).text, bare_digest(FACTORY_FILES), NOW_MS
)


def package(version: str) -> dict[str, bytes]:
    """The files of a version."""
    return {"manifest.json": version.encode(), "model.tflite": f"model {version}".encode() * 20}


def digest(version: str) -> str:
    """The digest of the package."""
    return hashlib.sha256(f"zip of {version}".encode()).hexdigest()


@dataclass(frozen=True)
class Promise:
    """What somebody was told to be safe on the disk.

    Attributes:
        journal: the last one saved or loaded.
        installed: version and digest of what was installed since.
    """

    journal: Journal | None
    installed: tuple[str, str] | None = None


class Updates:
    """The driver.

    Args:
        state_dir: there.
        files: the file system.
        told: called with each promise.

    Attributes:
        trying: what was to be saved last; where that failed it may be there, or not.
    """

    def __init__(
        self, state_dir: Path, files: Files, told: Callable[[Promise], None] | None = None
    ) -> None:
        self.files = files
        self.store = Store(state_dir, files, spare_bytes=0)
        self.file = self.store.journal(MODEL)
        self._told = told or (lambda promise: None)
        self.trying = Promise(None)

    def start(self) -> Updates:
        """What happens when the process starts, whatever was before."""
        loaded = self.file.load()
        if loaded.read_only:
            assert loaded.trouble is not None
            raise StoreError(loaded.trouble.reason, loaded.trouble.detail)
        self._told(Promise(loaded.journal))
        if loaded.journal is None:
            self.store.import_factory(MODEL, FACTORY_FILES)
            self._save(Journal(MODEL, active=FACTORY, factory=FACTORY))
        else:
            self.journal = loaded.journal
            after = recover(self.journal, BootFacts(BOOT, False, None), NOW_MS)
            if after != self.journal:
                self._save(after)
        self.store.collect(MODEL)
        self._go_on()
        return self

    def deploy(self, deployment_id: str, version: str) -> None:
        self._save(begin(self.journal, deployment_id, Origin.DESIRED, version, MOMENT, order_ms=1))
        self._go_on()

    def roll_back(self, deployment_id: str) -> None:
        active = self.journal.active
        assert active is not None
        self._save(
            begin(
                self.journal, deployment_id, Origin.COMMAND, active.version, MOMENT,
                sha256=active.sha256, reason="commanded",
            )
        )  # fmt: skip
        self._go_on()

    def _save(self, journal: Journal) -> None:
        self.trying = Promise(journal)
        self.file.save(journal)
        self.journal = journal
        self._told(Promise(journal))

    def _go_on(self) -> None:
        while (current := self.journal.current) is not None:
            event = self._do(todo(self.journal), current)
            self._save(advance(self.journal, current.deployment_id, event, NOW_MS))
        for result in self.journal.unreported():
            self._save(self.journal.reported(result.deployment_id))
        self.store.collect(MODEL)

    def _do(self, action: Action, current: Deployment) -> Event:
        match action:
            case Action.SYNC:
                return found(self.journal, digest(current.version), downgrade_ok=True)
            case Action.DOWNLOAD:
                return Event(Kind.DOWNLOADED)
            case Action.VERIFY:
                self._install(current.version)
                return Event(Kind.VERIFIED)
            case Action.VALIDATE:
                self.store.check(MODEL, current.version, current.sha256)
                return Event(Kind.VALIDATED)
            case Action.TRY:
                self.store.check(MODEL, current.version, current.sha256)
                return Event(Kind.HEALTHY)
            case Action.RESTORE:
                target = return_to(self.journal)
                assert target is not None
                self.store.check(MODEL, target.version, target.sha256)
                return restored(self.journal)
            case Action.REST:
                raise AssertionError

    def _install(self, version: str) -> None:
        contents = package(version)

        def fill(directory: Path) -> None:
            for name, data in contents.items():
                self.files.write(directory / name, data)

        size_bytes = sum(map(len, contents.values()))
        self.store.install(MODEL, version, digest(version), size_bytes, fill)
        self._told(Promise(self.journal, (version, digest(version))))


def live(updates: Updates) -> None:
    """The whole life: factory, two versions, a roll-back, a third version; three collections."""
    updates.start()
    updates.deploy("d1", "1.0.0")
    updates.deploy("d2", "1.1.0")
    updates.roll_back("r1")
    updates.deploy("d3", "1.2.0")


def live_shortly(updates: Updates) -> None:
    """The shortest life that does each thing at least once, but the removal of a version."""
    updates.start()
    updates.deploy("d1", "1.0.0")


def harm(state_dir: Path, *allowed: Promise) -> str:
    """What is wrong with a disk that must keep one of these promises; "" for nothing.

    All that a journal relies on is there, by hash; and its last good copy is good.
    """
    files = WatchedFiles()  # which does not wait for the disk
    store = Store(state_dir, files)
    loaded = store.journal(MODEL).load()
    if loaded.trouble is not None:
        return f"{loaded.trouble.reason}: {loaded.trouble.detail}"
    kept = [promise for promise in allowed if promise.journal == loaded.journal]
    if not kept:
        return f"the journal is neither old nor new: {loaded.journal}"
    with suppress(FileNotFoundError):
        try:
            parse_journal(files.read(state_dir / "models" / MODEL / COPY))
        except StoreError as error:
            return f"the copy: {error}"
    used = relied_on(loaded.journal)
    if kept[0].installed is not None:
        used.add(kept[0].installed)
    for place in sorted((state_dir / "models" / MODEL).glob("[0-9]*")):
        seal = parse_seal((place / SEAL).read_bytes()) if (place / SEAL).exists() else None
        if seal is None:
            return f"{place.name} has no seal"
        used.add((place.name, seal.sha256))
    for version, sha256 in used:
        try:
            store.check(MODEL, version, sha256)
        except StoreError as error:
            return f"{error.reason}: {error}"
    return ""


def relied_on(journal: Journal | None) -> set[tuple[str, str]]:
    """Version and digest of what a journal takes for granted."""
    if journal is None:
        return set()
    roles = (journal.active, journal.previous, journal.factory, runs(journal))
    used = {(one.version, one.sha256) for one in roles if one is not None}
    current = journal.current
    if current is not None and current.state in (State.VALIDATING, State.TRIAL):
        used.add((current.version, current.sha256))
    return used


def mended(state_dir: Path, version: str = "2.0.0") -> str:
    """What is wrong after the next start and the next clean deployment; "" for nothing."""
    updates = Updates(state_dir, WatchedFiles()).start()
    if runs(updates.journal) is None:
        return "no model runs"
    updates.deploy("next", version)
    active = updates.journal.active
    if active is None or active.version != version:
        return f"{active} is active"
    home = state_dir / "models" / MODEL
    wanted = {STATE, COPY} | {name for name, _ in updates.journal.kept()}
    left = {path.name for path in home.iterdir()}
    if left != wanted:
        return f"on the disk: {sorted(left)}, wanted: {sorted(wanted)}"
    return harm(state_dir, Promise(updates.journal))


def kill_each(folder: Path) -> None:
    """Live in children, of which the n-th is killed before its n-th change."""
    for step in itertools.count():
        place = folder / str(step)
        place.mkdir()
        child = os.fork()
        if child == 0:
            live(Updates(place, WatchedFiles().die_at(step, kill=True)))
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            return


if __name__ == "__main__":
    if sys.argv[1] == "--each":
        kill_each(Path(sys.argv[2]))
    else:
        live(Updates(Path(sys.argv[1]), Files(), lambda promise: print("safe", flush=True)))

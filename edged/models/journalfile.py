"""Where a model's journal is kept: `state.json`, and as its last good copy the one before.

The copy was written at another time, so whatever a power cut does to a card while one is being
written, the other has been at rest. It is the former file itself, moved: nothing is written twice.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edged.errors import StoreError, Trouble
from edged.models.files import Files, storing, twice
from edged.models.journal import Journal, active_of, encode_journal, parse_journal
from edged.models.records import Release

STATE = "state.json"
COPY = "state.json.old"
DAMAGED = "state.json.damaged"
_NEW = f".{STATE}.tmp"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is known about a model at the start.

    Attributes:
        journal: None where nothing is: the factory model begins.
        active: what runs. Known without a journal too, where only a newer edged can read the rest.
        trouble: what is wrong: `journal_damaged`, also where the copy was taken; `journal_newer`;
            or the disk's own. None where all is well.
        read_only: nothing may be written: updates are off, what is active runs.
    """

    journal: Journal | None
    active: Release | None = None
    trouble: Trouble | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that is there: a journal, or why it is none."""

    journal: Journal | None
    error: StoreError | None
    active: Release | None


class JournalFile:
    """The journal of one model. One writer.

    Args:
        directory: of the model, `models/<model>` below the state directory.
        files: the file system.
    """

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files

    def load(self) -> Loaded:
        """Return what is there, safe on the disk before anybody acts on it.

        Raises:
            StoreError: the disk's own; with these nobody can tell what is there.
        """
        with storing(f"cannot read {self._directory / STATE}"):
            found = [one for one in (self._read(STATE), self._read(COPY)) if one is not None]
        loaded = _loaded(found)
        try:
            # Whoever made or moved these may have been killed before it made that safe.
            with storing(f"cannot write to {self._directory}"):
                for directory in (self._directory, *list(self._directory.parents)[:2]):
                    if directory.is_dir():
                        self._files.fsync_dir(directory)
        except StoreError as error:
            return replace(loaded, trouble=Trouble.of(error), read_only=True)
        return loaded

    def save(self, journal: Journal) -> None:
        """Replace the journal; the present one becomes the copy.

        A file that is damaged is set aside as `state.json.damaged` instead.

        Raises:
            StoreError: `journal_newer`, and nothing is changed; the disk's own, and old or new is
                there, so `load` before going on.
        """
        data = encode_journal(journal)
        directory, files = self._directory, self._files
        with storing(f"cannot write {directory / STATE}"):
            files.make_dirs(directory)
            present = self._read(STATE)
            for found in (present, self._read(COPY)):
                if found is not None and found.error is not None and _is_newer(found.error):
                    raise found.error
            try:
                files.write_synced(directory / _NEW, data)
            except OSError:
                with suppress(OSError):
                    files.remove_tree(directory / _NEW)
                raise
            if present is not None:
                files.rename(directory / STATE, directory / (COPY if present.journal else DAMAGED))
            files.rename(directory / _NEW, directory / STATE)
            files.fsync_dir(directory)

    def kept(self) -> frozenset[tuple[str, str]] | None:
        """Return version and digest of all that journal and copy name; None: nobody can tell.

        Raises:
            OSError: they cannot be read.
        """
        present, copy = self._read(STATE), self._read(COPY)
        if present is None or present.journal is None:
            return None
        if copy is None or copy.journal is None:
            newer = copy is not None and _is_newer(copy.error)
            return None if newer else present.journal.kept()
        return present.journal.kept() | copy.journal.kept()

    def _read(self, name: str) -> _Found | None:
        path = self._directory / name
        try:
            data = twice(lambda: self._files.read(path))
        except FileNotFoundError:
            return None
        except StoreError as error:
            return _Found(None, error, None)
        try:
            journal = parse_journal(data)
        except StoreError as error:
            return _Found(None, error.about(str(path)), active_of(data))
        if journal.model != self._directory.name:
            message = f"{path}: the journal is that of {journal.model}"
            return _Found(None, StoreError("journal_damaged", message), None)
        return _Found(journal, None, journal.active)


def _loaded(found: list[_Found]) -> Loaded:
    for one in found:
        if one.error is not None and _is_newer(one.error):
            active = found[0].active or one.active
            return Loaded(None, active, Trouble.of(one.error), read_only=True)
    good = next((one for one in found if one.journal is not None), None)
    # A damaged copy of a good journal is replaced by the next save, and needs nobody.
    bad = found[0].error if found else None
    if good is None:
        return Loaded(None, None, _told(bad, "the factory model begins anew"))
    return Loaded(good.journal, good.active, _told(bad, "its last good copy is taken"))


def _told(error: StoreError | None, instead: str) -> Trouble | None:
    if error is None:
        return None
    return Trouble(error.reason, f"{error.explain().rstrip('.')}; {instead}")


def _is_newer(error: StoreError | None) -> bool:
    return error is not None and error.reason == "journal_newer"

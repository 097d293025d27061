"""What is known about models while no daemon runs: its journals, read and marked in its place."""

from __future__ import annotations

import os
from pathlib import Path

from edged.errors import StoreError
from edged.lock import StateLock
from edged.models import overview
from edged.models.files import Files, storing
from edged.models.journal import Journal, encode_journal, parse_journal

MODELS = "models"
JOURNAL = "state.json"


class Journals:
    """The journals under a state directory.

    Reading takes no lock: a journal is replaced in one step, so that it is whole at any moment.

    Args:
        files: the file system.
        state_dir: where they are; need not exist.
    """

    def __init__(self, files: Files, state_dir: Path) -> None:
        self._files = files
        self._state_dir = state_dir

    def models(self) -> dict[str, object]:
        """Return the versions of every model.

        Raises:
            StoreError: a journal is damaged, newer or cannot be read.
        """
        return {"models": [overview.overview(journal) for journal in self._all()]}

    def deployments(self, model: str | None = None) -> dict[str, object]:
        """Return what is under way and how the others ended, of one model or all.

        Raises:
            StoreError: as `models`, and `model_without_journal`.
        """
        journals = self._all() if model is None else [self._read(model)]
        return {
            "deployments": [one for journal in journals for one in overview.deployments(journal)]
        }

    def mark(self, model: str, version: str, *, bad: bool | None) -> dict[str, object]:
        """Mark a version bad or good, or with None lift its mark; durable on return.

        Raises:
            StoreError: as `deployments`, and `version_unknown`, `state_dir_not_own`,
                `already_running`.
        """
        self._read(model)  # that there is something to mark, before anything is locked or made
        self._check_owner()
        lock = StateLock(self._state_dir)
        try:
            journal = overview.mark(self._read(model), version, bad=bad)
            with storing(f"cannot write the journal of {model}"):
                self._files.write_atomic(self._path(model), encode_journal(journal))
        finally:
            lock.release()
        return overview.overview(journal)

    def _all(self) -> list[Journal]:
        return [self._read(name) for name in self._names()]

    def _names(self) -> list[str]:
        directory = self._state_dir / MODELS
        with storing(f"cannot read {directory}"):
            try:
                names = self._files.names(directory)
            except FileNotFoundError:
                return []
            return [name for name in names if self._path(name).is_file()]

    def _read(self, model: str) -> Journal:
        if model not in self._names():
            raise StoreError(
                "model_without_journal",
                f"nothing is known of a model {model!r} on this device.",
                advice="`edged models list` names those that are.",
            )
        path = self._path(model)
        with storing(f"cannot read {path}"):
            data = self._files.read(path)
        try:
            return parse_journal(data)
        except StoreError as error:
            raise error.about(str(path)) from error

    def _path(self, model: str) -> Path:
        return self._state_dir / MODELS / model / JOURNAL

    def _check_owner(self) -> None:
        # What another user writes, root included, the daemon could not read or replace later.
        with storing(f"cannot use {self._state_dir}"):
            owner = self._state_dir.stat().st_uid
        if owner != os.geteuid():
            raise StoreError(
                "state_dir_not_own",
                f"the files in {self._state_dir} belong to another user.",
                advice="Start the service, or run this as that user: sudo -u edged edged ...",
            )

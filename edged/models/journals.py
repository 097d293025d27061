"""What is known about models while no daemon runs: its journals, read and marked in its place."""

from __future__ import annotations

import os
from pathlib import Path

from edged.errors import StoreError
from edged.lock import StateLock
from edged.models import overview
from edged.models.files import storing
from edged.models.journal import Journal
from edged.models.journalfile import COPY, STATE
from edged.models.store import Store


class Journals:
    """The journals under a state directory.

    Reading takes no lock: a journal is replaced in one step, so that it is whole at any moment.

    Args:
        state_dir: where they are; need not exist.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._store = Store(state_dir)

    def models(self) -> dict[str, object]:
        """Return the versions of every model.

        Raises:
            StoreError: a journal is damaged, newer or cannot be read.
        """
        journals = map(self._read, self._names())
        return {"models": [overview.overview(journal) for journal in journals]}

    def deployments(self, model: str | None = None) -> dict[str, object]:
        """Return how deployments ended and what is under way, of one model or all.

        Raises:
            StoreError: as `models`, and `model_without_journal`.
        """
        names = self._names() if model is None else [model]
        return {
            "deployments": [one for name in names for one in overview.deployments(self._read(name))]
        }

    def mark(self, model: str, version: str, bad: bool | None) -> dict[str, object]:
        """Mark a version bad or good, or with None lift its mark; durable on return.

        Raises:
            StoreError: as `deployments`, and `version_never_here`, `state_dir_not_own`,
                `already_running`.
        """
        self._read(model)  # that there is something to mark, before anything is locked or made
        self._check_owner()
        lock = StateLock(self._state_dir)
        try:
            journal = overview.mark(self._read(model), version, bad=bad)
            self._store.journal(model).save(journal)
        finally:
            lock.release()
        return {"model": overview.overview(journal)}

    def _read(self, model: str) -> Journal:
        if model not in self._names():
            raise StoreError(
                "model_without_journal",
                f"nothing is known of a model {model!r} on this device.",
                advice="`edged models list` names those that are.",
            )
        loaded = self._store.journal(model).load()
        if loaded.journal is None and loaded.trouble is not None:
            raise StoreError(loaded.trouble.reason, loaded.trouble.detail)
        return loaded.journal or Journal(model)  # None: it went away just now

    def _names(self) -> list[str]:
        directory = self._state_dir / "models"
        with storing(f"cannot read {directory}"):
            try:
                homes = sorted(directory.iterdir())
            except FileNotFoundError:
                return []
            return [
                home.name for home in homes if any((home / name).exists() for name in (STATE, COPY))
            ]

    def _check_owner(self) -> None:
        # What another user writes, root included, the daemon could not read or replace later.
        if self._state_dir.stat().st_uid != os.geteuid():
            raise StoreError(
                "state_dir_not_own",
                f"the files in {self._state_dir} belong to another user.",
                advice="Start the service, or run this as that user: sudo -u edged edged ...",
            )

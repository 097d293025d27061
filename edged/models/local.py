"""What a person at the device can ask of updates: the calls behind the control socket.

Every call may come from any thread; what changes a journal is done by the updater's. Answers are
values that JSON can carry.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edged.errors import MessageError, VerifyError
from edged.models.casework import Case
from edged.models.desired import Cancel, RollBack, Source
from edged.models.files import storing
from edged.models.handover import Handover
from edged.models.journal import Journal
from edged.models.overview import deployments, mark, overview
from edged.models.package import read_package
from edged.models.pursuit import cancel, forget_order, install, roll_back
from edged.models.records import Moment
from edged.models.stick import not_an_export, packages_in
from edged.models.store import Store
from edged.models.updater import Updater
from edged.models.version import Version

if TYPE_CHECKING:  # python-tuf behind it is 20 MB: loaded where a repository is first asked
    from edged.models.repository import Repository

Answer = dict[str, object]


class LocalUpdates:
    """The calls.

    Args:
        updater: who does it.
        store: whether there is room.
        handover: where files of local installations are put.
        moment: when something begins.
        sticks: makes a client of the repository on a stick; raises ConfigError, `updates_off`.
    """

    def __init__(
        self,
        updater: Updater,
        store: Store,
        handover: Handover,
        moment: Callable[[], Moment],
        sticks: Callable[[Path], Repository],
    ) -> None:
        self._updater = updater
        self._store = store
        self._handover = handover
        self._moment = moment
        self._sticks = sticks

    def models(self) -> Answer:
        """Return `models`: the overview of each."""
        return self._updater.ask(
            lambda: {"models": [overview(case.journal) for case in self._updater.cases.values()]}
        )

    def deployments(self, model: str | None = None) -> Answer:
        """Return `deployments`: of one model, or of all, oldest first.

        Raises:
            MessageError: `model_unknown`.
        """

        def call() -> Answer:
            cases = self._updater.cases.values() if model is None else [self._case(model)]
            return {"deployments": [one for case in cases for one in deployments(case.journal)]}

        return self._updater.ask(call)

    def install(self, model: str, path: str, bare: bool) -> Answer:
        """Begin to install from a file.

        Args:
            model: which.
            path: a tar from `edgectl repo export`, or with `bare` a package, which nobody signed;
                it is not needed after the call.
            bare: whether it is taken without a signature.

        Returns:
            The deployment as it has begun, or been refused.

        Raises:
            EdgedError: `model_unknown`, `updates_off`, or the file's fault.
        """
        self._case(model)
        file = Path(path)
        if bare:
            version = _bare(file, model)
        else:
            version = _exported(file, model)
            self._sticks(file)  # says whether one can be believed at all
        with storing(f"cannot read {file}"):
            self._store.require_space(file.stat().st_size)
        copy = self._handover.take(file)
        try:
            return self._updater.ask(lambda: self._install(model, version, copy, bare=bare))
        finally:
            self._handover.drop(copy)

    def roll_back(self, model: str) -> Answer:
        """Leave the active version for the one before.

        Raises:
            EdgedError: `model_unknown`, `nothing_to_return_to`.
        """

        def call() -> Answer:
            case = self._case(model)
            if case.journal.active is None:
                raise MessageError("nothing_to_return_to", f"no version of {model} is active.")
            journal, deployment_id = case.journal.numbered("local")
            command = RollBack(deployment_id, case.journal.active.version)
            case.write(roll_back(journal, command, self._moment()))
            return _deployment(case.journal, deployment_id)

        return self._updater.ask(call)

    def mark(self, model: str, version: str, bad: bool | None) -> Answer:
        """Mark a version bad or good, or with None lift its mark.

        Raises:
            EdgedError: `model_unknown`, `version_never_here`.
        """

        def call() -> Answer:
            case = self._case(model)
            case.write(mark(case.journal, version, bad=bad))
            return {"model": overview(case.journal)}

        return self._updater.ask(call)

    def cancel(self, model: str, deployment_id: str) -> Answer:
        """Give a deployment up.

        Raises:
            EdgedError: `model_unknown`, `deployment_unknown`.
        """

        def call() -> Answer:
            case = self._case(model)
            command = Cancel(deployment_id, deployment_id)
            case.write(cancel(case.journal, command, self._moment().now_ms))
            return _deployment(case.journal, deployment_id)

        return self._updater.ask(call)

    def forget_order(self, model: str, source: str) -> Answer:
        """Let a source's next Desired count, whatever order its last one had.

        Raises:
            EdgedError: `model_unknown`, `source_unknown`.
        """

        def call() -> Answer:
            case = self._case(model)
            if source not in set(Source):
                raise MessageError("source_unknown", f"a source is one of {', '.join(Source)}")
            case.write(forget_order(case.journal, Source(source)))
            return {"model": overview(case.journal)}

        return self._updater.ask(call)

    def _case(self, model: str) -> Case:
        try:
            return self._updater.cases[model]
        except KeyError:
            raise MessageError("model_unknown", f"no model is called {model}") from None

    def _install(self, model: str, version: str, copy: Path, *, bare: bool) -> Answer:
        case = self._case(model)
        journal, deployment_id = install(case.journal, version, self._moment())
        if journal.current is not None and journal.current.deployment_id == deployment_id:
            self._handover.give(copy, model, deployment_id, bare=bare)
        case.write(journal)
        return _deployment(case.journal, deployment_id)


def _bare(path: Path, model: str) -> str:
    """Return the version of a package that a person names.

    Raises:
        VerifyError: as `read_package`, and `package_mismatch`: it is one of another model.
        StoreError: it cannot be read.
    """
    manifest = read_package(path).manifest
    if manifest.name != model:
        raise VerifyError("package_mismatch", f"it is a package of {manifest.name}")
    return manifest.version


def _exported(path: Path, model: str) -> str:
    """Return the version of a model that a tar from `edgectl repo export` carries.

    Raises:
        VerifyError: `not_an_export`.
    """
    for name, version in packages_in(path):
        if name == model:
            try:
                return Version(version).text
            except ValueError as error:
                raise not_an_export(f"the file is no tar with a package ({error}).") from error
    raise not_an_export(f"the tar carries no package of {model}.")


def _deployment(journal: Journal, deployment_id: str) -> Answer:
    known = deployments(journal)
    return {"deployment": next(one for one in known if one["deployment_id"] == deployment_id)}

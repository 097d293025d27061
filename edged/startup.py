"""What each model runs at the start: the journal decides, then the factory file."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edged.config import ModelConfig
from edged.errors import AcceleratorError, EdgedError, StoreError, Trouble
from edged.inference.servable import Servable
from edged.loader import Loader, factory_contents
from edged.models.deployment import fall_back, runs
from edged.models.faults import is_passing
from edged.models.journal import Journal
from edged.models.pursuit import use_factory
from edged.models.records import BEFORE_TRIAL, Moment, Release
from edged.models.recovery import BootFacts, recover
from edged.models.seal import bare_digest
from edged.models.store import Store
from edged.models.transitions import Reason
from edged.models.version import Version

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Started:
    """Models as they start.

    Attributes:
        servables: loaded ones, by model name; a model without one is waited for.
        journals: of the models that can be updated.
        fixed: what else runs: nothing may be written about these models, `troubles` say why.
        troubles: by model name.
    """

    servables: dict[str, Servable] = field(default_factory=dict)
    journals: dict[str, Journal] = field(default_factory=dict)
    fixed: dict[str, Release] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)

    def wanted(self, name: str) -> Release | None:
        """Return what a model is to run, as far as is known at the start."""
        journal = self.journals.get(name)
        return self.fixed.get(name) if journal is None else runs(journal)

    def unwritten(self, journal: Journal, error: StoreError) -> Release | None:
        """Do without updates for a model, and return what it is to run.

        A full or broken disk must not keep cameras from being watched.

        Args:
            journal: what it says runs, although it cannot be written.
            error: why.
        """
        name, release = journal.model, runs(journal)
        log.error("model %s: no updates: %s", name, error.explain())
        self.troubles[name] = Trouble.of(error)
        if release is not None:
            self.fixed[name] = release
        return release

    def close(self) -> None:
        """Free what was loaded."""
        for servable in self.servables.values():
            servable.close()


def start(
    models: Iterable[ModelConfig],
    store: Store,
    loader: Loader,
    *,
    boot: BootFacts,
    now_ms: int,
    known: Mapping[str, Journal] | None = None,
) -> Started:
    """Recover the journals, and load what they say.

    Args:
        models: which.
        store: where versions and journals are.
        loader: loads them.
        boot: how the last run ended.
        now_ms: Unix time.
        known: journals that have been recovered already, of models that are loaded anew. Their
            updater still runs: they are not written.

    Raises:
        EdgedError: a model cannot run, and has no other version to go back to.
    """
    started = Started()
    try:
        for model in models:
            journal = (known or {}).get(model.name)
            _start(started, model, store, loader, boot=boot, now_ms=now_ms, known=journal)
    except EdgedError:
        started.close()
        raise
    return started


def _start(
    started: Started,
    model: ModelConfig,
    store: Store,
    loader: Loader,
    *,
    boot: BootFacts,
    now_ms: int,
    known: Journal | None,
) -> None:
    name, moment = model.name, Moment(now_ms, boot.boot_id)
    before, journal = known, known
    if journal is None:
        file = store.journal(name).load()
        if file.trouble is not None:
            started.troubles[name] = file.trouble
            log.error("model %s: %s (%s)", name, file.trouble.detail, file.trouble.reason)
        if file.read_only:
            _run_fixed(started, model, loader, file.active)
            return
        before = file.journal
        journal = recover(before or Journal(name), boot, now_ms)
        if before is not None and journal != before:
            # Attempts count only when they are on the disk before what may crash again.
            try:
                store.journal(name).save(journal)
            except StoreError as error:
                _run_unwritten(started, journal, loader, error, None)
                return
            before = journal
    # Of a new configuration, a person waits to hear whether it can be used.
    must = known is not None
    journal = with_factory(journal, model, store, moment, must=must)
    if before is None and (counted := recover(journal, boot, now_ms)) != journal:
        # The last start died in the factory model before there was a journal to count it in.
        try:
            store.journal(name).save(counted)
        except StoreError as error:
            _run_unwritten(started, counted, loader, error, None)
            return
        before = journal = counted
    servable, journal = _loaded(journal, loader, moment, must=must)
    if journal != before and known is None:
        try:
            store.journal(name).save(journal)
        except StoreError as error:
            _run_unwritten(started, journal, loader, error, servable)
            return
    started.journals[name] = journal
    if servable is not None:
        started.servables[name] = servable
        _tell(servable)


def with_factory(
    journal: Journal, model: ModelConfig, store: Store, moment: Moment, *, must: bool = False
) -> Journal:
    """Return the journal after a look at the configured factory file, which is copied if new.

    Args:
        journal: as it was recovered.
        model: names the file.
        store: where it is copied to.
        moment: now.
        must: whether the file has to be readable even where another version runs.

    Raises:
        EdgedError: it cannot be read, and has to be, or the journal knows no other model.
    """
    try:
        contents = factory_contents(model)
    except EdgedError as error:
        if must or (journal.active is None and journal.current is None):
            place = Path(model.factory).absolute()
            raise error.about(f"model '{model.name}' ({place})") from error
        log.warning("model %s: the factory model: %s", model.name, error.explain())
        return journal
    sha256 = bare_digest(contents)
    version = Version.factory(sha256).text
    try:
        store.check(model.name, version, sha256)
    except StoreError:
        try:
            store.import_factory(model.name, contents)
        except StoreError as error:
            log.error("model %s: the factory model is not kept: %s", model.name, error.explain())
    return use_factory(journal, sha256, moment)


def _loaded(
    journal: Journal, loader: Loader, moment: Moment, *, must: bool
) -> tuple[Servable | None, Journal]:
    """Load what is to run; where it is unusable, and something else is there, go back to that.

    With `must`, or where the configuration is at fault, nothing else will do.
    """
    release = runs(journal)
    if release is None:
        return None, journal
    try:
        return loader.load_release(journal.model, release), journal
    except AcceleratorError:
        raise
    except EdgedError as error:
        if is_passing(error):
            log.error("model %s: %s", journal.model, error.explain())
            return None, journal  # it is tried again while others run
        current = journal.current
        others = (journal.previous, journal.factory)
        spare = any(one is not None and one.sha256 != release.sha256 for one in others)
        if current is not None and current.state not in BEFORE_TRIAL:
            spare = True  # a roll-back or a trial goes on, and decides
        settled = current is None or current.state in BEFORE_TRIAL
        if must or not spare or (settled and loader.loads_plainly(journal.model, release)):
            raise  # what is amiss may be a typing mistake, which costs no version
        log.error("model %s: %s", journal.model, error.explain())
        if settled:
            detail = error.explain()
            journal = fall_back(journal, Reason.ACTIVE_UNUSABLE, detail, moment)
        return None, journal


def _run_fixed(
    started: Started, model: ModelConfig, loader: Loader, active: Release | None
) -> None:
    """Run what nothing may be written about: the active version, else the factory file."""
    if active is None:
        sha256 = bare_digest(factory_contents(model))
        active = Release(Version.factory(sha256).text, sha256, 0)
    started.servables[model.name] = servable = loader.load_release(model.name, active)
    started.fixed[model.name] = active
    _tell(servable)


def _run_unwritten(
    started: Started,
    journal: Journal,
    loader: Loader,
    error: StoreError,
    servable: Servable | None,
) -> None:
    """Run what a journal says that cannot be written."""
    release = started.unwritten(journal, error)
    if release is None:
        return
    servable = servable or loader.load_release(journal.model, release)
    started.servables[journal.model] = servable
    _tell(servable)


def _tell(servable: Servable) -> None:
    model = servable.id
    log.info(
        "model %s: %s %s on %s (%s %s), %d labels",
        model.name,
        servable.kind,
        model.version,
        servable.accelerator,
        servable.runtime.name,
        servable.runtime.version,
        len(servable.labels),
        extra={"fields": {"model": model.name, "version": model.version}},
    )
    for source, feeder in servable.states:
        log.info("model %s: per camera, %s is fed by %s", model.name, source, feeder)
    if servable.fallback is not None:
        log.warning("model %s: on the CPU: %s", model.name, servable.fallback.detail)

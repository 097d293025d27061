"""Updates for one configuration: the updater with all that it needs, built and wired."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from edged.board import clock_synchronised, default_device_id
from edged.config import Config
from edged.errors import ConfigError, Trouble
from edged.loader import Loader
from edged.models.acts import LiveActs
from edged.models.casework import Case, Surroundings
from edged.models.deployment import runs
from edged.models.desired import Address, addresses
from edged.models.files import Files
from edged.models.handover import Handover, names_of
from edged.models.inbox import Inbox
from edged.models.journal import Journal
from edged.models.local import LocalUpdates
from edged.models.pursuit import Clock
from edged.models.records import Moment, Release
from edged.models.source import Source
from edged.models.stick import METADATA_URL, TARGETS_URL, StickSource
from edged.models.store import Store
from edged.models.task import spawn
from edged.models.updater import Duties, Updater
from edged.models.version import Version
from edged.models.voice import MqttVoice
from edged.mqtt.client import Session
from edged.mqtt.messages import ModelState, Topics, VersionState, encode_model_state
from edged.pipeline.stage import Stage
from edged.startup import Started

if TYPE_CHECKING:  # python-tuf behind it is 20 MB: loaded where a repository is first asked
    from edged.models.repository import Repository

log = logging.getLogger(__name__)

_ROOT_LIMIT_BYTES = 512_000


def update_topics(config: Config) -> dict[str, Address]:
    """Return what to subscribe to, and what arrives there."""
    device_id = config.device_id or default_device_id()
    names = [model.name for model in config.model]
    return addresses(config.mqtt.topic_prefix, device_id, config.groups, names)


class Updates:
    """The updater and its calls.

    Args:
        config: of the device.
        started: what runs, and the journals.
        store: where versions and journals are.
        loader: loads versions.
        stage: where they serve.
        session: with the broker.
        inbox: subscribed to `update_topics`.
        boot_id: of the kernel.

    Attributes:
        fixed: what runs of models that nothing may be written about.
        troubles: what was wrong with journals at the start, by model.
        off: why no model comes over the air; None where it may.
        local: what can be asked for at the device.
    """

    def __init__(
        self,
        config: Config,
        started: Started,
        *,
        store: Store,
        loader: Loader,
        stage: Stage,
        session: Session,
        inbox: Inbox,
        boot_id: str,
    ) -> None:
        device_id = config.device_id or default_device_id()
        self._topics = Topics(config.mqtt.topic_prefix, device_id)
        self._session = session
        self.fixed, self.troubles = started.fixed, started.troubles
        self._boot_id = boot_id
        self._store = store
        self._inbox = inbox
        self._named = config.update.metadata_url is not None
        root, self.off = _root(config)
        repositories = _Repositories(config, store.staging, root, self.off)
        self._handover = Handover(store.staging, Files())
        self._acts = acts = LiveActs(
            config,
            store,
            loader,
            stage,
            handover=self._handover,
            remote=repositories.remote,
            stick=repositories.stick,
        )
        world = Surroundings(
            acts=acts,
            keep=lambda journal: store.journal(journal.model).save(journal),
            now_ms=lambda: self._moment().now_ms,
            monotonic=time.monotonic,
            boot_id=boot_id,
            device_id=device_id,
            deadline_s=config.update.deadline_s,
            spawn=spawn,
            ring=self._ring,
        )
        self.updater = Updater(
            {name: Case(journal, world) for name, journal in started.journals.items()},
            inbox,
            MqttVoice(session, self._topics),
            Duties(
                (lambda canceled: acts.latest(Version, canceled)) if self.off is None else None,
                config.update.poll_s,
                self._tidy,
            ),
            clock=lambda: Clock(self._moment().now_ms, clock_synchronised() is not False),
            moment=self._moment,
            monotonic=time.monotonic,
            spawn=spawn,
        )
        self.local = LocalUpdates(
            self.updater, store, self._handover, self._moment, repositories.stick
        )

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with updates over the air, or None."""
        if self.off is not None:
            return Trouble.of(self.off)
        return self._acts.forgotten or self.updater.poll_trouble

    def start(self) -> None:
        """Start the updater."""
        if self.off is not None:
            # Who wants none need not be warned at each start.
            level = logging.WARNING if self._named else logging.INFO
            log.log(level, "%s (%s)", self.off.explain(), self.off.reason)
        for name, release in self.fixed.items():
            active = VersionState(release.version, release.sha256, release.since_ms / 1000)
            state = encode_model_state(ModelState(name, active=active))
            self._session.set_retained(self._topics.model(name), state)
        self._inbox.call(self.updater.ring)
        self.updater.start()

    def ask_to_stop(self) -> None:
        """Have the updater end."""
        self.updater.ask_to_stop()

    def stop(self, timeout_s: float) -> bool:
        """End the updater; return whether nothing that it began is still under way."""
        return self.updater.stop(timeout_s)

    def journals(self) -> dict[str, Journal]:
        """Return the journals, as they are on the disk."""
        return {name: case.journal for name, case in self.updater.cases.items()}

    def wanted(self, name: str) -> Release | None:
        """Return what a model is to run, candidates on trial aside."""
        case = self.updater.cases.get(name)
        return self.fixed.get(name) if case is None else runs(case.journal)

    def _ring(self) -> None:
        self.updater.ring()

    def _moment(self) -> Moment:
        return Moment(time.time_ns() // 1_000_000, self._boot_id)

    def _tidy(self, name: str) -> None:
        self._store.collect(name)
        wanted = set(self._handover.incoming)
        for model, journal in self.journals().items():
            if journal.current is not None:
                wanted |= names_of(model, journal.current.deployment_id)
                wanted.add(journal.current.sha256)
        self._store.clear_staging(wanted)


class _Repositories:
    """Makes clients of the operator's repository, as it is served or on a stick."""

    def __init__(
        self, config: Config, staging: Path, root: bytes | None, off: ConfigError | None
    ) -> None:
        self._update = config.update
        self._metadata_dir = Path(config.state_dir) / "tuf" / "metadata"
        self._staging = staging
        self._root = root
        self._off = off

    def remote(self) -> Repository:
        metadata_url, targets_url = self._update.metadata_url, self._update.targets_url
        if self._off is not None or metadata_url is None or targets_url is None:
            raise self._off or AssertionError("one of two addresses")
        return self._made(metadata_url, targets_url, None)

    def stick(self, path: Path) -> Repository:
        return self._made(METADATA_URL, TARGETS_URL, StickSource(path))

    def _made(self, metadata_url: str, targets_url: str, source: Source | None) -> Repository:
        if self._root is None:
            raise self._off or AssertionError("off for no reason")
        # python-tuf is 90 ms and 20 MB: for devices that are given models, when they are.
        from edged.models.repository import Clock as TufClock  # noqa: PLC0415
        from edged.models.repository import Repository  # noqa: PLC0415

        return Repository(
            self._root,
            self._metadata_dir,
            metadata_url,
            self._staging,
            targets_url,
            source=source,
            clock=lambda: TufClock(time.time(), clock_synchronised()),
        )


def _root(config: Config) -> tuple[bytes | None, ConfigError | None]:
    """Return the trusted root, and why nothing comes over the air."""
    path, named = Path(config.update.root), config.update.metadata_url is not None
    off = "updates over the air are off:"
    try:
        with path.open("rb") as file:
            root = file.read(_ROOT_LIMIT_BYTES)
    except OSError as error:
        why = f"{off} cannot read {path}: {error.strerror}."
        advice = "Put the operator's root.json (`edgectl repo root`) there."
        if not named and isinstance(error, FileNotFoundError):
            why = f"{off} no repository is configured."
            advice = f"It takes the operator's {path}, and two addresses in [update]."
        return None, ConfigError("updates_off", why, advice=advice)
    if not named:
        why = f"{off} [update] names no repository."
        return root, ConfigError(
            "updates_off", why, advice="Put metadata_url and targets_url there."
        )
    return root, None

"""Everything that runs for one configuration: built, wired, started, stopped, described."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edged.board import default_device_id
from edged.breadcrumb import Breadcrumb
from edged.camera.source import open_camera
from edged.config import Config
from edged.drift.commands import CommandInbox
from edged.errors import EdgedError, Trouble
from edged.inference.edgetpu import list_edgetpus
from edged.inference.servable import Servable
from edged.loader import Loader
from edged.models.inbox import Inbox
from edged.models.overview import coming
from edged.models.store import Store
from edged.mqtt.client import Session
from edged.mqtt.messages import (
    DeviceInfo,
    Stats,
    Topics,
    encode_info,
    encode_prediction,
    encode_stats,
)
from edged.mqtt.outbox import Outbox
from edged.mqtt.spool import Spool
from edged.mqtt.status import SessionStatus
from edged.pipeline.bell import Bell
from edged.pipeline.capture import Capture
from edged.pipeline.counters import CameraCounters
from edged.pipeline.inference import InferenceWorker
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.publisher import PublisherWorker
from edged.pipeline.recovery import ModelRecovery
from edged.pipeline.results import Results
from edged.pipeline.stage import Stage
from edged.prediction import Prediction
from edged.report import StatsReporter, control_status, device_info
from edged.startup import Started
from edged.updates import Updates
from edged.watching import Watching, sampling_of

log = logging.getLogger(__name__)

OUTBOX_FILE = "outbox.sqlite3"
# Loading may take this long before the watchdog is let bite.
LOAD_LIMIT_S = 120.0


def topics_of(config: Config) -> Topics:
    """Return the topics of the configured device."""
    return Topics(config.mqtt.topic_prefix, config.device_id or default_device_id())


def restore_outbox(config: Config) -> tuple[Outbox, Spool]:
    """Return the outbox, with what the last run left in it, and what keeps it on disk."""
    spool = Spool(Path(config.state_dir) / OUTBOX_FILE)
    outbox = Outbox(config.mqtt.outbox_messages, config.mqtt.outbox_bytes)
    outbox.restore(spool.restore())
    return outbox, spool


@dataclass(frozen=True, slots=True)
class Frame:
    """What a daemon has for all its life, whatever its configuration.

    Attributes:
        last_stop: why the previous run stopped, for `info`.
        boot_id: of the kernel.
        crumb: which model is loaded or invoked.
        store: where versions and journals are.
        inbox: what arrives for the updater.
        asked: what is asked of drift.
    """

    last_stop: str
    boot_id: str
    crumb: Breadcrumb
    store: Store
    inbox: Inbox
    asked: CommandInbox


class Assembly:
    """Everything that runs for one configuration.

    Args:
        config: the configuration.
        started: journals, and loaded models; a model without one is waited for.
        session: with the broker; started and stopped by whoever made it.
        frame: what does not change with the configuration.
        wake: set when something changed that the main thread should tell.
    """

    def __init__(
        self,
        config: Config,
        started: Started,
        session: Session,
        frame: Frame,
        wake: threading.Event,
    ) -> None:
        self.config = config
        self.session = session
        self._last_stop = frame.last_stop
        self._refused: Trouble | None = None
        self._loader = loader = Loader(config, frame.store, frame.crumb.loading)
        self._boot = secrets.token_hex(4)
        self._topics = topics_of(config)
        bell = Bell()
        self.slots = {
            model.name: ModelSlot(model.name, bell, model.invoke_limit_s) for model in config.model
        }
        for name, servable in started.servables.items():
            self.slots[name].current = servable
        self.lanes = tuple(
            Lane(
                camera.name,
                Mailbox(bell, counters),
                self.slots[camera.model],
                counters,
                sampling=sampling_of(config),
            )
            for camera in config.camera
            for counters in [CameraCounters()]
        )
        results = Results()
        self._inference = InferenceWorker(bell, self.lanes, results, frame.crumb.invoking)
        policies = {camera.name: PublishPolicy(camera.publish) for camera in config.camera}
        self.watching = Watching(
            config, self.lanes, session, self._topics, boot=self._boot, inbox=frame.asked
        )
        self._publisher = PublisherWorker(results, policies, self._send, self.watching.observer)
        self._recovery = ModelRecovery(
            self.slots,
            {model.name: model for model in config.model},
            lambda model: loader.load_release(model.name, self.updates.wanted(model.name)),
            lambda: bool(list_edgetpus()),
            wake.set,
        )
        self._stage = Stage(self.slots)
        self.updates = Updates(
            config,
            started,
            store=frame.store,
            loader=loader,
            stage=self._stage,
            session=session,
            inbox=frame.inbox,
            boot_id=frame.boot_id,
        )
        self._captures = [
            Capture(camera, lane, open_camera, wake.set)
            for camera, lane in zip(config.camera, self.lanes, strict=True)
        ]
        self._stats = StatsReporter(self.lanes)
        self._last_stats: Stats | None = None
        self._stats_due_s = time.monotonic() + config.mqtt.stats_s

    def start(self) -> None:
        """Start all threads."""
        self.tell()
        for lane in self.lanes:
            topic = self._topics.prediction(lane.camera)
            log.info("camera %s: predictions go to %s", lane.camera, topic)
        self.watching.start()
        self._publisher.start()
        self._inference.start()
        for capture in self._captures:
            capture.start()
        self._recovery.start()
        self.updates.start()

    def stop(self, invoke_s: float) -> bool:
        """Stop in the order of the frames, so that what was inferred is still published.

        Args:
            invoke_s: how long to wait for an invoke, a load, and whatever of a deployment is
                under way; the rest is bounded by 0.9 s.

        Returns:
            Whether nothing of it runs any more, so that `release` gives the servables back.
        """
        self.updates.ask_to_stop()
        for capture in self._captures:
            capture.ask_to_stop()
        idle = self._inference.stop(invoke_s)
        self._publisher.stop(0.4)
        self.watching.stop(0.3)
        for capture in self._captures:
            capture.stop(0.2 / len(self._captures))
        recovered, resting = self._recovery.stop(invoke_s), self.updates.stop(invoke_s)
        return recovered and idle and resting

    def release(self) -> dict[str, Servable]:
        """Give the servables back, without candidates that have something to go back to.

        Only after `stop` said that nothing runs any more.
        """
        for name in self.slots:
            self._stage.give_up(name)
        return {
            name: servable
            for name, slot in self.slots.items()
            if (servable := slot.swap(None, 0.0)) is not None
        }

    def tick(self) -> None:
        """Supervise: replace hung capture threads, tell what changed, send stats when due."""
        for capture in self._captures:
            capture.supervise()
        self.tell()
        if time.monotonic() >= self._stats_due_s:
            self._stats_due_s = time.monotonic() + self.config.mqtt.stats_s
            self._last_stats = self._stats.take(self.session.status())
            self.session.publish(self._topics.stats, encode_stats(self._last_stats), qos=0)

    def tell(self) -> None:
        """Publish the retained state; what has not changed is not sent again."""
        info = self._info(self.session.status())
        self.session.set_retained(self._topics.info, encode_info(info))

    def refuse(self, error: EdgedError) -> None:
        """Go on as before, as a changed configuration cannot be used, and say so until one can."""
        log.error("reload refused, going on as before: %s", error.explain())
        self._refused = Trouble.of(error)
        self.tell()

    def forget(self, names: Iterable[str]) -> None:
        """Take the retained state of models that are no more off the broker."""
        for name in names:
            self.session.set_retained(self._topics.model(name), b"")
            self.session.set_retained(self._topics.update(name, "state"), b"")

    def healthy(self) -> bool:
        """Say whether no invoke and no load has outlived its limit.

        Idle, without a camera or without a broker is healthy: a restart would not help.
        """
        busy_s = max(self._recovery.busy_s(), self._loader.busy_s())
        return not self._inference.stuck() and busy_s < LOAD_LIMIT_S

    def status(self) -> str:
        """Say in one line what is going on, for `systemctl status`."""
        parts = []
        for capture in self._captures:
            state = capture.state
            published = capture.lane.counters.published
            words = f"{published} predictions" if state.state == "streaming" else state.detail
            parts.append(f"{capture.config.name}: {words}")
        broker = self.session.status()
        parts.append(f"broker {broker.state}" + (f" ({broker.reason})" if broker.reason else ""))
        return "; ".join(parts)

    def report(self) -> dict[str, object]:
        """Say at length what is going on, for `edged status`. From any thread."""
        session = self.session.status()
        return {
            "device_id": self._topics.device,
            "healthy": self.healthy(),
            "deployments": coming(self.updates.journals().values()),
            **control_status(
                self.config, self._info(session), self.lanes, session, self._last_stats
            ),
        }

    def _info(self, session: SessionStatus) -> DeviceInfo:
        return device_info(
            self.config,
            self.slots,
            self._captures,
            self._last_stop,
            refused=self._refused,
            spool=session.spool_trouble,
            updates=self.updates.trouble,
            drift=self.watching.trouble,
            journals=self.updates.troubles,
        )

    def _send(self, prediction: Prediction, seq: int) -> None:
        payload = encode_prediction(prediction, boot=self._boot, seq=seq)
        topic = self._topics.prediction(prediction.frame.camera)
        self.session.publish(topic, payload, qos=1, kind="prediction")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", topic, payload.decode())

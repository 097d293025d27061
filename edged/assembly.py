"""Everything that runs for one configuration: built, wired, started, stopped, described."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from edged.board import default_device_id
from edged.camera.source import open_camera
from edged.config import Config, ModelConfig
from edged.errors import EdgedError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.servable import Servable, load_servable
from edged.mqtt.client import Session
from edged.mqtt.messages import (
    DeviceInfo,
    Stats,
    Topics,
    encode_info,
    encode_model_state,
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
from edged.prediction import Prediction
from edged.report import StatsReporter, control_status, device_info, model_state

log = logging.getLogger(__name__)

OUTBOX_FILE = "outbox.sqlite3"
# Loading may take this long before the watchdog is let bite.
LOAD_LIMIT_S = 120.0

Servables = Mapping[str, Servable]


def topics_of(config: Config) -> Topics:
    """Return the topics of the configured device."""
    return Topics(config.mqtt.topic_prefix, config.device_id or default_device_id())


def load_model(model: ModelConfig, config: Config) -> Servable:
    """Load a model for the cameras that run it; see `load_servable`."""
    return load_servable(
        model, edgetpu_library=config.edgetpu_library, cameras=config.cameras_of(model.name)
    )


def load_models(models: Iterable[ModelConfig], config: Config) -> dict[str, Servable]:
    """Load models.

    Args:
        models: which.
        config: where they come from.

    Returns:
        Servables by model name.

    Raises:
        EdgedError: one cannot run; those loaded before it are closed again.
    """
    loaded: dict[str, Servable] = {}
    try:
        for model in models:
            servable = load_model(model, config)
            loaded[model.name] = servable
            log.info(
                "model %s: %s %s on %s (%s %s), %d labels",
                model.name,
                servable.kind,
                servable.id.version,
                servable.accelerator,
                servable.runtime.name,
                servable.runtime.version,
                len(servable.labels),
                extra={"fields": {"model": model.name, "version": servable.id.version}},
            )
            for source, feeder in servable.states:
                log.info("model %s: per camera, %s is fed by %s", model.name, source, feeder)
            if servable.fallback is not None:
                log.warning("model %s: on the CPU: %s", model.name, servable.fallback.detail)
    except EdgedError:
        for servable in loaded.values():
            servable.close()
        raise
    return loaded


def restore_outbox(config: Config) -> tuple[Outbox, Spool]:
    """Return the outbox, with what the last run left in it, and what keeps it on disk."""
    spool = Spool(Path(config.state_dir) / OUTBOX_FILE)
    outbox = Outbox(config.mqtt.outbox_messages, config.mqtt.outbox_bytes)
    outbox.restore(spool.restore())
    return outbox, spool


class Assembly:
    """Everything that runs for one configuration.

    Args:
        config: the configuration.
        servables: loaded ones; a model without one is waited for.
        session: with the broker; started and stopped by whoever made it.
        last_stop: why the previous run stopped, for `info`.
        wake: set when something changed that the main thread should tell.
    """

    def __init__(
        self,
        config: Config,
        servables: Servables,
        session: Session,
        last_stop: str,
        wake: threading.Event,
    ) -> None:
        self.config = config
        self.session = session
        self._last_stop = last_stop
        self._boot = secrets.token_hex(4)
        self._topics = topics_of(config)
        bell = Bell()
        self.slots = {
            model.name: ModelSlot(model.name, bell, model.invoke_limit_s) for model in config.model
        }
        for name, servable in servables.items():
            self.slots[name].current = servable
        self.lanes = tuple(
            Lane(camera.name, Mailbox(bell, counters), self.slots[camera.model], counters)
            for camera in config.camera
            for counters in [CameraCounters()]
        )
        results = Results()
        self._inference = InferenceWorker(bell, self.lanes, results)
        policies = {camera.name: PublishPolicy(camera.publish) for camera in config.camera}
        self._publisher = PublisherWorker(results, policies, self._send)
        self._recovery = ModelRecovery(
            self.slots,
            {model.name: model for model in config.model},
            lambda model: load_model(model, config),
            lambda: bool(list_edgetpus()),
            wake.set,
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
        self._publisher.start()
        self._inference.start()
        for capture in self._captures:
            capture.start()
        self._recovery.start()

    def stop(self, invoke_s: float) -> bool:
        """Stop in the order of the frames, so that what was inferred is still published.

        Args:
            invoke_s: how long to wait for an invoke, and a load, that is under way; the rest is
                bounded by 0.6 s.

        Returns:
            Whether nothing of it runs any more, so that `release` gives the servables back.
        """
        for capture in self._captures:
            capture.ask_to_stop()
        idle = self._inference.stop(invoke_s)
        self._publisher.stop(0.4)
        for capture in self._captures:
            capture.stop(0.2 / len(self._captures))
        return self._recovery.stop(invoke_s) and idle

    def release(self) -> dict[str, Servable]:
        """Give the servables back. Only after `stop` said that nothing runs any more."""
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
        for name, slot in self.slots.items():
            self.session.set_retained(
                self._topics.model(name), encode_model_state(model_state(slot))
            )

    def forget(self, names: Iterable[str]) -> None:
        """Take the retained state of models that are no more off the broker."""
        for name in names:
            self.session.set_retained(self._topics.model(name), b"")

    def healthy(self) -> bool:
        """Say whether no invoke and no load has outlived its limit.

        Idle, without a camera or without a broker is healthy: a restart would not help.
        """
        return not self._inference.stuck() and self._recovery.busy_s() < LOAD_LIMIT_S

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
            **control_status(
                self.config, self._info(session), self.lanes, session, self._last_stats
            ),
        }

    def _info(self, session: SessionStatus) -> DeviceInfo:
        return device_info(
            self.config, self.slots, self._captures, self._last_stop, session.spool_trouble
        )

    def _send(self, prediction: Prediction, seq: int) -> None:
        payload = encode_prediction(prediction, boot=self._boot, seq=seq)
        topic = self._topics.prediction(prediction.frame.camera)
        self.session.publish(topic, payload, qos=1, kind="prediction")
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", topic, payload.decode())

"""Drift for one configuration: sampling, recorder, ring, judge and voice, built and wired."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edged.board import clock_synchronised
from edged.config import CameraConfig, Config, DriftConfig
from edged.drift.autocorrelation import tau
from edged.drift.commands import CommandInbox
from edged.drift.detector import Terms
from edged.drift.keeper import Keeper
from edged.drift.recorder import Instant, Recorder, Traffic
from edged.drift.reference import WarmUp
from edged.drift.ring import Ring
from edged.drift.sampling import Sampling
from edged.drift.voice import MqttDriftVoice
from edged.drift.worker import DriftWorker
from edged.errors import ControlError, Trouble
from edged.models.files import Files
from edged.mqtt.client import Session
from edged.mqtt.messages import Topics
from edged.pipeline.lane import Lane
from edged.pipeline.observer import Observer
from edged.redact import redacted

_MINUTE_S = 60.0


def drift_topics(config: Config, topics: Topics) -> dict[str, str]:
    """Return what to subscribe to, and which camera each topic is about."""
    if not config.drift.enabled:
        return {}
    return {topics.drift(camera.name, "command"): camera.name for camera in config.camera}


def sampling_of(config: Config) -> Sampling | None:
    """Return the beat of a camera's samples; None where drift is off."""
    drift = config.drift
    return Sampling(drift.sample_period_s, random.random) if drift.enabled else None


def view_of(camera: CameraConfig) -> str:
    """Return the digest of what a camera is configured to show; not of its password."""
    shown = (redacted(camera.source), camera.rotate, camera.width, camera.height)
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:8]


def terms_of(config: DriftConfig) -> Terms:
    """Return when an hour is far."""
    usual = Terms()
    return replace(usual, limit=usual.limit * config.patience, trust_clock=config.trust_clock)


def warm_up_of(config: DriftConfig) -> WarmUp:
    """Return what makes a reference complete."""
    return WarmUp(hours=24 * config.warm_up_days, days=config.warm_up_days)


class Watching:
    """Drift of a device's cameras.

    Args:
        config: of the device.
        lanes: of the cameras.
        session: with the broker.
        topics: of this device.
        boot: of this start.
        inbox: subscribed to `drift_topics`.

    Attributes:
        worker: the drift thread; None where drift is off.
        observer: for the publisher; None where drift is off.
    """

    def __init__(
        self,
        config: Config,
        lanes: Iterable[Lane],
        session: Session,
        topics: Topics,
        *,
        boot: str,
        inbox: CommandInbox,
    ) -> None:
        self._cameras = [camera.name for camera in config.camera]
        self._voice = MqttDriftVoice(session, topics)
        self.worker: DriftWorker | None = None
        self.observer: Observer | None = None
        if not config.drift.enabled:
            return
        counters = {lane.camera: lane.counters for lane in lanes}

        def traffic(camera: str) -> Traffic:
            one = counters[camera]
            return Traffic(one.captured, one.replaced + one.no_model, one.failed)

        window_s = config.drift.window_s
        recorder = Recorder(
            topics.device,
            boot,
            window_s,
            min(_MINUTE_S, window_s),
            traffic=traffic,
            now=lambda: Instant(time.monotonic(), _unix_ms()),
            synchronised=lambda: clock_synchronised() is True,
            tau=tau,
        )
        state_dir, files, drift = Path(config.state_dir), Files(), config.drift
        ring = Ring(
            state_dir, files, kept_s=drift.keep_days * 86_400.0, kept_bytes=drift.keep_bytes
        )
        self.worker = DriftWorker(
            self._cameras,
            recorder,
            ring,
            Keeper(state_dir, files, tuple(self._cameras), terms_of(drift), warm_up_of(drift)),
            self._voice,
            inbox=inbox,
            unix_ms=_unix_ms,
        )
        views = {camera.name: view_of(camera) for camera in config.camera}
        self.observer = Observer(views, self.worker.take)

    @property
    def desk(self) -> DriftWorker:
        """Who knows how cameras stand.

        Raises:
            ControlError: `drift_off`.
        """
        if self.worker is None:
            raise ControlError(
                "drift_off", "drift is not recorded.", advice="Set enabled under [drift]."
            )
        return self.worker

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with what is kept on the disk, or None."""
        return None if self.worker is None else self.worker.trouble

    def start(self) -> None:
        """Start the thread; without one, take what an earlier one said off the broker."""
        if self.worker is not None:
            self.worker.start()
        else:
            for camera in self._cameras:
                self._voice.silence(camera)

    def stop(self, timeout_s: float) -> None:
        """Write the windows that have begun, and end; after the publisher."""
        if self.worker is not None:
            self.worker.stop(timeout_s)

    def forget(self, cameras: Iterable[str]) -> None:
        """Take the state of cameras that are no more off the broker."""
        for camera in cameras:
            self._voice.silence(camera)


def _unix_ms() -> int:
    return time.time_ns() // 1_000_000

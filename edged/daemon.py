"""The composition root: builds the parts, wires them, supervises them, takes them down.

`Assembly` is everything that runs for one configuration. `Daemon` owns the process: signals, the
service manager, the watchdog, and the change from one assembly to the next at a reload.
"""

from __future__ import annotations

import logging
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from edged.board import default_device_id
from edged.breadcrumb import RunRecord
from edged.camera.source import open_camera
from edged.config import Config
from edged.errors import EdgedError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.servable import Servable, load_servable
from edged.mqtt.client import Session
from edged.mqtt.messages import (
    Topics,
    encode_info,
    encode_model_state,
    encode_prediction,
    encode_stats,
)
from edged.pipeline.bell import Bell
from edged.pipeline.capture import CaptureWorker, FrameNumbers
from edged.pipeline.counters import CameraCounters
from edged.pipeline.inference import Inference, InferenceWorker, Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.publisher import PublisherWorker
from edged.pipeline.recovery import ModelRecovery
from edged.prediction import Prediction
from edged.report import StatsReporter, device_info, model_state
from edged.systemd import Notifier

log = logging.getLogger(__name__)

_TICK_S = 0.5
_RESULTS = 256
# Loading may take this long before the watchdog is let bite.
_LOAD_LIMIT_S = 120.0

Servables = Mapping[str, Servable]


def load_models(config: Config, keep: Servables) -> dict[str, Servable]:
    """Load every configured model.

    Args:
        config: the configuration.
        keep: servables to use again, by model name.

    Raises:
        EdgedError: a model cannot run; those loaded before it are closed again.
    """
    loaded: dict[str, Servable] = {}
    try:
        for model in config.model:
            if model.name in keep:
                loaded[model.name] = keep[model.name]
                continue
            servable = load_servable(model, edgetpu_library=config.edgetpu_library)
            loaded[model.name] = servable
            log.info(
                "model %s: %s %s on %s (%s %s), %d classes",
                model.name,
                servable.kind,
                servable.id.version,
                servable.accelerator,
                servable.runtime.name,
                servable.runtime.version,
                len(servable.labels),
                extra={"fields": {"model": model.name, "version": servable.id.version}},
            )
            if servable.fallback is not None:
                log.warning("model %s: on the CPU: %s", model.name, servable.fallback.explain())
    except EdgedError:
        for name, servable in loaded.items():
            if name not in keep:
                servable.close()
        raise
    return loaded


class Assembly:
    """Everything that runs for one configuration.

    Args:
        config: the configuration.
        servables: a loaded one for every model.
        last_stop: why the previous run stopped, for `info`.
        wake: set when something changed that the main thread should tell.
    """

    def __init__(
        self, config: Config, servables: Servables, last_stop: str, wake: threading.Event
    ) -> None:
        self.config = config
        self._last_stop = last_stop
        self._wake = wake
        self._boot = secrets.token_hex(4)
        self._topics = Topics(config.mqtt.topic_prefix, config.device_id or default_device_id())
        self.session = Session(config.mqtt, self._topics)
        bell = Bell()
        self.slots = {model.name: ModelSlot(model.name, bell) for model in config.model}
        for name, servable in servables.items():
            self.slots[name].current = servable
        self.lanes = tuple(
            Lane(camera.name, Mailbox(bell, counters), self.slots[camera.model], counters)
            for camera in config.camera
            for counters in [CameraCounters()]
        )
        results: queue.Queue[Inference] = queue.Queue(_RESULTS)
        self._inference = InferenceWorker(bell, self.lanes, results)
        policies = {camera.name: PublishPolicy(camera.publish) for camera in config.camera}
        self._publisher = PublisherWorker(results, policies, self._send)
        self._recovery = ModelRecovery(
            self.slots,
            {model.name: model for model in config.model},
            lambda model: load_servable(model, edgetpu_library=config.edgetpu_library),
            lambda: bool(list_edgetpus()),
            wake.set,
        )
        self._captures = [
            CaptureWorker(camera, lane, open_camera, FrameNumbers(), wake.set)
            for camera, lane in zip(config.camera, self.lanes, strict=True)
        ]
        self._stats = StatsReporter(self.lanes)
        self._stats_due_s = time.monotonic() + config.mqtt.stats_s

    def start(self) -> None:
        """Start all threads."""
        self.tell()
        self.session.start()
        self._publisher.start()
        self._inference.start()
        for capture in self._captures:
            capture.start()
        self._recovery.start()

    def stop(self) -> None:
        """Stop in the order of the frames, so that what was inferred is still published.

        Bounded by about 1.6 s in all, so that SIGTERM ends the process within 2 s.
        """
        for capture in self._captures:
            capture.ask_to_stop()
        self._inference.stop(0.5)
        self._publisher.stop(0.4)
        self.session.stop(0.5)
        for capture in self._captures:
            capture.stop(0.2 / len(self._captures))
        self._recovery.stop(0.0)

    def release(self, keep: Servables) -> dict[str, Servable]:
        """After `stop`: give back the servables that go on, close the others."""
        kept = {}
        for name, slot in self.slots.items():
            servable = slot.swap(None, 0.0)
            if servable is None:
                continue
            if keep.get(name) is servable:
                kept[name] = servable
            else:
                servable.close()
        return kept

    def tick(self) -> None:
        """Supervise: replace a hung capture thread, tell what changed, send stats when due."""
        for i, capture in enumerate(self._captures):
            if capture.hung():
                log.error("camera %s: the driver hangs; starting over", capture.config.name)
                capture.ask_to_stop()
                capture.lane.counters.errors["camera_hung"] += 1
                self._captures[i] = CaptureWorker(
                    capture.config, capture.lane, open_camera, capture.numbers, self._wake.set
                )
                self._captures[i].start()
        self.tell()
        if time.monotonic() >= self._stats_due_s:
            self._stats_due_s = time.monotonic() + self.config.mqtt.stats_s
            stats = encode_stats(self._stats.take(self.session.status()))
            self.session.publish(self._topics.stats, stats, qos=0)

    def tell(self) -> None:
        """Publish the retained state; what has not changed is not sent again."""
        info = device_info(self.config, self.slots, self._captures, self._last_stop)
        self.session.set_retained(self._topics.info, encode_info(info))
        for name, slot in self.slots.items():
            self.session.set_retained(
                self._topics.model(name), encode_model_state(model_state(slot))
            )

    def healthy(self) -> bool:
        """Say whether no invoke and no load has outlived its limit.

        Idle, without a camera or without a broker is healthy: a restart would not help.
        """
        limit_s = max(model.invoke_limit_s for model in self.config.model)
        return self._inference.busy_s() < limit_s and self._recovery.busy_s() < _LOAD_LIMIT_S

    def status(self) -> str:
        """Say in one line what is going on, for `systemctl status`."""
        parts = []
        for capture in self._captures:
            state = capture.state
            published = capture.lane.counters.published
            words = f"{published} published" if state.state == "streaming" else state.detail
            parts.append(f"{capture.config.name}: {words}")
        broker = self.session.status()
        parts.append(f"broker {broker.state}" + (f" ({broker.reason})" if broker.reason else ""))
        return "; ".join(parts)

    def _send(self, prediction: Prediction, seq: int) -> None:
        payload = encode_prediction(prediction, boot=self._boot, seq=seq)
        topic = self._topics.prediction(prediction.frame.camera)
        self.session.publish(topic, payload, qos=1, kind="prediction")


class Daemon:
    """The process.

    Args:
        config: what to start with.
        reload: reads the configuration again, or raises `ConfigError`; None where there is no file.
        notifier: the service manager.
    """

    def __init__(
        self, config: Config, reload: Callable[[], Config] | None, notifier: Notifier
    ) -> None:
        self._config = config
        self._reload = reload
        self._notifier = notifier
        self._wake = threading.Event()
        self._stop_cause = ""
        self._reload_asked = False
        self._crashed: threading.ExceptHookArgs | None = None

    def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            0 after a clean stop, 1 when a thread died of a bug: the service manager restarts.

        Raises:
            EdgedError: a model cannot run at the start, or a directory cannot be used.
        """
        with self._signals():
            record = RunRecord(Path(self._config.runtime_dir))
            assembly = Assembly(
                self._config, load_models(self._config, {}), record.last_stop, self._wake
            )
            assembly.start()
            self._notifier.ready()
            assembly = self._supervise(assembly, record)
            self._notifier.stopping()
            assembly.stop()
            if self._crashed is not None:
                return 1
            record.stopped(self._stop_cause)
            log.info("stopped (%s)", self._stop_cause)
            return 0

    def _supervise(self, assembly: Assembly, record: RunRecord) -> Assembly:
        while not self._stop_cause and self._crashed is None:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            if self._reload_asked:
                self._reload_asked = False
                assembly = self._reloaded(assembly, record)
            assembly.tick()
            self._notifier.status(assembly.status())
            if assembly.healthy():
                self._notifier.alive()
            else:
                log.critical("an invoke or a load is stuck; waiting for the watchdog")
        return assembly

    def _reloaded(self, assembly: Assembly, record: RunRecord) -> Assembly:
        """Move to the configuration as it is now; keep the running one where it does not hold."""
        if self._reload is None:
            log.warning("nothing to reload: edged runs without a configuration file")
            return assembly
        self._notifier.reloading()
        old = assembly.config
        try:
            config = self._reload()
            same = {model.name: model for model in old.model}
            unchanged = {
                model.name: servable
                for model in config.model
                if same.get(model.name) == model
                and config.edgetpu_library == old.edgetpu_library
                and (servable := assembly.slots[model.name].current) is not None
            }
            servables = load_models(config, unchanged)
        except EdgedError as error:
            log.error("reload refused, going on as before: %s", error.explain())
            self._notifier.ready()
            return assembly
        assembly.stop()
        assembly.release(unchanged)
        fresh = Assembly(config, servables, record.last_stop, self._wake)
        fresh.start()
        self._notifier.ready()
        log.info("reloaded")
        return fresh

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, _frame: FrameType | None) -> None:
            self._stop_cause = signal.Signals(number).name.lower()
            self._wake.set()

        def reload(_number: int, _frame: FrameType | None) -> None:
            self._reload_asked = True
            self._wake.set()

        def crashed(args: threading.ExceptHookArgs) -> None:
            # Crash-only: a bug in a thread ends the process, and the service manager restarts it.
            log.critical(
                "thread %s died",
                args.thread.name if args.thread else "?",
                exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback),
            )
            self._crashed = args
            self._wake.set()

        before = [
            (number, signal.signal(number, handler))
            for number, handler in (
                (signal.SIGTERM, stop),
                (signal.SIGINT, stop),
                (signal.SIGHUP, reload),
            )
        ]
        hook, threading.excepthook = threading.excepthook, crashed
        try:
            yield
        finally:
            threading.excepthook = hook
            for number, handler in before:
                signal.signal(number, handler)

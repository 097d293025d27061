"""The process: signals, the service manager, the watchdog, the change to a new configuration."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from edged import __version__
from edged.allocator import few_arenas
from edged.assembly import LOAD_LIMIT_S, Assembly, Frame, restore_outbox, topics_of
from edged.breadcrumb import CLEAN_STOPS, FRESH_BOOT, Breadcrumb, RunRecord
from edged.config import Config, ModelConfig
from edged.control import ControlServer, Operation
from edged.drift.commands import CommandInbox
from edged.errors import ConfigError, ControlError, EdgedError, StoreError
from edged.loader import Loader
from edged.lock import RuntimeLock, StateLock
from edged.models.inbox import Inbox
from edged.models.records import Moment
from edged.models.recovery import BootFacts, recover
from edged.models.store import Store
from edged.mqtt.client import Session
from edged.mqtt.spool import now
from edged.operations import drift_operations, update_operations
from edged.startup import Started, start, with_factory
from edged.systemd import Notifier
from edged.updates import update_topics
from edged.watching import drift_topics

log = logging.getLogger(__name__)

_TICK_S = 0.5

T = TypeVar("T")


class _StopAskedError(Exception):
    """A signal to stop came while the daemon was still loading."""


def _names(config: Config) -> set[str]:
    return {model.name for model in config.model}


def _inbound(config: Config) -> set[str]:
    """Return all topics that are subscribed to."""
    return {*update_topics(config), *drift_topics(config, topics_of(config))}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _check_directories(old: Config, new: Config) -> None:
    if (old.state_dir, old.runtime_dir) != (new.state_dir, new.runtime_dir):
        raise ConfigError(
            "needs_restart", "state_dir and runtime_dir change at a restart only, not at a reload."
        )


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
        self._began_s = time.monotonic()
        self._assembly: Assembly | None = None  # what `status` asks

    def run(self) -> int:
        """Run until SIGTERM or SIGINT.

        Returns:
            0 after a clean stop, 1 when a thread died of a bug: the service manager restarts.

        Raises:
            EdgedError: a model cannot run at the start, a directory cannot be used, or another
                daemon runs.
        """
        few_arenas()
        with self._signals():
            lock = StateLock(Path(self._config.state_dir))
            runtime = RuntimeLock(Path(self._config.runtime_dir))
            # From the start: loading may take a while, and then somebody asks why.
            control = ControlServer(runtime, self._operations())
            try:
                boot_id = now().boot
                record = RunRecord(runtime.directory, boot_id)
                crumb = Breadcrumb(runtime.directory)
                store = Store(Path(self._config.state_dir))
                frame = Frame(record.last_stop, boot_id, crumb, store, Inbox(), CommandInbox())
                try:
                    code = self._serve(frame)
                except _StopAskedError:
                    code = 0
                except EdgedError as error:
                    record.stopped(error.reason)
                    raise
                if code == 0:
                    record.stopped(self._stop_cause)
                    log.info("stopped (%s)", self._stop_cause)
            finally:
                control.stop()
                runtime.release()
                lock.release()
            return code

    def _operations(self) -> dict[str, Operation]:
        """Return all that the control socket offers."""
        return {
            "status": lambda _: self._status(),
            **update_operations(lambda: self._running().updates.local),
            **drift_operations(lambda: self._running().watching.desk),
        }

    def _running(self) -> Assembly:
        if self._assembly is None:
            raise ControlError(
                "service_starting", "models are being loaded.", advice="Try again in a moment."
            )
        return self._assembly

    def _status(self) -> dict[str, object]:
        assembly = self._assembly
        return {
            "state": "starting" if assembly is None else "running",
            "edged": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._began_s, 1),
            **({} if assembly is None else assembly.report()),
        }

    def _serve(self, frame: Frame) -> int:
        config = self._config
        loader = Loader(config, frame.store, frame.crumb.loading)
        clean = frame.last_stop in CLEAN_STOPS
        # A directory that outlives a reboot holds the crumb of a power cut.
        blamed = None if frame.last_stop == FRESH_BOOT else frame.crumb.blamed_sha256
        boot = BootFacts(frame.boot_id, clean, blamed)
        started = self._in_background(
            lambda: start(config.model, frame.store, loader, boot=boot, now_ms=_now_ms())
        )
        outbox, spool = self._in_background(lambda: restore_outbox(config))
        session = Session(config.mqtt, topics_of(config), outbox=outbox, spool=spool)
        assembly = Assembly(config, started, session, frame, self._wake)
        self._listen(session, frame, config)
        session.start()
        spool.start()
        assembly.start()
        self._assembly = assembly
        self._notifier.ready()
        # What is there now stays, and is never looked through again: a full collection would hold
        # every thread for longer than an invoke of a small model.
        gc.freeze()
        gc.enable()
        assembly = self._supervise(assembly, frame)
        self._notifier.stopping()
        assembly.stop(0.5)
        assembly.session.stop(0.5)
        spool.stop(0.3)
        return 0 if self._crashed is None else 1

    def _listen(self, session: Session, frame: Frame, config: Config) -> None:
        topics = update_topics(config)
        frame.inbox.know(topics)
        for topic in topics:
            session.subscribe(topic, frame.inbox.arrived)
        asked = drift_topics(config, topics_of(config))
        frame.asked.know(asked)
        for topic in asked:
            session.subscribe(topic, frame.asked.arrived)
        session.on_stray(frame.inbox.arrived)

    def _supervise(self, assembly: Assembly, frame: Frame) -> Assembly:
        while not self._stop_cause and self._crashed is None:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            if self._reload_asked:
                self._reload_asked = False
                assembly = self._reloaded(assembly, frame)
            assembly.tick()
            self._notifier.status(assembly.status())
            self._notifier.feed(alive=assembly.healthy())
        return assembly

    def _reloaded(self, assembly: Assembly, frame: Frame) -> Assembly:
        """Move to the configuration as it is now; keep the running one where it does not hold.

        A trial under way begins anew.
        """
        if self._reload is None:
            log.warning("nothing to reload: edged runs without a configuration file")
            return assembly
        self._notifier.reloading()
        try:
            config = self._reload()
            _check_directories(assembly.config, config)
            fresh = self._changed_models(assembly, config)
            loader = Loader(config, frame.store, frame.crumb.loading)
            boot = BootFacts(frame.boot_id, clean_stop=True, blamed_sha256=None)
            journals = assembly.updates.journals()
            loaded = self._in_background(
                lambda: start(
                    fresh, frame.store, loader, boot=boot, now_ms=_now_ms(), known=journals
                ),
                assembly.healthy,
            )
            # Whatever cannot be given up, such as the load of a candidate, may take as long as it
            # is allowed to, and needs the threads of the pipeline, which go on meanwhile.
            updates = assembly.updates
            self._in_background(lambda: updates.stop(LOAD_LIMIT_S), assembly.healthy)
        except _StopAskedError:
            return assembly
        except EdgedError as error:
            assembly.refuse(error)
            self._notifier.ready()
            return assembly
        limit_s = max(slot.invoke_limit_s for slot in assembly.slots.values())
        if not self._in_background(lambda: assembly.stop(limit_s)):
            # Two threads must never share an interpreter: let the service manager start anew.
            raise StoreError("reload_stuck", "a model did not come to rest for the reload.")
        started = self._handed_over(assembly, loaded, frame, config, boot)
        assembly.forget(set(assembly.slots) - _names(config))
        cameras = {camera.name for camera in config.camera}
        assembly.watching.forget({lane.camera for lane in assembly.lanes} - cameras)
        session = assembly.session
        old = assembly.config
        same_broker = (config.mqtt, config.device_id) == (old.mqtt, old.device_id)
        if not same_broker or _inbound(config) != _inbound(old):
            session = session.successor(config.mqtt, topics_of(config), 0.5)
            self._listen(session, frame, config)
            session.start()
        moved = Assembly(config, started, session, frame, self._wake)
        moved.start()
        self._assembly = moved
        self._notifier.ready()
        log.info("reloaded")
        return moved

    def _handed_over(
        self, assembly: Assembly, loaded: Started, frame: Frame, config: Config, boot: BootFacts
    ) -> Started:
        """Return what the next assembly begins with: models kept, and models loaded anew.

        The journals are those that the updater left, which may have gone on while models were
        loaded.
        """
        kept, journals = assembly.release(), assembly.updates.journals()
        troubles = {
            name: said for name, said in assembly.updates.troubles.items() if name in _names(config)
        }
        started = Started(fixed=loaded.fixed, troubles=troubles | loaded.troubles)
        for model in config.model:
            name = model.name
            before = journals.get(name)
            journal = loaded.journals.get(name, before) if before is None else before
            if journal is not None:
                journal = recover(journal, boot, _now_ms())
                if name in loaded.journals:
                    moment = Moment(_now_ms(), boot.boot_id)
                    journal = with_factory(journal, model, frame.store, moment)
                try:
                    if journal != before:
                        frame.store.journal(name).save(journal)
                    started.journals[name] = journal
                except StoreError as error:
                    started.unwritten(journal, error)
            elif name not in loaded.fixed and name in assembly.updates.fixed:
                started.fixed[name] = assembly.updates.fixed[name]
            wanted = started.wanted(name)
            for servable in (loaded.servables.get(name), kept.pop(name, None)):
                if servable is None:
                    continue
                fits = wanted is not None and servable.id.sha256 == wanted.sha256
                if fits and name not in started.servables:
                    started.servables[name] = servable
                else:
                    servable.close()
        for servable in kept.values():
            servable.close()
        return started

    def _changed_models(self, assembly: Assembly, config: Config) -> list[ModelConfig]:
        """Return the models that are new, or whose configuration or file is another now.

        One that is unchanged but does not run at present is left to the recovery: a change
        elsewhere must not wait for an accelerator to come back.

        Raises:
            ValidationError: `state_not_shared` when one that goes on would get a second camera
                and cannot tell two apart.
        """
        before = {model.name: model for model in assembly.config.model}
        same_library = config.edgetpu_library == assembly.config.edgetpu_library
        changed = []
        for model in config.model:
            unchanged = before.get(model.name) == model and same_library
            running = assembly.slots[model.name].current if unchanged else None
            if not unchanged or (running is not None and not running.files_unchanged(model)):
                changed.append(model)
            elif running is not None:
                running.check_cameras(config.cameras_of(model.name))
        return changed

    def _in_background(self, call: Callable[[], T], healthy: Callable[[], bool] | None = None) -> T:
        """Do what takes time while signals are answered and, within a limit, the watchdog is fed.

        Args:
            call: what to do.
            healthy: says whether what runs meanwhile still does; None where nothing runs.

        Raises:
            EdgedError: from `call`.
            _StopAskedError: SIGTERM or SIGINT came first.
        """
        outcome: list[T | BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                outcome.append(call())
            except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
                outcome.append(error)
            done.set()
            self._wake.set()

        # A daemon thread: a load that hangs must not keep the process from ending.
        threading.Thread(target=work, name="load", daemon=True).start()
        until_s = time.monotonic() + LOAD_LIMIT_S
        while not done.is_set():
            self._wake.wait(_TICK_S)
            self._wake.clear()
            if self._stop_cause:
                raise _StopAskedError
            in_time = time.monotonic() < until_s
            self._notifier.feed(alive=in_time and (healthy is None or healthy()))
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

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

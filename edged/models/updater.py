"""The updater: the one writer of all journals, on a thread of its own.

It takes what arrived over MQTT and what is asked for at the device, lets each model's deployments
go as far as they can, and tells what is durable. Nothing it does takes long: see `Task`.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edged.errors import EdgedError, StoreError, Trouble
from edged.models.casework import Case
from edged.models.inbox import Inbox
from edged.models.journal import Journal
from edged.models.listener import Listener
from edged.models.pursuit import Clock
from edged.models.records import Moment, Result
from edged.models.recovery import healthy
from edged.models.task import Spawn

log = logging.getLogger(__name__)

_TICK_S = 0.2
_IDLE_TICK_S = 1.0
_PROGRESS_S = 1.0
_REPORT_AGAIN_S = 5.0
_ANSWER_S = 30.0
_MOST_CALLS = 16
# A fleet that came back after a power cut does not ask all at once.
_FIRST_POLL_S = 300.0

T = TypeVar("T")


class Voice(Protocol):
    """Tells the world; never waits for the network."""

    def error(self, topic: str, reason: str, detail: str) -> bool:
        """Answer a message that cannot be taken; return whether anybody can hear it."""
        ...

    def journal(self, journal: Journal, latest: str | None) -> None:
        """Tell how deployments and versions of a model stand."""
        ...

    def progress(self, model: str, deployment_id: str, there_bytes: int, total_bytes: int) -> None:
        """Tell how far a download is."""
        ...

    def result(self, model: str, result: Result) -> bool:
        """Say how a deployment ended; return whether that cannot get lost any more.

        Raises:
            StoreError: it cannot be said, however often it is tried.
        """
        ...


@dataclass(frozen=True, slots=True)
class Duties:
    """What the updater does besides deployments.

    Attributes:
        latest: returns the newest published version by model, raises EdgedError, and asks often
            whether to give up; None: updates are off.
        poll_s: how often.
        tidy: removes what no journal names any more, for one model; raises StoreError.
    """

    latest: Callable[[Callable[[], bool]], Mapping[str, str]] | None
    poll_s: float
    tidy: Callable[[str], None]


class Updater:
    """Drives the deployments of all models.

    Attributes:
        cases: by model name.
        poll_trouble: why the newest versions could not be asked for the last time, or None.

    Args:
        cases: by model name.
        inbox: what arrives.
        voice: what is said.
        duties: what else there is to do.
        clock: the wall clock.
        moment: when something begins.
        monotonic: seconds.
        spawn: runs what takes long.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        inbox: Inbox,
        voice: Voice,
        duties: Duties,
        *,
        clock: Callable[[], Clock],
        moment: Callable[[], Moment],
        monotonic: Callable[[], float],
        spawn: Spawn,
    ) -> None:
        self.cases = cases
        self.poll_trouble: Trouble | None = None
        self._voice = voice
        self._duties = duties
        self._monotonic = monotonic
        self._spawn = spawn
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._bell = threading.Event()
        self._stopping = threading.Event()
        now_s = monotonic()
        self._listener = Listener(
            cases, inbox, voice.error, clock=clock, moment=moment, monotonic=monotonic
        )
        self._progress_s = float("-inf")
        self._report_s = now_s
        self._poll_s = now_s + min(duties.poll_s, _FIRST_POLL_S) * random.random()  # noqa: S311
        self._polling = False
        # They stay unreported: the next start, or a reload that makes room, says them.
        self._unsayable: set[tuple[str, str]] = set()
        self._latest: Mapping[str, str] = {}
        self._told: dict[str, tuple[Journal, str | None]] = {}
        self._untidy = set(cases)
        self._thread = threading.Thread(target=self._run, name="updater", daemon=True)

    def ring(self) -> None:
        """Have the thread look at once. Any thread."""
        self._bell.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have the thread end, and let go of what can be let go of."""
        self._stopping.set()
        self._bell.set()

    def stop(self, timeout_s: float) -> bool:
        """End the thread; return whether nothing that it began is still under way."""
        self.ask_to_stop()
        until_s = time.monotonic() + timeout_s
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        while not (idle := self._idle):
            if time.monotonic() >= until_s:
                break
            time.sleep(0.02)
        return idle and not self._thread.is_alive()

    @property
    def _idle(self) -> bool:
        return not self._polling and all(case.idle for case in self.cases.values())

    def ask(self, call: Callable[[], T]) -> T:
        """Have something done by the thread that writes journals, and return what it returns.

        Raises:
            EdgedError: from `call`; `updater_busy`.
        """
        future: Future[object] = Future()
        if len(self._calls) >= _MOST_CALLS or self._stopping.is_set():
            raise StoreError("updater_busy", "the updater is busy. Try it again.")
        self._calls.append((call, future))
        self._bell.set()
        try:
            return future.result(_ANSWER_S)  # type: ignore[return-value]  # of `call`
        except (TimeoutError, CancelledError):
            future.cancel()
            raise StoreError("updater_busy", "the updater is busy. Try it again.") from None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()
            busy = any(case.journal.current is not None for case in self.cases.values())
            self._bell.wait(_TICK_S if busy or self._listener.waits else _IDLE_TICK_S)
            self._bell.clear()
        for case in self.cases.values():
            case.stop()
        self._listener.end()
        for _, future in self._calls:
            future.cancel()

    def turn(self) -> None:
        """Do all that can be done now."""
        self._answer()
        self._listener.turn()
        for name, case in self.cases.items():
            others = (other for model, other in self.cases.items() if model != name)
            case.step(stage_free=not any(other.tries for other in others))
        self._tell()
        self._report()
        self._look_after()

    def _answer(self) -> None:
        while self._calls:
            call, future = self._calls.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except EdgedError as error:
                future.set_exception(error)

    def _report(self) -> None:
        """Put results into the outbox, which keeps them until the broker has them."""
        if self._monotonic() < self._report_s:
            return
        for name, case in self.cases.items():
            for result in case.journal.unreported():
                if (name, result.deployment_id) not in self._unsayable and not self._said(
                    case, result
                ):
                    self._report_s = self._monotonic() + _REPORT_AGAIN_S
                    return

    def _said(self, case: Case, result: Result) -> bool:
        """Say how a deployment ended; return whether the next one's turn has come."""
        name = case.journal.model
        try:
            safe = self._voice.result(name, result)
        except StoreError as error:
            log.error("model %s, result of %s: %s", name, result.deployment_id, error.explain())
            self._unsayable.add((name, result.deployment_id))
            return True
        try:
            if safe:
                case.write(case.journal.reported(result.deployment_id))
        except StoreError as error:
            case.complain(error)
            return False
        return safe

    def _tell(self) -> None:
        now_s = self._monotonic()
        progress_due = now_s >= self._progress_s + _PROGRESS_S
        for name, case in self.cases.items():
            said = (case.journal, self._latest.get(name))
            if self._told.get(name) != said:
                self._told[name] = said
                self._voice.journal(*said)
            if progress_due and case.progress is not None:
                self._progress_s = now_s
                self._voice.progress(name, *case.progress)

    def _look_after(self) -> None:
        for name, case in self.cases.items():
            try:
                if case.served_a_minute:
                    case.write(healthy(case.journal))
                if case.journal.current is not None:
                    self._untidy.add(name)
                elif name in self._untidy and not case.tries and case.idle:
                    self._untidy.discard(name)
                    active, latest = case.journal.active, self._latest.get(name)
                    if active is not None and latest is not None and active.version != latest:
                        self._poll_s = self._monotonic()  # it may be later than what is told
                    self._duties.tidy(name)
            except StoreError as error:
                case.complain(error)
        if self._duties.latest is not None and self._monotonic() >= self._poll_s:
            self._poll_s = self._monotonic() + self._duties.poll_s
            if not self._polling:
                self._polling = True
                self._spawn(self._poll)

    def _poll(self) -> None:
        try:
            if self._duties.latest is not None:
                self._latest = self._duties.latest(self._stopping.is_set)
                self.poll_trouble = None
        except EdgedError as error:
            if not self._stopping.is_set():
                self.poll_trouble = Trouble.of(error)
                log.warning("cannot tell what the latest versions are: %s", error.explain())
        finally:
            self._polling = False
        self.ring()

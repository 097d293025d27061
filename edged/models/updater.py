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
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edged.errors import EdgedError, MessageError, StoreError, Trouble
from edged.models.casework import Case
from edged.models.desired import Cancel, parse_command, parse_desired
from edged.models.inbox import Arrival, Inbox
from edged.models.journal import Journal
from edged.models.pursuit import Clock, Receipt, cancel, receive, roll_back
from edged.models.records import Moment, Result
from edged.models.recovery import healthy
from edged.models.task import Spawn

log = logging.getLogger(__name__)

# What arrives together after a connection is made is looked at together.
SETTLE_S = 2.0
_TICK_S = 0.2
_IDLE_TICK_S = 1.0
_MESSAGE_S = 1.0  # between two writes for messages, two of progress, two on `error`
_REPORT_AGAIN_S = 5.0
_ANSWER_S = 30.0
_MOST_CALLS = 16
# A fleet that came back after a power cut does not ask all at once.
_FIRST_POLL_S = 300.0

T = TypeVar("T")


class Voice(Protocol):
    """Tells the world; never waits for the network."""

    def error(self, topic: str, reason: str, detail: str) -> None:
        """Answer a message that cannot be taken."""
        ...

    def journal(self, journal: Journal, latest: str | None) -> None:
        """Tell how deployments and versions of a model stand."""
        ...

    def progress(self, model: str, deployment_id: str, there_bytes: int, total_bytes: int) -> None:
        """Tell how far a download is."""
        ...

    def result(self, model: str, result: Result) -> bool:
        """Say how a deployment ended; return whether that cannot get lost any more."""
        ...


@dataclass(frozen=True, slots=True)
class Duties:
    """What the updater does besides deployments.

    Attributes:
        latest: returns the newest published version by model, raises EdgedError; None: updates
            are off.
        poll_s: how often.
        tidy: removes what no journal names any more, for one model; raises StoreError.
    """

    latest: Callable[[], Mapping[str, str]] | None
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
        self._inbox = inbox
        self._voice = voice
        self._duties = duties
        self._clock = clock
        self._moment = moment
        self._monotonic = monotonic
        self._spawn = spawn
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._bell = threading.Event()
        self._stopping = threading.Event()
        now_s = monotonic()
        self._read_s: float | None = None  # when what is wanted is looked at
        self._read_last_s = float("-inf")
        self._error_s = self._progress_s = float("-inf")
        self._report_s = now_s
        self._poll_s = now_s + min(duties.poll_s, _FIRST_POLL_S) * random.random()  # noqa: S311
        self._polling = False
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
        while not (idle := all(case.idle for case in self.cases.values())):
            if time.monotonic() >= until_s:
                break
            time.sleep(0.02)
        return idle and not self._thread.is_alive()

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
        except TimeoutError:
            future.cancel()
            raise StoreError("updater_busy", "the updater is busy. Try it again.") from None

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()
            busy = any(case.journal.current is not None for case in self.cases.values())
            self._bell.wait(_TICK_S if busy or self._inbox.waits else _IDLE_TICK_S)
            self._bell.clear()
        for case in self.cases.values():
            case.stop()

    def turn(self) -> None:
        """Do all that can be done now."""
        self._answer()
        for arrival in self._inbox.commands():
            self._take(arrival, self._command)
        self._read()
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

    def _read(self) -> None:
        """Look at what is wanted, once it has settled, and at most once a second."""
        now_s = self._monotonic()
        if not self._inbox.waits:
            return
        if self._read_s is None:
            self._read_s = max(now_s + SETTLE_S, self._read_last_s + _MESSAGE_S)
        if now_s >= self._read_s:
            self._read_s, self._read_last_s = None, now_s
            for arrival in self._inbox.desired():
                self._take(arrival, self._desired)

    def _take(self, arrival: Arrival, what: Callable[[Case, Arrival], None]) -> None:
        case = self.cases.get(arrival.address.model)
        if case is None:
            return
        try:
            if arrival.refused is not None:
                raise arrival.refused
            what(case, arrival)
        except MessageError as error:
            now_s = self._monotonic()
            if now_s >= self._error_s + _MESSAGE_S:
                self._error_s = now_s
                self._voice.error(arrival.topic, error.reason, error.explain())
            log.warning("%s: %s (%s)", arrival.topic, error.explain(), error.reason)
        except StoreError as error:
            log.error("%s: %s", arrival.topic, error.explain())
            self._inbox.put_back(arrival)

    def _desired(self, case: Case, arrival: Arrival) -> None:
        desired = parse_desired(arrival.payload)
        journal, receipt = receive(case.journal, arrival.address.source, desired, self._clock())
        if receipt is Receipt.CLOCK:
            self._inbox.put_back(arrival)
            return
        case.write(journal)

    def _command(self, case: Case, arrival: Arrival) -> None:
        command = parse_command(arrival.payload)
        if isinstance(command, Cancel):
            case.write(cancel(case.journal, command, self._moment().now_ms))
        else:
            case.write(roll_back(case.journal, command, self._moment()))

    def _report(self) -> None:
        """Put results into the outbox, which keeps them until the broker has them."""
        if self._monotonic() < self._report_s:
            return
        for case in self.cases.values():
            for result in case.journal.unreported():
                try:
                    if self._voice.result(case.journal.model, result):
                        case.write(case.journal.reported(result.deployment_id))
                        continue
                except StoreError as error:
                    log.error("model %s: %s", case.journal.model, error.explain())
                self._report_s = self._monotonic() + _REPORT_AGAIN_S
                return

    def _tell(self) -> None:
        now_s = self._monotonic()
        progress_due = now_s >= self._progress_s + _MESSAGE_S
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
                    self._duties.tidy(name)
            except StoreError as error:
                log.error("model %s: %s", name, error.explain())
        if self._duties.latest is not None and self._monotonic() >= self._poll_s:
            self._poll_s = self._monotonic() + self._duties.poll_s
            if not self._polling:
                self._polling = True
                self._spawn(self._poll)

    def _poll(self) -> None:
        try:
            if self._duties.latest is not None:
                self._latest = self._duties.latest()
                self.poll_trouble = None
        except EdgedError as error:
            self.poll_trouble = Trouble.of(error)
            log.warning("cannot tell what the latest versions are: %s", error.explain())
        finally:
            self._polling = False
        self.ring()

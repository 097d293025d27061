"""A device reduced to what updates are about: a disk, a process that dies, a broker, a script.

It drives `edged.models` as the daemon does: the journal is written before anything is done, and a
result goes to the outbox after the journal is on disk. The disk and the outbox survive, everything
else is gone with the process; what is in RAM beyond it (the breadcrumb) goes with the power.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from itertools import count

import orjson

from edged.models.deployment import advance, return_to, runs, spend, todo
from edged.models.desired import Cancel
from edged.models.findings import found, overdue, restored, validated
from edged.models.journal import Journal, encode_journal, parse_journal
from edged.models.pursuit import cancel, pursue
from edged.models.records import Moment, Result, State, Status
from edged.models.recovery import BootFacts, recover
from edged.models.transitions import Action, Event, Kind
from sim.journals import DEVICE, NOW_MS, sha

LETTERS = {
    State.SYNCING: "S", State.DOWNLOADING: "D", State.VERIFYING: "V", State.VALIDATING: "L",
    State.TRIAL: "T", State.ROLLING_BACK: "R", State.COMMITTED: "C", State.ROLLED_BACK: "B",
    State.REJECTED: "X", State.FAILED: "F", State.CANCELED: "N",
}  # fmt: skip
ENDS = {Status.SUCCEEDED: "C", Status.ROLLED_BACK: "B", Status.REJECTED: "X", Status.FAILED: "F",
        Status.CANCELED: "N"}  # fmt: skip
GOOD = {
    State.DOWNLOADING: Kind.DOWNLOADED,
    State.VERIFYING: Kind.VERIFIED,
    State.TRIAL: Kind.HEALTHY,
}
DEADLINE_S = 86_400.0


class Died(Exception):  # noqa: N818
    """The process is gone; the way it went says what is left."""

    def __init__(self, way: str) -> None:
        super().__init__(way)
        self.way = way


class OtaDevice:
    """One device and what happens to it.

    Args:
        journal: what is on disk before the first start.
        script: `T:crash,power boot:kill` - what happens at the first, second... visit of a state
            (by its letter) or of a point: `boot` (recovered, not written), `outbox` (a result is
            in the journal only), `flag` (in the outbox, the journal does not know), `puback`
            (sent, not acknowledged). Where nothing is said all goes well.
    """

    def __init__(self, journal: Journal, script: str) -> None:
        self.disk = encode_journal(journal)
        self._journal = journal
        self.outbox: dict[str, bytes] = {}
        self.delivered: list[tuple[str, bytes]] = []
        self.visited = ""
        self.running: str | None = None
        self.starts = 0
        self._script: dict[str, list[str]] = defaultdict(list)
        for part in script.split():
            where, _, what = part.partition(":")
            self._script[where] += what.split(",")
        self._boots = count(1)
        self._boot_id = "boot-0"
        self._breadcrumb: str | None = None
        self._clean = True
        self._now_ms = NOW_MS

    @property
    def journal(self) -> Journal:
        """What was written last."""
        return self._journal

    def live(self, most_starts: int = 100) -> None:
        """Start, and start again, until there is nothing to do; afterwards every result is out."""
        for _ in range(most_starts):
            try:
                self._run()
            except Died as end:
                self._died(end.way)
            else:
                return
        raise AssertionError(f"no rest after {most_starts} starts: {self.visited}")

    def unused(self) -> dict[str, list[str]]:
        """What the script says that never happened."""
        return {where: rest for where, rest in self._script.items() if rest}

    def _run(self) -> None:
        self.starts += 1
        boot = BootFacts(self._boot_id, self._clean, self._breadcrumb)
        self._journal = parse_journal(self.disk)
        recovered = recover(self._journal, boot, self._tick())
        self._happens("boot")
        self._clean, self._breadcrumb = False, None
        self._write(recovered)
        running = runs(recovered)
        self.running = running.sha256 if running is not None else None
        while True:
            self._tell()
            journal = pursue(self.journal, DEVICE, Moment(self._tick(), self._boot_id))
            self._write(journal)
            if todo(journal) is Action.REST:
                return
            self._step(journal)

    def _step(self, journal: Journal) -> None:
        current = journal.current
        assert current is not None
        self.visited += LETTERS[current.state]
        self._act(journal)
        outcome = self._next(LETTERS[current.state])
        if outcome == "cancel":
            command = Cancel("c1", current.deployment_id)
            self._write(cancel(journal, command, self._tick()))
            return
        event = self._event(journal, outcome)
        after = advance(journal, current.deployment_id, event, self._tick())
        if outcome == "torn":
            raise Died("power")  # all was done, but the write is lost
        self._write(after)

    def _act(self, journal: Journal) -> None:
        current = journal.current
        assert current is not None
        if current.state is State.TRIAL:
            self.running = current.sha256
        elif current.state is State.ROLLING_BACK:
            target = return_to(journal)
            self.running = target.sha256 if target is not None else None

    def _event(self, journal: Journal, outcome: str) -> Event:
        current = journal.current
        assert current is not None
        state = current.state
        if outcome == "hang":
            # Before the trial the updater waits in vain, or a child is killed; a model that hangs
            # is ended by the watchdog, which is a crash.
            outcome = {
                State.SYNCING: "deadline", State.DOWNLOADING: "deadline", State.VERIFYING: "kill",
                State.VALIDATING: "bad", State.TRIAL: "crash", State.ROLLING_BACK: "crash",
            }[state]  # fmt: skip
        match outcome:
            case "ok" | "torn":
                return self._good(journal)
            case "kill" | "power" | "stop" | "crash":
                raise Died(outcome)
            case "trouble":
                return Event(Kind.TROUBLE, "server_error", "503")
            case "deadline":
                event = overdue(spend(journal, DEADLINE_S), DEADLINE_S)
                assert event is not None
                return event
            case "refuse":
                return Event(Kind.REFUSED, "trial_slow" if state is State.TRIAL else "too_large")
            case "bad":
                return Event(Kind.BROKEN, "golden_failed")
            case "error":
                if state is State.ROLLING_BACK:
                    return Event(Kind.UNUSABLE)
                return Event(Kind.FAILED, "disk_low")
        raise AssertionError(outcome)

    def _good(self, journal: Journal) -> Event:
        current = journal.current
        assert current is not None
        match current.state:
            case State.SYNCING:
                return found(journal, sha(current.version), downgrade_ok=False)
            case State.VALIDATING:
                return validated(journal)
            case State.ROLLING_BACK:
                return restored(journal)
        return Event(GOOD[current.state])

    def _tell(self) -> None:
        for result in self.journal.unreported():
            self._happens("outbox")
            self.outbox.setdefault(result.deployment_id, _payload(result))
            self._happens("flag")
            self._write(self.journal.reported(result.deployment_id))
        for name, payload in list(self.outbox.items()):
            self.delivered.append((name, payload))
            self._happens("puback")
            del self.outbox[name]

    def _write(self, journal: Journal) -> None:
        known = self.journal
        if journal == known:
            return
        self.disk, self._journal = encode_journal(journal), journal
        for result in journal.history:
            if known.result(result.deployment_id) is None:
                self.visited += ENDS[result.status]

    def _happens(self, point: str) -> None:
        outcome = self._next(point)
        if outcome != "ok":
            raise Died(outcome)

    def _next(self, where: str) -> str:
        return self._script[where].pop(0) if self._script[where] else "ok"

    def _died(self, way: str) -> None:
        self._clean = way == "stop"
        self._breadcrumb = None
        if way == "power":
            self._boot_id = f"boot-{next(self._boots)}"
        elif way == "crash":
            self._breadcrumb = self.running
        self.running = None

    def _tick(self) -> int:
        self._now_ms += 1000
        return self._now_ms


def _payload(result: Result) -> bytes:
    fields = asdict(result)
    del fields["reported"]
    return orjson.dumps(fields)

"""Journals to begin from: a device on 1.3.0 that ran 1.2.0 before, and has a factory model."""

from __future__ import annotations

from dataclasses import replace

from edged.models.deployment import advance, begin
from edged.models.desired import Desired, Source
from edged.models.journal import Journal
from edged.models.pursuit import Clock, Receipt, pursue, receive
from edged.models.records import Moment, Origin, Release, State
from edged.models.transitions import Event, Kind

NOW_MS = 1_763_683_200_000
BOOT = "b0070001-0000-4000-8000-000000000001"
MOMENT = Moment(NOW_MS, BOOT)
CLOCK = Clock(NOW_MS, synced=True)
DEVICE = "porch"


def sha(version: str) -> str:
    """The digest of a version in these tests: readable, and of the right shape."""
    return version.encode().hex().ljust(64, "0")[:64]


FACTORY = Release("0.0.0-factory-f0f0f0f0", "f0" * 32, 1)
PREVIOUS = Release("1.2.0", sha("1.2.0"), 2)
ACTIVE = Release("1.3.0", sha("1.3.0"), 3)
SETTLED = Journal("birds", active=ACTIVE, previous=PREVIOUS, factory=FACTORY)

# The events that lead from SYNCING to each state of an attempt to install 1.4.0.
WAY = {
    State.SYNCING: (),
    State.DOWNLOADING: (Event(Kind.FOUND, sha256=sha("1.4.0")),),
    State.VERIFYING: (Event(Kind.DOWNLOADED),),
    State.VALIDATING: (Event(Kind.VERIFIED),),
    State.TRIAL: (Event(Kind.VALIDATED),),
    State.ROLLING_BACK: (Event(Kind.REFUSED, "trial_slow", "12 ms against 7"),),
}


def under_way(state: State, origin: Origin = Origin.DESIRED, base: Journal = SETTLED) -> Journal:
    """An attempt to install 1.4.0 (of COMMAND and FALLBACK: to leave 1.3.0), in a state."""
    if origin in {Origin.COMMAND, Origin.FALLBACK}:
        assert state is State.ROLLING_BACK
        assert base.active is not None
        left = base.active
        return begin(base, "d1", origin, left.version, MOMENT, sha256=left.sha256, reason="why")
    if origin is Origin.FACTORY:
        journal = begin(base, "d1", origin, "1.4.0", MOMENT, sha256=sha("1.4.0"))
        way = [State.TRIAL, State.ROLLING_BACK]
    else:
        journal = begin(base, "d1", origin, "1.4.0", MOMENT, order_ms=NOW_MS)
        way = list(WAY)
    for step in way:
        if journal.current is not None and journal.current.state is state:
            break
        for event in WAY[step]:
            journal = advance(journal, "d1", event, NOW_MS)
    assert journal.current is not None
    assert journal.current.state is state
    return journal


def wants(
    journal: Journal,
    deployment_id: str,
    version: str | None,
    *,
    source: Source = Source.DEVICE,
    order_ms: int | None = None,
    percent: int = 100,
    clock: Clock = CLOCK,
) -> tuple[Journal, Receipt]:
    """What `receive` and `pursue` make of a Desired."""
    desired = Desired(deployment_id, version, order_ms, percent)
    journal, receipt = receive(journal, source, desired, clock)
    return pursue(journal, DEVICE, MOMENT), receipt


def run_through(journal: Journal, now_ms: int = NOW_MS) -> Journal:
    """All goes well until nothing is under way; digests are those of `sha`."""
    while (current := journal.current) is not None:
        event = {
            State.SYNCING: Event(Kind.FOUND, sha256=sha(current.version)),
            State.DOWNLOADING: Event(Kind.DOWNLOADED),
            State.VERIFYING: Event(Kind.VERIFIED),
            State.VALIDATING: Event(Kind.VALIDATED),
            State.TRIAL: Event(Kind.HEALTHY),
            State.ROLLING_BACK: Event(Kind.RESTORED),
        }[current.state]
        journal = advance(journal, current.deployment_id, event, now_ms)
    return journal


def in_state(journal: Journal, **changes: object) -> Journal:
    """The journal with fields of its deployment changed."""
    assert journal.current is not None
    return replace(journal, current=replace(journal.current, **changes))  # type: ignore[arg-type]

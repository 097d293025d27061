"""What holds for any bytes and any course of events. Runs are the same every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim.journals import DEVICE, NOW_MS, SETTLED, sha

from edged.errors import MessageError, StoreError
from edged.models.deployment import IllegalTransitionError, advance, return_to, runs, spend
from edged.models.desired import (
    Cancel,
    Desired,
    RollBack,
    Source,
    parse_command,
    parse_desired,
)
from edged.models.findings import found, overdue, restored, validated
from edged.models.journal import HISTORY, MARKS, Journal, encode_journal, parse_journal
from edged.models.pursuit import (
    Clock,
    cancel,
    forget_order,
    install,
    pursue,
    receive,
    roll_back,
    use_factory,
)
from edged.models.records import Moment, Origin, Result, State, Status
from edged.models.recovery import MOST_TRANSITIONS, BootFacts, healthy, recover
from edged.models.transitions import TODO, Event, Kind
from edged.mqtt.updates import encode_state

bounded = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(
    ["deployment_id", "version", "order", "rollout", "schema", "id", "action", "from_version"]
)
VALUES = JSON | st.sampled_from(
    ["d1", "1.4.0", "cancel", "rollback", 1, 0, 2**63, {"percent": 5}, {"percent": 101}]
)
MESSAGES = st.dictionaries(KEYS, VALUES).map(lambda message: json.dumps(message).encode())
GOOD = (
    b'{"schema":1,"deployment_id":"d1","version":"1.4.0","order":5,"rollout":{"percent":10}}',
    b'{"id":"c1","action":"rollback","from_version":"1.4.0"}',
)


@st.composite
def damaged(draw: st.DrawFn, originals: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with some of them replaced, removed or repeated."""
    data = bytearray(draw(originals))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(0, 8))
        data[at : at + size] = draw(
            st.binary(max_size=8) | st.just(bytes(data[at : at + size]) * 2)
        )
    return bytes(data)


@bounded
@given(st.binary(max_size=300) | MESSAGES | damaged(st.sampled_from(GOOD)))
def test_any_payload_is_taken_or_refused(payload):
    for parse in (parse_desired, parse_command):
        try:
            message = parse(payload)
        except MessageError as error:
            assert error.reason in {"message_malformed", "message_too_large", "id_reserved"}
            str(error).encode("ascii")
            assert len(str(error)) < 400
        else:
            assert isinstance(message, Desired | Cancel | RollBack)


def sealed(body: bytes) -> bytes:
    return b'{"sha256":"%s","journal":%s}\n' % (hashlib.sha256(body).hexdigest().encode(), body)


def read(data: bytes) -> None:
    try:
        journal = parse_journal(data)
    except StoreError as error:
        assert error.reason in {"journal_damaged", "journal_newer"}
    else:
        assert parse_journal(encode_journal(journal)) == journal


# --- any course of events ---------------------------------------------------------------------

VERSIONS = ["1.2.0", "1.3.0", "1.4.0", "1.5.0", "2.0.0-rc.1"]
IDS = [f"d{number}" for number in range(6)]
DIGESTS = [*map(sha, VERSIONS), "f0" * 32, "f2" * 32]
MOMENT = Moment(NOW_MS, "boot-1")
Op = Callable[[Journal], Journal]


def happen(kind: Kind) -> Op:
    """An event from nowhere, legal or not."""

    def op(journal: Journal) -> Journal:
        current = journal.current
        name = current.deployment_id if current else "nobody"
        digest = sha(current.version) if current else ""
        return advance(journal, name, Event(kind, "some_reason", "words", digest), NOW_MS)

    return op


def go_on(journal: Journal) -> Journal:
    """All goes well for one step."""
    current = journal.current
    if current is None:
        return pursue(journal, DEVICE, MOMENT)
    event = {
        State.SYNCING: lambda: found(journal, sha(current.version), downgrade_ok=False),
        State.DOWNLOADING: lambda: Event(Kind.DOWNLOADED),
        State.VERIFYING: lambda: Event(Kind.VERIFIED),
        State.VALIDATING: lambda: validated(journal),
        State.TRIAL: lambda: Event(Kind.HEALTHY, health='{"frames":300}'),
        State.ROLLING_BACK: lambda: restored(journal),
    }[current.state]()
    return advance(journal, current.deployment_id, event, NOW_MS)


def want(source: Source, name: str, version: str | None, order: int | None, percent: int) -> Op:
    def op(journal: Journal) -> Journal:
        desired = Desired(name, version, order, percent)
        return receive(journal, source, desired, Clock(NOW_MS, synced=True))[0]

    return op


def start(boot: str, clean: bool, blamed: str | None) -> Op:
    """A start; `candidate` and `running` are the digests of what is."""

    def op(journal: Journal) -> Journal:
        running = runs(journal)
        named = {
            "candidate": journal.current.sha256 if journal.current else None,
            "running": running.sha256 if running else None,
        }
        return recover(journal, BootFacts(boot, clean, named.get(blamed or "", blamed)), NOW_MS)

    return op


def late(journal: Journal) -> Journal:
    event = overdue(spend(journal, 50_000), 100_000)
    journal = spend(journal, 50_000)
    if event is None or journal.current is None:
        return journal
    return advance(journal, journal.current.deployment_id, event, NOW_MS)


def report(journal: Journal) -> Journal:
    return (
        journal.reported(journal.unreported()[0].deployment_id) if journal.unreported() else journal
    )


# Only these may ever lead to a bad mark.
BLAMING: list[Op] = [
    happen(Kind.BROKEN),
    *(start("boot-1", False, blamed) for blamed in ("candidate", "running", *DIGESTS)),
]
ONE: st.SearchStrategy[Op] = st.one_of(
    st.just(go_on),
    st.sampled_from([kind for kind in Kind if kind is not Kind.BROKEN]).map(happen),
    st.sampled_from(BLAMING),
    st.builds(
        want,
        st.sampled_from(Source),
        st.sampled_from(IDS),
        st.sampled_from([*VERSIONS, None]),
        st.none() | st.integers(1, 9) | st.just(2**62),
        st.sampled_from([0, 50, 100]),
    ),
    st.just(lambda journal: pursue(journal, DEVICE, MOMENT)),
    st.sampled_from(["boot-1", "boot-2"]).map(lambda boot: start(boot, False, None)),
    st.sampled_from(["candidate", "running", *DIGESTS]).map(
        lambda blamed: start("boot-1", True, blamed)
    ),
    st.sampled_from(IDS).map(
        lambda name: lambda journal: cancel(journal, Cancel("c", name), NOW_MS)
    ),
    st.tuples(st.sampled_from([*IDS, "c1", "c2"]), st.sampled_from(VERSIONS)).map(
        lambda words: lambda journal: roll_back(journal, RollBack(*words), MOMENT)
    ),
    st.sampled_from(VERSIONS).map(
        lambda version: lambda journal: install(journal, version, MOMENT)[0]
    ),
    st.sampled_from(["f0", "f2"]).map(
        lambda digest: lambda journal: use_factory(journal, digest * 32, MOMENT)
    ),
    st.sampled_from(Source).map(lambda source: lambda journal: forget_order(journal, source)),
    st.just(healthy),
    st.just(late),
    st.just(report),
)


# Alone, or several times in a row: else hardly anything gets far, or crashes often enough.
SOME = st.tuples(ONE | st.just(go_on) | st.just(BLAMING[2]), st.integers(1, 6)).map(
    lambda pair: [pair[0]] * pair[1]
)


def courses(least: int, most: int) -> st.SearchStrategy[list[Op]]:
    return st.lists(SOME, min_size=least, max_size=most).map(
        lambda parts: [op for part in parts for op in part]
    )


def check_step(before: Journal, after: Journal, op: Op) -> None:
    current = before.current
    # Active: what it was, the candidate of a trial, or what was to be returned to.
    if after.active != before.active and after.active is not None:
        allowed = {"f0" * 32, "f2" * 32} if before.active is None else set()
        if current is not None and current.state is State.TRIAL:
            allowed.add(current.sha256)
        if current is not None and current.state is State.ROLLING_BACK:
            target = return_to(before)
            allowed.add(target.sha256 if target is not None else "")
            allowed |= {r.sha256 for r in (before.previous, before.factory) if r is not None}
        assert after.active.sha256 in allowed
    if after.active is None and before.active is not None:
        assert current is not None
        assert current.state is State.ROLLING_BACK
    running = runs(after)
    assert running is None or not after.is_bad(running.sha256)
    # Marks: only what was a candidate or what ran, and never a second one for another reason.
    new = {mark.sha256 for mark in after.marks if mark.bad} - {
        mark.sha256 for mark in before.marks if mark.bad
    }
    was_running = runs(before)
    guilty = {current.sha256 if current else "", was_running.sha256 if was_running else ""}
    assert new <= guilty
    assert not new or op in BLAMING
    # Bounds.
    assert len(after.history) <= HISTORY
    assert len(after.marks) <= MARKS
    assert after.seq > before.seq or encode_state(after) == encode_state(before)
    assert after.serial >= before.serial
    if after.current is not None:
        assert after.current.transitions <= MOST_TRANSITIONS + 12


@settings(bounded, max_examples=250)
@given(courses(15, 40), st.booleans())
def test_any_course_of_events(ops, fresh):
    journal = Journal("birds") if fresh else SETTLED
    results: dict[str, Result] = {}
    for op in ops:
        try:
            after = op(journal)
        except (IllegalTransitionError, MessageError):
            continue
        check_step(journal, after, op)
        for past in after.history:
            known = results.setdefault(past.deployment_id, replace(past, reported=False))
            assert replace(past, reported=False) == known
        journal = after
    data = encode_journal(journal)
    assert parse_journal(data) == journal
    assert encode_journal(parse_journal(data)) == data


@settings(bounded, max_examples=150)
@given(courses(5, 20))
def test_any_course_ends_when_all_goes_well(ops):
    """Whatever has happened: left alone it comes to rest, and then a clean deployment succeeds."""
    journal = SETTLED
    for op in ops:
        with contextlib.suppress(IllegalTransitionError, MessageError):
            journal = op(journal)
    journal = to_rest(journal)
    journal = want(Source.DEVICE, "last", "9.0.0", 10_000, 100)(
        forget_order(journal, Source.DEVICE)
    )
    journal = to_rest(pursue(journal, DEVICE, MOMENT))
    assert journal.active is not None
    assert journal.active.version == "9.0.0"


def to_rest(journal: Journal) -> Journal:
    for _ in range(40):
        if pursue(journal, DEVICE, MOMENT).current is None:
            return pursue(journal, DEVICE, MOMENT)
        journal = go_on(journal)
    pytest.fail(f"no rest: {journal.current}")


@bounded
@given(courses(3, 10), st.data())
def test_any_file_is_read_or_refused(ops, data):
    journal = SETTLED
    for op in ops:
        with contextlib.suppress(IllegalTransitionError, MessageError):
            journal = op(journal)
    good = encode_journal(journal)
    body = good[good.index(b',"journal":') + 11 : -2]
    assert sealed(body) == good
    read(data.draw(st.binary(max_size=200)))
    read(data.draw(damaged(st.just(good))))
    read(sealed(data.draw(damaged(st.just(body)))))
    read(sealed(data.draw(st.binary(max_size=100))))
    fields = json.loads(body)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    read(sealed(json.dumps(fields, separators=(",", ":")).encode()))


def test_the_courses_go_everywhere():
    """They are no idle ones: every origin and every way to end comes up."""
    seen: set[object] = set()

    @settings(bounded, max_examples=200)
    @given(courses(15, 40))
    def collect(ops: list[Op]) -> None:
        journal = SETTLED
        for op in ops:
            with contextlib.suppress(IllegalTransitionError, MessageError):
                journal = op(journal)
            seen.add(journal.current.state if journal.current else None)
        seen.update(past.origin for past in journal.history)
        seen.update(past.status for past in journal.history)

    collect()
    assert seen >= {None, *Origin, *Status, *TODO}

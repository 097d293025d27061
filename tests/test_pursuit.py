"""Which Desired counts, what begins because of it, and that nothing ever begins twice."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from sim.journals import (
    ACTIVE,
    CLOCK,
    DEVICE,
    FACTORY,
    MOMENT,
    NOW_MS,
    PREVIOUS,
    SETTLED,
    run_through,
    sha,
    under_way,
    wants,
)

from edged.errors import MessageError
from edged.models.deployment import advance
from edged.models.desired import Cancel, Desired, RollBack, Source, in_rollout
from edged.models.findings import restored
from edged.models.journal import Journal
from edged.models.pursuit import (
    AHEAD_MS,
    Clock,
    Receipt,
    cancel,
    effective,
    forget_order,
    install,
    pursue,
    receive,
    roll_back,
    use_factory,
)
from edged.models.records import BEFORE_TRIAL, Mark, Origin, State, Status
from edged.models.transitions import TODO, Event, Kind
from edged.mqtt.updates import encode_state

GROUP, ALL, DEV = Source.GROUP, Source.ALL, Source.DEVICE


def current(journal: Journal) -> str | None:
    return None if journal.current is None else journal.current.deployment_id


def results(journal: Journal) -> list[tuple[str, str, str]]:
    return [(past.deployment_id, past.status, past.reason) for past in journal.history]


def rolled_back(journal: Journal) -> Journal:
    """From an attempt just begun to its end in ROLLED_BACK."""
    assert journal.current is not None
    name, digest = journal.current.deployment_id, sha(journal.current.version)
    for event in (
        Event(Kind.FOUND, sha256=digest),
        Event(Kind.DOWNLOADED),
        Event(Kind.VERIFIED),
        Event(Kind.VALIDATED),
        Event(Kind.BROKEN, "trial_not_finite"),
        Event(Kind.RESTORED),
    ):
        journal = advance(journal, name, event, NOW_MS)
    return journal


def refused(reason: str, *args: object, **kwargs: object) -> None:
    with pytest.raises(MessageError) as caught:
        wants(*args, **kwargs)  # type: ignore[arg-type]
    assert caught.value.reason == reason


# --- the same again ---------------------------------------------------------------------------


@pytest.mark.parametrize("order_ms", [None, NOW_MS])
@pytest.mark.parametrize("state", TODO)
def test_repeated_ten_times_in_every_state(state, order_ms):
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=order_ms)
    journal = replace(under_way(state), desired=journal.desired)
    for turn in range(10):
        clock = Clock(NOW_MS + 1000 * turn, synced=True)
        again, receipt = wants(journal, "d1", "1.4.0", order_ms=order_ms, clock=clock)
        assert receipt is Receipt.KNOWN
        assert again == journal


@pytest.mark.parametrize("order_ms", [None, NOW_MS])
@pytest.mark.parametrize("end", [run_through, rolled_back], ids=["COMMITTED", "ROLLED_BACK"])
def test_delivered_again_after_the_end(end, order_ms):
    journal = end(wants(SETTLED, "d1", "1.4.0", order_ms=order_ms)[0])
    for turn in range(10):
        clock = Clock(NOW_MS + 1000 * turn, synced=True)
        again, receipt = wants(journal, "d1", "1.4.0", order_ms=order_ms, clock=clock)
        assert receipt is Receipt.KNOWN
        assert again == journal
    assert len(journal.history) == 1


def test_delivered_again_by_another_source():
    journal = run_through(wants(SETTLED, "d1", "1.4.0", source=GROUP, order_ms=5)[0])
    again, _ = wants(journal, "d1", "1.4.0", source=ALL, order_ms=5)
    assert replace(again, desired=journal.desired) == journal
    assert again.held(ALL) is not None
    released, _ = wants(again, "d2", None, source=GROUP, order_ms=6)
    assert current(released) is None


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_reordered(order):
    """Whatever order they come in, the last word is the one with the highest order."""
    journal = SETTLED
    for number in order:
        journal, _ = wants(journal, f"d{number}", f"1.4.{number}", order_ms=number + 1)
    assert current(journal) == "d2"
    journal = run_through(journal)
    assert journal.active is not None
    assert journal.active.version == "1.4.2"
    assert {reason for _, status, reason in results(journal) if status == "CANCELED"} <= {
        "superseded"
    }
    for number in order:
        again, receipt = wants(journal, f"d{number}", f"1.4.{number}", order_ms=number + 1)
        assert receipt in {Receipt.KNOWN, Receipt.OLD}
        assert again == journal


@pytest.mark.parametrize(("order_ms", "receipt"), [(4, "old"), (5, "old"), (6, "recorded")])
def test_a_new_id_needs_a_higher_order(order_ms, receipt):
    journal = run_through(wants(SETTLED, "d1", "1.4.0", order_ms=5)[0])
    after, got = wants(journal, "d2", "1.5.0", order_ms=order_ms)
    assert got == receipt
    assert (after == journal) is (receipt == "old")


def test_without_an_order_it_is_the_time_of_receipt():
    journal, _ = wants(SETTLED, "d1", "1.4.0")
    assert journal.held(DEV).order_ms == NOW_MS
    later = Clock(NOW_MS + 1, synced=True)
    after, receipt = wants(journal, "d2", "1.5.0", clock=later)
    assert (current(after), receipt) == ("d2", Receipt.RECORDED)
    assert wants(journal, "d2", "1.5.0", clock=CLOCK)[1] is Receipt.OLD


def test_a_repetition_without_order_does_not_outdate_what_was_said_in_between():
    """The broker delivers the first once more, then a second that was sent before that."""
    journal, _ = wants(SETTLED, "d1", "1.4.0")
    journal, _ = wants(journal, "d1", "1.4.0", clock=Clock(NOW_MS + 9999, synced=True))
    journal, receipt = wants(
        journal, "d2", "1.5.0", order_ms=NOW_MS + 5, clock=Clock(NOW_MS + 9999, synced=True)
    )
    assert (current(journal), receipt) == ("d2", Receipt.RECORDED)


def test_an_older_repetition_changes_nothing():
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=5, percent=100)
    after, receipt = wants(journal, "d1", "1.4.0", order_ms=4, percent=0)
    assert receipt is Receipt.OLD
    assert after == journal


def test_order_may_rise_under_the_same_id():
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=5)
    journal, receipt = wants(journal, "d1", "1.4.0", order_ms=9)
    assert receipt is Receipt.RECORDED
    assert wants(journal, "d2", "1.5.0", order_ms=8)[1] is Receipt.OLD


# --- the clock --------------------------------------------------------------------------------


@pytest.mark.parametrize("order_ms", [2**62, 2**63 - 1, NOW_MS + AHEAD_MS + 1])
def test_an_order_far_ahead_is_refused_and_blocks_nothing(order_ms):
    refused("order_ahead", SETTLED, "d1", "1.4.0", order_ms=order_ms)
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=NOW_MS)
    refused("order_ahead", journal, "d1", "1.4.0", order_ms=order_ms)
    refused("order_ahead", journal, "d2", None, order_ms=order_ms)
    assert wants(journal, "d3", "1.5.0", order_ms=NOW_MS + 1)[1] is Receipt.RECORDED


def test_an_order_of_tomorrow_is_taken():
    _, receipt = wants(SETTLED, "d1", "1.4.0", order_ms=NOW_MS + AHEAD_MS)
    assert receipt is Receipt.RECORDED


@pytest.mark.parametrize("order_ms", [2**62, NOW_MS])
def test_without_a_clock_it_waits(order_ms):
    asleep = Clock(5_000, synced=False)
    journal, receipt = wants(SETTLED, "d1", "1.4.0", order_ms=order_ms, clock=asleep)
    assert receipt is Receipt.CLOCK
    assert journal == SETTLED
    if order_ms == NOW_MS:
        assert wants(journal, "d1", "1.4.0", order_ms=order_ms)[1] is Receipt.RECORDED
    else:
        refused("order_ahead", journal, "d1", "1.4.0", order_ms=order_ms)


def test_without_a_clock_a_message_without_order_waits_only_if_it_would_be_too_old():
    asleep = Clock(5_000, synced=False)
    assert wants(SETTLED, "d1", "1.4.0", clock=asleep)[1] is Receipt.RECORDED
    held = wants(SETTLED, "d1", "1.4.0", order_ms=NOW_MS)[0]
    after, receipt = wants(held, "d2", "1.5.0", clock=asleep)
    assert receipt is Receipt.CLOCK
    assert after == held


# --- ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_ms", [None, NOW_MS + 400 * AHEAD_MS])
def test_an_order_taken_by_a_wrong_clock_blocks_nothing_once_it_is_set(order_ms):
    for synced in (False, True):
        wrong = Clock(NOW_MS + 500 * AHEAD_MS, synced=synced)
        journal, receipt = wants(SETTLED, "d1", "1.4.0", order_ms=order_ms, clock=wrong)
        assert receipt is Receipt.RECORDED
        journal = run_through(journal)
        assert wants(journal, "d1", "1.4.0", order_ms=order_ms, clock=wrong)[1] is Receipt.KNOWN
        for later_ms in (NOW_MS + 1, None):
            after, receipt = wants(journal, "d2", "1.5.0", order_ms=later_ms)
            assert (receipt, current(after)) == (Receipt.RECORDED, "d2")
        assert wants(journal, "d1", "1.4.0", order_ms=NOW_MS, percent=50)[1] is Receipt.RECORDED
        unset = Clock(NOW_MS, synced=False)
        assert wants(journal, "d2", "1.5.0", order_ms=NOW_MS + 1, clock=unset)[1] is Receipt.OLD


@pytest.mark.parametrize("version", ["1.5.0", None])
@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("end", [lambda journal: journal, run_through, rolled_back])
def test_a_known_id_with_another_version(end, source, version):
    journal = end(wants(SETTLED, "d1", "1.4.0", source=ALL, order_ms=5)[0])
    for order_ms in (None, 4, 5, 6):
        refused("id_reused", journal, "d1", version, source=source, order_ms=order_ms)
    assert len(journal.history) <= 1


def test_the_id_of_a_command_is_no_id_for_a_desired():
    journal = roll_back(SETTLED, RollBack("x", "1.3.0"), MOMENT)
    for state in (journal, run_through(journal)):
        refused("id_reused", state, "x", "1.3.0")
    journal, _ = wants(SETTLED, "x", "1.3.0")
    with pytest.raises(MessageError) as caught:
        roll_back(journal, RollBack("x", "1.3.0"), MOMENT)
    assert caught.value.reason == "id_reused"


# --- sources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [DEV, GROUP])
def test_group_and_device_in_conflict_over_ten_reconnects(first):
    """One of them runs, once; the other never gets a result; nothing flaps."""
    messages = {DEV: ("d-device", "1.5.0"), GROUP: ("d-group", "1.4.0")}
    order = [first, GROUP if first is DEV else DEV]
    # Both are retained, and settle before anything begins.
    journal = SETTLED
    for source in order:
        desired = Desired(*messages[source], order_ms=7)
        journal, _ = receive(journal, source, desired, CLOCK)
    journal = run_through(pursue(journal, DEVICE, MOMENT))
    settled = journal
    for turn in range(10):
        for source in order if turn % 2 else reversed(order):
            name, version = messages[source]
            journal, _ = wants(journal, name, version, source=source, order_ms=7)
    assert journal == settled
    assert results(journal) == [("d-device", "SUCCEEDED", "")]
    assert journal.active.version == "1.5.0"


def test_two_groups_without_order_do_not_flap():
    """All groups are one source: the second replaces the first, once and for all."""
    journal, _ = wants(SETTLED, "d1", "1.4.0", source=GROUP)
    journal, _ = wants(journal, "d2", "1.5.0", source=GROUP, clock=Clock(NOW_MS + 1, synced=True))
    begun = journal
    for turn in range(10):
        clock = Clock(NOW_MS + 1000 * turn, synced=True)
        for name, version in (("d1", "1.4.0"), ("d2", "1.5.0")):
            journal, _ = wants(journal, name, version, source=GROUP, clock=clock)
    assert journal == begun
    assert results(run_through(journal)) == [
        ("d1", "CANCELED", "superseded"),
        ("d2", "SUCCEEDED", ""),
    ]


@pytest.mark.parametrize("end", [run_through, rolled_back])
def test_the_highest_source_counts_whatever_its_outcome(end):
    journal = end(wants(SETTLED, "d1", "1.4.0", source=DEV)[0])
    journal, receipt = wants(journal, "d2", "1.5.0", source=ALL)
    assert receipt is Receipt.RECORDED
    assert current(journal) is None
    assert len(journal.history) == 1


def test_release_lets_the_next_source_have_its_way():
    journal = run_through(wants(SETTLED, "d1", "1.4.0", source=DEV, order_ms=1)[0])
    journal, _ = wants(journal, "g1", "1.5.0", source=GROUP, order_ms=1)
    journal, _ = wants(journal, "a1", "1.6.0", source=ALL, order_ms=1)
    assert current(journal) is None

    journal, _ = wants(journal, "d2", None, source=DEV, order_ms=2)
    assert current(journal) == "g1"
    journal = run_through(journal)
    journal, _ = wants(journal, "g2", None, source=GROUP, order_ms=2)
    assert current(journal) == "a1"
    journal = run_through(journal)
    journal, _ = wants(journal, "a2", None, source=ALL, order_ms=2)

    assert effective(journal) is None
    assert [name for name, _, _ in results(journal)] == ["d1", "g1", "a1"]
    assert journal.active.version == "1.6.0"


@pytest.mark.parametrize("state", TODO)
def test_release_of_what_is_under_way(state):
    journal = replace(
        under_way(state), desired=wants(SETTLED, "d1", "1.4.0", order_ms=1)[0].desired
    )
    after, _ = wants(journal, "d2", None, order_ms=2)
    if state in BEFORE_TRIAL:
        assert results(after) == [("d1", "CANCELED", "released")]
        assert current(after) is None
    else:
        assert current(after) == "d1"
        assert after.current == journal.current
    old, receipt = wants(after, "d1", "1.4.0", order_ms=1)
    assert receipt is Receipt.KNOWN
    assert old == after


def test_a_release_is_repeated_silently_and_gets_no_result():
    journal, _ = wants(SETTLED, "d1", None, order_ms=5)
    assert journal.history == ()
    again, receipt = wants(journal, "d1", None, order_ms=5)
    assert (again, receipt) == (journal, Receipt.KNOWN)
    assert wants(journal, "d0", "1.4.0", order_ms=4)[1] is Receipt.OLD


@pytest.mark.parametrize("state", TODO)
def test_a_newer_desired_supersedes_or_waits(state):
    journal = replace(
        under_way(state), desired=wants(SETTLED, "d1", "1.4.0", order_ms=1)[0].desired
    )
    journal, _ = wants(journal, "d2", "1.5.0", order_ms=2)
    if state in BEFORE_TRIAL:
        assert results(journal) == [("d1", "CANCELED", "superseded")]
    else:
        assert current(journal) == "d1"
        assert journal.history == ()
        journal = pursue(run_through(journal), DEVICE, MOMENT)
    assert current(journal) == "d2"
    journal = run_through(journal)
    assert journal.active.version == "1.5.0"
    assert len(journal.history) == 2


def test_of_those_that_wait_for_a_trial_only_the_last_begins():
    journal = replace(
        under_way(State.TRIAL), desired=wants(SETTLED, "d1", "1.4.0", order_ms=1)[0].desired
    )
    for number in range(2, 1000):
        journal, _ = wants(journal, f"d{number}", "1.5.0", order_ms=number)
    journal = run_through(pursue(run_through(journal), DEVICE, MOMENT))
    assert results(journal) == [("d1", "SUCCEEDED", ""), ("d999", "SUCCEEDED", "")]


def test_an_outranked_one_is_superseded_by_the_higher_source_and_does_not_return():
    journal, _ = wants(SETTLED, "g1", "1.4.0", source=GROUP, order_ms=1)
    journal, _ = wants(journal, "d1", "1.5.0", source=DEV, order_ms=1)
    assert current(journal) == "d1"
    journal = run_through(journal)
    journal, _ = wants(journal, "d2", None, source=DEV, order_ms=2)
    assert current(journal) is None
    assert results(journal) == [("g1", "CANCELED", "superseded"), ("d1", "SUCCEEDED", "")]


# --- percentages ------------------------------------------------------------------------------


def bucket(deployment_id: str) -> int:
    return next(p for p in range(101) if in_rollout(deployment_id, DEVICE, p))


def test_a_percentage_raised_under_the_same_id():
    least = bucket("d1")
    journal, _ = wants(SETTLED, "d1", "1.4.0", source=ALL, order_ms=1, percent=0)
    for percent in range(least):
        journal, _ = wants(journal, "d1", "1.4.0", source=ALL, order_ms=1, percent=percent)
        assert current(journal) is None
        assert journal.history == ()
    journal, _ = wants(journal, "d1", "1.4.0", source=ALL, order_ms=1, percent=least)
    assert current(journal) == "d1"
    journal, _ = wants(journal, "d1", "1.4.0", source=ALL, order_ms=1, percent=0)
    assert current(journal) == "d1"
    journal = run_through(journal)
    for percent in (100, 50):
        journal, _ = wants(journal, "d1", "1.4.0", source=ALL, order_ms=1, percent=percent)
    assert results(journal) == [("d1", "SUCCEEDED", "")]


def test_outside_the_percentage_a_source_still_holds_its_place():
    journal, _ = wants(SETTLED, "g1", "1.5.0", source=GROUP, percent=0)
    journal, _ = wants(journal, "a1", "1.4.0", source=ALL)
    assert current(journal) is None
    assert journal.history == ()


def test_outside_the_percentage_it_still_replaces_what_its_source_wanted():
    journal, _ = wants(SETTLED, "d1", "1.4.0", source=ALL, order_ms=1)
    journal, _ = wants(journal, "d2", "1.5.0", source=ALL, order_ms=2, percent=0)
    assert results(journal) == [("d1", "CANCELED", "superseded")]
    assert current(journal) is None


# --- commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("state", TODO)
def test_cancel_in_every_state(state):
    journal = replace(
        under_way(state), desired=wants(SETTLED, "d1", "1.4.0", order_ms=1)[0].desired
    )
    journal = cancel(journal, Cancel("c1", "d1"), NOW_MS)
    if state in {State.TRIAL, State.ROLLING_BACK}:
        assert journal.current.state is State.ROLLING_BACK
        assert cancel(journal, Cancel("c1", "d1"), NOW_MS) == journal
        journal = advance(journal, "d1", restored(journal), NOW_MS)
        reason = "canceled" if state is State.TRIAL else "trial_slow"
        assert results(journal) == [("d1", "ROLLED_BACK", reason)]
    else:
        assert results(journal) == [("d1", "CANCELED", "canceled")]
    assert journal.active == ACTIVE
    assert not journal.marks
    assert cancel(journal, Cancel("c2", "d1"), NOW_MS) == journal
    assert wants(journal, "d1", "1.4.0", order_ms=1)[0] == journal


@pytest.mark.parametrize("end", [run_through, rolled_back])
def test_cancel_after_the_end_is_too_late_and_no_error(end):
    journal = end(wants(SETTLED, "d1", "1.4.0")[0])
    assert cancel(journal, Cancel("c1", "d1"), NOW_MS) == journal


def test_cancel_of_what_has_not_begun_yet():
    journal = run_through(wants(SETTLED, "d1", "1.4.0", order_ms=1)[0])
    journal, _ = wants(journal, "g1", "1.5.0", source=GROUP, order_ms=1)
    journal = cancel(journal, Cancel("c1", "g1"), NOW_MS)
    journal, _ = wants(journal, "d2", None, order_ms=2)
    assert current(journal) is None
    assert results(journal)[1:] == [("g1", "CANCELED", "canceled")]


@pytest.mark.parametrize("name", ["nobody", "released"])
def test_cancel_of_what_is_none(name):
    journal, _ = wants(SETTLED, "released", None)
    with pytest.raises(MessageError) as caught:
        cancel(journal, Cancel("c1", name), NOW_MS)
    assert caught.value.reason == "deployment_unknown"


def test_roll_back_by_command_then_the_old_desired_again():
    journal = run_through(wants(SETTLED, "d1", "1.4.0", order_ms=1)[0])
    command = RollBack("c1", "1.4.0")
    journal = roll_back(journal, command, MOMENT)
    assert roll_back(journal, command, MOMENT) == journal
    journal = run_through(journal)

    assert journal.active == replace(ACTIVE, since_ms=NOW_MS)
    assert journal.previous.version == "1.4.0"
    assert results(journal)[1:] == [("c1", "ROLLED_BACK", "commanded")]
    assert roll_back(journal, command, MOMENT) == journal
    for _ in range(10):
        assert wants(journal, "d1", "1.4.0", order_ms=1)[0] == journal
    again = run_through(wants(journal, "d2", "1.4.0", order_ms=2)[0])
    assert again.active.version == "1.4.0"


@pytest.mark.parametrize("state", BEFORE_TRIAL)
def test_roll_back_supersedes_what_has_not_come_to_its_trial(state):
    journal = roll_back(under_way(state), RollBack("c1", "1.3.0"), MOMENT)
    assert results(journal) == [("d1", "CANCELED", "superseded")]
    assert run_through(journal).active.version == PREVIOUS.version


@pytest.mark.parametrize(
    ("journal", "version", "reason"),
    [
        (SETTLED, "1.2.0", "not_active"),
        (SETTLED, "9.9.9", "not_active"),
        (Journal("birds"), "1.3.0", "not_active"),
        (under_way(State.TRIAL), "1.3.0", "trial_running"),
        (under_way(State.TRIAL), "1.4.0", "trial_running"),
        (under_way(State.ROLLING_BACK), "1.3.0", "trial_running"),
        (
            Journal("birds", active=FACTORY, factory=FACTORY),
            FACTORY.version,
            "nothing_to_return_to",
        ),
        (Journal("birds", active=ACTIVE), "1.3.0", "nothing_to_return_to"),
        (
            Journal("birds", active=ACTIVE, previous=PREVIOUS).marked(
                Mark("1.2.0", PREVIOUS.sha256, bad=True, reason="crashed")
            ),
            "1.3.0",
            "nothing_to_return_to",
        ),
    ],
)
def test_roll_back_that_is_refused(journal, version, reason):
    after = roll_back(journal, RollBack("c1", version), MOMENT)
    assert after.current == journal.current
    assert after.active == journal.active
    assert results(after) == [("c1", "REJECTED", reason)]
    assert ("active" in after.history[-1].detail) == (reason == "not_active")
    assert roll_back(after, RollBack("c1", version), MOMENT) == after


# --- on the device ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", TODO)
def test_a_person_installs(state):
    journal = replace(
        under_way(state), desired=wants(SETTLED, "d1", "1.4.0", order_ms=1)[0].desired
    )
    after, name = install(journal, "1.0.0", MOMENT)
    assert name == "local-1"
    if state not in BEFORE_TRIAL:
        assert results(after) == [("local-1", "REJECTED", "trial_running")]
        assert after.current == journal.current
        return
    assert results(after) == [("d1", "CANCELED", "superseded")]
    assert pursue(after, DEVICE, MOMENT) == after
    after = run_through(after)
    assert after.active.version == "1.0.0"
    # What a source wanted before stays recorded, and does not undo it.
    assert wants(after, "d1", "1.4.0", order_ms=1)[0] == after
    assert install(after, "1.1.0", MOMENT)[1] == "local-2"


def test_a_local_installation_gives_way_to_what_is_newly_wanted():
    journal, _ = install(SETTLED, "1.0.0", MOMENT)
    journal, _ = wants(journal, "d1", "1.4.0")
    assert results(journal) == [("local-1", "CANCELED", "superseded")]
    assert current(journal) == "d1"


def test_the_first_factory_model_runs_at_once():
    journal = use_factory(Journal("birds"), "f1" * 32, MOMENT)
    assert journal.active == journal.factory
    assert journal.active.version == "0.0.0-factory-f1f1f1f1"
    assert journal.current is None
    assert use_factory(journal, "f1" * 32, MOMENT) == journal


def factory_only() -> Journal:
    return use_factory(Journal("birds"), "f1" * 32, MOMENT)


def test_a_changed_factory_file_is_a_deployment():
    journal = use_factory(factory_only(), "f2" * 32, MOMENT)
    assert current(journal) == "factory-f2f2f2f2"
    assert journal.current.state is State.VALIDATING
    assert journal.active.sha256 == "f1" * 32
    assert use_factory(journal, "f2" * 32, MOMENT) == journal
    journal = run_through(journal)
    assert journal.factory.sha256 == journal.active.sha256 == "f2" * 32
    assert journal.previous.sha256 == "f1" * 32


@pytest.mark.parametrize(
    ("kind", "tried_again"),
    [
        (Kind.REFUSED, False),
        (Kind.CANCEL, False),
        (Kind.SUPERSEDE, True),
        (Kind.FAILED, True),
    ],
)
def test_a_factory_file_that_failed_is_not_tried_again_one_that_gave_way_is(kind, tried_again):
    journal = use_factory(factory_only(), "f2" * 32, MOMENT)
    reason = {Kind.REFUSED: "model_damaged", Kind.FAILED: "disk_full"}.get(kind, "")
    journal = advance(journal, "factory-f2f2f2f2", Event(kind, reason), NOW_MS)
    after = use_factory(journal, "f2" * 32, MOMENT)
    assert (after != journal) is tried_again
    if tried_again:
        assert current(after) == "factory-f2f2f2f2-1"
        ended = advance(after, "factory-f2f2f2f2-1", Event(Kind.CANCEL), NOW_MS)
        assert use_factory(ended, "f2" * 32, MOMENT) == ended


def test_a_factory_file_that_comes_back_is_taken_again():
    journal = factory_only()
    for digest in ("f2", "f1", "f2"):
        journal = run_through(use_factory(journal, digest * 32, MOMENT))
        assert journal.factory.sha256 == digest * 32
    assert len({past.deployment_id for past in journal.history}) == 3


def test_a_factory_file_that_runs_already_needs_no_proof():
    journal = use_factory(SETTLED, ACTIVE.sha256, MOMENT)
    assert journal.factory == ACTIVE
    assert journal.current is None


def test_a_bad_factory_file_is_left_alone_until_its_mark_is_lifted():
    journal = replace(factory_only(), active=None)
    bad = journal.marked(Mark("1.0.0", "f1" * 32, bad=True, reason="active_crashed"))
    assert use_factory(bad, "f1" * 32, MOMENT) == bad
    assert use_factory(bad.unmarked("f1" * 32), "f1" * 32, MOMENT).active is not None
    assert run_through(use_factory(bad, "f2" * 32, MOMENT)).active.sha256 == "f2" * 32


def test_a_forgotten_order_lets_anything_in():
    journal = run_through(wants(SETTLED, "d1", "1.4.0", order_ms=NOW_MS)[0])
    assert wants(journal, "d2", "1.5.0", order_ms=5)[1] is Receipt.OLD
    journal = forget_order(journal, DEV)
    assert current(wants(journal, "d2", "1.5.0", order_ms=5)[0]) == "d2"
    assert forget_order(SETTLED, DEV) == SETTLED


@pytest.mark.parametrize("origin", [Origin.LOCAL, Origin.FACTORY])
def test_what_sources_hold_does_not_end_what_they_did_not_begin(origin):
    journal = run_through(wants(SETTLED, "old", "1.3.5", order_ms=1)[0])
    journal = under_way(State.VALIDATING, origin, journal)
    assert pursue(journal, DEVICE, MOMENT) == journal
    released, _ = wants(journal, "x", None, order_ms=2)
    assert released.current == journal.current


def test_one_result_per_id_in_every_story_above():
    journal, _ = wants(SETTLED, "d1", "1.4.0")
    journal = run_through(journal)
    assert [past.status for past in journal.history] == [Status.SUCCEEDED]
    with pytest.raises(ValueError, match="twice"):
        journal.recorded(journal.history[0])


@pytest.mark.parametrize("state", [None, *TODO])
def test_what_is_said_with_the_same_number_is_the_same(state):
    before = SETTLED if state is None else under_way(state)
    before = wants(before, "d7", "1.4.0", source=ALL, order_ms=1)[0]
    before = wants(before, "d8", "1.9.0", source=DEV, percent=0)[0]
    for after in (
        roll_back(before, RollBack("c1", "7.7.7"), MOMENT),
        roll_back(before, RollBack("c1", "1.3.0"), MOMENT),
        install(before, "1.4.0", MOMENT)[0],
        cancel(before, Cancel("c1", "d7"), NOW_MS),
    ):
        assert (encode_state(after) == encode_state(before)) is (after.seq == before.seq)

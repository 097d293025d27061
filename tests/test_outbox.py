"""The outbox: order, bounds, every loss counted by cause, and what the disk has to know of it."""

from __future__ import annotations

import itertools
import random

import pytest

from edged.mqtt.moment import Moment
from edged.mqtt.outbox import Entry, Outbox, OutboxDropped

ALL = float("inf")


def entry(name: int, *, at: float = 0.0, kind: str = "prediction", size: int = 0) -> Entry:
    payload = b"%d" % name
    return Entry("t", payload.ljust(size, b" "), 1, False, at, kind)  # type: ignore[arg-type]


def filled(outbox: Outbox, *entries: Entry) -> Outbox:
    for one in entries:
        assert outbox.admit(one)
        outbox.put(one)
    return outbox


def drained(outbox: Outbox, now: float = 0.0) -> list[int]:
    taken = iter(lambda: outbox.take(now), None)
    return [int(found.payload) for found in taken]


def test_gives_back_in_order():
    outbox = filled(Outbox(10, 1000), *(entry(number) for number in range(5)))

    assert len(outbox) == 5
    assert drained(outbox) == [0, 1, 2, 3, 4]
    assert outbox.take(0.0) is None
    assert (len(outbox), outbox.size_bytes) == (0, 0)
    assert outbox.dropped == OutboxDropped(full=0, stale=0)


def test_full_drops_the_oldest():
    outbox = filled(Outbox(3, 1000), *(entry(number) for number in range(5)))

    assert len(outbox) == 3
    assert drained(outbox) == [2, 3, 4]
    assert outbox.dropped == OutboxDropped(full=2, stale=0)


def test_bytes_are_a_bound_as_well():
    outbox = filled(Outbox(100, 50), *(entry(number, size=9) for number in range(7)))

    assert outbox.size_bytes == 50
    assert drained(outbox) == [2, 3, 4, 5, 6]
    assert outbox.dropped.full == 2


def test_a_message_larger_than_all_room_drops_nothing_else():
    outbox = filled(Outbox(100, 50), entry(0), entry(1, size=50), entry(2))
    outbox.put_back([entry(3, size=50)])

    assert drained(outbox) == [0, 2]
    assert outbox.dropped.full == 2


def test_predictions_go_before_anything_else():
    kinds = ["result", "prediction", "other", "prediction", "result", "prediction"]
    outbox = Outbox(4, 1000)
    filled(outbox, *(entry(number, kind=kind) for number, kind in enumerate(kinds)))

    assert drained(outbox) == [0, 2, 4, 5]
    filled(outbox, *(entry(number, kind="result") for number in range(6)))
    filled(outbox, entry(6), entry(7, kind="other"))
    assert drained(outbox) == [3, 4, 5, 7], "with nothing else to go the oldest result goes"


def test_put_back_goes_in_front_in_its_order():
    outbox = Outbox(10, 1000)
    sent = [entry(1, kind="result"), entry(2)]
    for one in sent:
        outbox.admit(one)
    filled(outbox, entry(3), entry(4, kind="result"))
    outbox.put_back(sent)

    assert drained(outbox) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("capacity", "expected", "lost"),
    [(5, [1, 2, 3, 4, 5], 0), (4, [2, 3, 4, 5], 1), (2, [4, 5], 3)],
)
def test_put_back_drops_the_oldest_that_do_not_fit(capacity, expected, lost):
    outbox = Outbox(capacity, 1000)
    sent = [entry(1), entry(2), entry(3)]
    for one in sent:
        outbox.admit(one)
    filled(outbox, entry(4), entry(5))
    outbox.put_back(sent)

    assert drained(outbox) == expected
    assert outbox.dropped.full == lost


def test_old_predictions_are_dropped_when_taken():
    times = (0.0, 99.9, 100.0, 200.0)
    outbox = filled(Outbox(10, 1000), *(entry(n, at=at) for n, at in enumerate(times)))

    assert drained(outbox, now=400.0) == [2, 3]
    assert outbox.dropped == OutboxDropped(full=0, stale=2)


def test_old_predictions_are_dropped_while_the_broker_stays_away():
    outbox = filled(Outbox(10_000, 10**6), *(entry(number, at=number) for number in range(1000)))

    assert len(outbox) == 301
    assert outbox.dropped == OutboxDropped(full=0, stale=699)


def test_nothing_but_predictions_grows_stale():
    outbox = filled(Outbox(10, 1000), entry(0, kind="result"), entry(1, kind="other"))

    assert drained(outbox, now=1e9) == [0, 1]


@pytest.mark.parametrize("bounds", [(0, 1), (1, 0)])
def test_an_outbox_has_room_for_something(bounds):
    with pytest.raises(ValueError, match="holds something"):
        Outbox(*bounds)


def test_narrower_bounds_drop_what_is_too_much():
    outbox = filled(Outbox(10, 1000), entry(0, kind="result"), entry(1), entry(2), entry(3))
    outbox.set_bounds(2, 1000)

    assert drained(outbox) == [0, 3]
    assert outbox.dropped.full == 2


def test_a_key_is_taken_once_while_its_message_is_held():
    outbox = Outbox(10, 1000)
    first, again = (Entry("t", b"", 1, False, 0.0, "result", key="k") for _ in range(2))
    assert outbox.admit(first)
    assert not outbox.admit(again), "sent or waiting"
    outbox.forget(first)
    assert outbox.admit(again)
    outbox.changes(ALL)

    restored = Outbox(10, 1000)
    restored.restore([again])
    assert not restored.admit(Entry("t", b"", 1, False, 0.0, "result", key="k"))


# What the disk has to know.


def test_each_message_and_each_end_is_handed_out_once():
    outbox = filled(Outbox(10, 1000), entry(0), entry(1), entry(2))
    taken = outbox.take(0.0)
    assert taken is not None
    outbox.forget(taken)

    assert [e.number for e in outbox.changes(ALL).rowless] == [2, 3], "acknowledged: never written"
    assert outbox.changes(ALL).rowless == []
    sent = outbox.take(0.0)
    assert sent is not None
    assert outbox.changes(ALL).gone == [], "on its way"
    outbox.forget(sent)
    assert outbox.changes(ALL).gone == [2]
    assert outbox.changes(ALL).gone == []


def test_what_is_dropped_is_gone():
    outbox = filled(Outbox(2, 1000), entry(0), entry(1))
    outbox.changes(ALL)
    filled(outbox, entry(2, at=301.0))

    changes = outbox.changes(ALL)
    assert (changes.gone, changes.lapsed) == ([], [1, 2])
    assert outbox.changes(ALL).lapsed == [], "each once"
    assert outbox.dropped == OutboxDropped(full=0, stale=2)


def test_a_result_that_is_dropped_is_deleted_at_once():
    """Its row would hold the key, and come back as a second message of that key."""
    outbox = filled(Outbox(1, 1000), Entry("t", b"", 1, False, 0.0, "result", key="k"))
    outbox.changes(ALL)
    filled(outbox, Entry("t", b"", 1, False, 1.0, "result", key="another"))

    changes = outbox.changes(ALL)
    assert (changes.gone, changes.lapsed) == ([1], [])


def test_only_what_is_old_enough_is_handed_out_and_every_result():
    outbox = Outbox(10, 1000)
    filled(outbox, entry(0, at=1.0), entry(1, at=2.0), entry(2, at=3.0, kind="result"))

    assert [e.number for e in outbox.changes(2.0).rowless] == [1, 3]
    assert [e.number for e in outbox.changes(2.5).rowless] == [2]


def test_what_an_earlier_run_left_goes_out_first_and_numbers_go_on():
    outbox = Outbox(3, 1000)
    left = [entry(0), entry(1), entry(2), entry(3, kind="result")]
    for number, one in enumerate(left):
        one.number = 10 + number
    outbox.restore(left)
    new = entry(4)
    filled(outbox, new)

    assert new.number == 14
    assert outbox.changes(ALL).lapsed == [10, 11], "what did not fit"
    assert outbox.changes(ALL).rowless == []
    assert drained(outbox) == [2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_the_mirror_is_what_is_held_whatever_happens(seed):
    """Against a model so simple that it is right: a list of all that is held, in order."""
    rng = random.Random(seed)
    outbox, names, clock = Outbox(20, 300, prediction_age_s=30.0), itertools.count(), 0.0
    flying: list[Entry] = []
    mirror: set[int] = set()
    published: list[Entry] = []
    acknowledged: set[int] = set()
    for _ in range(2000):
        clock += rng.random()
        act = rng.random()
        if act < 0.5:
            kind = rng.choice(["prediction", "prediction", "result", "other"])
            one = entry(next(names), at=clock, kind=kind, size=rng.choice([1, 10, 40]))
            published.append(one)
            filled(outbox, one)
        elif act < 0.8:
            taken = outbox.take(clock)
            if taken is not None:
                assert not flying or flying[-1].number < taken.number
                flying.append(taken)
        elif act < 0.9 and flying:
            acknowledged.add(flying[0].number)
            outbox.forget(flying.pop(0))
        elif act < 0.95:
            outbox.put_back(flying)
            flying = []
        else:
            changes = outbox.changes(clock - rng.choice([0, 5]))
            mirror |= {e.number for e in changes.rowless}
            mirror -= {*changes.gone, *changes.lapsed}
        assert len(outbox) <= 20
        assert outbox.size_bytes <= 300
    changes = outbox.changes(ALL)
    mirror |= {e.number for e in changes.rowless}
    mirror -= {*changes.gone, *changes.lapsed}
    held = {e.number for e in flying} | {e.number for e in iter(lambda: outbox.take(-ALL), None)}

    assert mirror == held
    lost = outbox.dropped.full + outbox.dropped.stale
    assert len(published) == len(held) + len(acknowledged) + lost
    assert outbox.size_bytes == 0


# Age.


@pytest.mark.parametrize(
    ("then", "age"),
    [
        (Moment(1000.0, "a", 50.0), 50.0),
        (Moment(9e9, "a", 50.0), 50.0),  # the wall clock has jumped since, by centuries
        (Moment(0.0, "a", 50.0), 50.0),
        (Moment(1000.0, "a", 200.0), 0.0),
        (Moment(990.0, "b", 5.0), 1010.0),
        (Moment(5000.0, "b", 5.0), 0.0),  # this boot began in the past: not believed
    ],
)
def test_age_is_told_by_the_clock_that_knows(then, age):
    assert Moment(2000.0, "a", 100.0).since(then) == age


def test_without_a_boot_id_the_wall_clock_tells():
    assert Moment(2000.0, "", 100.0).since(Moment(1990.0, "", 3.0)) == 10.0

"""The outbox: order, bounds, and every loss counted by cause."""

from __future__ import annotations

import pytest

from edged.mqtt.outbox import Entry, MemoryOutbox, OutboxDropped


def entry(number: int, *, at: float = 0.0, kind: str = "prediction") -> Entry:
    return Entry("t", b"%d" % number, 1, False, at, kind)  # type: ignore[arg-type]


def drained(outbox: MemoryOutbox, now: float = 0.0) -> list[int]:
    taken = iter(lambda: outbox.take(now), None)
    return [int(found.payload) for found in taken]


def test_gives_back_in_order():
    outbox = MemoryOutbox(10)
    for number in range(5):
        outbox.put(entry(number))

    assert len(outbox) == 5
    assert drained(outbox) == [0, 1, 2, 3, 4]
    assert outbox.take(0.0) is None
    assert outbox.dropped == OutboxDropped(full=0, stale=0)


def test_full_drops_the_oldest():
    outbox = MemoryOutbox(3)
    for number in range(5):
        outbox.put(entry(number))

    assert len(outbox) == 3
    assert drained(outbox) == [2, 3, 4]
    assert outbox.dropped == OutboxDropped(full=2, stale=0)


def test_put_back_goes_in_front_in_its_order():
    outbox = MemoryOutbox(10)
    outbox.put(entry(3))
    outbox.put_back([entry(1), entry(2)])

    assert drained(outbox) == [1, 2, 3]


@pytest.mark.parametrize(
    ("capacity", "expected", "lost"),
    [(5, [1, 2, 3, 4, 5], 0), (4, [2, 3, 4, 5], 1), (2, [4, 5], 3)],
)
def test_put_back_drops_the_oldest_that_do_not_fit(capacity, expected, lost):
    outbox = MemoryOutbox(capacity)
    outbox.put(entry(4))
    outbox.put(entry(5))
    outbox.put_back([entry(1), entry(2), entry(3)])

    assert drained(outbox) == expected
    assert outbox.dropped.full == lost


def test_old_predictions_are_dropped_when_taken():
    outbox = MemoryOutbox(10)
    for number, at in enumerate((0.0, 99.9, 100.0, 200.0)):
        outbox.put(entry(number, at=at))

    assert drained(outbox, now=400.0) == [2, 3]
    assert outbox.dropped == OutboxDropped(full=0, stale=2)


def test_nothing_but_predictions_grows_stale():
    outbox = MemoryOutbox(10)
    outbox.put(entry(0, kind="result"))
    outbox.put(entry(1, kind="other"))

    assert drained(outbox, now=1e9) == [0, 1]


def test_an_outbox_has_room_for_something():
    with pytest.raises(ValueError, match="at least 1"):
        MemoryOutbox(0)

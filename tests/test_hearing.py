"""What arrives becomes one Desired a source, and is acknowledged when nothing can lose it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from sim.broker import Subscriber, wait_for
from sim.journals import CLOCK, NOW_MS, SETTLED, run_through, wants

from edged.config import MqttConfig
from edged.errors import MessageError
from edged.models.desired import Source, addresses
from edged.models.hearing import Hearing
from edged.models.inbox import MOST, Arrival, Inbox
from edged.models.journal import UNDATED, Journal, encode_journal, parse_journal
from edged.models.pursuit import Clock, Receipt
from edged.mqtt.client import Session
from edged.mqtt.connection import INBOUND_WINDOW
from edged.mqtt.inbound import Inbound
from edged.mqtt.messages import Topics

KNOWN = addresses("edged", "porch", ("g",), ("birds",))
TOPICS = {
    Source.DEVICE: "edged/porch/update/birds/desired",
    Source.GROUP: "edged/@g/update/birds/desired",
    Source.ALL: "edged/@all/update/birds/desired",
}
COMMAND = "edged/porch/update/birds/command"
ASLEEP = Clock(5_000, synced=False)


class Ear:
    """One model's hearing, and what has been acknowledged, by deployment id."""

    def __init__(self, journal: Journal = SETTLED) -> None:
        self.hearing = Hearing()
        self.journal = journal
        self.done: list[str] = []

    def hear(
        self,
        an_id: str,
        order: int | None = None,
        *,
        source: Source = Source.DEVICE,
        qos: int = 1,
        clock: Clock = CLOCK,
        **fields: object,
    ) -> None:
        desired = {"deployment_id": an_id, "version": "1.4.0"} | fields
        desired |= {} if order is None else {"order": NOW_MS + order}
        arrival = arrived(TOPICS[source], json.dumps(desired).encode(), an_id, self.done, qos=qos)
        self.hearing.hear(self.journal, source, arrival, clock)

    def write(self) -> None:
        self.journal = parse_journal(encode_journal(self.hearing.over(self.journal)))
        self.hearing.written()

    @property
    def wanted(self) -> list[str]:
        return [held.deployment_id for held in self.hearing.over(self.journal).desired]


def arrived(topic: str, payload: bytes, name: str, done: list[str], *, qos: int = 1) -> Arrival:
    message = Inbound(topic, payload, False, (lambda: done.append(name)) if qos else None)
    return Arrival(message, KNOWN[topic])


def test_it_is_acknowledged_once_it_is_written():
    ear = Ear()
    ear.hear("d1", 1)
    assert (ear.done, ear.hearing.waits) == ([], True)
    ear.write()
    assert (ear.done, ear.hearing.waits) == (["d1"], False)
    ear.hear("d1", 1)
    assert ear.done == ["d1", "d1"], "known, and safe: it came again after a crash"


def test_what_is_replaced_is_acknowledged_at_once_or_a_flood_would_stop():
    ear = Ear()
    for number in range(1000):
        ear.hear(f"d{number}", number)
    assert len(ear.done) == 999
    assert ear.wanted == ["d999"]
    ear.write()
    assert ear.done[-1] == "d999"


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_highest_order_wins_whatever_comes_last_and_stays_unacknowledged(order):
    ear = Ear()
    for number in order:
        ear.hear(f"d{number}", number)
    assert ear.wanted == ["d2"]
    assert sorted(ear.done) == ["d0", "d1"]


def test_what_cannot_be_taken_replaces_nothing():
    ear = Ear()
    ear.hear("d1", 1)
    for bad in (
        {"version": 7},
        {"deployment_id": "auto-1"},
        {"order": 2**62},
        {"version": "1.5.0"},
    ):
        with pytest.raises(MessageError):
            ear.hear("d1", **({"order": 2} | bad))
    assert ear.done == []
    ear.write()
    assert ear.wanted == ["d1"]


def test_what_nobody_promised_does_not_take_the_promise_away():
    """Whoever published d1 at QoS 1 may rely on it; d2 of QoS 0 is gone after a crash."""
    ear = Ear()
    ear.hear("d1", 1)
    ear.hear("d2", 2, qos=0)
    assert ear.done == [], "after a crash d1 comes again"
    ear.hear("d3", 3, qos=0)
    assert ear.done == []
    ear.hear("d4", 4)
    assert ear.done == ["d1"], "d4 comes again"
    ear.write()
    assert ear.done == ["d1", "d4"]


def test_what_is_needless_only_because_of_a_message_of_qos_0_waits_for_it():
    ear = Ear()
    ear.hear("d2", 2, qos=0)
    ear.hear("d1", 1)
    assert ear.done == [], "after a crash d2 is gone, and d1 counts"
    ear.hear("d0", 0)
    assert ear.done == ["d0"]
    ear.write()
    assert ear.done == ["d0", "d1"]
    assert ear.wanted == ["d2"]


def test_sources_have_places_of_their_own():
    ear = Ear()
    for source in Source:
        ear.hear(f"d-{source}", 1, source=source)
    assert ear.done == []
    ear.write()
    assert ear.wanted == ["d-device", "d-group", "d-all"]
    assert len(ear.done) == 3


def test_a_percentage_that_comes_at_once_is_taken_up():
    ear = Ear()
    ear.hear("d1", 1, rollout={"percent": 10})
    ear.hear("d1", 1, rollout={"percent": 50})
    ear.write()
    assert ear.journal.desired[0].percent == 50


def test_without_a_clock_it_waits_unacknowledged():
    ear = Ear()
    ear.hear("d1", 1, clock=ASLEEP)
    ear.hear("d2", 2, clock=ASLEEP)
    ear.write()
    assert ear.done == ["d1"]
    assert not ear.hearing.waits, "there is nothing to write"
    (early,) = ear.hearing.early()
    ear.hearing.hear(ear.journal, Source.DEVICE, early, CLOCK)
    ear.write()
    assert ear.done == ["d1", "d2"]
    assert ear.wanted == ["d2"]


def test_what_is_not_written_can_be_left_to_the_next():
    ear = Ear()
    ear.hear("d1", 1)
    ear.hear("g1", 2, source=Source.GROUP, clock=ASLEEP)
    left = ear.hearing.left()
    assert [arrival.message.topic for arrival in left] == [
        TOPICS[Source.DEVICE],
        TOPICS[Source.GROUP],
    ]
    assert (ear.done, ear.hearing.waits, ear.wanted) == ([], False, [])


def test_two_groups_without_order_that_settle_together_do_not_flap():
    """The first is replaced before it began: it left nothing but its id."""
    ear = Ear()
    for turn in range(10):
        clock = Clock(NOW_MS + 1000 * turn, synced=True)
        ear.hear("d1", source=Source.GROUP, version="1.4.0", clock=clock)
        clock = replace(clock, now_ms=clock.now_ms + 1)
        ear.hear("d2", source=Source.GROUP, version="1.5.0", clock=clock)
        ear.write()
        assert ear.wanted == ["d2"]


def test_an_old_message_without_order_stays_old_after_its_result_is_forgotten():
    """Retained, it comes on every connection, and its time of receipt is always the latest."""
    journal, _ = wants(SETTLED, "typed", "1.4.0")
    journal = run_through(journal)
    for number in range(200):
        later = Clock(NOW_MS + 1 + number, synced=True)
        journal, receipt = wants(journal, f"d{number}", "1.4.0", clock=later)
        assert receipt is Receipt.RECORDED
        journal = run_through(journal)
    assert journal.result("typed") is None
    again, receipt = wants(journal, "typed", "1.4.0", clock=Clock(NOW_MS + 9999, synced=True))
    assert (again, receipt) == (journal, Receipt.KNOWN)


def test_ids_without_order_are_bounded():
    journal = Journal("birds")
    for number in range(UNDATED + 5):
        journal = journal.hearing_undated(f"d{number}", "1.4.0")
    assert len(journal.undated) == len(set(journal.undated)) == UNDATED
    assert len(encode_journal(journal)) < 21_000


# --- the inbox --------------------------------------------------------------------------------


def box() -> tuple[Inbox, list[str]]:
    inbox = Inbox()
    inbox.know(KNOWN)
    return inbox, []


def drop_in(inbox: Inbox, topic: str, name: str, done: list[str], **changes: object) -> None:
    message = Inbound(topic, name.encode(), False, lambda: done.append(name))
    inbox.arrived(replace(message, **changes))


def test_the_inbox_is_bounded_and_keeps_the_newest():
    inbox, done = box()
    for number in range(10_000):
        drop_in(inbox, TOPICS[Source.ALL], str(number), done)
    drop_in(inbox, COMMAND, "c", done)
    assert [int(one.message.payload) for one in inbox.desired()] == list(
        range(10_000 - MOST, 10_000)
    )
    assert done == [str(number) for number in range(10_000 - MOST)], "or no more would come"
    assert len(inbox.commands()) == 1, "a flood of one kind leaves the other alone"
    assert MOST > INBOUND_WINDOW, "so what MQTT 5 delivers unacknowledged has room"


def test_a_retained_command_is_done_with():
    inbox, done = box()
    drop_in(inbox, COMMAND, "c", done, retained=True)
    assert (inbox.commands(), done) == ([], ["c"])


def test_what_is_too_large_is_not_kept():
    inbox, done = box()
    drop_in(inbox, TOPICS[Source.ALL], "big", done, payload=b"x" * 70_000)
    (arrival,) = inbox.desired()
    assert arrival.refused is not None
    assert arrival.refused.reason == "message_too_large"
    assert arrival.message.payload == b""
    arrival.message.acknowledge()
    assert done == ["big"]


def test_a_model_that_is_not_configured_is_told():
    inbox, done = box()
    drop_in(inbox, "edged/porch/update/cats/desired", "stray", done)
    (arrival,) = inbox.desired()
    assert arrival.refused is not None
    assert arrival.refused.reason == "model_unknown"


def test_what_is_put_back_comes_before_what_came_since():
    inbox, done = box()
    for name in "ab":
        drop_in(inbox, COMMAND, name, done)
    taken = inbox.commands()
    drop_in(inbox, COMMAND, "c", done)
    inbox.put_back(taken)
    assert [one.message.payload for one in inbox.commands()] == [b"a", b"b", b"c"]
    assert done == []


def test_who_begins_to_listen_is_told_that_something_may_wait():
    inbox, done = box()
    drop_in(inbox, TOPICS[Source.ALL], "early", done)
    rung: list[int] = []
    inbox.call(lambda: rung.append(1))
    assert rung == [1]
    drop_in(inbox, TOPICS[Source.ALL], "next", done)
    assert rung == [1, 1]


# --- with a broker ----------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_more_than_the_broker_sends_unacknowledged_is_heard_before_any_is_written(broker, version):
    inbox, hearing = box()[0], Hearing()
    session = Session(MqttConfig(port=broker.port, version=version), Topics("edged", "porch"))
    session.subscribe(TOPICS[Source.DEVICE], inbox.arrived)
    session.start()
    operator = Subscriber(broker.port, "edged/+/available").connect()

    def wanted() -> list[str]:
        for arrival in inbox.desired():
            hearing.hear(SETTLED, Source.DEVICE, arrival, CLOCK)
        return [held.deployment_id for held in hearing.over(SETTLED).desired]

    try:
        operator.wait_for("edged/porch/available", b"online")
        for number in range(200):
            message = {"deployment_id": f"d{number}", "version": "1.4.0", "order": NOW_MS + number}
            operator.publish(TOPICS[Source.DEVICE], json.dumps(message).encode())
        wait_for("the last", lambda: wanted() == ["d199"])
        assert hearing.waits
    finally:
        operator.close()
        session.stop(5.0)

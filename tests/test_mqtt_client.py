"""The session against a real mosquitto, through everything that goes wrong with brokers."""

from __future__ import annotations

import gc
import json
import logging
import random
import ssl
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sim.broker import (
    MOSQUITTO,
    OPENSSL,
    PATIENCE_S,
    Broker,
    Certificates,
    Subscriber,
    free_port,
    wait_for,
)
from sim.tcp import REFUSES_VERSION, DeafSubscriber, Proxy, Silence

from edged.config import MqttConfig
from edged.errors import StoreError
from edged.mqtt import reasons
from edged.mqtt.attempt import try_broker
from edged.mqtt.client import Session, SessionStatus, Timing
from edged.mqtt.connection import INBOUND_WINDOW
from edged.mqtt.inbound import Inbound
from edged.mqtt.messages import Topics
from edged.mqtt.outbox import Entry, Outbox
from edged.mqtt.spool import Spool
from edged.mqtt.traffic import Traffic

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

TOPICS = Topics("edged", "porch")
QUICK = Timing(guess_s=0.5, retry_first_s=0.05, retry_most_s=0.1)

MakeSession = Callable[..., Session]
Network = Callable[..., Any]


@pytest.fixture
def session(network: Network) -> Iterator[MakeSession]:
    """Make sessions that are stopped at the end, before the network is."""
    made: list[Session] = []

    def make(
        port: int,
        *,
        timing: Timing = QUICK,
        capacity: int = 10_000,
        outbox: Outbox | None = None,
        spool: Spool | None = None,
        **mqtt: object,
    ) -> Session:
        config = MqttConfig(port=port, **mqtt)  # type: ignore[arg-type]
        new = Session(
            config,
            TOPICS,
            outbox=outbox if outbox is not None else Outbox(capacity, 2**30),
            spool=spool,
            timing=timing,
            chance=random.Random(7).random,
        )
        made.append(new)
        return new

    yield make
    ended = [one.stop(PATIENCE_S) for one in made]
    assert all(ended)


@pytest.fixture
def subscriber(broker: Broker) -> Iterator[Subscriber]:
    listening = Subscriber(broker.port).connect()
    yield listening
    listening.close()


@pytest.fixture
def witness(broker: Broker) -> Iterator[Subscriber]:
    """Sees every message that the broker acknowledges, even if the broker is killed next."""
    listening = Subscriber(broker.port, qos=0).connect()
    yield listening
    listening.close()


@pytest.fixture
def make_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def make(**options: object) -> Broker:
        folder = tmp_path / f"broker{len(made)}"
        folder.mkdir()
        made.append(Broker(folder, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def network() -> Iterator[Network]:
    """Make proxies and silences that are closed at the end."""
    made: list[Proxy | Silence | DeafSubscriber] = []

    def make(
        kind: type[Proxy] | type[Silence] | type[DeafSubscriber],
        *arguments: object,
        **options: object,
    ) -> object:
        made.append(kind(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if OPENSSL is None:
        pytest.skip("openssl is not installed")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


def reach(session: Session, state: str = "connected", reason: str = "") -> SessionStatus:
    wait_for(
        f"{state} {reason}, is {session.status()}",
        lambda: (session.status().state, session.status().reason) == (state, reason),
    )
    return session.status()


def fail_with(session: Session, reason: str) -> SessionStatus:
    session.start()
    wait_for(f"reason {reason}", lambda: session.status().reason == reason)
    status = session.status()
    assert status.state != "connected"
    assert status.connects == 0
    return status


def settled(session: Session) -> bool:
    status = session.status()
    return (status.queued, status.in_flight) == (0, 0)


def numbered(topic: str, numbers: range, session: Session) -> None:
    for number in numbers:
        session.publish(topic, b"%d" % number, qos=1)


def first_seen(payloads: list[bytes]) -> list[int]:
    return list(dict.fromkeys(int(payload) for payload in payloads))


# Birth, will, retained state, order.


def test_on_connect_retained_state_then_online_then_backlog_then_live(broker, subscriber, session):
    device = session(broker.port)
    device.set_retained(TOPICS.info, b"old info")
    device.set_retained(TOPICS.model("birds"), b"model")
    device.set_retained(TOPICS.info, b"info")
    device.publish("edged/porch/backlog", b"1", qos=1, kind="prediction")
    device.publish("edged/porch/backlog", b"2", qos=1, kind="result")
    device.start()
    subscriber.wait_for("edged/porch/backlog", b"1", b"2")
    device.publish("edged/porch/live", b"3", qos=1)
    device.set_retained(TOPICS.info, b"new info")
    subscriber.wait_for("edged/porch/live", b"3")
    subscriber.wait_for(TOPICS.info, b"new info")

    seen = [(message.topic, message.payload) for message in subscriber.messages]
    assert seen[:5] == [
        (TOPICS.info, b"info"),
        (TOPICS.model("birds"), b"model"),
        (TOPICS.available, b"online"),
        ("edged/porch/backlog", b"1"),
        ("edged/porch/backlog", b"2"),
    ]
    assert {message.qos for message in subscriber.messages} == {1}
    late = Subscriber(broker.port).connect()
    for topic, payload in (
        (TOPICS.available, b"online"),
        (TOPICS.info, b"new info"),
        (TOPICS.model("birds"), b"model"),
    ):
        late.wait_for(topic, payload)
    late.close()
    assert [m.topic for m in late.messages if not m.retain] == []
    assert late.of("edged/porch/live") == []


def test_a_clean_stop_says_offline_and_the_will_stays_unsaid(broker, subscriber, session):
    device = session(broker.port)
    device.start()
    subscriber.wait_for(TOPICS.available, b"online")

    assert device.stop(PATIENCE_S)
    assert device.stop(PATIENCE_S)
    subscriber.wait_for(TOPICS.available, b"online", b"offline")
    assert device.status().state == "stopped"
    wait_for("the goodbye", lambda: "Received DISCONNECT from porch" in broker.log)
    assert subscriber.of(TOPICS.available) == [b"online", b"offline"]
    late = Subscriber(broker.port, TOPICS.available).connect()
    late.wait_for(TOPICS.available, b"offline")
    late.close()
    assert late.messages[0].retain
    device.start()
    assert device.status().connects == 1


def test_a_stop_sends_what_waits_first(broker, subscriber, session):
    device = session(broker.port, timing=Timing(farewell_s=PATIENCE_S))
    device.start()
    reach(device)
    numbered("n", range(300), device)  # mosquitto takes 20 at a time
    assert device.stop(PATIENCE_S)
    subscriber.wait_for(TOPICS.available, b"online", b"offline")

    assert first_seen(subscriber.of("n")) == list(range(300))
    assert settled(device)


def test_old_connections_leave_no_open_files(broker, session, network):
    proxy = network(Proxy, broker.port)
    device = session(proxy.port)
    device.start()
    reach(device)
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for connects in range(2, 12):
            proxy.last_words = b""
            wait_for("a new connection", lambda n=connects: device.status().connects == n)
        after = len(list(Path("/proc/self/fd").iterdir()))
    finally:
        gc.enable()

    assert after - before < 5


def test_the_will_speaks_when_the_connection_dies(broker, subscriber, session, network):
    proxy = network(Proxy, broker.port)
    device = session(proxy.port)
    device.start()
    subscriber.wait_for(TOPICS.available, b"online")
    proxy.close()

    subscriber.wait_for(TOPICS.available, b"online", b"offline")
    late = Subscriber(broker.port, TOPICS.available).connect()
    late.wait_for(TOPICS.available, b"offline")
    late.close()
    assert late.messages[0].retain


def test_retained_state_is_sent_when_it_changed_and_only_then(broker, subscriber, session):
    device = session(broker.port)
    device.start()
    reach(device)
    for number, payload in enumerate((b"a", b"a", b"b", b"b", b"a")):
        device.set_retained(TOPICS.info, payload)
        device.publish("marker", b"%d" % number, qos=1)  # leaves after the state
        subscriber.wait_for("marker", b"%d" % number)

    assert subscriber.of(TOPICS.info) == [b"a", b"b", b"a"]


def test_inbound_messages_reach_their_handler(broker, subscriber, session):
    got: list[tuple[str, bytes, bool]] = []
    device = session(broker.port)
    subscriber.publish("edged/porch/in", b"kept", retain=True)

    def keep(message: Inbound) -> None:
        got.append((message.topic, message.payload, message.retained))
        message.acknowledge()

    device.subscribe("edged/porch/in", keep)
    device.subscribe(
        "edged/@all/in", lambda message: device.publish("echo", message.payload, qos=1)
    )
    device.start()
    reach(device)
    subscriber.publish("edged/porch/in", b"live")
    subscriber.publish("edged/@all/in", b"answer me")
    subscriber.wait_for("echo", b"answer me")

    assert got == [("edged/porch/in", b"kept", True), ("edged/porch/in", b"live", False)]
    with pytest.raises(RuntimeError):
        device.subscribe("late", lambda *_: None)


def test_a_handler_that_raises_is_counted_and_harms_nothing(broker, subscriber, session, caplog):
    device = session(broker.port)
    device.subscribe("in", lambda message: json.loads(message.payload))
    device.start()
    reach(device)
    for _ in range(INBOUND_WINDOW + 1):  # unacknowledged, the last would not come
        subscriber.publish("in", b"{")
    wait_for("the errors", lambda: device.status().handler_errors == INBOUND_WINDOW + 1)

    assert "the handler of in failed" in caplog.text
    assert device.status().state == "connected"
    assert device.status().connects == 1


VERSIONS = pytest.mark.parametrize("version", ["5", "3.1.1"])


def listen(
    session: MakeSession, port: int, version: str, *topics: str
) -> tuple[Session, list[Inbound]]:
    """A device that keeps what it gets, and acknowledges nothing by itself."""
    got: list[Inbound] = []
    device = session(port, version=version)
    for topic in topics:
        device.subscribe(topic, got.append)
    device.start()
    reach(device)
    return device, got


def payloads(got: list[Inbound]) -> list[bytes]:
    return [message.payload for message in got]


@VERSIONS
def test_what_is_not_acknowledged_comes_again_and_the_rest_does_not(
    broker, subscriber, session, network, version
):
    proxy = network(Proxy, broker.port)
    device, got = listen(session, proxy.port, version, "in")
    for payload in (b"1", b"2", b"3"):
        subscriber.publish("in", payload)
    wait_for("all", lambda: len(got) == 3)
    got[1].acknowledge()
    wait_for("the acknowledgement", lambda: "Received PUBACK from porch" in broker.log)
    old = got.copy()
    proxy.last_words = b""
    wait_for("them again", lambda: payloads(got[3:]) == [b"1", b"3"])
    wait_for("the connection", lambda: device.status().connects == 2)  # they come before its SUBACK

    # The message ids are the same as before, or another message's: nothing of the old connection
    # may be acknowledged on the new one.
    for message in old:
        message.acknowledge()
    got[3].acknowledge()
    wait_for("the acknowledgement", lambda: broker.log.count("Received PUBACK from porch") == 2)
    proxy.last_words = b""
    wait_for("the last again", lambda: payloads(got[5:]) == [b"3"])


@VERSIONS
def test_an_acknowledgement_twice_is_one(broker, subscriber, session, network, version):
    proxy = network(Proxy, broker.port)
    device, got = listen(session, proxy.port, version, "in")
    subscriber.publish("in", b"1")
    wait_for("it", lambda: len(got) == 1)
    for _ in range(2):
        got[0].acknowledge()
    device.publish("marker", b"", qos=1)  # leaves after the acknowledgements
    subscriber.wait_for("marker", b"")
    assert broker.log.count("Received PUBACK from porch") == 1


def test_a_message_of_qos_0_needs_no_acknowledgement(broker, subscriber, session):
    _, got = listen(session, broker.port, "5", "in")
    subscriber.shout("in", b"1")
    wait_for("it", lambda: len(got) == 1)

    assert got[0].done is None
    got[0].acknowledge()


def test_a_client_that_is_gone_is_not_kept_by_what_it_delivered(
    broker, subscriber, session, network
):
    proxy = network(Proxy, broker.port)
    _, got = listen(session, proxy.port, "5", "in")
    subscriber.publish("in", b"1")
    wait_for("it", lambda: len(got) == 1)
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for connects in range(2, 8):
            proxy.last_words = b""
            wait_for("it again", lambda n=connects: len(got) == n)
        assert len(list(Path("/proc/self/fd").iterdir())) - before < 5
    finally:
        gc.enable()


def test_a_subscription_of_an_earlier_configuration_is_ended(broker, subscriber, session):
    first, _ = listen(session, broker.port, "5", "in", "was")
    assert first.stop(PATIENCE_S)
    stray: list[Inbound] = []
    device = session(broker.port)
    device.subscribe("in", Inbound.acknowledge)
    device.on_stray(stray.append)
    subscriber.publish("was", b"1")
    device.start()
    wait_for("the stray one", lambda: payloads(stray) == [b"1"])
    wait_for("the end", lambda: "porch was" in broker.log.partition("Received UNSUBSCRIBE")[2])
    subscriber.publish("was", b"2")
    device.publish("marker", b"", qos=1)
    subscriber.wait_for("marker", b"")

    assert payloads(stray) == [b"1"]


@pytest.mark.parametrize(("version", "comes"), [("5", False), ("3.1.1", True)])
def test_a_huge_message_stays_with_a_broker_that_can_be_told(
    broker, subscriber, session, version, comes
):
    subscriber.publish("in", b"x" * 5_000_000, retain=True)
    device, got = listen(session, broker.port, version, "in")
    subscriber.publish("in", b"y" * 5_000_000)
    for _ in range(INBOUND_WINDOW + 1):  # what was dropped takes no room
        subscriber.publish("in", b"z")
    wait_for("the others", lambda: acknowledged(got) and b"z" in payloads(got))
    wait_for("all", lambda: acknowledged(got) and payloads(got).count(b"z") == INBOUND_WINDOW + 1)

    assert [len(payload) for payload in payloads(got)[:2]] == ([5_000_000] * 2 if comes else [1, 1])
    assert (device.status().state, device.status().connects) == ("connected", 1)


def acknowledged(got: list[Inbound]) -> bool:
    for message in got:
        message.acknowledge()
    return True


# The broker comes and goes.


def test_a_broker_that_appears_later_is_found(free_port, make_broker, session):
    device = session(free_port)
    numbered("n", range(10), device)
    fail_with(device, "broker_unreachable")
    numbered("n", range(10, 20), device)
    assert device.status().queued == 20
    proxyless = make_broker(port=free_port).start()
    reach(device)
    wait_for("the backlog to leave", lambda: settled(device))

    late = Subscriber(proxyless.port, TOPICS.available).connect()
    late.wait_for(TOPICS.available, b"online")
    late.close()
    assert device.status().dropped.full == 0


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_nothing_is_lost_when_the_broker_restarts_in_mid_stream(
    broker, witness, session, end, network
):
    proxy = network(Proxy, broker.port)
    device = session(proxy.port)
    device.set_retained(TOPICS.info, b"info")
    device.start()
    reach(device)
    numbered("n", range(3000), device)
    wait_for("the stream to flow", lambda: len(witness.of("n")) > 500)
    proxy.refusing = True
    getattr(broker, end)()
    numbered("n", range(3000, 3500), device)
    broker.start()
    witness.connect()
    before = len(witness.messages)
    proxy.refusing = False
    numbered("n", range(3500, 4000), device)
    wait_for("the end of the stream", lambda: b"3999" in witness.of("n"))
    wait_for("the last acknowledgement", lambda: settled(device))

    assert first_seen(witness.of("n")) == list(range(4000))
    assert device.status().reconnects == 1
    # The restarted broker had forgotten everything.
    again = [(message.topic, message.payload) for message in witness.messages[before:]]
    assert again[:2] == [(TOPICS.info, b"info"), (TOPICS.available, b"online")]


def test_connections_cut_in_mid_message_lose_nothing_and_keep_order(
    broker, witness, session, network
):
    cuts = [40, 90, *range(700, 12_000, 733)]
    proxy = network(Proxy, broker.port, cut_after=cuts)
    device = session(proxy.port, timing=Timing(retry_first_s=0.01, retry_most_s=0.02))
    for number in range(1000):
        device.publish("n", b"%d " % number + b"x" * 100, qos=1)
    device.start()
    wait_for("all cuts and the end", lambda: proxy.cuts == len(cuts) and settled(device))
    wait_for("the last message", lambda: len(set(witness.of("n"))) == 1000)

    numbers = [payload.split()[0] for payload in witness.of("n")]
    assert first_seen(numbers) == list(range(1000))
    assert all(len(payload) >= 102 for payload in witness.of("n"))


def test_publishing_never_waits_while_the_thread_is_stuck_in_connect(session, network):
    hole = network(Silence, swallow=True)
    device = session(hole.port, capacity=100, timing=Timing(connect_s=3.0))
    device.start()
    wait_for("an attempt", lambda: device.status().state == "connecting")
    for number in range(1000):
        device.publish("n", b"%d" % number, qos=1, kind="prediction")
        device.publish("stats", b"", qos=0)
        device.set_retained("r", b"%d" % number)

    status = device.status()
    assert status.state == "connecting"  # the very same attempt
    assert (status.queued, status.dropped.full, status.dropped.away) == (100, 900, 1000)


def test_a_frozen_broker_is_noticed_and_what_it_missed_arrives(broker, subscriber, session):
    device = session(broker.port)
    object.__setattr__(device._config, "keepalive_s", 1)  # the configuration allows 5 and more
    device.start()
    reach(device)
    broker.freeze()
    # More than the window: neither publishing nor the thread may hang on it.
    numbered("n", range(500), device)
    for _ in range(100):
        device.publish("stats", b"s" * 1000, qos=0)
    assert device.status().dropped.away > 0
    wait_for("the loss", lambda: device.status().reason == "broker_timeout")
    assert device.status().in_flight + device.status().queued == 500
    broker.thaw()
    reach(device)
    wait_for("the backlog", lambda: settled(device) and b"499" in subscriber.of("n"))

    assert first_seen(subscriber.of("n")) == list(range(500))


def test_many_threads_publish_and_each_keeps_its_order(broker, witness, session):
    device = session(broker.port)
    device.start()
    reach(device)
    threads = [
        threading.Thread(target=numbered, args=(f"n/{name}", range(500), device))
        for name in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in range(4):
        wait_for(f"all of {name}", lambda name=name: len(witness.of(f"n/{name}")) == 500)

    for name in range(4):
        assert first_seen(witness.of(f"n/{name}")) == list(range(500))


def test_a_window_that_is_full_empties_at_once(broker, session):
    """Nobody is woken for acknowledgements while nothing waits, and at once when something does.

    With 200 messages a second, as the thread comes round by itself, this would take 100 s.
    """
    device = session(broker.port)
    device.start()
    reach(device)
    for burst in range(20):
        numbered("n", range(burst * 1000, burst * 1000 + 1000), device)
        wait_for("the burst", lambda: settled(device))

    assert device.status().dropped.full == 0


def test_a_healthy_connection_wakes_nobody(broker, subscriber, session):
    woken = 0

    class Wake(threading.Event):
        def set(self) -> None:
            nonlocal woken
            woken += 1
            super().set()

    device = session(broker.port)
    device._wake = Wake()
    device.start()
    reach(device)
    wait_for("online", lambda: settled(device))
    before = woken
    for number in range(100):
        device.publish("n", b"%d" % number, qos=1)
        subscriber.wait_for("n", b"%d" % number)

    assert woken - before <= 2, "one acknowledgement of `online` may have been on its way"
    wait_for("the last", lambda: settled(device))


def test_a_subscriber_that_never_reads_does_not_matter(make_broker, session, network):
    broker = make_broker(more="max_queued_messages 1000").start()  # mosquitto's default
    network(DeafSubscriber, broker.port)
    device = session(broker.port)
    device.start()
    reach(device)
    for number in range(3000):
        device.publish("n", b"%d " % number + b"x" * 1000, qos=1)
    wait_for("acknowledgements", lambda: settled(device))

    status = device.status()
    assert (status.state, status.connects) == ("connected", 1)
    assert (status.dropped.full, status.dropped.refused) == (0, 0)
    assert "Outgoing messages are being dropped for client deaf" in broker.log, "it was that deaf"


# What waits outlives the process and the configuration.


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Callable[[], tuple[Outbox, Spool]]]:
    """Begin with what is in one folder, as a daemon does."""
    made: list[Spool] = []

    def make() -> tuple[Outbox, Spool]:
        one = Spool(tmp_path / "outbox.sqlite3")
        outbox = Outbox(10_000, 2**24)
        outbox.restore(one.restore())
        made.append(one)
        return outbox, one

    yield make
    for one in made:
        assert one.stop(PATIENCE_S)


def test_a_result_is_safe_when_publishing_it_returns(broker, session, spool, tmp_path):
    outbox, disk = spool()
    device = session(broker.port, outbox=outbox, spool=disk)
    disk.start()

    def publish(number: int) -> bool:
        key = f"deployment {number}"
        return device.publish_durable("result", b"%d" % number, key=key, limit_s=PATIENCE_S)

    assert publish(1)
    assert publish(1)
    assert (device.status().queued, device.status().stored) == (1, 1)
    listening = Subscriber(broker.port, "result").connect()
    device.start()
    reach(device)
    wait_for("the result", lambda: settled(device))
    assert publish(2), "acknowledged or on disk"
    listening.wait_for("result", b"1", b"2")
    wait_for("a quiet disk", lambda: not list(tmp_path.glob("outbox*")))
    listening.close()
    with pytest.raises(ValueError, match="not a topic"):
        device.publish_durable("#", b"", key="k", limit_s=1.0)


def test_a_result_that_is_too_large_is_not_called_safe(make_broker, session, spool, tmp_path):
    outbox, disk = spool()
    outbox.set_bounds(100, 1000)
    small = make_broker(more="max_packet_size 500").start()
    device = session(small.port, outbox=outbox, spool=disk)
    disk.start()
    for bytes_, connected in ((1001, False), (501, True)):
        if connected:
            device.start()
            reach(device)
            wait_for("online", lambda: settled(device))
        for _ in range(2):
            with pytest.raises(StoreError) as caught:
                device.publish_durable("r", b"x" * bytes_, key="k", limit_s=PATIENCE_S)
            assert caught.value.reason == "outbox_too_small"
    assert device.publish_durable("r", b"x", key="k", limit_s=PATIENCE_S)


def test_without_a_disk_a_result_is_not_called_safe(free_port, session):
    device = session(free_port)

    assert not device.publish_durable("result", b"1", key="k", limit_s=PATIENCE_S)
    assert device.status().queued == 1


@pytest.mark.parametrize("state", ["connected", "frozen", "away", "black hole"])
def test_a_successor_takes_over_what_waits(make_broker, session, network, spool, state):
    old = make_broker().start()
    port = network(Silence, swallow=True).port if state == "black hole" else old.port
    outbox, disk = spool()
    device = session(port, outbox=outbox, spool=disk, timing=Timing(connect_s=2.0))
    disk.start()
    device.start()
    if state == "black hole":
        wait_for("an attempt", lambda: device.status().state == "connecting")
    else:
        reach(device)
        wait_for("online", lambda: settled(device))
    if state == "frozen":
        old.freeze()
    elif state == "away":
        old.stop()
        wait_for("the loss", lambda: device.status().state != "connected")
    numbered("n", range(500), device)
    new = make_broker().start()
    listening = Subscriber(new.port, "n").connect()
    new_one = device.successor(MqttConfig(port=new.port), TOPICS, 0.3)
    try:
        numbered("n", range(500, 510), new_one)
        new_one.start()
        wait_for("the last", lambda: b"509" in listening.of("n"))
        wait_for("a quiet end", lambda: settled(new_one))
    finally:
        assert new_one.stop(PATIENCE_S)
        listening.close()

    first = int(listening.of("n")[0]) if state == "connected" else 0
    assert first_seen(listening.of("n")) == list(range(first, 510))
    assert device.status().queued == 0


def test_a_client_with_the_same_id_takes_over(broker, session):
    slow = Timing(retry_first_s=600.0, retry_most_s=600.0)  # or they throw each other out for ever
    device, other = session(broker.port, timing=slow), session(broker.port, timing=slow)
    device.start()
    reach(device)
    other.start()

    reach(device, "waiting", "broker_closed")  # mosquitto 2.0 does not say more
    reach(other)


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [(0x8E, "broker_taken_over", "same device id"), (0x8B, "broker_unavailable", "shutting down")],
)
def test_what_the_broker_says_at_the_end_is_the_reason(
    broker, session, network, code, reason, words
):
    proxy = network(Proxy, broker.port)
    device = session(proxy.port, timing=Timing(retry_first_s=600.0, retry_most_s=600.0))
    device.start()
    reach(device)
    proxy.last_words = bytes([0xE0, 2, code, 0])

    assert words in reach(device, "waiting", reason).detail


# The broker says no.


def test_refused_credentials_are_not_a_connection(make_broker, session, tmp_path, caplog):
    broker = make_broker(users={"porch": "right"}).start()
    password_file = tmp_path / "password"
    password_file.write_text("wrong\nright\n")
    device = session(broker.port, username="porch", password_file=str(password_file))
    status = fail_with(device, "broker_refused_not_authorised")  # what mosquitto 2.0 says of them
    wait_for("more attempts", lambda: broker.log.count("New client connected") == 0)
    wait_for("5 attempts", lambda: broker.log.count("not authorised") >= 5)

    assert "password_file" not in status.detail or "credentials" in status.detail
    assert device.status().connects == 0
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1  # not one per attempt
    password_file.write_text("right\n")  # read anew at each attempt
    reach(device)


def test_an_unreadable_password_file_is_told_and_tried_again(make_broker, session, tmp_path):
    broker = make_broker(users={"porch": "right"}).start()
    password_file = tmp_path / "password"
    device = session(broker.port, username="porch", password_file=str(password_file))
    status = fail_with(device, "broker_password_unreadable")

    assert str(password_file) in status.detail
    password_file.write_text("right")
    reach(device)


def test_a_password_that_the_service_manager_hands_over(
    make_broker, session, tmp_path, monkeypatch
):
    broker = make_broker(users={"porch": "right"}).start()
    where = {"username": "porch", "password_file": "$CREDENTIALS_DIRECTORY/edged.mqtt-password"}
    (tmp_path / "edged.mqtt-password").write_text("right\n")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    device = session(broker.port, **where)
    status = fail_with(device, "broker_password_unreadable")

    assert where["password_file"] in status.detail
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    reach(device)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (0x84, "broker_refused_version"),
        (0x85, "broker_refused_client_id"),
        (0x86, "broker_refused_credentials"),
        (0x87, "broker_refused_not_authorised"),
        (0x88, "broker_unavailable"),
        (0x89, "broker_unavailable"),
        (0x8A, "broker_refused_banned"),
        (0x97, "broker_refused"),
    ],
)
def test_every_refusal_has_its_reason(broker, session, code, reason, network):
    proxy = network(Proxy, broker.port, answer_5=bytes([0x20, 3, 0, code, 0]))
    device = session(proxy.port, version="5")

    fail_with(device, reason)


def test_what_the_broker_will_not_take_is_counted_and_not_repeated(make_broker, session):
    acl = "user porch\ntopic readwrite edged/#\n"
    broker = make_broker(users={"porch": "right"}, acl=acl).start()
    (broker.folder / "password").write_text("right\n")
    login = {"username": "porch", "password_file": str(broker.folder / "password")}
    device = session(broker.port, **login)
    device.start()
    reach(device)
    for _ in range(3):
        device.publish("forbidden", b"x", qos=1)
    device.publish("edged/porch/allowed", b"x", qos=1)
    wait_for("the answers", lambda: settled(device))

    assert device.status().dropped.refused == 3
    assert device.status().connects == 1


def test_a_packet_too_large_for_the_broker_never_leaves(make_broker, session):
    broker = make_broker(more="max_packet_size 2000").start()
    device = session(broker.port)
    device.start()
    reach(device)
    device.publish("n", b"x" * 3000, qos=1)
    device.publish("n", b"x", qos=1)
    wait_for("the rest", lambda: settled(device))

    assert device.status().dropped.refused == 1
    assert device.status().connects == 1


def test_a_message_that_ends_every_connection_is_given_up(make_broker, session):
    # To a client of MQTT 3.1.1 the broker cannot tell its limit: it hangs up.
    broker = make_broker(more="max_packet_size 2000").start()
    listening = Subscriber(broker.port, "n").connect()
    device = session(broker.port, version="3.1.1")
    device.publish("n", b"0", qos=1)
    device.publish("n", b"x" * 3000, qos=1)
    device.publish("n", b"1", qos=1)
    device.start()
    listening.wait_for("n", b"1")
    wait_for("the last acknowledgement", lambda: settled(device))
    listening.close()

    assert device.status().dropped.refused == 1
    assert device.status().connects >= 6


def test_a_refused_subscription_is_told_and_publishing_goes_on(
    broker, subscriber, session, network
):
    proxy = network(Proxy, broker.port, suback=0x87)  # mosquitto itself refuses none
    device = session(proxy.port)
    device.subscribe("in", lambda *_: None)
    device.start()
    reach(device, "connected", "broker_refused_subscription")
    device.publish("n", b"1", qos=1)

    subscriber.wait_for("n", b"1")


# TLS.


def tls(certificates: Certificates, ca: str = "ca", client: str | None = None) -> dict[str, str]:
    files = {"ca_file": certificates.path(f"{ca}.pem"), "host": "localhost"}
    if client is not None:
        files |= {
            "cert_file": certificates.path(f"{client}.pem"),
            "key_file": certificates.path(f"{client}.key"),
        }
    return files


def test_tls_with_a_client_certificate(make_broker, certificates, session):
    broker = make_broker(certificates=certificates, ask_client=True).start()
    device = session(broker.port, **tls(certificates, client="client"))
    device.start()

    assert reach(device).protocol == "5"
    numbered("n", range(300), device)
    wait_for("acknowledgements", lambda: settled(device))


@pytest.mark.parametrize(
    ("server", "ca", "words"),
    [
        ("server", "other_ca", "unknown CA"),
        ("expired", "ca", "expired"),
        ("elsewhere", "ca", "another host name"),
    ],
)
def test_a_certificate_that_does_not_hold_is_explained(
    make_broker, certificates, session, server, ca, words
):
    broker = make_broker(certificates=certificates, server=server).start()
    device = session(broker.port, **tls(certificates, ca=ca))
    status = fail_with(device, "broker_tls_failed")

    assert words in status.detail


def test_a_missing_client_certificate_is_explained(make_broker, certificates, session):
    broker = make_broker(certificates=certificates, ask_client=True).start()
    device = session(broker.port, **tls(certificates))
    status = fail_with(device, "broker_tls_failed")

    assert "client certificate" in status.detail
    assert "cert_file" in status.detail


def test_tls_where_the_broker_has_none_is_explained(broker, certificates, session):
    device = session(broker.port, **tls(certificates))

    assert "speak TLS" in fail_with(device, "broker_closed").detail


def test_no_tls_where_the_broker_wants_it_is_explained(make_broker, certificates, session):
    broker = make_broker(certificates=certificates).start()
    device = session(broker.port)

    assert "ca_file" in fail_with(device, "broker_closed").detail


@pytest.mark.parametrize("broken", ["ca.pem", "client.key"])
def test_an_unreadable_certificate_is_told(certificates, session, tmp_path, free_port, broken):
    files = tls(certificates, client="client")
    for key, path in files.items():
        if path.endswith(broken):
            files[key] = str(tmp_path / "absent.pem")
    status = fail_with(session(free_port, **files), "broker_certificate_unreadable")

    assert "absent.pem" in status.detail


@pytest.mark.parametrize(("code", "words"), [(9, "clock"), (10, "clock"), (64, "IP address")])
def test_certificate_codes_in_words(code, words):
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "?"

    explained = reasons.unreachable(error, host="broker", port=8883, tls=True)

    assert explained.reason == "broker_tls_failed"
    assert words in explained.explain()


# Versions of the protocol.


@pytest.mark.parametrize("answer", [b"", REFUSES_VERSION], ids=["closes", "refuses"])
def test_an_old_broker_gets_the_old_protocol(broker, session, answer, caplog, network):
    proxy = network(Proxy, broker.port, answer_5=answer)
    # So long a pause that only an immediate second attempt can succeed.
    device = session(proxy.port, timing=Timing(retry_first_s=600.0, retry_most_s=600.0))
    device.start()

    assert reach(device).protocol == "3.1.1"
    assert "(c0, k30" not in broker.log
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_known_version_is_kept(broker, session, network):
    proxy = network(Proxy, broker.port)
    device = session(proxy.port)
    device.start()
    reach(device)
    proxy.last_words = b""  # hangs up, as an old broker does when it sees MQTT 5
    wait_for("the next connection", lambda: device.status().connects == 2)

    assert device.status().protocol == "5"


def test_without_any_broker_both_versions_stay_open(broker, session, network):
    proxy = network(Proxy, broker.port)
    proxy.refusing = True
    device = session(proxy.port)
    fail_with(device, "broker_closed")
    proxy.refusing = False

    reach(device)


AMQTT = """
import asyncio, sys
from amqtt.broker import Broker

async def main():
    listener = {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}
    plugin = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    plugins = {plugin: {"allow_anonymous": True}}
    broker = Broker({"listeners": {"default": listener}, "plugins": plugins})
    await broker.start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_amqtt_is_spoken_to_in_its_version(session):
    pytest.importorskip("amqtt", reason="amqtt is not installed")
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-c", AMQTT, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        device = session(port)
        device.start()
        assert reach(device).protocol == "3.1.1"
        numbered("n", range(10), device)
        wait_for("acknowledgements", lambda: settled(device))
        assert device.stop(PATIENCE_S)
    finally:
        child.kill()
        child.wait()


# Stopping.


def test_stop_before_start(free_port, session):
    device = session(free_port)

    assert device.stop(1.0)
    device.start()
    assert device.status().state == "stopped"


@pytest.mark.parametrize("swallow", [True, False], ids=["no SYN", "no CONNACK"])
def test_stop_while_nobody_answers(session, swallow, network):
    hole = network(Silence, swallow=swallow)
    device = session(hole.port, timing=Timing(connect_s=2.0))
    device.start()
    wait_for("an attempt", lambda: device.status().state == "connecting")
    device.stop(0.2)  # returns, with the thread or without

    wait_for("the thread to end", lambda: device.stop(0.0))
    assert device.status().state == "stopped"


def test_silence_is_a_reason(session, network):
    hole = network(Silence)
    device = session(hole.port, timing=Timing(answer_s=0.1, guess_s=0.1))

    assert "CONNACK" in fail_with(device, "broker_timeout").detail


def test_stop_during_a_pause(free_port, session):
    device = session(free_port, timing=Timing(retry_first_s=600.0, retry_most_s=600.0))
    device.start()
    reach(device, "waiting", "broker_unreachable")

    assert device.stop(PATIENCE_S)


def test_stop_with_a_frozen_broker_leaves_it_to_the_will(broker, subscriber, session):
    device = session(broker.port)
    device.start()
    reach(device)
    wait_for("online", lambda: settled(device))
    broker.freeze()
    numbered("n", range(500), device)
    assert device.stop(PATIENCE_S)

    # What it may not have got is still there for whoever comes next.
    assert device.status().queued == 500
    broker.thaw()
    subscriber.wait_for(TOPICS.available, b"online", b"offline")


def test_the_threads_are_named(broker, session):
    device = session(broker.port)
    device.start()
    reach(device)

    assert {"mqtt", "mqtt-io"} <= {thread.name for thread in threading.enumerate()}
    assert device.stop(PATIENCE_S)
    assert not [thread for thread in threading.enumerate() if "mqtt" in thread.name]


# Without a network.


def test_pauses_double_up_to_a_limit_with_half_of_it_jitter():
    pauses = [Timing().pause_s(failures, 1.0) for failures in range(1, 9)]

    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert Timing().pause_s(1, 0.0) == 0.5
    assert Timing().pause_s(10**6, 0.5) == 45.0


@pytest.mark.parametrize("topic", ["", "a/+", "#"])
def test_a_wildcard_is_no_topic(free_port, session, topic):
    device = session(free_port)

    with pytest.raises(ValueError, match="not a topic"):
        device.publish(topic, b"", qos=1)
    with pytest.raises(ValueError, match="not a topic"):
        device.set_retained(topic, b"")
    with pytest.raises(ValueError, match="not a topic"):
        device.subscribe(topic, lambda *_: None)
    with pytest.raises(ValueError, match="qos"):
        device.publish("t", b"", qos=2)


class FakeLine:
    """A line that takes everything and acknowledges on demand."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.calls_on_ack = True
        self.acks: deque[tuple[int, int]] = deque()
        self.sent: list[tuple[str, bytes]] = []

    def fits(self, topic: str, payload: bytes) -> bool:
        return True

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        self.sent.append((topic, payload))
        return len(self.sent)


def test_the_brokers_window_is_never_exceeded():
    traffic = Traffic("available", Outbox(100, 2**20), lambda: 0.0)
    line = FakeLine(window=3)
    traffic.set_retained("info", b"i")
    traffic.open(line)
    for number in range(5):
        traffic.publish(Entry("n", b"%d" % number, 1, False, 0.0, "other"))
    while traffic.send_next():
        pass
    assert line.sent == [("info", b"i"), ("available", b"online"), ("n", b"0")]
    traffic.set_retained("info", b"j")
    line.acks.extend([(1, 0), (2, 0)])
    traffic.collect(line)
    while traffic.send_next():
        pass

    # State first, then what waited, in order.
    assert line.sent[3:] == [("info", b"j"), ("n", b"1")]
    assert traffic.counts().in_flight == 3
    assert traffic.counts().queued == 3
    traffic.shut()
    traffic.put_back(hung_up=True)
    assert traffic.counts().queued == 5


def test_somebody_is_called_only_for_what_waits():
    def entry() -> Entry:
        return Entry("n", b"", 1, False, 0.0, "other")

    traffic = Traffic("available", Outbox(100, 2**20), lambda: 0.0)
    assert not traffic.publish(entry()), "no line: nobody could send it"
    line = FakeLine(window=2)
    traffic.open(line)
    while traffic.send_next():
        pass
    assert traffic.may_pause()
    assert not line.calls_on_ack, "`online` and the message are on their way, nothing waits"
    assert traffic.publish(entry()), "the window is full: send it when there is room"
    assert traffic.may_pause()
    assert line.calls_on_ack
    line.acks.append((1, 0))
    assert not traffic.may_pause(), "it came before the call was asked for"
    traffic.collect(line)
    assert traffic.send_next()
    assert traffic.may_pause()
    assert not line.calls_on_ack
    line.acks.extend([(2, 0), (3, 0)])
    assert not traffic.publish(entry())
    assert not line.acks, "publishing has taken them in"
    assert traffic.counts().in_flight == 1


def test_only_a_message_sent_alone_is_blamed_for_the_end_of_a_connection():
    traffic = Traffic("available", Outbox(100, 2**20), lambda: 0.0)
    for number in range(3):
        traffic.publish(Entry("n", b"%d" % number, 1, False, 0.0, "other"))
    sent = []
    for _ in range(7):
        line = FakeLine(window=200)
        traffic.open(line)
        while traffic.send_next():
            pass
        line.acks.append((1, 0))  # of `online`; the line then ends without another
        traffic.collect(line)
        while traffic.send_next():
            pass
        traffic.shut()
        traffic.put_back(hung_up=True)
        sent.append([payload for topic, payload in line.sent if topic == "n"])

    assert sent == [[b"0", b"1", b"2"], *[[b"0"]] * 5, [b"1"]]
    assert traffic.counts().dropped.refused == 1
    assert traffic.counts().queued == 2
    for number in range(3, 9):
        traffic.publish(Entry("n", b"%d" % number, 1, False, 0.0, "other"))
    line = FakeLine(window=200)
    traffic.open(line)
    for number in (1, 2):  # `online`, then the message sent alone: trust is back
        while traffic.send_next():
            pass
        assert traffic.counts().in_flight == 1
        line.acks.append((number, 0))
        traffic.collect(line)
    while traffic.send_next():
        pass
    assert traffic.counts().in_flight == 7


def test_a_silent_end_blames_nothing():
    traffic = Traffic("available", Outbox(100, 2**20), lambda: 0.0)
    traffic.publish(Entry("n", b"0", 1, False, 0.0, "other"))
    for hung_up in (True, *[False] * 20):
        line = FakeLine(window=200)
        traffic.open(line)
        while traffic.send_next():
            pass
        line.acks.append((1, 0))  # of `online`
        traffic.collect(line)
        while traffic.send_next():
            pass
        assert line.sent[-1] == ("n", b"0")
        traffic.shut()
        traffic.put_back(hung_up=hung_up)

    assert traffic.counts().queued == 1
    assert traffic.counts().dropped.refused == 0


# One attempt, for the doctor.


def test_trying_a_broker_leaves_nothing_behind(broker, subscriber):
    assert try_broker(MqttConfig(port=broker.port), "porch-doctor", 5.0) is None
    subscriber.publish("end", b"")
    subscriber.wait_for("end", b"")

    assert [message.topic for message in subscriber.messages] == ["end"]


def test_trying_a_broker_falls_back(broker, network):
    proxy = network(Proxy, broker.port, answer_5=b"")

    assert try_broker(MqttConfig(port=proxy.port), "porch-doctor", 5.0) is None
    assert try_broker(MqttConfig(port=proxy.port, version="5"), "porch-doctor", 5.0) is not None


def test_trying_no_broker_says_why(free_port):
    refusal = try_broker(MqttConfig(port=free_port), "porch-doctor", 5.0)

    assert refusal is not None
    assert refusal.reason == "broker_unreachable"
    assert str(free_port) in refusal.detail

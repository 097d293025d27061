"""What waits for the broker survives the daemon: killed, stopped, reloaded, on a bad disk.

The log of a verbose daemon has every published payload, so what arrives is compared with that.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.broker import free_port as unused_port
from sim.device import BELT, Device, P
from sim.tcp import Proxy

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

TOPIC = f"{P}/prediction/front"


class Place:
    """A port that devices know, and a broker that comes to it, with a subscriber there first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self.port = unused_port()
        self.broker: Broker | None = None
        self._proxy: Proxy | None = None
        self._listening: Subscriber | None = None

    def open(self) -> Subscriber:
        if self.broker is None:
            self.broker = Broker(self._folder).start()
            self._listening = Subscriber(self.broker.port, f"{P}/#").connect()
        assert self._listening is not None
        self._proxy = Proxy(self.broker.port, port=self.port)
        return self._listening

    def shut(self) -> None:
        if self._proxy is not None:
            self._proxy.close()

    def close(self) -> None:
        self.shut()
        if self._listening is not None:
            self._listening.close()
        if self.broker is not None:
            self.broker.stop()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "place")
    yield made
    made.close()


def captured_s(payload: bytes) -> float:
    return float(orjson.loads(payload)["t"])


def boot(payload: bytes) -> str:
    return str(orjson.loads(payload)["boot"])


def boots(payloads: list[bytes]) -> list[str]:
    return list(dict.fromkeys(map(boot, payloads)))


def once(payloads: list[bytes]) -> list[bytes]:
    """Without repetitions: those must be the same bytes, or they show up as disorder."""
    return list(dict.fromkeys(payloads))


def let_publish(device: Device, count: int) -> None:
    target = len(device.published()) + count
    wait_for(f"{count} predictions", lambda: len(device.published()) >= target)


def settle(device: Device, listening: Subscriber) -> None:
    """Wait until a message of now arrives: all that waited has, before it."""
    let_publish(device, 1)
    newest = device.published()[-1]
    wait_for("a new prediction", lambda: newest in listening.of(TOPIC), 30.0)


def stop(device: Device, listening: Subscriber) -> None:
    """Stop with a broker that is there; what was sent last arrives as well."""
    assert device.stop()[0] == 0
    listening.wait_for(f"{P}/available", b"offline")


def test_killed_while_the_broker_is_away_again_and_again(make, place) -> None:
    device = make(place.port, verbose=True)
    safe: list[bytes] = []
    for _ in range(2):
        before = len(device.published())
        device.start().wait_ready()
        let_publish(device, 25)
        device.kill()
        killed_s = time.time()
        safe += [p for p in device.published()[before:] if captured_s(p) < killed_s - 0.5]
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)
    stop(device, listening)

    arrived = listening.of(TOPIC)
    assert set(safe) <= set(arrived)
    assert len(boots(arrived)) == 3
    assert once(arrived) == [p for p in device.published() if p in set(arrived)], "order"
    assert len(safe) > 10
    assert "Traceback" not in device.log


def test_stopped_while_the_broker_is_away_nothing_is_lost(make, place) -> None:
    device = make(place.port, verbose=True)
    for _ in range(3):
        device.start().wait_ready()
        let_publish(device, 5)
        code, seconds = device.stop()
        assert (code, seconds < 2.0) == (0, True), device.log
    waiting = device.published()
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)

    assert once(listening.of(TOPIC))[: len(waiting)] == waiting
    assert len(boots(waiting)) == 3


def test_a_broker_that_is_away_for_seconds_loses_nothing_and_the_disk_is_quiet_again(
    make, place
) -> None:
    device = make(place.port, verbose=True)
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)
    place.shut()
    wait_for("the file", (device.state / "outbox.sqlite3").exists)
    let_publish(device, 30)
    listening = place.open()
    settle(device, listening)
    wait_for(
        "a quiet disk",
        lambda: {p.name for p in device.state.iterdir()} == {"drift", "lock", "models"},
    )
    stop(device, listening)

    assert once(listening.of(TOPIC)) == device.published()


@pytest.mark.slow
def test_what_a_frozen_broker_did_not_acknowledge_survives_a_kill(make, place) -> None:
    device = make(place.port, verbose=True)
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)
    assert place.broker is not None
    place.broker.freeze()
    frozen = len(device.published())
    let_publish(device, 15)
    sent = device.published()[frozen:]
    time.sleep(6.5)
    connected = "not connected" not in device.log
    device.kill()
    # A new broker: what the frozen one had taken in, it takes with it.
    place.shut()
    listening.close()
    place.broker.stop()
    place.broker = None
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)

    assert connected, "the keepalive had not noticed yet"
    assert len(sent) >= 15
    assert set(sent) <= set(listening.of(TOPIC))
    assert once(listening.of(TOPIC)) == [
        p for p in device.published() if p in set(listening.of(TOPIC))
    ]


def test_a_healthy_broker_means_no_write_to_the_disk(make, broker, subscriber) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: len(subscriber.of(TOPIC)) > 10)
    before = device.disk_writes()
    wait_for("predictions", lambda: len(subscriber.of(TOPIC)) > 40)

    assert device.disk_writes() == before
    assert {path.name for path in device.state.iterdir()} == {"drift", "lock", "models"}
    assert device.stop()[0] == 0
    assert {path.name for path in device.state.iterdir()} == {"drift", "lock", "models"}


def test_a_reload_to_another_broker_takes_along_what_waits(make, place) -> None:
    device = make(unused_port(), verbose=True).start().wait_ready()
    let_publish(device, 30)
    listening = place.open()
    device.write(BELT, port=place.port)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)
    settle(device, listening)

    stop(device, listening)

    assert once(listening.of(TOPIC)) == device.published()


def test_without_a_configuration_file_what_waits_survives_as_well(make, place) -> None:
    arguments = ["--model", "belt", "--camera", "synthetic", "--device-id", "dut"]
    arguments += ["--broker", f"127.0.0.1:{place.port}"]
    device = make(place.port, arguments=arguments, verbose=True).start().wait_ready()
    wait_for("predictions", lambda: len(device.published("cam")) > 10)
    assert device.stop()[0] == 0
    waiting = device.published("cam")
    listening = place.open()
    device.start().wait_ready()

    topic = f"{P}/prediction/cam"
    wait_for("all", lambda: once(listening.of(topic))[: len(waiting)] == waiting, 30.0)


# A disk in trouble.


def outbox_told(subscriber: Subscriber) -> list[dict[str, str]]:
    """What `info` said of the outbox, one after the other."""
    return [orjson.loads(payload)["outbox"] for payload in subscriber.of(f"{P}/info")]


def test_a_damaged_outbox_is_set_aside_and_the_next_messages_are_safe(make, place) -> None:
    device = make(place.port, verbose=True)
    device.state.mkdir()
    (device.state / "outbox.sqlite3").write_bytes(b"no database" * 1000)
    device.start().wait_ready()
    let_publish(device, 25)
    device.kill()
    listening = place.open()
    device.start().wait_ready()
    settle(device, listening)

    assert (device.state / "outbox.sqlite3.damaged").read_bytes() == b"no database" * 1000
    assert device.log.count("(outbox_damaged)") == 1
    assert device.published()[:10] == once(listening.of(TOPIC))[:10]


def test_damage_found_at_the_start_is_in_the_info(make, broker, subscriber) -> None:
    device = make(broker.port)
    device.state.mkdir()
    (device.state / "outbox.sqlite3").write_bytes(b"no database" * 1000)
    device.start().wait_ready()
    wait_for("predictions", lambda: len(subscriber.of(TOPIC)) > 5)

    assert outbox_told(subscriber)[-1]["reason"] == "outbox_damaged"
    assert "outbox.sqlite3" in outbox_told(subscriber)[-1]["detail"]


def test_a_full_disk_is_in_the_info_until_it_is_none(make, place, small_disk) -> None:
    device = make(place.port, verbose=True)
    device.state.symlink_to(small_disk.folder)
    small_disk.fill()
    device.start().wait_ready()
    wait_for("the reason", lambda: "(outbox_disk_full)" in device.log)
    let_publish(device, 5)
    listening = place.open()
    settle(device, listening)
    wait_for("all well", lambda: outbox_told(listening)[-1]["reason"] == "")
    stop(device, listening)

    assert "outbox_disk_full" in [told["reason"] for told in outbox_told(listening)]
    assert once(listening.of(TOPIC)) == device.published()

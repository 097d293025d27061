"""What the broker delivers, and how often, on a real daemon: one deployment, one result."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.desk import Desk
from sim.device import Device, P
from sim.messages import GOOD, MALFORMED, but

from edged.board import clock_synchronised

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

DESIRED, COMMAND = f"{P}/update/m/desired", f"{P}/update/m/command"
GROUP, ALL = "edged/@yard/update/m/desired", "edged/@all/update/m/desired"
STATE, RESULT, ERROR = f"{P}/update/m/state", f"{P}/update/m/result", f"{P}/error"


MakeDevice = Callable[..., Device]


@pytest.fixture
def build(make: Callable[..., Device], broker: Broker, desk: Desk, tmp_path: Path) -> MakeDevice:
    """Make a device with a factory model, of a protocol version, not started."""
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))

    def made(version: str = "auto", more: str = "", *, also: str = "") -> Device:
        names = ["m", also] if also else ["m"]
        tables = "".join(f'[[model]]\nname = "{name}"\nfactory = "{factory}"\n' for name in names)
        return make(
            broker.port,
            f"{desk.update}{more}\n{tables}"
            '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 60\n',
            top='groups = ["yard"]',
            mqtt=f'stats_s = 1\nversion = "{version}"',
            verbose=True,
        )

    return made


def desired(an_id: str, version: str | None, **fields: object) -> bytes:
    message = {"deployment_id": an_id, "version": version, "order": time.time_ns() // 1_000_000}
    return orjson.dumps(message | fields)


def begin(device: Device, subscriber: Subscriber) -> Device:
    """Start it and wait until it has subscribed."""
    before = len(subscriber.of(f"{P}/available"))
    device.start().wait_ready()
    wait_for("online", lambda: b"online" in subscriber.of(f"{P}/available")[before:])
    return device


def results(subscriber: Subscriber) -> list[tuple[str, str, str]]:
    said = [orjson.loads(payload) for payload in dict.fromkeys(subscriber.of(RESULT))]
    return [(one["deployment_id"], one["status"], one["reason"]) for one in said]


def ended(subscriber: Subscriber, an_id: str, limit_s: float = 30.0) -> tuple[str, str, str]:
    def found() -> list[tuple[str, str, str]]:
        return [one for one in results(subscriber) if one[0] == an_id]

    wait_for(f"the result of {an_id}", found, limit_s)
    return found()[0]


def errors(subscriber: Subscriber) -> list[tuple[str, str]]:
    said = [orjson.loads(payload) for payload in subscriber.of(ERROR)]
    return [(one["reason"], one["detail"]) for one in said]


def delivered(broker: Broker, topic: str) -> int:
    return sum(
        1
        for line in broker.log.splitlines()
        if "Sending PUBLISH to dut" in line and f"'{topic}'" in line
    )


def acknowledged(broker: Broker) -> int:
    return broker.log.count("Received PUBACK from dut")


def journal_text(device: Device) -> str:
    # While a new one is being put in its place, the one before is there under another name.
    for name in ("state.json", "state.json.old", "state.json"):
        with suppress(FileNotFoundError):
            return (device.state / "models/m" / name).read_text()
    return ""


def memory_kb(device: Device, field: str = "VmHWM") -> int:
    for line in Path(f"/proc/{device.process.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise AssertionError(field)


def predicted(subscriber: Subscriber) -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(f"{P}/prediction/front")]


def goes_on(device: Device, subscriber: Subscriber) -> None:
    """The same process predicts, and nothing that it predicted is missing."""
    count = len(predicted(subscriber))
    wait_for("predictions", lambda: len(predicted(subscriber)) > count + 10)
    assert device.process.poll() is None
    last = predicted(subscriber)[-1]["boot"]
    made = [one["seq"] for one in predicted(subscriber) if one["boot"] == last]
    assert made == list(range(1, len(made) + 1))


@pytest.mark.parametrize("version", ["5", pytest.param("3.1.1", marks=pytest.mark.slow)])
def test_killed_before_it_is_written_it_comes_again(
    build, desk, broker, subscriber, version
) -> None:
    desk.publish("1.0.0")
    device = begin(build(version), subscriber)
    subscriber.publish(DESIRED, desired("d1", "1.0.0"))
    wait_for("it to be delivered", lambda: delivered(broker, DESIRED) == 1)
    device.kill()
    assert '"d1"' not in journal_text(device), "it settles for two seconds"
    begin(device, subscriber)

    assert ended(subscriber, "d1") == ("d1", "SUCCEEDED", "")
    assert delivered(broker, DESIRED) == 2
    wait_for("the acknowledgement", lambda: acknowledged(broker) >= 1)
    device.stop()
    begin(device, subscriber)
    goes_on(device, subscriber)
    assert delivered(broker, DESIRED) == 2
    assert len(results(subscriber)) == 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("restarts", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_device_and_group_in_conflict_repeated_and_delivered_again(
    build, desk, broker, subscriber, restarts
) -> None:
    for version in ("1.0.0", "1.1.0"):
        desk.publish(version)
    of_group, of_device = desired("g", "1.1.0"), desired("d", "1.0.0")
    subscriber.publish(GROUP, of_group, retain=True)
    subscriber.publish(DESIRED, of_device, retain=True)
    device = begin(build(), subscriber)
    assert ended(subscriber, "d") == ("d", "SUCCEEDED", "")
    for _ in range(10):
        subscriber.publish(DESIRED, of_device)
        subscriber.publish(GROUP, of_group)
    seq = said(device)
    for _ in range(restarts):
        again(device, broker, subscriber, messages=2)
    goes_on(device, subscriber)
    assert {one["version"] for one in predicted(subscriber)[-10:]} == {"1.0.0"}
    assert said(device) == seq, "nothing began"

    command = {"id": "r", "action": "rollback", "from_version": "1.0.0"}
    subscriber.publish(COMMAND, orjson.dumps(command), retain=True)
    assert ended(subscriber, "r") == ("r", "ROLLED_BACK", "commanded")
    again(device, broker, subscriber, messages=3)
    goes_on(device, subscriber)
    assert predicted(subscriber)[-1]["version"].startswith("0.0.0-factory-")
    assert results(subscriber) == [("d", "SUCCEEDED", ""), ("r", "ROLLED_BACK", "commanded")]
    assert errors(subscriber) == []


def said(device: Device) -> int:
    """How much was said about deployments."""
    return int(json.loads(journal_text(device))["journal"]["seq"])


def again(device: Device, broker: Broker, subscriber: Subscriber, *, messages: int) -> None:
    """Kill it, and wait until what the broker has retained has come again."""
    device.kill()
    before = acknowledged(broker)
    begin(device, subscriber)
    # They are known: nothing has to settle.
    wait_for("them", lambda: acknowledged(broker) >= before + messages)


def flood(subscriber: Subscriber, qos: int, seconds: float, per_s: int = 1000) -> int:
    """Want something new a thousand times a second; return how often."""
    client = subscriber._client
    assert client is not None
    began_s, number = time.monotonic(), 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        while number < passed_s * per_s:
            client.publish(DESIRED, desired(f"flood-{number}", "9.9.9"), qos)
            number += 1
        time.sleep(0.005)
    return number


@contextmanager
def saves(device: Device) -> Iterator[set[int]]:
    """Watch `state.json`: every save is another file."""
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            with suppress(FileNotFoundError):
                seen.add((device.state / "models/m/state.json").stat().st_mtime_ns)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("version", "qos"), [("5", 1), ("3.1.1", 1), ("5", 0)])
def test_a_flood_ends_with_its_last_message(build, desk, subscriber, version, qos) -> None:
    desk.publish("1.0.0")
    device = begin(build(version), subscriber)
    goes_on(device, subscriber)
    before_kb, began_s = memory_kb(device), time.monotonic()
    with saves(device) as journals:
        count = flood(subscriber, qos, 5.0)
        written, seconds = len(journals), time.monotonic() - began_s
    subscriber.publish(DESIRED, desired("last", "1.0.0"))
    assert ended(subscriber, "last") == ("last", "SUCCEEDED", "")

    assert count > 2000, "it was a flood"
    # One for what settled; beginning, the first trouble and the end of each make three more.
    assert written <= 2 * seconds + 4
    begun = [one for one in results(subscriber) if one[0].startswith("flood-")]
    assert len(begun) <= seconds / 2 + 1, "one for each time that things settled"
    assert {one[1:] for one in begun} <= {("CANCELED", "superseded")}
    assert memory_kb(device) - before_kb < 40_000
    goes_on(device, subscriber)
    assert errors(subscriber) == []


def test_garbage_of_all_kinds_and_sizes(build, desk, subscriber) -> None:
    """With MQTT 3.1.1 nothing keeps a huge message away."""
    desk.publish("1.0.0")
    device = begin(build("3.1.1"), subscriber)
    subscriber.publish(DESIRED, desired("d1", "1.0.0"))
    goes_on(device, subscriber)
    before_kb = memory_kb(device)
    subscriber.publish(DESIRED, but().ljust(5_000_000), retain=True)
    wait_for("an answer", lambda: errors(subscriber))
    assert [reason for reason, _ in errors(subscriber)] == ["message_too_large"]
    for payload in MALFORMED:
        for topic in (DESIRED, GROUP, ALL, COMMAND):
            subscriber.publish(topic, payload)
    assert ended(subscriber, "d1") == ("d1", "SUCCEEDED", "")
    assert memory_kb(device) - before_kb < 60_000
    goes_on(device, subscriber)
    assert len(results(subscriber)) == 1


AHEAD = ("order_ahead", but(order=2**62))
WRONG = [
    ("message_too_large", b"x" * 70_000),
    ("id_reserved", but(deployment_id="auto-1")),
    AHEAD,
    *(("message_malformed", payload) for payload in MALFORMED),
]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_each_kind_of_garbage_is_answered(build, subscriber) -> None:
    device = begin(build(), subscriber)
    # Where the clock is not set, an order of the far future waits.
    wrong = WRONG if clock_synchronised() is not False else [one for one in WRONG if one != AHEAD]
    for number, (reason, payload) in enumerate(wrong):
        began_s = time.monotonic()
        subscriber.publish(DESIRED, payload)
        wait_for(
            f"an answer to {payload[:60]!r}", lambda n=number: len(errors(subscriber)) == n + 1
        )
        assert errors(subscriber)[-1][0] == reason
        time.sleep(max(0.0, 1.05 - (time.monotonic() - began_s)))
    assert len(set(errors(subscriber))) >= 40, "the details differ where the mistakes do"
    goes_on(device, subscriber)


def test_a_model_that_is_not_configured_any_more_is_told(build, subscriber) -> None:
    """The broker has kept the session, and with it the subscription."""
    device = begin(build(also="n"), subscriber)
    device.stop()
    device = build()
    topic = f"{P}/update/n/desired"
    subscriber.publish(topic, json.dumps(GOOD).encode())
    begin(device, subscriber)
    wait_for("an answer", lambda: errors(subscriber))

    assert orjson.loads(subscriber.of(ERROR)[0])["topic"] == topic
    assert errors(subscriber)[0][0] == "model_unknown"


def test_the_newest_published_version_is_told(build, desk, subscriber) -> None:
    desk.publish("1.0.0")
    device = begin(build(more="poll_s = 1\n"), subscriber)

    def latest() -> str | None:
        said = [payload for payload in subscriber.of(f"{P}/model/m") if payload]
        return orjson.loads(said[-1])["latest"] if said else None

    wait_for("the first", lambda: latest() == "1.0.0")
    desk.publish("1.1.0")
    wait_for("the next", lambda: latest() == "1.1.0")
    assert results(subscriber) == []
    goes_on(device, subscriber)


def test_two_devices_with_one_id_say_so_and_leave_the_broker_alone(
    build, broker, subscriber
) -> None:
    both = [build(), build()]
    for device in both:
        device.start().wait_ready()
    for device in both:
        wait_for("the reason", lambda one=device: "(broker_closed)" in one.log)
    time.sleep(2.0)
    for device in both:
        connects = device.log.count("connected to 127.0.0.1")
        assert connects <= 4, "1, 2, 4 s between attempts"
        assert "another client" in device.log
        assert device.process.poll() is None

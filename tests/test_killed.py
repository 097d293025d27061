"""The whole daemon is killed, or loses its power, while it brings a model over the air.

What the store and the journal promise alone stands in test_store_crashes.py and test_stories.py;
here it is held against the real daemon, a real broker and a real repository.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from sim import badmodels, models
from sim.broker import MOSQUITTO, Subscriber, wait_for
from sim.desk import Desk
from sim.device import Device, P
from sim.kernel import kernel_or_skip
from sim.killer import Killer, killer_or_skip
from sim.killrig import Rig, table
from sim.service import Service
from sim.tcp import Proxy

from edged.models.journal import Journal, encode_journal, parse_journal
from edged.models.records import State

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

LONG = [pytest.mark.slow, pytest.mark.timeout(1800)]
RESULT, STATE = f"{P}/update/m/result", f"{P}/update/m/state"


def body(desk: Desk, factory: Path, fps: int = 60) -> str:
    return (
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\n\n'
        f'[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = {fps}\n'
    )


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    return models.write(tmp_path / "factory.tflite", models.classifier("float32"))


def want(subscriber: Subscriber, deployment_id: str, version: str) -> None:
    wait_for("online", lambda: (subscriber.of(f"{P}/available") or [b""])[-1] == b"online")
    message = {"deployment_id": deployment_id, "version": version}
    subscriber.publish(f"{P}/update/m/desired", orjson.dumps(message), retain=True)


def journal(device: Device) -> Journal:
    """What is on the disk; while it is being written, what was there before."""
    home = device.state / "models" / "m"
    for name in ("state.json", "state.json.old"):
        try:
            return parse_journal((home / name).read_bytes())
        except FileNotFoundError:
            continue
    return Journal("m")


def state(device: Device) -> State | None:
    current = journal(device).current
    return None if current is None else current.state


def results(subscriber: Subscriber, deployment_id: str) -> list[bytes]:
    return [
        payload
        for payload in subscriber.of(RESULT)
        if orjson.loads(payload)["deployment_id"] == deployment_id
    ]


def result(subscriber: Subscriber, deployment_id: str, device: Device) -> dict:
    def there() -> bool:
        return bool(results(subscriber, deployment_id)) or device.process.poll() is not None

    wait_for(f"the result of {deployment_id}", there, 40.0)
    assert device.process.poll() is None, device.log
    found = results(subscriber, deployment_id)
    assert len(set(found)) == 1
    return orjson.loads(found[0])


def runs(subscriber: Subscriber) -> str:
    """The version that made the newest prediction."""
    made = subscriber.of(f"{P}/prediction/front")
    return str(orjson.loads(made[-1])["version"]) if made else ""


def bad(subscriber: Subscriber) -> list[str]:
    """The versions that are marked bad."""
    said = orjson.loads(subscriber.of(f"{P}/model/m")[-1])
    return [mark["version"] for mark in said["marks"] if mark["mark"] == "bad"]


# At random


@pytest.mark.parametrize(
    ("kills", "lanes"), [(3, 3), pytest.param(200, 4, marks=LONG)], ids=["some", "many"]
)
def test_killed_at_random_it_runs_the_old_or_the_new(
    tmp_path: Path, kills: int, lanes: int
) -> None:
    rig = Rig(tmp_path, kills, 1, lanes)
    rig.run()
    print(table(rig.rounds))
    assert rig.wrong == []
    assert rig.done >= kills


# In a trial


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_power_cuts_end_a_trial_and_never_blame_it(
    broker, subscriber, make, desk, factory, tmp_path
) -> None:
    """Five in one trial: enough, but no mark; the same version may be tried again."""
    kernel = kernel_or_skip(tmp_path / "kernel")
    desk.publish("1.0.0", trial={"seconds": 3, "p95_ratio": 1000})
    device = make(broker.port, body(desk, factory), kernel=kernel).start()
    want(subscriber, "unlucky", "1.0.0")
    for number in range(1, 6):
        wait_for("the candidate", lambda: runs(subscriber) == "1.0.0", 40.0)
        before = kernel.boot_id
        device.cut_power()
        assert state(device) is State.TRIAL, number
        assert kernel.boot_id != before
        subscriber.of(f"{P}/prediction/front").clear()
        device.start()
    said = result(subscriber, "unlucky", device)
    assert (said["status"], said["reason"]) == ("ROLLED_BACK", "interrupted")
    assert bad(subscriber) == []
    wait_for("the factory model", lambda: runs(subscriber).startswith("0.0.0-factory-"))

    want(subscriber, "lucky", "1.0.0")
    assert result(subscriber, "lucky", device)["status"] == "SUCCEEDED"
    assert bad(subscriber) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_power_cuts_and_restarts_do_not_end_a_trial(
    broker, subscriber, make, desk, factory, tmp_path
) -> None:
    kernel = kernel_or_skip(tmp_path / "kernel")
    desk.publish("1.0.0", trial={"seconds": 3, "p95_ratio": 1000})
    device = make(broker.port, body(desk, factory), kernel=kernel).start()
    want(subscriber, "tough", "1.0.0")
    for number in range(10):
        wait_for("the candidate", lambda: runs(subscriber) == "1.0.0", 40.0)
        if number % 5 in {1, 3}:
            device.cut_power()
        else:
            assert device.stop()[0] == 0  # as `systemctl restart` does
        assert state(device) is State.TRIAL, number
        subscriber.of(f"{P}/prediction/front").clear()
        device.start()

    assert result(subscriber, "tough", device)["status"] == "SUCCEEDED"
    assert bad(subscriber) == []
    assert journal(device).marks[-1].bad is False


# After a commit


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_crashes_later_is_left_for_the_one_before(
    broker, subscriber, make, desk, factory
) -> None:
    """Three crashes each: the newest, the one before, the factory model; then none is left."""
    later = badmodels.harm_at_frame(600)
    models.write(factory, later)
    for version in ("1.0.0", "2.0.0"):
        desk.publish(version, later, trial={"p95_ratio": 1000})
    device = make(broker.port, body(desk, factory, fps=20)).start()
    for version in ("1.0.0", "2.0.0"):
        want(subscriber, f"to-{version}", version)
        assert result(subscriber, f"to-{version}", device)["status"] == "SUCCEEDED"
    device.stop()
    device.write(body(desk, factory, fps=400))
    service = Service(device).start()
    try:
        wait_for("the end", lambda: results(subscriber, "auto-3"), 240.0)
    finally:
        service.close()

    said = [result(subscriber, f"auto-{number}", device) for number in (1, 2, 3)]
    assert [(one["status"], one["reason"]) for one in said] == [
        ("ROLLED_BACK", "active_crashed")
    ] * 3
    assert [one["version"][:7] for one in said] == ["2.0.0", "1.0.0", "0.0.0-f"]
    assert len(service.ends) == 9
    assert len(bad(subscriber)) == 3
    versions = orjson.loads(subscriber.of(f"{P}/model/m")[-1])
    assert (versions["active"], versions["previous"]) == (None, None)
    wait_for("no model", lambda: b"no_model_left" in subscriber.of(f"{P}/info")[-1])
    assert device.process.poll() is None


# In a download


@pytest.mark.slow
def test_a_download_goes_on_at_the_byte_that_was_safe(
    broker, subscriber, make, desk, factory
) -> None:
    desk.bytes_per_s = 8_000_000.0
    noise = np.random.default_rng(1).bytes(10_000_000)
    desk.publish("1.0.0", ballast=noise, trial={"p95_ratio": 1000})
    device = make(broker.port, body(desk, factory)).start()
    want(subscriber, "large", "1.0.0")
    safe: list[int] = []
    for megabytes in (4, 8):
        wait_for("a part", lambda count=megabytes: _safe_bytes(device) >= count * 1024 * 1024)
        device.kill()
        safe.append(_safe_bytes(device))
        device.start()

    assert result(subscriber, "large", device)["status"] == "SUCCEEDED"
    asked = [one.range for one in desk.requests if one.path.startswith("/targets/")]
    assert asked == ["", *(f"bytes={count}-" for count in safe)]


def _safe_bytes(device: Device) -> int:
    """How much of the download is said to be safe."""
    for mark in (device.state / "staging").glob("*.part.json"):
        with suppress(FileNotFoundError):
            return int(orjson.loads(mark.read_bytes())["safe_bytes"])
    return 0


# Between the commit and the broker's acknowledgement


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep everybody else from writing to an SQLite file."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.close()


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before it is in the outbox", marks=pytest.mark.slow),
        pytest.param("sent, and not in the outbox", marks=pytest.mark.slow),
        "sent, and not acknowledged",
    ],
)
def test_killed_after_the_commit_the_result_arrives(
    broker, subscriber, make, desk, factory, moment
) -> None:
    desk.publish("1.0.0", trial={"seconds": 1, "p95_ratio": 1000})
    proxy = Proxy(broker.port, mute_after=f"{P}/update/m/result".encode())
    device = make(proxy.port, body(desk, factory)).start()
    want(subscriber, "due", "1.0.0")
    wait_for("the trial", lambda: state(device) is State.TRIAL)
    if moment == "before it is in the outbox":
        broker.freeze()
    if moment == "sent, and not acknowledged":
        wait_for("the row", lambda: (past := journal(device).result("due")) and past.reported)
        wait_for("the result", lambda: results(subscriber, "due"))
        device.kill()
    else:
        with held(device.state / "outbox.sqlite3"):
            wait_for("the commit", lambda: journal(device).result("due"))
            if moment == "sent, and not in the outbox":
                wait_for("the result", lambda: results(subscriber, "due"))
            time.sleep(2.5)  # longer than it waits for the disk
            device.kill()
        past = journal(device).result("due")
        assert past is not None
        assert not past.reported
    broker.thaw()
    sent = len(results(subscriber, "due"))
    assert sent == (0 if moment == "before it is in the outbox" else 1)
    assert proxy.mute == sent
    proxy.mute_after = None
    device.start()
    wait_for("the result", lambda: len(results(subscriber, "due")) > sent)

    found = results(subscriber, "due")
    assert len(set(found)) == 1, "byte for byte the same"
    assert orjson.loads(found[0])["status"] == "SUCCEEDED"
    wait_for("the journal", lambda: (past := journal(device).result("due")) and past.reported)
    proxy.close()


# In the recovery itself


@pytest.fixture
def killer(tmp_path: Path) -> Killer:
    return killer_or_skip(tmp_path)


def ended_untold(past: Journal) -> Journal:
    """Committed, and nobody knows."""
    done = [replace(one, reported=False) for one in past.history]
    return replace(past, history=tuple(done))


def in_the_trial(interruptions: int) -> Callable[[Journal], Journal]:
    def change(past: Journal) -> Journal:
        assert past.current is not None
        return replace(past, current=replace(past.current, interruptions=interruptions))

    return change


PASTS: dict[str, tuple[str, Callable[[Journal], Journal], str]] = {
    "untold": ("told", ended_untold, "SUCCEEDED"),
    "fifth": ("trial", in_the_trial(4), "ROLLED_BACK"),
    "trial": ("trial", in_the_trial(0), "SUCCEEDED"),
}


@pytest.mark.parametrize(
    ("past", "every"),
    [pytest.param(name, every, marks=LONG) for name, every in zip(PASTS, (1, 2, 4), strict=True)],
)
def test_killed_at_each_step_of_the_recovery(
    broker, subscriber, make, desk, factory, killer, tmp_path, past, every
) -> None:
    """Before each call that changes a file, from the start until the result has been told."""
    stopped_in, change, status = PASTS[past]
    desk.publish("1.0.0", trial={"p95_ratio": 1000})
    config = body(desk, factory)
    first = make(broker.port, config).start()
    want(subscriber, "due", "1.0.0")
    if stopped_in == "trial":
        wait_for("the trial", lambda: state(first) is State.TRIAL)
        first.kill()
        assert state(first) is State.TRIAL
    else:
        wait_for("the result", lambda: (one := journal(first).result("due")) and one.reported)
        first.stop()
    before = change(journal(first))
    steps = []
    for number in range(1, 400, every):
        device = make(broker.port, config)
        shutil.copytree(first.state, device.state)
        (device.state / "models" / "m" / "state.json").write_bytes(encode_journal(before))
        log = device.folder / "step"
        device.environment = killer.environment(number, device.state, log)
        subscriber.of(RESULT).clear()
        device.start()
        wait_for(
            "the end of all",
            lambda device=device: device.process.poll() is not None or _told(device, subscriber),
            40.0,
        )
        if device.process.poll() is None:
            device.stop()
            break
        steps.append(log.read_text().replace(str(device.state), ""))
        device.environment = {}
        device.start()
        wait_for("the result", lambda device=device: _told(device, subscriber), 40.0)
        assert {orjson.loads(one)["status"] for one in results(subscriber, "due")} == {status}, (
            steps
        )
        assert len(set(results(subscriber, "due"))) == 1, steps[-1]
        assert not any(mark.bad for mark in journal(device).marks), steps[-1]
        device.stop()
        shutil.rmtree(device.state)
    print(f"{len(steps)} steps", *steps)
    assert len(steps) * every > 20


def _told(device: Device, subscriber: Subscriber) -> bool:
    past = journal(device).result("due")
    return past is not None and past.reported and bool(results(subscriber, "due"))

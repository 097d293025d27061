"""Models over the air, from an MQTT message to the commit: real daemon, broker and repository."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import badmodels, models
from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.desk import Desk
from sim.device import Device, P

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

STATE, RESULT = f"{P}/update/m/state", f"{P}/update/m/result"
DESIRED, COMMAND = f"{P}/update/m/desired", f"{P}/update/m/command"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Pictures that differ: each a patch of one colour on a ground of another."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(61):  # not by 10: every tenth frame is compared
        rng = np.random.default_rng(number)
        image = np.full((48, 64, 3), 20, np.uint8)
        image[:, :, rng.integers(0, 3)] = 120
        y, x = rng.integers(0, 24), rng.integers(0, 32)
        image[y : y + 24, x : x + 32] = rng.integers(0, 256, 3)
        cv2.imwrite(str(folder / f"{number:02}.png"), image)
    return folder


@pytest.fixture
def device(
    make: Callable[..., Device], broker: Broker, desk: Desk, scenes: Path, tmp_path: Path
) -> Device:
    """A device with a factory model, not started."""
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(models.COLOURS))
    return make(broker.port, body(desk, scenes, factory), verbose=True)


def body(desk: Desk, scenes: Path, factory: Path, more: str = "", camera: str = "fps = 60") -> str:
    return (
        f'{desk.update}{more}\n[[model]]\nname = "m"\nfactory = "{factory}"\n\n'
        f'[[camera]]\nname = "front"\nsource = "images:{scenes}"\nmodel = "m"\n{camera}\n'
    )


def states(subscriber: Subscriber) -> list[tuple[str | None, str]]:
    said = [orjson.loads(payload) for payload in subscriber.of(STATE) if payload]
    return [(one["deployment_id"], one["state"]) for one in said]


def results(subscriber: Subscriber) -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(RESULT)]


def latest(subscriber: Subscriber, topic: str) -> bytes:
    return (subscriber.of(topic) or [b""])[-1]


def runs(subscriber: Subscriber) -> str:
    """The version that made the newest prediction."""
    made = predictions(subscriber)
    return str(made[-1]["version"]) if made else ""


def predictions(subscriber: Subscriber) -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(f"{P}/prediction/front")]


def online(subscriber: Subscriber) -> None:
    """Wait until the device has subscribed: it is ready before it knows of any broker."""
    wait_for("online", lambda: latest(subscriber, f"{P}/available") == b"online")


def want(subscriber: Subscriber, an_id: str, version: str | None, *, retain: bool = False) -> None:
    message = {"deployment_id": an_id, "version": version, "order": time.time_ns() // 1_000_000}
    online(subscriber)
    subscriber.publish(DESIRED, orjson.dumps(message), retain=retain)


def result_of(subscriber: Subscriber, an_id: str, device: Device, limit_s: float = 40.0) -> dict:
    found: list[dict] = []

    def there() -> bool:
        found[:] = [one for one in results(subscriber) if one["deployment_id"] == an_id]
        return bool(found) or device.process.poll() is not None

    try:
        wait_for(f"the result of {an_id}", there, limit_s)
    except AssertionError:
        raise AssertionError(
            f"no result; states {states(subscriber)}\n{info_log(device)}"
        ) from None
    assert found, info_log(device)
    return found[0]


def info_log(device: Device) -> str:
    return "\n".join(line for line in device.log.splitlines() if " DEBUG " not in line)


def test_a_message_makes_a_device_run_another_version(device, desk, subscriber) -> None:
    desk.publish("1.0.0", models.classifier("float32", head="logits"))
    device.start().wait_ready()
    wait_for("predictions", lambda: len(predictions(subscriber)) > 5)
    want(subscriber, "first", "1.0.0", retain=True)
    result = result_of(subscriber, "first", device)

    assert (result["status"], result["reason"], result["version"]) == ("SUCCEEDED", "", "1.0.0")
    assert result["health"]["frames"] >= 30
    seen = [state for an_id, state in states(subscriber) if an_id == "first"]
    assert seen == ["SYNCING", "DOWNLOADING", "VERIFYING", "VALIDATING", "TRIAL", "COMMITTED"]
    wait_for("the new one", lambda: runs(subscriber) == "1.0.0")
    made = predictions(subscriber)
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1)), "nothing is missing"
    versions = [one["version"] for one in made]
    assert versions == sorted(versions), "it changed once, and not back"
    said = orjson.loads(subscriber.of(f"{P}/model/m")[-1])
    assert said["active"]["version"] == "1.0.0"
    assert said["previous"]["version"].startswith("0.0.0-factory-")

    # The broker has kept the message, and gives it again after a restart: nothing happens.
    device.stop()
    device.start().wait_ready()
    wait_for("online again", lambda: subscriber.of(f"{P}/available")[-1] == b"online")
    count = len(predictions(subscriber))
    wait_for("predictions", lambda: len(predictions(subscriber)) > count + 20)
    time.sleep(2.5)  # as long as arrivals settle
    assert runs(subscriber) == "1.0.0"
    assert len(results(subscriber)) == 1
    assert states(subscriber)[-1] == ("first", "COMMITTED")


def test_a_candidate_that_crashes_ends_in_its_child(device, desk, subscriber) -> None:
    answers = np.full((4, 1, 4), 0.25, np.float32)
    desk.publish("1.0.0", badmodels.segfault_at_load(), expected=answers)
    device.start().wait_ready()
    process = device.process.pid
    want(subscriber, "bad", "1.0.0")
    result = result_of(subscriber, "bad", device)

    assert (result["status"], result["reason"]) == ("REJECTED", "validation_crashed")
    assert device.process.pid == process
    assert device.process.poll() is None
    count = len(predictions(subscriber))
    wait_for("predictions go on", lambda: len(predictions(subscriber)) > count + 5)
    made = predictions(subscriber)
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1))
    said = orjson.loads(subscriber.of(f"{P}/model/m")[-1])
    assert [(mark["version"], mark["mark"]) for mark in said["marks"]] == [("1.0.0", "bad")]

    # The same package under another id is refused at once, another version is not.
    desk.publish("1.0.1")
    want(subscriber, "again", "1.0.0")
    assert result_of(subscriber, "again", device)["reason"] == "marked_bad"
    want(subscriber, "better", "1.0.1")
    assert result_of(subscriber, "better", device)["status"] == "SUCCEEDED"


def test_a_candidate_that_disagrees_is_rolled_back(
    device, desk, subscriber, scenes, tmp_path
) -> None:
    desk.publish("1.0.0")
    wrong = ("blue", "dark", "red", "green")
    desk.publish("1.1.0", labels=wrong, trial={"frames": 400, "max_disagreement": 0.3})
    factory = tmp_path / "factory.tflite"
    device.write(body(desk, scenes, factory, camera="fps = 0"))
    device.start().wait_ready()
    want(subscriber, "good", "1.0.0")
    assert result_of(subscriber, "good", device)["status"] == "SUCCEEDED"
    want(subscriber, "odd", "1.1.0")
    result = result_of(subscriber, "odd", device)

    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "trial_disagrees")
    assert result["health"]["compared"]["scenes"] >= 20
    wait_for("the version before", lambda: runs(subscriber) == "1.0.0")
    made = predictions(subscriber)
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1)), "nothing is missing"
    assert orjson.loads(subscriber.of(f"{P}/model/m")[-1])["marks"][-1]["mark"] == "good"


def test_killed_in_a_trial_it_goes_on_with_the_trial(
    device, desk, subscriber, scenes, tmp_path
) -> None:
    desk.publish("1.0.0", trial={"seconds": 4})
    device.start().wait_ready()
    want(subscriber, "long", "1.0.0")
    wait_for("the trial", lambda: ("long", "TRIAL") in states(subscriber))
    wait_for("the candidate", lambda: runs(subscriber) == "1.0.0")
    device.kill()
    device.start().wait_ready()

    assert result_of(subscriber, "long", device)["status"] == "SUCCEEDED"
    assert [state for _, state in states(subscriber)].count("COMMITTED") == 1
    wait_for("the candidate", lambda: runs(subscriber) == "1.0.0")


@pytest.mark.slow
def test_a_result_that_is_due_while_the_broker_is_away_comes_once(
    device, desk, subscriber, broker
) -> None:
    desk.publish("1.0.0", trial={"seconds": 3})
    device.start().wait_ready()
    want(subscriber, "due", "1.0.0")
    wait_for("the trial", lambda: ("due", "TRIAL") in states(subscriber))
    broker.stop()
    wait_for("the commit", lambda: "1.0.0 SUCCEEDED" in device.log)
    device.kill()
    broker.start()
    subscriber.connect()
    device.start().wait_ready()

    assert result_of(subscriber, "due", device)["status"] == "SUCCEEDED"
    time.sleep(1.0)
    assert len(results(subscriber)) == 1


def test_a_deployment_is_canceled_by_message(device, desk, subscriber) -> None:
    desk.publish("1.0.0", trial={"seconds": 60})
    device.start().wait_ready()
    want(subscriber, "absent", "9.9.9")
    wait_for("not there", lambda: b"not_published" in latest(subscriber, STATE))
    command = {"id": "c1", "action": "cancel", "deployment_id": "absent"}
    subscriber.publish(COMMAND, orjson.dumps(command))
    assert result_of(subscriber, "absent", device)["status"] == "CANCELED"

    want(subscriber, "tried", "1.0.0")
    wait_for("the candidate", lambda: runs(subscriber) == "1.0.0")
    subscriber.publish(
        COMMAND, orjson.dumps(command | {"id": "c2", "deployment_id": "tried"}), retain=False
    )
    result = result_of(subscriber, "tried", device)
    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "canceled")
    wait_for("back", lambda: runs(subscriber).startswith("0.0.0-factory"))


def test_what_cannot_be_taken_is_answered(device, desk, subscriber) -> None:
    device.start().wait_ready()
    online(subscriber)
    subscriber.publish(DESIRED, b'{"deployment_id": ')
    wait_for("an answer", lambda: subscriber.of(f"{P}/error"))
    answer = orjson.loads(subscriber.of(f"{P}/error")[0])
    assert (answer["topic"], answer["reason"]) == (DESIRED, "message_malformed")


@pytest.mark.slow
def test_a_reload_in_a_trial_begins_it_anew(device, desk, subscriber) -> None:
    desk.publish("1.0.0", trial={"seconds": 4})
    device.start().wait_ready()
    want(subscriber, "long", "1.0.0")
    wait_for("the candidate", lambda: runs(subscriber) == "1.0.0")
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    assert result_of(subscriber, "long", device)["status"] == "SUCCEEDED"
    assert len(results(subscriber)) == 1


def test_without_a_root_it_says_so_and_goes_on(device, desk, subscriber) -> None:
    desk.root.unlink()
    device.start().wait_ready()
    want(subscriber, "no", "1.0.0")

    result = result_of(subscriber, "no", device)
    assert (result["status"], result["reason"]) == ("FAILED", "updates_off")
    info = orjson.loads(subscriber.of(f"{P}/info")[-1])
    assert info["updates"]["reason"] == "updates_off"


def test_a_candidate_that_takes_the_process_down_twice_is_rolled_back_and_marked(
    device, desk, subscriber, scenes, tmp_path
) -> None:
    # It behaves for as long as it is tried in the child: at most 200 frames in a row.
    desk.publish("1.0.0", badmodels.harm_at_frame(400), trial={"frames": 5000})
    device.write(body(desk, scenes, tmp_path / "factory.tflite", camera="fps = 0"))
    device.start().wait_ready()
    want(subscriber, "crashes", "1.0.0")
    for _ in range(2):
        assert device.wait_end(30.0) < 0, "the candidate took it down"
        device.start().wait_ready()
    result = result_of(subscriber, "crashes", device)

    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "trial_crashed")
    said = orjson.loads(subscriber.of(f"{P}/model/m")[-1])
    assert [(mark["version"], mark["mark"]) for mark in said["marks"]] == [("1.0.0", "bad")]
    wait_for(
        "the factory model",
        lambda: runs(subscriber).startswith("0.0.0-factory-"),
    )


def test_an_installed_version_that_is_damaged_is_left_for_the_one_before(
    device, desk, subscriber
) -> None:
    desk.publish("1.0.0")
    device.start().wait_ready()
    want(subscriber, "good", "1.0.0")
    assert result_of(subscriber, "good", device)["status"] == "SUCCEEDED"
    device.stop()
    model = device.state / "models/m/1.0.0/model.tflite"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.chmod(0o600)
    model.write_bytes(data)
    device.start().wait_ready()

    result = result_of(subscriber, "auto-1", device)
    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "active_unusable")
    wait_for(
        "the factory model",
        lambda: runs(subscriber).startswith("0.0.0-factory-"),
    )

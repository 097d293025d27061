"""The whole daemon: windows over MQTT and on the disk, the state, commands."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import orjson
import pytest
from sim.broker import Broker, Subscriber, wait_for
from sim.device import BELT, Device, P

from edged.drift.detector import FRESH
from edged.drift.hour import joined
from edged.drift.keeping import Page, digest_of, encode_page, encode_reference
from edged.drift.records import encode_window, parse_window
from edged.drift.reference import Reference
from edged.drift.ring import read_windows
from edged.drift.state import Standing
from edged.drift.window import Window
from edged.models.files import Files

pytestmark = pytest.mark.broker

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/drift-window.schema.json").read_text())
QUICK = "[drift]\nsample_period_s = 0.1\nwindow_s = 1\n"
WINDOW, STATE, COMMAND = (f"{P}/drift/front/{what}" for what in ("window", "state", "command"))


def errors(subscriber: Subscriber) -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(f"{P}/error")]


def edged(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged", *arguments, "--config", str(device.config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_windows_leave_and_stay(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + QUICK).start().wait_ready()
    wait_for("windows", lambda: len(subscriber.of(WINDOW)) >= 4)
    wait_for("a state", lambda: subscriber.of(STATE))

    payloads = list(subscriber.of(WINDOW))
    windows = [parse_window(payload) for payload in payloads]
    for payload in payloads:
        jsonschema.validate(orjson.loads(payload), SCHEMA)
    assert [one.seq for one in windows] == list(range(1, len(windows) + 1))
    middle = windows[2]
    assert (middle.device, middle.subject.camera, middle.subject.model) == ("dut", "front", "belt")
    assert middle.subject.accelerator == "cpu"
    tally = middle.tally
    assert 0 < tally.sampled <= tally.inferred
    assert tally.histograms["top1"].sum() == tally.histograms["luma"].sum() == tally.sampled
    assert sum(tally.best.values()) == tally.invoke.sum() == tally.inferred
    assert tally.frames >= tally.inferred - 1
    assert orjson.loads(subscriber.of(STATE)[-1])["state"] == "warming"

    told, seen = len(subscriber.of(WINDOW)), len(subscriber.of(f"{P}/prediction/front"))
    wait_for("more", lambda: len(subscriber.of(f"{P}/prediction/front")) > seen + 2)
    device.stop()
    kept = list(read_windows(device.state, Files()))
    assert [one.seq for one in kept] == list(range(1, len(kept) + 1))
    assert len(kept) > told, "the window that had begun is there too"
    assert [encode_window(one) for one in kept[: len(payloads)]] == payloads


@pytest.mark.slow
def test_windows_are_off_when_they_are_off(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + "[drift]\nenabled = false\n").start().wait_ready()
    wait_for("predictions", lambda: len(subscriber.of(f"{P}/prediction/front")) > 20)
    assert subscriber.of(WINDOW) == []
    refused = edged(device, "drift", "acknowledge", "front")
    assert refused.returncode == 1
    assert "drift_off" in refused.stderr
    assert not (device.state / "drift").exists()


def test_what_is_asked_over_mqtt_is_done_or_answered(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + QUICK).start().wait_ready()
    wait_for("a window", lambda: subscriber.of(WINDOW))
    subscriber.publish(COMMAND, b'{"id":"1","action":"acknowledge"}')
    wait_for("acknowledged", lambda: "acknowledge by command" in device.log)
    subscriber.publish(COMMAND, b'{"id":"1","action":"acknowledge"}')  # the same said again
    for count, payload in enumerate((b"", b"[]", b'{"id":"2","action":"dance"}'), 1):
        subscriber.publish(COMMAND, payload)
        wait_for("an answer", lambda count=count: device.log.count("message_malformed") >= count)
    subscriber.publish(COMMAND, b'{"id":"3","action":"reset_reference"}')
    wait_for("reset", lambda: "reset reference by command" in device.log)
    assert device.log.count("acknowledge by command") == 1
    answers = errors(subscriber)
    assert answers
    assert {one["topic"] for one in answers} == {COMMAND}
    assert {one["reason"] for one in answers} == {"message_malformed"}


def test_what_a_person_asks_for_at_the_device(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + QUICK).start().wait_ready()
    wait_for("windows", lambda: len(subscriber.of(WINDOW)) >= 3)

    done = edged(device, "drift", "reset", "front")
    assert (done.returncode, done.stderr) == (0, "")
    assert "front" in done.stdout
    unknown = edged(device, "drift", "acknowledge", "back")
    assert unknown.returncode == 1
    assert "camera_unknown" in unknown.stderr
    told = orjson.loads(edged(device, "drift", "report", "--json").stdout)
    assert told["cameras"][0]["camera"] == "front"
    assert told["cameras"][0]["windows"] >= 3
    assert told["cameras"][0]["standing"]["state"] == "warming"

    device.stop()
    picture = device.folder / "report.png"
    report = edged(device, "drift", "report", "front", "--png", str(picture))
    assert report.returncode == 0, report.stderr
    assert "front" in report.stdout
    assert "top1" in report.stdout
    assert "from the disk" in report.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_killed_in_a_window_the_next_run_goes_on(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + QUICK).start().wait_ready()
    wait_for("windows", lambda: len(subscriber.of(WINDOW)) >= 3)
    device.kill()
    before = list(read_windows(device.state, Files()))
    device.start()
    wait_for("more", lambda: len(list(read_windows(device.state, Files()))) > len(before))
    after = list(read_windows(device.state, Files()))
    assert [(one.boot, one.seq) for one in after[: len(before)]] == [
        (one.boot, one.seq) for one in before
    ]
    assert after[-1].boot != before[0].boot


@pytest.mark.slow
def test_windows_wait_for_a_broker_that_is_away(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device]
) -> None:
    device = make(broker.port, BELT + QUICK).start().wait_ready()
    wait_for("a window", lambda: subscriber.of(WINDOW))
    subscriber.close()
    broker.stop()
    there = len(list(read_windows(device.state, Files())))
    wait_for("recorded", lambda: len(list(read_windows(device.state, Files()))) >= there + 2)
    broker.start()
    again = Subscriber(broker.port, f"{P}/#").connect()
    try:
        wait_for("all of it", lambda: len(again.of(WINDOW)) >= 3)
        seqs = [parse_window(payload).seq for payload in again.of(WINDOW)]
        assert sorted(set(seqs)) == list(range(min(seqs), max(seqs) + 1))
        assert min(seqs) <= there + 1
    finally:
        again.close()


IMAGES = """
[[model]]
name = "belt"
factory = "belt"

[[camera]]
name = "front"
source = "images:{folder}"
model = "belt"
fps = 60

[drift]
sample_period_s = 0.02
window_s = 1
trust_clock = true
"""


def scene(folder: Path, gain: float) -> None:
    folder.mkdir(exist_ok=True)
    chance = np.random.default_rng(4)
    for number in range(30):
        picture = cv2.GaussianBlur(chance.integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 3)
        picture = cv2.normalize(picture, None, 40, 220, cv2.NORM_MINMAX) * gain
        replaced = folder / "new.tmp"
        replaced.write_bytes(cv2.imencode(".png", picture.astype(np.uint8))[1].tobytes())
        replaced.replace(folder / f"{number:03}.png")


def a_week_of(windows: list[Window], state: Path) -> None:
    """Put a complete reference there, as if the camera had shown this for a week."""
    hour = joined(windows)
    now_ms = time.time_ns() // 1_000_000
    hours = tuple(
        replace(hour, began_ms=now_ms - (170 - n) * 3_600_000, seconds=3600.0, synchronised=True)
        for n in range(170)
    )
    digest, reference = digest_of(hour.subject), Reference(hours)
    drift = state / "drift"
    (drift / f"front-{digest}.reference").write_bytes(encode_reference(reference))
    page = Page(digest, Standing("ok", now_ms), FRESH, FRESH, (digest,))
    (drift / "front.standing").write_bytes(encode_page(page))


@pytest.mark.slow
def test_a_camera_that_goes_dark_is_told_in_minutes_and_acknowledged(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device], tmp_path: Path
) -> None:
    def state() -> str:
        payloads = subscriber.of(STATE)
        return orjson.loads(payloads[-1])["state"] if payloads else ""

    folder = tmp_path / "images"
    scene(folder, 1.0)
    device = make(broker.port, IMAGES.format(folder=folder)).start().wait_ready()
    wait_for("windows", lambda: len(subscriber.of(WINDOW)) >= 3)
    device.stop()
    a_week_of([parse_window(payload) for payload in subscriber.of(WINDOW)][1:3], device.state)
    device.start().wait_ready(1)
    wait_for("ok", lambda: state() == "ok")
    there = len(subscriber.of(WINDOW))
    wait_for("more windows", lambda: len(subscriber.of(WINDOW)) >= there + 3)
    assert state() == "ok"

    scene(folder, 0.02)
    wait_for("an alarm", lambda: state() == "drift")
    told = orjson.loads(subscriber.of(STATE)[-1])
    assert told["reasons"][0]["kind"]
    assert told["reference"]["complete"]
    report = edged(device, "drift", "report")
    assert "front: drift" in report.stdout
    assert told["reasons"][0]["detail"] in report.stdout

    scene(folder, 1.0)
    there = len(subscriber.of(WINDOW))
    wait_for("light again", lambda: len(subscriber.of(WINDOW)) >= there + 3)
    assert state() == "drift"  # until somebody has seen it
    device.kill()
    device.start()
    wait_for("still", lambda: device.notices.count("READY=1"))
    assert state() == "drift"
    wait_for("watched", lambda: len(subscriber.of(WINDOW)) >= there + 5)
    subscriber.publish(COMMAND, b'{"id":"seen","action":"acknowledge"}')
    wait_for("acknowledged", lambda: state() == "ok")

    scene(folder, 0.02)
    wait_for("a second alarm", lambda: state() == "drift")
    scene(folder, 1.0)
    there = len(subscriber.of(WINDOW))
    wait_for("light again", lambda: len(subscriber.of(WINDOW)) >= there + 3)
    assert edged(device, "drift", "acknowledge", "front").returncode == 0
    wait_for("acknowledged by hand", lambda: state() == "ok")
    assert edged(device, "drift", "reset", "front").returncode == 0
    wait_for("warming", lambda: state() == "warming")


def drift_told(subscriber: Subscriber) -> dict[str, str]:
    """What `info` says of drift."""
    said = subscriber.of(f"{P}/info")
    return orjson.loads(said[-1])["drift"] if said else {}


def test_a_full_disk_and_damage_are_told_and_nothing_recorded_is_lost(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device], small_disk
) -> None:
    device = make(broker.port, BELT + QUICK)
    device.state.symlink_to(small_disk.folder)
    small_disk.fill()
    device.start().wait_ready()
    wait_for("said", lambda: drift_told(subscriber).get("reason") == "disk_full")
    wait_for("windows all the same", lambda: len(subscriber.of(WINDOW)) >= 2)
    said = edged(device, "status").stdout
    assert "drift: cannot" in said
    assert "(disk_full)" in said
    assert device.log.count("windows are not kept") == 1
    small_disk.empty()
    wait_for("over", lambda: drift_told(subscriber)["reason"] == "")
    wait_for("kept", lambda: len(list(read_windows(device.state, Files()))) >= 5)
    assert device.log.count("windows are kept again") == 1
    assert "drift:" not in edged(device, "status").stdout
    device.kill()

    before = list(read_windows(device.state, Files()))
    segment = device.state / "drift" / "00000001.windows"
    data = segment.read_bytes()
    at = len(data) * 3 // 4
    segment.write_bytes(data[:at] + b"\xff\xff\xff" + data[at + 3 :])
    there = len(subscriber.of(WINDOW))
    device.start()
    wait_for("damage", lambda: drift_told(subscriber)["reason"] == "drift_state_damaged")
    wait_for("goes on", lambda: len(subscriber.of(WINDOW)) > there)
    assert segment.with_name("00000001.windows.damaged").exists()
    kept = {(one.boot, one.seq) for one in read_windows(device.state, Files())}
    assert (before[0].boot, before[0].seq) in kept
    assert "windows of it are kept" in " ".join(edged(device, "status").stdout.split())

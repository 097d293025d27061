from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edged.camera.clock import Clock
from edged.camera.paced import PacedCamera
from edged.camera.pacing import Pacer
from edged.errors import CameraError
from edged.frame import Color, Image


class Time:
    """A clock that only sleeping moves, or the test."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: 1e9 + self.now_s, sleep=self.sleep)


class Numbers:
    """Pictures whose first pixel counts from 0; making one takes `cost_s`."""

    description = "numbers 1x1"
    color: Color = "rgb"

    def __init__(self, hands: Time | None = None, cost_s: float = 0.0) -> None:
        self.hands, self.cost_s = hands, cost_s
        self.number, self.released = 0, 0
        self.gate: threading.Event | None = None

    def next(self, timeout_s: float) -> Image:
        if self.gate is not None:
            self.gate.wait(5)
        if self.hands is not None:
            self.hands.now_s += self.cost_s
        self.number += 1
        return np.full((1, 1, 3), self.number - 1, np.uint8)

    def release(self) -> None:
        self.released += 1


def test_the_first_picture_is_due_at_once() -> None:
    assert Pacer(0.001).wait_s(5) == 0


def test_no_drift_over_a_day() -> None:
    pacer, now, start = Pacer(30), 17.3, 17.3
    pictures = 30 * 3600
    for _ in range(pictures):
        pacer.take(now)
        now += pacer.wait_s(now) + 0.0001  # every sleep is a little too long
    assert now - start == pytest.approx(pictures / 30, abs=0.001)


def test_a_delay_is_not_made_up_in_a_burst() -> None:
    pacer = Pacer(10)
    pacer.take(0.0)
    pacer.take(1.03)  # ten slots late
    assert pacer.wait_s(1.03) == pytest.approx(0.07)
    pacer.take(1.1)
    assert pacer.wait_s(1.1) == pytest.approx(0.1)


def test_a_picture_on_time_keeps_its_slot_in_spite_of_rounding() -> None:
    pacer, count = Pacer(3), 0
    for n in range(3000):
        now = 0.1 + n / 3
        if pacer.wait_s(now) < 1e-9:
            pacer.take(now)
            count += 1
    assert count == 3000


@pytest.mark.parametrize(("source", "wanted", "got"), [(30, 30, 30), (25, 20, 20), (30, 5, 5)])
def test_a_jittering_stream_is_thinned_to_the_rate(source: int, wanted: int, got: int) -> None:
    pacer, rng = Pacer(wanted, early=0.25), np.random.default_rng(1)
    times = np.arange(source * 20) / source + rng.uniform(-0.1, 0.1, source * 20) / source
    taken = 0
    for now in times:
        if pacer.wait_s(float(now)) <= 0:
            pacer.take(float(now))
            taken += 1
    assert taken / 20 == pytest.approx(got, rel=0.03)


def test_no_rate_no_wait() -> None:
    pacer = Pacer(0)
    for _ in range(3):
        assert pacer.wait_s(1.0) == 0
        pacer.take(1.0)


def test_pictures_come_at_the_rate_and_carry_their_time() -> None:
    hands = Time()
    camera = PacedCamera(Numbers(hands, cost_s=0.04), 10, hands.clock)
    pictures = [camera.read(1) for _ in range(5)]
    assert [int(p.image[0, 0, 0]) for p in pictures] == [0, 1, 2, 3, 4]
    assert [p.captured_mono_s for p in pictures] == pytest.approx(
        [100.04, 100.14, 100.24, 100.34, 100.44]
    )
    assert pictures[0].captured_s == pytest.approx(1e9 + 100.04)
    assert pictures[0].color == "rgb"
    assert camera.description == "numbers 1x1 at 10/s"


def test_as_fast_as_read() -> None:
    hands = Time()
    camera = PacedCamera(Numbers(), 0, hands.clock)
    for _ in range(100):
        camera.read(1)
    assert hands.slept == []
    assert camera.description == "numbers 1x1 at full speed"


def test_a_slow_rate_is_no_stall() -> None:
    hands = Time()
    camera = PacedCamera(Numbers(), 0.01, hands.clock)
    camera.read(1)
    camera.read(1)
    assert hands.now_s == pytest.approx(200)


def test_closing_ends_the_pause_of_a_reader() -> None:
    frames = Numbers()
    camera = PacedCamera(frames, 0.01)
    camera.read(1)
    threading.Timer(0.1, camera.close).start()
    started = time.monotonic()
    with pytest.raises(CameraError, match="closed") as caught:
        camera.read(1)
    assert caught.value.reason == "camera_lost"
    assert time.monotonic() - started < 5
    camera.close()
    assert frames.released == 1


def test_a_reader_at_work_releases_what_was_closed_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edged.camera.paced._CLOSE_S", 0.05)
    frames = Numbers()
    frames.gate = threading.Event()
    camera = PacedCamera(frames, 0)
    reader = threading.Thread(target=camera.read, args=(1,))
    reader.start()
    time.sleep(0.05)
    camera.close()
    assert frames.released == 0
    frames.gate.set()
    reader.join(5)
    assert frames.released == 1

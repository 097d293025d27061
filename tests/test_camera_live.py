from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest

from edged.camera.clock import Clock
from edged.camera.live import LiveCamera
from edged.errors import CameraError
from edged.frame import Image


class Stream:
    """Gives what the test puts in: a number to show, None for nothing yet, an error to raise."""

    description = "stream"

    def __init__(self) -> None:
        self.items: queue.Queue[int | Exception | None] = queue.Queue()
        self.shown = 0
        self.grabbed = self.decoded = 0
        self.released = threading.Event()
        self.deaf = False

    def grab(self) -> float | None:
        item = self.items.get()
        if isinstance(item, Exception):
            raise item
        self.grabbed += 1
        if item is None:
            return None
        self.shown = item
        return float(item)

    def retrieve(self) -> Image | None:
        self.decoded += 1
        return None if self.shown < 0 else np.full((2, 2, 3), self.shown, np.uint8)

    def interrupt(self) -> None:
        if not self.deaf:
            self.items.put(None)

    def release(self) -> None:
        self.released.set()

    def settled(self, grabbed: int) -> None:
        deadline = time.monotonic() + 5
        while self.grabbed < grabbed:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02)


def feed(stream: Stream, *items: int | Exception | None, after_s: float = 0.05) -> None:
    def put() -> None:
        for item in items:
            stream.items.put(item)

    threading.Timer(after_s, put).start()


CLOCK = Clock(monotonic=lambda: 1000.0, time=lambda: 5000.0)


def test_a_slow_reader_gets_the_newest_and_the_rest_stays_undecoded() -> None:
    stream = Stream()
    camera = LiveCamera(stream, clock=CLOCK)
    for number in range(1, 51):
        stream.items.put(number)
    stream.settled(50)
    feed(stream, 51)
    picture = camera.read(5)
    assert int(picture.image[0, 0, 0]) == 51
    assert stream.decoded == 1
    assert (picture.captured_mono_s, picture.captured_s) == (51.0, 4051.0)
    assert picture.color == "bgr"
    camera.close()


def test_nothing_yet_is_asked_again() -> None:
    stream = Stream()
    camera = LiveCamera(stream)
    feed(stream, None, None, 7)
    assert int(camera.read(5).image[0, 0, 0]) == 7
    camera.close()


def test_a_stall_is_told_in_time_and_reading_goes_on() -> None:
    stream = Stream()
    camera = LiveCamera(stream)
    started = time.monotonic()
    with pytest.raises(CameraError) as caught:
        camera.read(0.1)
    assert caught.value.reason == "camera_stalled"
    assert time.monotonic() - started < 2
    feed(stream, 3)
    assert int(camera.read(5).image[0, 0, 0]) == 3
    camera.close()


def test_broken_pictures_are_passed_over() -> None:
    stream = Stream()
    camera = LiveCamera(stream)
    feed(stream, -1, -1, 4)
    assert int(camera.read(5).image[0, 0, 0]) == 4
    feed(stream, -1, -1)
    with pytest.raises(CameraError, match="2 pictures") as caught:
        camera.read(0.3)
    assert caught.value.reason == "camera_bad_frame"
    camera.close()


def test_a_lost_source_is_released_and_stays_lost() -> None:
    stream = Stream()
    camera = LiveCamera(stream)
    feed(stream, CameraError("camera_lost", "gone", advice="plug it in"))
    for _ in range(2):
        with pytest.raises(CameraError, match="gone") as caught:
            camera.read(5)
        assert caught.value.reason == "camera_lost"
        assert caught.value.advice == "plug it in"
    assert stream.released.wait(5)
    camera.close()


def test_what_nobody_foresaw_is_told_and_not_a_silent_stall() -> None:
    stream = Stream()
    camera = LiveCamera(stream)
    feed(stream, MemoryError("no room"))
    with pytest.raises(CameraError, match="MemoryError: no room") as caught:
        camera.read(5)
    assert caught.value.reason == "camera_lost"
    camera.close()


def test_a_source_that_hangs_delays_neither_read_nor_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.camera.live._CLOSE_S", 0.1)
    stream = Stream()
    stream.deaf = True
    camera = LiveCamera(stream)
    threading.Timer(0.1, camera.close).start()
    started = time.monotonic()
    with pytest.raises(CameraError, match="closed") as caught:
        camera.read(60)
    assert caught.value.reason == "camera_lost"
    camera.close()
    assert time.monotonic() - started < 5
    assert not stream.released.is_set()
    stream.items.put(None)
    assert stream.released.wait(5)


def test_thinning() -> None:
    stream = Stream()
    camera = LiveCamera(stream, fps=0.1, clock=CLOCK)  # a picture every ten seconds of its time
    feed(stream, 1)
    assert int(camera.read(5).image[0, 0, 0]) == 1
    feed(stream, *range(2, 20))
    assert int(camera.read(5).image[0, 0, 0]) == 9  # a quarter of the pause early at most
    assert stream.decoded == 2
    camera.close()

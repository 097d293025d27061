from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sim import picamera2 as sim
from sim.guest import picontract
from sim.reader import descriptors

from edged.camera.clock import Clock
from edged.camera.picamera import open_picamera
from edged.camera.pirequests import PiCamera
from edged.camera.pixels import FORMATS, choose_mode, choose_size, to_bgr
from edged.errors import CameraError


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[sim.World]:
    world = sim.install(monkeypatch, sim.World())
    yield world
    world.stop_hangs.clear()
    for camera in list(world.opened):
        camera.cancel_all_and_flush()
        camera.close()


def opened(**options: object) -> PiCamera:
    values = {"number": 0, "width": None, "height": None, "fps": None} | options
    return open_picamera(**values)  # type: ignore[arg-type]


def refusal(**options: object) -> CameraError:
    with pytest.raises(CameraError) as caught:
        opened(**options)
    return caught.value


REAL = json.loads(Path(picontract.__file__).with_name("picamera2.json").read_text())
"""What scripts/device-test camera found the real picamera2 to be."""


def test_the_stand_in_takes_what_picamera2_takes(world: sim.World) -> None:
    for call, parameters in picontract.signatures(sys.modules["picamera2"]).items():
        assert parameters.items() <= REAL["signatures"][call].items(), call


def test_the_stand_in_does_what_picamera2_does(world: sim.World) -> None:
    seen = picontract.behaviour(sys.modules["picamera2"])
    assert json.loads(json.dumps(seen)) == REAL["behaviour"]


@pytest.mark.parametrize("pixel_format", ["RGB888", "XBGR8888", "YUV420"])
@pytest.mark.parametrize("width", [320, 322])  # with and without padded rows
def test_a_frame_has_the_colours_of_the_scene(
    world: sim.World, pixel_format: str, width: int
) -> None:
    world.pixel_format = pixel_format
    camera = opened(width=width, height=240)
    picture = camera.read(5)
    number = world.frames
    camera.close()
    assert picture.color == "bgr"
    assert picture.image.shape == (240, width, 3)
    assert picture.image.dtype == np.uint8
    assert picture.image.flags.c_contiguous
    want = sim.picture(number, width, 240)
    for x in (4, width // 2 - 4, width // 2 + 4, width - 1):
        assert np.abs(picture.image[7, x].astype(int) - want[7, x]).max() < 12


def test_frames_are_new_and_every_buffer_goes_back(world: sim.World) -> None:
    camera = opened()
    greens = [int(camera.read(5).image[0, 0, 1]) for _ in range(12)]
    time.sleep(0.1)  # a slow reader
    before = world.frames
    newest = camera.read(5).image[0, 0, 1]
    assert len(set(greens)) == 12
    assert newest >= 20 + before
    deadline = time.monotonic() + 5
    while world.opened[0].free < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert world.opened[0].free >= 3
    camera.close()
    assert world.lost_requests == 0
    assert world.opened == []


def test_the_capture_time_is_the_sensors(world: sim.World) -> None:
    world.exposed_s = 0.5
    camera = opened()
    picture = camera.read(5)
    now, unix = time.monotonic(), time.time()
    camera.close()
    assert 0.5 <= now - picture.captured_mono_s < 1.5
    assert abs((unix - now) - (picture.captured_s - picture.captured_mono_s)) < 0.05


@pytest.mark.parametrize(("stamps", "exposed_s"), [(False, 0.0), (True, 3600.0), (True, -3600.0)])
def test_an_absurd_time_stamp_counts_as_now(
    world: sim.World, stamps: bool, exposed_s: float
) -> None:
    world.stamps, world.exposed_s = stamps, exposed_s
    camera = open_picamera(
        0, None, None, None, clock=Clock(monotonic=lambda: 7.0, time=lambda: 9.0)
    )
    picture = camera.read(5)
    camera.close()
    assert (picture.captured_mono_s, picture.captured_s) == (7.0, 9.0)


def test_a_stall_is_told_in_time_and_survived(world: sim.World) -> None:
    camera = opened()
    camera.read(5)
    world.hang.set()
    started = time.monotonic()
    for _ in range(8):  # more than there are buffers
        with pytest.raises(CameraError) as caught:
            camera.read(0.05)
        assert caught.value.reason == "camera_stalled"
    assert time.monotonic() - started < 3
    world.hang.clear()
    time.sleep(0.1)  # the job that timed out gets a frame that is old by the next read
    before = world.frames
    assert camera.read(5).image[0, 0, 1] >= 20 + before
    for _ in range(10):
        camera.read(5)
    camera.close()
    assert world.lost_requests == 0


def test_it_closes_after_a_stall(world: sim.World) -> None:
    camera = opened()
    world.hang.set()
    with pytest.raises(CameraError):
        camera.read(0.05)
    started = time.monotonic()
    camera.close()
    camera.close()
    assert time.monotonic() - started < 3
    assert world.opened == []
    opened().close()


def test_closing_ends_a_waiting_read(world: sim.World) -> None:
    camera = opened()
    world.hang.set()
    errors: list[CameraError] = []

    def read() -> None:
        with pytest.raises(CameraError) as caught:
            camera.read(60)
        errors.append(caught.value)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    camera.close()
    reader.join(5)
    assert [error.reason for error in errors] == ["camera_lost"]
    assert world.opened == []
    with pytest.raises(CameraError, match="closed"):
        camera.read(1)


def test_a_camera_that_does_not_stop_is_left_behind(
    world: sim.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.camera.pirequests._CLOSE_S", 0.5)
    world.stop_hangs.set()
    camera = opened()
    started = time.monotonic()
    camera.close()
    assert 0.5 <= time.monotonic() - started < 3
    started = time.monotonic()
    camera.close()
    assert time.monotonic() - started < 0.4
    assert refusal().reason == "camera_busy"
    world.stop_hangs.clear()
    deadline = time.monotonic() + 5
    while world.opened and time.monotonic() < deadline:
        time.sleep(0.01)
    opened().close()


def test_a_missing_runtime_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    error = refusal()
    assert error.reason == "camera_runtime_missing"
    assert "python3-picamera2" in error.advice
    assert "--system-site-packages" in error.advice


def test_an_old_runtime_is_refused(world: sim.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sim.Picamera2, "cancel_all_and_flush")
    assert refusal().reason == "camera_runtime_missing"


def test_no_camera(world: sim.World) -> None:
    world.cameras = []
    assert refusal().reason == "camera_not_found"
    world.cameras = ["imx219"]
    error = refusal(number=1)
    assert error.reason == "camera_not_found"
    assert "1 camera" in str(error)


def test_busy_and_no_descriptor_is_left_open(world: sim.World) -> None:
    world.busy = True
    assert refusal().reason == "camera_busy"
    before = descriptors()
    for _ in range(5):
        refusal()
    assert descriptors() == before
    world.busy = False
    opened().close()


def test_no_descriptor_is_left_by_a_camera_that_is_opened_again(world: sim.World) -> None:
    opened().close()
    gc.collect()
    gc.disable()  # else it may be collected by chance
    before = descriptors()
    for _ in range(3):
        opened().close()
    gc.enable()
    assert descriptors() <= before + 1  # the last one


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Pipeline handler in use by another process", "camera_busy"),
        ("Failed to open: Permission denied", "camera_no_permission"),
        ("Invalid camera configuration", "camera_not_usable"),
    ],
)
def test_what_libcamera_says_while_configuring(world: sim.World, text: str, reason: str) -> None:
    world.refuses = text
    error = refusal()
    assert error.reason == reason
    assert error.advice
    assert world.opened == []


def test_a_format_nobody_reads(world: sim.World) -> None:
    world.pixel_format = "SRGGB10"
    error = refusal()
    assert error.reason == "camera_not_usable"
    assert "v4l2" in error.advice
    assert world.opened == []


def test_it_asks_for_the_whole_view_in_the_sensors_shape(world: sim.World) -> None:
    camera = opened()
    config = world.opened[0].config
    assert config["main"]["size"] == (640, 360)
    assert config["sensor"] == {"output_size": (2304, 1296), "bit_depth": 10}
    assert config["controls"]["FrameDurationLimits"] == (33333, 33333)
    assert config["queue"] is False
    assert camera.description == "picamera (imx708) 640x360 at 30/s"
    camera.close()


@pytest.mark.parametrize(("fps", "limits"), [(10.0, (100000, 100000)), (0.0, (1, 33333))])
def test_the_rate(world: sim.World, fps: float, limits: tuple[int, int]) -> None:
    camera = opened(width=321, height=241, fps=fps)
    assert world.opened[0].config["controls"]["FrameDurationLimits"] == limits
    assert world.opened[0].config["main"]["size"] == (320, 240)
    camera.close()


def test_choose_mode() -> None:
    modes = sim.World().modes
    assert choose_mode(modes, (640, 480), 0) is modes[1]
    assert choose_mode(modes, (640, 480), 100) is modes[0]
    assert choose_mode(modes, (640, 480), 500) is modes[1]  # none is fast enough
    assert choose_mode(modes, (3000, 2000), 0) is modes[2]
    assert choose_mode(modes, (8000, 6000), 0) is modes[2]
    assert choose_mode([{"format": "YUYV"}], (640, 480), 30) is None


@pytest.mark.parametrize(
    ("sensor", "size"),
    [((4608, 2592), (640, 360)), ((3280, 2464), (640, 480)), ((100, 4000), (16, 480))],
)
def test_choose_size(sensor: tuple[int, int], size: tuple[int, int]) -> None:
    assert choose_size(None, None, sensor) == size
    assert choose_size(225, 223, sensor) == (224, 222)


def test_to_bgr_refuses_what_does_not_fit() -> None:
    for pixel_format in FORMATS:
        with pytest.raises(ValueError, match="shape"):
            to_bgr(np.zeros((4, 4), np.uint8), pixel_format, (64, 48))
    with pytest.raises(ValueError, match="shape"):
        to_bgr(np.zeros((48, 64, 3), np.uint8), "R10", (64, 48))

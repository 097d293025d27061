from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import cv2
import pytest
from sim import v4l2 as sim
from sim.reader import descriptors, failure

from edged.camera import opencv
from edged.camera.live import LiveCamera
from edged.camera.v4l2 import Device, probe
from edged.errors import CameraError

WEBCAM = Device("/dev/video0", "HD Webcam")


def refusal(path: str | Path, node: sim.Node | None = None, **options: Path) -> CameraError:
    with pytest.raises(CameraError) as caught:
        probe(str(path), ioctl=(node or sim.Node()).ioctl, **options)
    return caught.value


def test_a_webcam_is_known_by_name() -> None:
    assert probe("/dev/null", ioctl=sim.Node().ioctl) == Device("/dev/null", "HD Webcam")


def test_a_missing_device_says_what_there_is(tmp_path: Path) -> None:
    error = refusal(tmp_path / "video7", folder=tmp_path)
    assert error.reason == "camera_not_found"
    assert "picamera" in error.advice
    (tmp_path / "video0").touch()
    assert str(tmp_path / "video0") in refusal(tmp_path / "video7", folder=tmp_path).advice


def test_a_number_is_a_device() -> None:
    assert "/dev/video4711" in str(refusal("4711"))


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "by-id").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path / "by-id").reason == "camera_not_found"


def test_what_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    error = refusal(tmp_path / "clip.mp4")
    assert error.reason == "camera_not_usable"
    assert "file:" in error.advice
    assert refusal(tmp_path).reason == "camera_not_usable"


def test_a_device_that_is_no_camera() -> None:
    with pytest.raises(CameraError) as caught:
        probe("/dev/null")  # asks the kernel
    assert caught.value.reason == "camera_not_usable"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_no_permission_as_a_user(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    assert refusal(tmp_path / "locked" / "video0").reason == "camera_no_permission"


@pytest.mark.parametrize(
    ("request_", "number", "reason", "advice"),
    [
        (sim.REQBUFS, errno.EBUSY, "camera_busy", "fuser"),
        (sim.QUERYCAP, errno.EACCES, "camera_no_permission", "group video"),
        (sim.QUERYCAP, errno.ENODEV, "camera_not_found", ""),
        (sim.QUERYCAP, errno.ENOTTY, "camera_not_usable", ""),
        (sim.REQBUFS, errno.EIO, "camera_not_usable", ""),
    ],
)
def test_what_the_kernel_refuses(request_: int, number: int, reason: str, advice: str) -> None:
    before = descriptors()
    error = refusal("/dev/null", sim.Node(fails={request_: number}))
    assert error.reason == reason
    assert advice in error.advice
    assert descriptors() == before


def test_open_itself_may_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    error = refusal("/dev/null")
    assert error.reason == "camera_no_permission"
    assert "group video" in error.advice


def test_a_driver_without_such_buffers_is_left_to_opencv() -> None:
    assert probe("/dev/null", ioctl=sim.Node(fails={sim.REQBUFS: errno.EINVAL}).ioctl)


def test_the_metadata_node_of_a_webcam() -> None:
    error = refusal("/dev/null", sim.Node(device_caps=sim.METADATA))
    assert error.reason == "camera_not_usable"
    assert "lowest number" in error.advice


def test_an_old_driver_has_only_one_set_of_capabilities() -> None:
    assert probe("/dev/null", ioctl=sim.Node(caps=sim.CAPTURE, device_caps=0).ioctl)


@pytest.mark.parametrize("driver", [b"unicam", b"rp1-cfe"])
def test_the_raw_port_of_a_raspberry_pi(driver: bytes) -> None:
    error = refusal("/dev/null", sim.Node(driver=driver))
    assert error.reason == "camera_not_usable"
    assert "picamera" in error.advice


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> sim.Capture:
    capture = sim.Capture()
    monkeypatch.setattr(opencv, "open_capture", lambda path, backend: capture)
    return capture


def opened(
    width: int | None = None, height: int | None = None, fps: float | None = None
) -> LiveCamera:
    return opencv.open_v4l2("/dev/video0", width, height, fps, device=WEBCAM)


def test_a_small_picture_stays_raw(capture: sim.Capture) -> None:
    camera = opened(640, 480, 30)
    camera.close()
    assert camera.description == "v4l2:/dev/video0 (HD Webcam) 640x480 YUYV at 30/s"
    assert capture.released.is_set()


def test_a_large_one_is_compressed_and_asked_in_order(capture: sim.Capture) -> None:
    camera = opened(1280, 720, 30)
    camera.close()
    assert camera.description == "v4l2:/dev/video0 (HD Webcam) 1280x720 MJPG at 30/s"
    order = [
        cv2.CAP_PROP_FOURCC,
        cv2.CAP_PROP_FRAME_WIDTH,
        cv2.CAP_PROP_FRAME_HEIGHT,
        cv2.CAP_PROP_FPS,
        cv2.CAP_PROP_BUFFERSIZE,
    ]
    assert capture.asked == order


def test_it_says_what_it_got_instead(capture: sim.Capture) -> None:
    camera = opened(1920, 1080, 2)
    camera.close()
    assert "1280x720" in camera.description
    assert camera.description.endswith("at 15/s (asked for 1920x1080), thinned to 2/s")


def test_a_device_that_opencv_cannot_open(capture: sim.Capture) -> None:
    capture.opened = False
    with pytest.raises(CameraError) as caught:
        opened()
    assert caught.value.reason == "camera_not_usable"


def test_a_slow_reader_sees_no_old_pictures(capture: sim.Capture) -> None:
    camera = opened()
    for _ in range(3):
        time.sleep(0.15)
        started = time.monotonic()
        picture = camera.read(5)
        # Taken while it was asked for, or at most two pictures before.
        assert picture.captured_mono_s > started - 0.06
    camera.close()


@pytest.mark.parametrize("stamped", [True, False])
def test_the_capture_time_is_the_drivers(capture: sim.Capture, stamped: bool) -> None:
    capture.stamped = stamped
    camera = opened()
    picture = camera.read(5)
    now = time.monotonic()
    camera.close()
    assert 0 <= now - picture.captured_mono_s < 1
    on_grid = (picture.captured_mono_s - capture.start_s) / capture.frame_s
    assert (abs(on_grid - round(on_grid)) < 1e-3) or not stamped


def test_unplugged(capture: sim.Capture) -> None:
    camera = opened()
    camera.read(5)
    capture.unplugged.set()
    assert failure(camera).reason == "camera_lost"
    camera.close()
    assert capture.released.is_set()


def test_a_driver_that_waits_is_a_stall_and_not_lost(capture: sim.Capture) -> None:
    camera = opened()
    camera.read(5)
    capture.stalled.set()
    assert failure(camera, 1.5).reason == "camera_stalled"  # longer than the driver waits
    capture.stalled.clear()
    camera.read(5)
    camera.close()


def test_a_picture_that_opencv_cannot_decode(capture: sim.Capture) -> None:
    capture.broken = True
    camera = opened()
    with pytest.raises(CameraError) as caught:
        camera.read(0.2)
    assert caught.value.reason == "camera_bad_frame"
    camera.close()

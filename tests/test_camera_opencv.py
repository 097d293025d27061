"""Video files and FFmpeg streams."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim import webcam
from sim.reader import failure

from edged.camera.clock import Clock
from edged.camera.opencv import Capture, open_stream
from edged.camera.videofile import open_file
from edged.errors import CameraError

FRAMES, FPS = 12, 20


def make_video(path: Path, code: str = "MJPG", frames: int = FRAMES) -> str:
    """A film of grey pictures, each 20 brighter than the one before."""
    writer = cv2.VideoWriter(
        str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), FPS, (64, 48)
    )
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((48, 64, 3), number % 12 * 20, np.uint8))
    writer.release()
    return str(path)


def stopped_clock() -> tuple[Clock, list[float]]:
    """A clock that only sleeping moves, and where it stands."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return Clock(monotonic=lambda: now[0], time=lambda: 1e9 + now[0], sleep=sleep), now


@pytest.mark.parametrize(
    ("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "FFV1"), ("a.ts", "mp4v")]
)
def test_a_video_is_played_for_ever_without_losing_a_picture(
    tmp_path: Path, name: str, code: str
) -> None:
    camera = open_file(make_video(tmp_path / name, code), 0)
    seen = [int(camera.read(1).image.mean()) for _ in range(FRAMES * 3 + 1)]
    camera.close()
    want = [number % FRAMES * 20 for number in range(FRAMES * 3 + 1)]
    assert np.abs(np.array(seen) - want).max() <= 4


@pytest.mark.parametrize(("fps", "seconds"), [(None, 1 / FPS), (5.0, 0.2), (0.0, 0.0)])
def test_the_rate(tmp_path: Path, fps: float | None, seconds: float) -> None:
    clock, now = stopped_clock()
    camera = open_file(make_video(tmp_path / "a.avi"), fps, clock)
    pictures = [camera.read(1) for _ in range(FRAMES * 2)]
    camera.close()
    assert now[0] == pytest.approx(seconds * (FRAMES * 2 - 1))
    assert pictures[3].captured_s == pytest.approx(1e9 + 3 * seconds)
    assert pictures[0].image.shape == (48, 64, 3)
    rate = {None: "20/s", 5.0: "5/s", 0.0: "full speed"}[fps]
    assert camera.description == f"file:{tmp_path / 'a.avi'} 64x48 at {rate}"


def refusal(path: Path | str) -> CameraError:
    with pytest.raises(CameraError) as caught:
        open_file(str(path), None)
    return caught.value


def test_what_is_no_video(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.mp4").reason == "camera_not_found"
    (tmp_path / "empty.mp4").touch()
    assert refusal(tmp_path / "empty.mp4").reason == "camera_not_usable"
    (tmp_path / "junk.avi").write_bytes(os.urandom(5000))
    assert refusal(tmp_path / "junk.avi").reason == "camera_not_usable"
    assert refusal(tmp_path / "junk.avi" / "x").reason == "camera_not_found"
    error = refusal(tmp_path)
    assert error.reason == "camera_not_usable"
    assert "images:" in error.advice


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_video_that_may_not_be_read(tmp_path: Path) -> None:
    path = Path(make_video(tmp_path / "a.avi"))
    path.chmod(0)
    assert refusal(path).reason == "camera_no_permission"


def test_a_video_cut_off_in_the_middle_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    path = Path(make_video(tmp_path / "a.avi", frames=60))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    camera = open_file(str(path), 0)
    seen = [round(float(camera.read(1).image.mean()) / 20) for _ in range(60)]
    camera.close()
    assert seen[:12] == list(range(12))
    assert any(b != (a + 1) % 12 for a, b in itertools.pairwise(seen))


def test_a_video_that_goes_away(tmp_path: Path) -> None:
    path = Path(make_video(tmp_path / "a.avi", frames=2))
    camera = open_file(str(path), 0)
    path.unlink()
    assert failure(camera, reads=3).reason == "camera_lost"
    camera.close()
    with pytest.raises(CameraError, match="closed"):
        camera.read(1)


def test_ffmpeg_prints_nothing(tmp_path: Path) -> None:
    path = Path(make_video(tmp_path / "a.avi", frames=60))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    path.write_bytes(data)
    code = (
        "import cv2\n"  # before the adapter, as other modules do
        "from edged.camera.videoio import open_capture\n"
        "from edged.camera.videofile import open_file\n"
        "open_capture('/dev/video-none', cv2.CAP_V4L2)\ncv2.imread('/none.png')\n"
        "open_capture('/dev/null', cv2.CAP_FFMPEG)\n"
        f"camera = open_file({str(path)!r}, 0)\n"
        "for _ in range(80): camera.read(1)\n"
    )
    # This process has set the variables already.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_")}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean
    )
    assert (run.returncode, run.stderr) == (0, "")


@contextlib.contextmanager
def mute_server() -> Iterator[int]:
    """Accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_nothing_listens(free_port: int) -> None:
    with pytest.raises(CameraError) as caught:
        open_stream(f"rtsp://admin:secret@127.0.0.1:{free_port}/x", None, timeout_s=5)
    assert caught.value.reason == "camera_unreachable"
    assert "cannot be reached: Connection refused" in str(caught.value)
    assert "secret" not in caught.value.explain()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_says_nothing(scheme: str) -> None:
    with mute_server() as port:
        started = time.monotonic()
        with pytest.raises(CameraError, match="gives no stream") as caught:
            open_stream(f"{scheme}://admin:secret@127.0.0.1:{port}/x", None, timeout_s=0.7)
        assert time.monotonic() - started < 5
    assert caught.value.reason == "camera_unreachable"
    assert "secret" not in caught.value.explain()


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1:99999/x", "rtsp://[::1/x", "rtsp:///x"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(CameraError) as caught:
        open_stream(url, None, timeout_s=1)
    assert caught.value.reason == "camera_unreachable"


def test_a_slow_reader_of_a_stream_sees_the_newest_picture() -> None:
    with webcam.running() as web:
        camera = open_stream(web.url, None, timeout_s=5)
        camera.read(5)
        for _ in range(3):
            time.sleep(0.3)
            picture = camera.read(5)
            behind = web.sent - round(float(picture.image.mean()))
            assert behind <= 5  # without draining it would be 15 more each time
            assert 0 <= time.monotonic() - picture.captured_mono_s < 1
        assert "64x48" in camera.description
        camera.close()


@pytest.mark.parametrize(
    ("then", "reason", "text"),
    [("stall", "camera_stalled", "stopped sending"), ("drop", "camera_lost", "ended")],
)
def test_a_stream_that_stops(then: str, reason: str, text: str) -> None:
    with webcam.running(frames=30, then=then) as web:
        camera = open_stream(web.url, None, timeout_s=0.8)
        error = failure(camera)
        assert error.reason == reason
        assert text in str(error)
        started = time.monotonic()
        camera.close()
        assert time.monotonic() - started < 3


class Scripted:
    """A `cv2.VideoCapture` whose grabs take the given seconds and all give a picture."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)
        self.now_s = 0.0

    def get(self, name: int) -> float:
        return {cv2.CAP_PROP_FPS: 25.0}[name]

    def grab(self) -> bool:
        self.now_s += self.seconds.pop(0)
        return True


def scripted(*seconds: float, limit_s: float = 10) -> Capture:
    capture = Scripted(*seconds)
    clock = Clock(monotonic=lambda: capture.now_s)
    return Capture(capture, "stream", clock=clock, limit_s=limit_s)  # type: ignore[arg-type]


def test_pictures_that_piled_up_while_a_stream_was_opened_are_dropped() -> None:
    source = scripted(0.001, 0.001, 0.03, 0.001, 0.04)
    assert [source.grab() for _ in range(5)] == [None, None, *np.cumsum([0.032, 0.001, 0.04])]


def test_a_stream_that_never_pauses_is_shown_all_the_same() -> None:
    source = scripted(*[0.001] * 300)
    dropped = [source.grab() for _ in range(300)].count(None)
    assert dropped == 249


def test_what_a_decoder_held_back_is_no_sign_of_life() -> None:
    source = scripted(0.04, 2.0, limit_s=2)
    assert source.grab() == 0.04
    with pytest.raises(CameraError, match="stopped sending") as caught:
        source.grab()
    assert caught.value.reason == "camera_stalled"

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from sim import webcam
from sim.broker import wait_for
from sim.reader import failure

from edged.camera.base import Camera
from edged.camera.httpcam import open_http
from edged.camera.live import LiveCamera
from edged.errors import CameraError


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@contextlib.contextmanager
def opened(url: str, fps: float | None = None, timeout_s: float = 5) -> Iterator[Camera]:
    camera = open_http(url, fps, timeout_s=timeout_s)
    try:
        yield camera
    finally:
        camera.close()


def refusal(url: str, timeout_s: float = 5) -> CameraError:
    with pytest.raises(CameraError) as caught:
        open_http(url, None, timeout_s=timeout_s)
    return caught.value


@pytest.mark.parametrize(
    "style",
    [
        {},
        {"lengths": False},
        {"boundary": "--frame"},  # the dashes in the header as well
        {"boundary": '"a b"', "delimiter": b"--a b"},
        {"decoys": b"preamble\r\n\r\n"},
    ],
)
def test_a_slow_reader_of_a_stream_sees_the_newest_picture(style: dict[str, object]) -> None:
    with webcam.running(**style) as web, opened(web.url) as camera:
        camera.read(5)
        for _ in range(2):
            time.sleep(0.3)
            picture = camera.read(5)
            assert web.sent - round(float(picture.image.mean())) <= 4
            assert picture.image.shape == (48, 64, 3)
            assert picture.color == "bgr"
            assert 0 <= time.monotonic() - picture.captured_mono_s < 1
            assert abs(picture.captured_s - time.time()) < 1


def test_a_fast_reader_misses_nothing() -> None:
    with webcam.running(frame_s=0.03) as web, opened(web.url) as camera:
        seen = [round(float(camera.read(5).image.mean())) for _ in range(15)]
        assert seen[-1] - seen[0] <= 16


def test_thinned_to_a_rate() -> None:
    with webcam.running(frame_s=0.01) as web, opened(web.url, fps=10) as camera:
        times = [camera.read(5).captured_mono_s for _ in range(6)]
        assert 0.075 < (times[-1] - times[0]) / 5 < 0.5, "every hundredth of a second they come"
        assert camera.description.endswith("at most 10/s")


def test_a_stall_is_told_in_time() -> None:
    with webcam.running(frames=3, then="stall") as web, opened(web.url) as camera:
        started = time.monotonic()
        assert failure(camera, 0.5).reason == "camera_stalled"
        assert time.monotonic() - started < 4


def test_the_streams_own_limit_ends_it() -> None:
    with webcam.running(frames=3, then="stall") as web, opened(web.url, timeout_s=0.5) as camera:
        error = failure(camera, 5)
        assert error.reason == "camera_stalled"
        assert "stopped sending" in str(error)


def test_a_stream_that_ends_is_lost() -> None:
    with webcam.running(frames=3) as web, opened(web.url) as camera:
        assert failure(camera).reason == "camera_lost"


def test_closing_ends_a_waiting_read() -> None:
    with webcam.running(frames=3, then="stall") as web, opened(web.url, timeout_s=30) as camera:
        threading.Timer(0.3, camera.close).start()
        started = time.monotonic()
        assert failure(camera, 30).reason == "camera_lost"
        camera.close()
        assert time.monotonic() - started < 1.5
        assert isinstance(camera, LiveCamera)
        assert not camera._thread.is_alive()  # the connection is not waited for


@pytest.mark.parametrize("body", [b"no picture", b"", webcam.jpeg(9)[:300]])
def test_parts_that_are_no_pictures(body: bytes) -> None:
    with webcam.running(body=body) as web, opened(web.url) as camera:
        # Where nothing at all comes in time, as on a busy machine, that is what is said.
        wait_for("bad frames", lambda: failure(camera, 0.3).reason == "camera_bad_frame")


@pytest.mark.parametrize(
    ("decoys", "text"),
    [
        (b"x" * 4096 + b"\r\n--frame\r\nContent-Length: 99999999\r\n", "too large"),
        (b"--frame\r\nContent-Length: -5\r\n", "too large"),
        (b"--frame\r\n" + b"a: b\r\n" * 1000, "no pictures"),
        (b"--frame\r\nContent-Length: many\r\n", "broke off"),
    ],
)
def test_a_server_that_sends_anything_but_pictures(decoys: bytes, text: str) -> None:
    with webcam.running(decoys=decoys) as web, opened(web.url) as camera:
        error = failure(camera)
        assert error.reason == "camera_lost"
        assert text in str(error)


def test_a_picture_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.camera.httpcam._MAX_IMAGE_BYTES", 100_000)
    with webcam.running(body=b"x\n" * 200_000, lengths=False) as web, opened(web.url) as camera:
        assert "too large" in str(failure(camera))
    with webcam.running(decoys=b"x\n" * 200_000) as web, opened(web.url) as camera:
        assert "boundary" in str(failure(camera))
    with webcam.running(body=b"x" * 200_000) as web, opened(web.url + "still", fps=0) as camera:
        assert "too large" in str(failure(camera))


def test_a_single_image_is_asked_for_each_time() -> None:
    with webcam.running() as web, opened(web.url + "still", fps=0) as camera:
        seen = [round(float(camera.read(5).image.mean())) for _ in range(3)]
        assert seen == [1, 2, 3]  # the first was asked for to see what it is
        assert web.requests == 4
        assert camera.description == f"{web.url}still at full speed"


def test_one_image_a_second_by_default() -> None:
    with webcam.running() as web, opened(web.url + "still") as camera:
        assert camera.description.endswith("at 1/s")


def test_a_single_image_that_is_none_or_comes_too_slowly() -> None:
    with webcam.running(body=b"nothing") as web, opened(web.url + "still", fps=0) as camera:
        assert failure(camera).reason == "camera_bad_frame"
    with webcam.running(then="drip") as web, opened(web.url + "still", fps=0) as camera:
        started = time.monotonic()
        assert failure(camera, 0.4).reason == "camera_stalled"  # bytes come, but it takes 1 s
        assert time.monotonic() - started < 3
        web.status = 503
        assert failure(camera).reason == "camera_unreachable"


def test_user_and_password() -> None:
    with webcam.running(user="ad min:s:e@cret") as web:
        place = web.url.removeprefix("http://")
        with opened(f"http://ad%20min:s%3Ae%40cret@{place}still", fps=0) as camera:
            camera.read(5)
            assert "cret" not in camera.description
        for start in ("http://", "http://ad%20min:wrong@"):
            error = refusal(f"{start}{place}still")
            assert error.reason == "camera_unreachable"
            assert "401" in str(error)
            assert "password" in error.advice
            assert "wrong" not in error.explain()


def test_not_found() -> None:
    with webcam.running(status=404) as web:
        error = refusal(web.url)
    assert error.reason == "camera_unreachable"
    assert "404" in str(error)


def test_nothing_listens(free_port: int) -> None:
    error = refusal(f"http://admin:secret@127.0.0.1:{free_port}/x")
    assert error.reason == "camera_unreachable"
    assert "Connection refused" in str(error)
    assert "secret" not in error.explain()


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started = time.monotonic()
        url = f"http://admin:secret@127.0.0.1:{server.getsockname()[1]}/x"
        assert refusal(url, 0.5).reason == "camera_unreachable"
        assert time.monotonic() - started < 4


def test_a_server_that_speaks_something_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = refusal(f"http://127.0.0.1:{server.getsockname()[1]}/x")
        thread.join()
    assert error.reason == "camera_unreachable"


@pytest.mark.parametrize("url", ["http://cam:secret/x", "http://[::1/x", "http:///x"])
def test_a_url_that_is_none(url: str) -> None:
    assert refusal(url).reason == "camera_unreachable"


def test_anything_else_is_left_to_ffmpeg() -> None:
    with webcam.running(content_type="video/x-motion-jpeg") as web, opened(web.url) as camera:
        assert camera.read(5).image.shape == (48, 64, 3)
        assert "MJPEG" not in camera.description

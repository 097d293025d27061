from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim import picamera2, webcam

from edged.camera.clock import Clock
from edged.camera.source import open_camera
from edged.config import CameraConfig
from edged.errors import CameraError
from edged.scene import BeltScene


def config(source: str, **options: object) -> CameraConfig:
    return CameraConfig(name="cam", model="m", source=source, **options)  # type: ignore[arg-type]


def test_the_scene() -> None:
    camera = open_camera(config("synthetic", fps=0))
    first, second = camera.read(1), camera.read(1)
    camera.close()
    assert first.color == "rgb"
    assert np.array_equal(first.image, BeltScene().frame(0))
    assert np.array_equal(second.image, BeltScene().frame(1))
    assert camera.description == "synthetic 640x480 at full speed"


def test_the_scene_in_another_size_at_its_own_rate() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = Clock(monotonic=lambda: now[0], sleep=sleep)
    camera = open_camera(config("synthetic", width=64, height=48), clock=clock)
    shapes = [camera.read(1).image.shape for _ in range(16)]
    assert shapes == [(48, 64, 3)] * 16
    assert now[0] == pytest.approx(1.0)


def test_every_kind_is_dispatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3, 5, 3), np.uint8))
    camera = open_camera(config(f"images:{tmp_path}", fps=0))
    assert camera.read(1).image.shape == (3, 5, 3)
    camera.close()
    picamera2.install(monkeypatch, picamera2.World(cameras=["a", "b"]))
    camera = open_camera(config("picamera:1", width=64, height=48))
    assert camera.description.startswith("picamera:1 (b) 64x48")
    camera.close()
    with webcam.running() as web:
        camera = open_camera(config(web.url + "still", fps=0))
        assert camera.read(5).image.shape == (48, 64, 3)
        camera.close()
    for source, reason in [
        (f"v4l2:{tmp_path}/none", "camera_not_found"),
        (f"file:{tmp_path}/none.mp4", "camera_not_found"),
        (f"rtsp://u:secret@127.0.0.1:{free_port}/x", "camera_unreachable"),
        (f"https://u:secret@127.0.0.1:{free_port}/x", "camera_unreachable"),
    ]:
        with pytest.raises(CameraError) as caught:
            open_camera(config(source))
        assert caught.value.reason == reason
        assert "secret" not in caught.value.explain()


def test_adapters_are_imported_only_when_used() -> None:
    code = (
        "import sys, edged.camera.source\n"
        "print([n for n in ('cv2', 'picamera2', 'http.client') if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"

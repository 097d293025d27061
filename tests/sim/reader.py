"""What reads a camera until it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.camera.base import Camera
from edged.errors import CameraError


def failure(camera: Camera, timeout_s: float = 5, reads: int = 300) -> CameraError:
    """Read until an error comes, and return it."""
    for _ in range(reads):
        try:
            camera.read(timeout_s)
        except CameraError as error:
            return error
    pytest.fail(f"{reads} pictures and no error")


def descriptors() -> int:
    """Open file descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))

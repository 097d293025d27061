"""`synthetic`: the sample scene as a camera."""

from __future__ import annotations

from edged.camera.clock import Clock
from edged.camera.paced import PacedCamera
from edged.frame import Color, Image
from edged.scene import BeltScene

NATURAL_FPS = 15.0
"""Pictures a second where the configuration says nothing."""


class SceneFrames:
    """The pictures of a scene from number 0 on."""

    color: Color = "rgb"

    def __init__(self, scene: BeltScene) -> None:
        self._scene = scene
        self._number = 0

    @property
    def description(self) -> str:
        """What it is and its size."""
        return f"synthetic {self._scene.width}x{self._scene.height}"

    def next(self, timeout_s: float) -> Image:  # noqa: ARG002 - drawing does not stall
        """Draw the next picture: uint8 (height, width, 3), RGB, a new array."""
        image = self._scene.frame(self._number)
        self._number += 1
        return image

    def release(self) -> None:
        """Nothing is held."""


def open_synthetic(
    width: int | None, height: int | None, fps: float | None, clock: Clock | None = None
) -> PacedCamera:
    """Open the sample scene as a camera.

    Args:
        width: in pixels, with `height`; None for 640 x 480.
        height: in pixels.
        fps: pictures a second, 0 for as fast as they are read, None for 15.
        clock: where the time comes from.
    """
    scene = BeltScene() if width is None or height is None else BeltScene(width, height)
    return PacedCamera(SceneFrames(scene), NATURAL_FPS if fps is None else fps, clock)

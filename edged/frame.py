"""A frame: an image, its number and when it was captured. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Color = Literal["bgr", "rgb"]


@dataclass(frozen=True, slots=True)
class Picture:
    """What a camera hands over.

    Attributes:
        image: uint8, shape (height, width, 3), at least 1 x 1; valid until the camera's next read.
        color: order of the three channels.
        captured_s: Unix time in seconds at which the sensor took it.
        captured_mono_s: the same moment on the monotonic clock, in seconds.
    """

    image: Image
    color: Color
    captured_s: float
    captured_mono_s: float


@dataclass(frozen=True, slots=True)
class FrameStamp:
    """Which frame this was: travels with the tensor when the image itself is long gone.

    Attributes:
        camera: name of the camera.
        number: counts captured frames per camera and daemon start, from 1.
        captured_s: Unix time in seconds.
        captured_mono_s: monotonic seconds.
        height: height of the camera's image in pixels, before any rotation.
        width: width of the camera's image in pixels, before any rotation.
        opened_mono_s: when the camera was opened, monotonic seconds; between frames where it
            differs the camera was away.
    """

    camera: str
    number: int
    captured_s: float
    captured_mono_s: float
    height: int
    width: int
    opened_mono_s: float = 0.0

"""What to ask of a Raspberry Pi camera, and its pixel formats. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from edged.frame import Image

Mode = Mapping[str, Any]

_DEFAULT_SIZE = (640, 480)
_STEP_PX = 8
# Modes whose crop is this share of the largest one see the whole view.
_WHOLE = 0.95

# picamera2 names formats as they stand in a little-endian word: RGB888 is blue, green, red.
_PACKED: dict[str, int | None] = {
    "RGB888": None,
    "BGR888": cv2.COLOR_RGB2BGR,
    "XRGB8888": cv2.COLOR_BGRA2BGR,
    "XBGR8888": cv2.COLOR_RGBA2BGR,
    "MJPEG": cv2.COLOR_RGB2BGR,  # decoded by picamera2
    "YUYV": cv2.COLOR_YUV2BGR_YUYV,
    "YVYU": cv2.COLOR_YUV2BGR_YVYU,
    "UYVY": cv2.COLOR_YUV2BGR_UYVY,
}
_PLANAR = {
    "YUV420": cv2.COLOR_YUV2BGR_I420,
    "YVU420": cv2.COLOR_YUV2BGR_YV12,
    "NV12": cv2.COLOR_YUV2BGR_NV12,
    "NV21": cv2.COLOR_YUV2BGR_NV21,
}

FORMATS = frozenset(_PACKED) | frozenset(_PLANAR)
"""What `to_bgr` takes."""


def to_bgr(array: Image, pixel_format: str, size: tuple[int, int]) -> Image:
    """Convert what `CompletedRequest.make_array` gives.

    Args:
        array: uint8 (height, width or more, channels), or (height * 3 / 2, width or more) for the
            planar formats: rows may be padded at their end.
        pixel_format: one of `FORMATS`.
        size: width and height in pixels.

    Returns:
        uint8 (height, width, 3), BGR, contiguous.

    Raises:
        ValueError: the array is too small, or the format unknown.
    """
    width, height = size
    planar = _PLANAR.get(pixel_format)
    rows = height * 3 // 2 if planar is not None else height
    if array.ndim != (2 if planar is not None else 3) or array.shape[0] < rows:
        raise ValueError(f"{pixel_format} {width}x{height} as an array of shape {array.shape}")
    if array.shape[1] < width or pixel_format not in FORMATS:
        raise ValueError(f"{pixel_format} {width}x{height} as an array of shape {array.shape}")
    if planar is not None:
        # The padding goes last: the planes of half the width have half of it in each row.
        image = np.asarray(cv2.cvtColor(array[:rows], planar), np.uint8)[:, :width]
    else:
        image = array[:height, :width]
        code = _PACKED[pixel_format]
        if code is not None:
            image = np.asarray(cv2.cvtColor(image, code), np.uint8)
    return np.ascontiguousarray(image)


def choose_mode(modes: Sequence[Mode], size: tuple[int, int], fps: float) -> Mode | None:
    """Choose a sensor mode: fast enough, then the widest view, then the fewest pixels.

    Args:
        modes: as `Picamera2.sensor_modes`.
        size: width and height of the pictures in pixels; a mode with fewer is the last resort.
        fps: wanted rate, 0 for any.

    Returns:
        One of `modes`; None where they tell no crop, as those of USB cameras.
    """
    known = [mode for mode in modes if {"size", "crop_limits", "fps", "bit_depth"} <= mode.keys()]
    pool = [mode for mode in known if mode["fps"] >= fps * 0.98] or known
    if not pool:
        return None
    widest = max(_area(mode["crop_limits"][2:]) for mode in pool)
    pool = [mode for mode in pool if _area(mode["crop_limits"][2:]) >= _WHOLE * widest]
    enough = [m for m in pool if m["size"][0] >= size[0] and m["size"][1] >= size[1]]
    if not enough:
        return max(pool, key=lambda mode: _area(mode["size"]))
    return min(enough, key=lambda mode: (_area(mode["size"]), -mode["fps"], -mode["bit_depth"]))


def choose_size(width: int | None, height: int | None, sensor: tuple[int, int]) -> tuple[int, int]:
    """Return the size to ask for, in pixels, both even.

    Without a wish it has the shape of the sensor's picture within 640 x 480.
    """
    if width is not None and height is not None:
        return width - width % 2, height - height % 2
    scale = min(most / has for most, has in zip(_DEFAULT_SIZE, sensor, strict=True))
    across, down = (max(1, round(has * scale / _STEP_PX)) * _STEP_PX for has in sensor)
    return across, down


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]

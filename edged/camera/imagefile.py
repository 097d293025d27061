"""One encoded image to pixels, whatever the bytes are. Pure.

The size is read from the header first: OpenCV's own limit is a gigapixel, and it is read from the
environment when the library is loaded, too early to set here. Files that end too early are told
by their missing end mark: decoders differ in what they make of them, and libjpeg prints to stderr.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np

from edged.errors import CameraError
from edged.frame import Image

MAX_PIXELS = 8192 * 8192
"""Largest image that is decoded: 192 MiB of BGR."""

_KINDS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"RIFF", "WebP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)


def decode(data: bytes) -> Image:
    """Decode a JPEG, PNG, BMP, WebP or TIFF image, and GIF where OpenCV can (5 and later).

    Returns:
        uint8 (height, width, 3), BGR, turned upright as its EXIF data say. Grey, palette, 16-bit
        and CMYK images are converted, an alpha channel is dropped, of an animation it is the
        first picture.

    Raises:
        CameraError: `camera_bad_frame`, saying what is wrong with it.
    """
    kind = next((kind for start, kind in _KINDS if data.startswith(start)), None)
    if not data or kind is None:
        raise _bad("it is empty" if not data else "it is no image of a known format")
    try:
        width, height = _SIZES[kind](data)
    except (struct.error, ValueError, IndexError) as error:
        raise _bad(f"its {kind} header is damaged or cut off") from error
    if width <= 0 or height <= 0:
        raise _bad(f"its {kind} header is damaged")
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise _bad(f"it is {width}x{height}, more than {limit} million pixels")
    if (kind == "JPEG" and b"\xff\xd9" not in data[_scan(data) :]) or (
        kind == "PNG" and b"IEND" not in data
    ):
        raise _bad(f"the {kind} ends too early")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise _bad(f"the {kind} cannot be decoded") from error
    if image is None:
        hint = "; play it with source = file:" if kind == "GIF" else ""
        raise _bad(f"the {kind} cannot be decoded{hint}")
    return np.asarray(image, np.uint8)


def _bad(why: str) -> CameraError:
    return CameraError("camera_bad_frame", why)


def _segments(data: bytes) -> dict[str, int]:
    """Find in a JPEG the offsets of its frame header (`frame`) and of its first scan (`scan`)."""
    found: dict[str, int] = {}
    at = 2
    while "scan" not in found:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            found.setdefault("frame", at)
        elif marker == 0xDA:
            found["scan"] = at
        standalone = 0xD0 <= marker <= 0xD8 or marker == 0x01
        at += 2 if standalone else 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return found


def _scan(data: bytes) -> int:
    # Looking from the scan on: an EXIF preview before it has an end mark of its own.
    return _segments(data)["scan"]


def _jpeg(data: bytes) -> tuple[int, int]:
    found = _segments(data)
    if "frame" not in found:
        raise ValueError("no frame header")
    height, width = struct.unpack_from(">HH", data, found["frame"] + 5)
    return width, height


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes) -> tuple[int, int]:
    header_bytes = struct.unpack_from("<I", data, 14)[0]
    width, height = struct.unpack_from("<HH" if header_bytes == 12 else "<ii", data, 18)
    return width, abs(height)


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if data[8:12] != b"WEBP" or len(data) < 30:
        raise ValueError("no WebP")
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    order = "<" if data[0] == 0x49 else ">"
    first = struct.unpack_from(order + "I", data, 4)[0]
    size: dict[int, int] = {}
    for entry in range(struct.unpack_from(order + "H", data, first)[0]):
        at = first + 2 + 12 * entry
        tag, form = struct.unpack_from(order + "HH", data, at)
        if tag in (256, 257):  # ImageWidth, ImageLength: SHORT or LONG
            size[tag] = struct.unpack_from(order + ("H" if form == 3 else "I"), data, at + 8)[0]
    if len(size) != 2:
        raise ValueError("no size")
    return size[256], size[257]


_SIZES = {"JPEG": _jpeg, "PNG": _png, "GIF": _gif, "BMP": _bmp, "WebP": _webp, "TIFF": _tiff}

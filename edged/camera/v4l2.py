"""What a `/dev/video*` node is, asked of the kernel before OpenCV opens it.

OpenCV only says that it cannot open a device; two ioctls say why.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edged.errors import CameraError

# linux/videodev2.h: _IOR('V', 0, struct v4l2_capability), _IOWR('V', 8, struct v4l2_requestbuffers)
_QUERYCAP = 0x80685600
_REQBUFS = 0xC0145608
_CAPABILITY = struct.Struct("=16s32s32sIII12x")
_REQUESTBUFFERS = struct.Struct("=IIIIB3x")
_VIDEO_CAPTURE = 0x1
_DEVICE_CAPS = 0x80000000

# Raw sensor ports of the Raspberry Pi: they give unprocessed Bayer data that only libcamera reads.
_SENSOR_PORTS = ("unicam", "rp1-cfe")

Ioctl = Callable[[int, int, bytearray], int]


@dataclass(frozen=True, slots=True)
class Device:
    """A capture device that is there and free.

    Attributes:
        path: as OpenCV takes it.
        card: its name, e.g. `HD Webcam`.
    """

    path: str
    card: str


def probe(path: str, *, ioctl: Ioctl = fcntl.ioctl, folder: Path = Path("/dev")) -> Device:
    """Find out whether a path is a capture device that can be opened now.

    Args:
        path: `/dev/video0`, a link to it as in `/dev/v4l/by-id`, or only the number.
        ioctl: the system call.
        folder: where to look for other devices to advise.

    Raises:
        CameraError: `camera_not_found`, `camera_no_permission`, `camera_busy`,
            `camera_not_usable`.
    """
    path = f"/dev/video{path}" if path.isdecimal() else path
    try:
        if not Path(path).is_char_device():
            Path(path).stat()
            raise CameraError(
                "camera_not_usable",
                f"{path} is no device.",
                advice='A video file is source = "file:PATH", a folder "images:PATH".',
            )
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(path, error, folder) from error
    try:
        return Device(path, _card(path, descriptor, ioctl))
    except OSError as error:
        raise _explained(path, error, folder) from error
    finally:
        os.close(descriptor)


def _card(path: str, descriptor: int, ioctl: Ioctl) -> str:
    answer = bytearray(_CAPABILITY.size)
    try:
        ioctl(descriptor, _QUERYCAP, answer)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise CameraError("camera_not_usable", f"{path} is no video device.") from error
        raise
    driver_field, card_field, _bus, _version, caps, device_caps = _CAPABILITY.unpack(answer)
    driver, card = (_text(field) for field in (driver_field, card_field))
    if driver.startswith(_SENSOR_PORTS):
        raise CameraError(
            "camera_not_usable",
            f"{path} ({driver}) is the raw port of a Raspberry Pi camera.",
            advice='Use source = "picamera".',
        )
    if not (device_caps if caps & _DEVICE_CAPS else caps) & _VIDEO_CAPTURE:
        raise CameraError(
            "camera_not_usable",
            f"{path} ({card}) gives no pictures.",
            advice="A webcam has several nodes, usually the lowest number gives the pictures: "
            "see v4l2-ctl --list-devices.",
        )
    # Asking for one buffer fails while another process streams; closing gives it back.
    request = bytearray(_REQUESTBUFFERS.pack(1, 1, 1, 0, 0))
    try:
        ioctl(descriptor, _REQBUFS, request)
    except OSError as error:
        # Some drivers have no such buffers (EINVAL); whether OpenCV can do with it, it will say.
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
    return card


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "replace").strip()


def _explained(path: str, error: OSError, folder: Path) -> CameraError:
    if error.errno == errno.EBUSY:
        return CameraError(
            "camera_busy",
            f"{path} is in use by another program.",
            advice=f"See which: fuser -v {path}.",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return CameraError(
            "camera_no_permission",
            f"{path} may not be opened.",
            advice="Restart edged if the camera was plugged in after it: the service's DeviceAllow="
            " knows only drivers loaded before."
            if error.errno == errno.EPERM
            else "Add the user that runs edged to the group video, then start it again.",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ELOOP):
        there = sorted(str(node) for node in folder.glob("video*"))
        return CameraError(
            "camera_not_found",
            f"There is no camera at {path}.",
            advice=f"There is: {', '.join(there)}; v4l2-ctl --list-devices names them."
            if there
            else "No video device is connected; a Raspberry Pi camera is source = picamera.",
        )
    return CameraError("camera_not_usable", f"{path} cannot be used: {error.strerror}.")

"""`picamera`: a Raspberry Pi camera by picamera2, made for its versions 0.3.22 and later.

The camera's own scaler makes the small picture: one stream, in the size asked for, from a sensor
mode that sees the whole field of view. (A small stream alone makes picamera2 take a small sensor
mode, which on most sensors is a crop of the middle.) A second `lores` stream would cost memory
and give the same picture with half the colour resolution.
"""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

from edged.camera.clock import Clock
from edged.camera.pirequests import PiCamera
from edged.camera.pixels import FORMATS, choose_mode, choose_size
from edged.errors import CameraError

# Four: one being filled, one waiting, one read here, one to spare.
_BUFFERS = 4
_DEFAULT_FPS = 30.0
_MISSING_ADVICE = (
    "sudo apt install python3-picamera2; a virtual environment needs --system-site-packages "
    "to see it."
)
_USB_ADVICE = 'A USB camera is source = "v4l2:/dev/video0".'
_PLUG_ADVICE = f"Check the cable, power off, then rpicam-hello --list-cameras. {_USB_ADVICE}"


def open_picamera(
    number: int,
    width: int | None,
    height: int | None,
    fps: float | None,
    *,
    clock: Clock | None = None,
) -> PiCamera:
    """Open and start a Raspberry Pi camera.

    Args:
        number: as `rpicam-hello --list-cameras` counts.
        width: of the pictures in pixels, rounded down to an even number; the scaler cuts what
            does not fit the sensor's shape. None: whole view, at most 640 x 480.
        height: the same.
        fps: fixed rate, 0 for the fastest that the sensor mode has, None for 30.
        clock: where the time comes from.

    Raises:
        CameraError: `camera_runtime_missing`, `camera_not_found`, `camera_busy`,
            `camera_not_usable`.
    """
    try:
        from picamera2 import Picamera2  # noqa: PLC0415 - only on a Raspberry Pi
    except ImportError as error:
        text = f"picamera2 is not installed for this Python ({error})."
        raise CameraError("camera_runtime_missing", text, advice=_MISSING_ADVICE) from error
    if not hasattr(Picamera2, "cancel_all_and_flush"):
        text = "picamera2 is older than 0.3.22, and could not be closed after a stall."
        advice = "sudo apt update && sudo apt install python3-picamera2"
        raise CameraError("camera_runtime_missing", text, advice=advice)
    picam2 = _acquire(Picamera2, number)
    try:
        size, rate = _configure(picam2, width, height, fps)
        picam2.start()
        model = picam2.camera_properties.get("Model", "camera")
        source = f"picamera:{number}" if number else "picamera"
        description = f"{source} ({model}) {size[0]}x{size[1]} at {rate}"
        return PiCamera(picam2, description, clock or Clock())
    except CameraError:
        picam2.close()
        raise
    except Exception as error:
        picam2.close()
        raise _explained(error, number) from error


def _acquire(picamera2: Any, number: int) -> Any:
    try:
        cameras = picamera2.global_camera_info()
    except Exception as error:
        raise _explained(error, number) from error
    # Asked first: each attempt that fails inside the constructor costs a file descriptor.
    if number >= len(cameras):
        count = len(cameras) or "no"
        text = f"There is no camera {number}: libcamera sees {count} camera(s)."
        raise CameraError("camera_not_found", text, advice=_PLUG_ADVICE)
    return _construct(picamera2, number)


def _construct(picamera2: Any, number: int) -> Any:
    # A camera that was closed keeps three descriptors until it is collected: it is in a cycle.
    gc.collect()
    picam2 = picamera2.__new__(picamera2)
    try:
        picam2.__init__(number)
    except Exception as error:
        with contextlib.suppress(Exception):
            if getattr(picam2, "is_open", False):
                picam2.close()
            elif hasattr(picam2, "notifyme_w"):
                # Its own close leaves this pipe open, which retrying for a day would run out of.
                picam2.notifymeread.close()
                os.close(picam2.notifyme_w)
        raise _explained(error, number) from error
    return picam2


def _configure(
    picam2: Any, width: int | None, height: int | None, fps: float | None
) -> tuple[tuple[int, int], str]:
    modes = picam2.sensor_modes
    mode = choose_mode(modes, (width or 640, height or 480), fps or 0.0)
    shape = mode["size"] if mode else (640, 480)
    size = choose_size(width, height, shape)
    options: dict[str, Any] = {}
    if mode:
        options["sensor"] = {"output_size": mode["size"], "bit_depth": mode["bit_depth"]}
    rate = "its own rate"
    if "FrameDurationLimits" in picam2.camera_controls:
        wanted = _DEFAULT_FPS if fps is None else fps
        longest_us = round(1e6 / (wanted or _DEFAULT_FPS))
        shortest_us = longest_us if wanted else 1  # the sensor mode raises it to what it can
        options["controls"] = {"FrameDurationLimits": (shortest_us, longest_us)}
        fastest = f"up to {mode['fps']:g}/s" if mode else "full speed"
        rate = f"{wanted:g}/s" if wanted else fastest
    config = picam2.create_video_configuration(
        # In picamera2 RGB888 names the order in a 24-bit word: the bytes are blue, green, red.
        main={"size": size, "format": "RGB888"},
        buffer_count=_BUFFERS,
        # No frame is kept for later: the next one is waited for, so it is never an old one.
        queue=False,
        display=None,
        encode=None,
        **options,
    )
    picam2.configure(config)
    got = picam2.stream_configuration("main")
    if got["format"] not in FORMATS:
        text = f"The camera gives {got['format']}, which edged cannot convert."
        raise CameraError("camera_not_usable", text, advice=_USB_ADVICE)
    return got["size"], rate


def _explained(error: BaseException, number: int) -> CameraError:
    """Find out what an error of picamera2 means: its text is in the chain of causes."""
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(texts) < 10:
        texts.append(str(link))
        link = link.__cause__ or link.__context__
    said = " / ".join(text for text in texts if text)
    name = f"Raspberry Pi camera {number}"
    lower = said.lower()
    if "busy" in lower or "in use by another process" in lower:
        return CameraError(
            "camera_busy",
            f"{name} is in use by another program ({said}).",
            advice="Stop it: rpicam-*, motion, another edged. fuser -v /dev/media* shows which.",
        )
    if "permission denied" in lower:
        return CameraError(
            "camera_no_permission",
            f"{name} may not be opened ({said}).",
            advice="Add the user that runs edged to the group video, then start it again.",
        )
    if "not found" in lower or "no camera" in lower or "out of range" in lower:
        return CameraError("camera_not_found", f"There is no {name} ({said}).", advice=_PLUG_ADVICE)
    return CameraError(
        "camera_not_usable", f"{name} cannot be used ({said or repr(error)}).", advice=_USB_ADVICE
    )

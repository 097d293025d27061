"""What edged relies on in picamera2, found out by using it: the same of the real and the stand-in.

`python3 picontract.py` prints it for the picamera2 that is installed, as JSON.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from types import ModuleType
from typing import Any

BUFFERS = 4
_SIZE = (640, 480)
_FRAME_S = 10.0  # within which a frame comes, on a machine that is slow
_NONE_S = 1.0  # a frame that has not come by then does not come
_CALLS: dict[str, tuple[str, ...]] = {
    "Picamera2": (
        *("__init__", "global_camera_info", "create_video_configuration", "configure"),
        *("stream_configuration", "start", "capture_request", "wait", "cancel_all_and_flush"),
        "close",
    ),
    "CompletedRequest": ("release", "get_metadata", "make_array"),
}


def signatures(picamera2: ModuleType) -> dict[str, dict[str, str]]:
    """Return the parameters of each call that edged makes, by name, with their defaults."""
    said = {}
    for name, calls in _CALLS.items():
        for call in calls:
            parameters = inspect.signature(getattr(getattr(picamera2, name), call)).parameters
            said[f"{name}.{call}"] = {
                one.name: f"{one.kind.name} {one.default!r}"
                for one in parameters.values()
                if one.name not in ("self", "cls")
            }
    return said


def behaviour(picamera2: ModuleType) -> dict[str, Any]:
    """Use one camera in every way that edged does, also wrongly, and return what was seen."""
    seen: dict[str, Any] = {}
    Picamera2 = picamera2.Picamera2  # noqa: N806 - as it is called there
    cameras = Picamera2.global_camera_info()
    seen["a camera has"] = [name in cameras[0] for name in ("Model", "Num")]
    seen["no such camera"] = _refused(Picamera2, len(cameras))
    camera = Picamera2(0)
    time.sleep(0.5)  # its threads have their descriptors by then
    before = _descriptors()
    seen["a second time"] = _refused(Picamera2, 0)
    seen["descriptors it costs"] = _descriptors() - before
    seen["properties"] = "Model" in camera.camera_properties
    seen["a control's limits"] = len(camera.camera_controls["FrameDurationLimits"])
    seen["every mode has a format"] = all("format" in mode for mode in camera.sensor_modes)
    seen.update(_configured(camera))
    seen.update(_captured(camera))
    seen.update(_held(camera))
    seen["open after closing"] = camera.is_open
    seen["closed again"] = _raised(camera.close)
    del camera
    seen.update(_again_and_again(Picamera2))
    return seen


def _again_and_again(picamera2: Any) -> dict[str, Any]:
    """Open and close, and count what stays open until the garbage is collected, and then."""
    left = []
    gc.collect()
    gc.disable()
    before = _descriptors()
    for _ in range(3):
        camera = picamera2(0)
        _configure(camera)
        camera.start()
        _released(camera)
        camera.close()
    del camera
    left.append(_descriptors() > before)
    gc.enable()
    gc.collect()
    left.append(_descriptors() > before)
    return {"descriptors left after closing, and after collecting": left}


def _configure(camera: Any, size: tuple[int, int] = _SIZE, **options: Any) -> dict[str, Any]:
    config: dict[str, Any] = camera.create_video_configuration(
        main={"size": size, "format": "RGB888"},
        buffer_count=BUFFERS,
        queue=False,
        display=None,
        encode=None,
        controls={"FrameDurationLimits": (33333, 33333)},
        **options,
    )
    camera.configure(config)
    return config


def _configured(camera: Any) -> dict[str, Any]:
    make = camera.create_video_configuration
    config = _configure(camera, (641, 481))
    seen: dict[str, Any] = {
        "an odd size": config["main"]["size"],
        "asked for": [config["buffer_count"], config["queue"], config["display"]],
        "a stream's unknown key": _raised(lambda: make(main={"nonsense": 1})),
        "an unknown option": _raised(lambda: make(nonsense=1)),
        "a sensor's keys": _raised(
            lambda: _configure(camera, sensor={"output_size": _SIZE, "bit_depth": 10})
        ),
    }
    _configure(camera)
    got = camera.stream_configuration("main")
    seen["got"] = [got["size"], isinstance(got["format"], str), got["stride"] >= _SIZE[0]]
    return seen


def _captured(camera: Any) -> dict[str, Any]:
    camera.start()
    stamps = [_released(camera) for _ in range(3)]
    time.sleep(0.5)
    asked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    newest_ns = _released(camera)
    request = camera.wait(camera.capture_request(wait=False), timeout=_FRAME_S)
    array = request.make_array("main")
    request.release()
    return {
        "stamps rise": sorted(set(stamps)) == stamps,
        "stamped by the clock that counts suspension": abs(newest_ns - asked_ns) < 10e9,
        "no old frame": newest_ns > asked_ns - 300_000_000,
        "an array": [array.dtype.name, array.shape[1] >= _SIZE[0], array.flags.c_contiguous],
        "an array after the release": _raised(lambda: request.make_array("main")),
        "released again": _raised(request.release),
    }


def _held(camera: Any) -> dict[str, Any]:
    """Keep every buffer: the camera stands still until one goes back."""
    held = [_request(camera) for _ in range(BUFFERS)]
    job = camera.capture_request(wait=False)
    seen: dict[str, Any] = {
        "no buffer left": _raised(lambda: camera.wait(job, timeout=_NONE_S)),
        "asked without waiting": _raised(lambda: camera.wait(job, timeout=0)),
    }
    held.pop().release()
    # What came while nobody waited went back: the same job gets the next one.
    held.append(camera.wait(job, timeout=_FRAME_S))
    seen["the job that timed out"] = type(held[-1]).__name__
    job = camera.capture_request(wait=False)
    camera.cancel_all_and_flush()
    seen["cancelled"] = _raised(lambda: camera.wait(job, timeout=_NONE_S))
    camera.capture_request(wait=False)
    closer = threading.Thread(target=camera.close, daemon=True)
    closer.start()
    closer.join(_NONE_S)
    seen["closing waits behind a job"] = closer.is_alive()
    camera.cancel_all_and_flush()
    closer.join(_FRAME_S)
    seen["and ends when it is cancelled"] = not closer.is_alive()
    seen["released after closing"] = _raised(held.pop().release)
    return seen


def _request(camera: Any) -> Any:
    return camera.wait(camera.capture_request(wait=False), timeout=_FRAME_S)


def _released(camera: Any) -> int:
    request = _request(camera)
    stamp_ns: int = request.get_metadata()["SensorTimestamp"]
    request.release()
    return stamp_ns


def _refused(picamera2: Any, number: int) -> list[Any]:
    """Open what cannot be opened, and clean up after it as the adapter does."""
    camera = picamera2.__new__(picamera2)
    raised = _raised(lambda: camera.__init__(number))
    with contextlib.suppress(Exception):
        camera.notifymeread.close()
        os.close(camera.notifyme_w)
    return [raised, camera.is_open]


def _raised(act: Callable[[], object]) -> str:
    """Return the kind of error and, of the chain, what it says of being busy or not found."""
    try:
        act()
    except (Exception, CancelledError) as error:  # noqa: BLE001 - that is what is asked
        said, link = "", error
        while link is not None:
            said += str(link)
            link = link.__cause__ or link.__context__
        words = [word for word in ("busy", "found", "not defined", "negative") if word in said]
        return " ".join([type(error).__name__, *words])
    return "nothing"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - nothing but their number


if __name__ == "__main__":
    import picamera2.request

    logging.disable(logging.CRITICAL)
    picamera2.CompletedRequest = picamera2.request.CompletedRequest
    print(json.dumps({"signatures": signatures(picamera2), "behaviour": behaviour(picamera2)}))

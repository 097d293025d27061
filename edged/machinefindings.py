"""What `edged doctor` finds on the machine itself, whatever the configuration says."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edged.board import board_name, clock_synchronised, free_bytes, temperatures_c
from edged.config import Config
from edged.inference.edgetpu import (
    EdgeTpu,
    explain_delegate_failure,
    list_edgetpus,
    pycoral_state,
)
from edged.inference.interpreter import edgetpu_library_error, installed_runtimes

_SHORT_OF_SPACE_BYTES = 200 * 1024 * 1024
_HOT_C = 80.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        level: `ok`, `warn` (works, but look at it) or `fail` (will not work).
        topic: what was looked at.
        reason: stable slug.
        words: what was found and what to do.
    """

    level: str
    topic: str
    reason: str
    words: str

    def line(self) -> str:
        """Return it for people."""
        return f"{self.level:<5} {self.topic:<12} {self.words}"

    def to_dict(self) -> dict[str, str]:
        """Return it for JSON."""
        return {
            "level": self.level,
            "topic": self.topic,
            "reason": self.reason,
            "words": self.words,
        }


def machine() -> Iterator[Finding]:
    """Look at board, clock and heat."""
    yield Finding(
        "ok", "machine", "ok", f"{board_name()}, Python {platform.python_version()} ({sys.prefix})."
    )
    synchronised = clock_synchronised()
    if synchronised is False:
        yield Finding(
            "warn",
            "clock",
            "clock_unsynced",
            "The clock has not been set from the network since boot; times may be wrong.",
        )
    else:
        words = (
            "Set from the network." if synchronised else "Nobody here knows whether it is right."
        )
        yield Finding("ok", "clock", "ok", words)
    hot = [f"{name} {value:.0f} C" for name, value in temperatures_c().items() if value >= _HOT_C]
    if hot:
        yield Finding("warn", "heat", "too_hot", f"Hot: {', '.join(hot)}; the CPU slows down.")


def runtimes() -> Iterator[Finding]:
    """Look at what runs models."""
    runtimes = installed_runtimes()
    if not runtimes:
        yield Finding(
            "fail",
            "runtime",
            "runtime_missing",
            "No TFLite runtime is installed: pip install ai-edge-litert.",
        )
    for runtime in runtimes:
        yield Finding("ok", "runtime", "ok", f"{runtime.name} {runtime.version}.")
    if pycoral_state() == "impostor":
        yield Finding(
            "warn",
            "pycoral",
            "pycoral_impostor",
            "The installed pycoral is an unrelated map tool of the same name, not Coral's library."
            " edged needs neither: pip uninstall pycoral.",
        )


def edgetpu(config: Config | None) -> Iterator[Finding]:
    """Look at Edge TPUs and their library, and open none."""
    devices = list_edgetpus()
    library = config.edgetpu_library if config else "libedgetpu.so.1"
    missing = edgetpu_library_error(library)
    wanted = config is not None and any(
        model.accelerator not in ("auto", "cpu") for model in config.model
    )
    if not devices:
        yield Finding(
            "fail" if wanted else "ok",
            "edge tpu",
            "edgetpu_no_device",
            "No Edge TPU is plugged in." + ("" if wanted else " Models run on the CPU."),
        )
    for device in devices:
        yield _edgetpu_device(device)
    if (devices or wanted) and missing:
        yield Finding(
            "fail",
            "edge tpu",
            "edgetpu_library_missing",
            explain_delegate_failure(missing, library, devices).explain(),
        )


def _edgetpu_device(device: EdgeTpu) -> Finding:
    if device.accessible:
        return Finding("ok", "edge tpu", "ok", f"{device.bus} at {device.node}.")
    return Finding(
        "fail",
        "edge tpu",
        "edgetpu_no_permission",
        f"{device.bus} at {device.node}, but this user may not open it: add the user to the group"
        f" {'plugdev' if device.bus == 'usb' else 'apex'}.",
    )


def video_devices() -> Iterator[Finding]:
    """Look for cameras where none is configured."""
    devices = sorted(Path("/dev").glob("video*"))
    if devices:
        names = ", ".join(str(device) for device in devices)
        yield Finding("ok", "cameras", "ok", f"V4L2 devices: {names}.")
    elif importlib.util.find_spec("picamera2") is not None:
        yield Finding("ok", "cameras", "ok", "picamera2 is installed.")
    else:
        yield Finding(
            "warn",
            "cameras",
            "no_cameras",
            "No /dev/video* and no picamera2; network, file and synthetic sources still work.",
        )


def disk(path: Path) -> Finding:
    """Look at the room where a path is."""
    free = free_bytes(path)
    if free is None:
        return Finding("warn", "disk", "disk_unknown", f"Cannot tell how much is free at {path}.")
    words = f"{free / 1e9:.1f} GB free at {path}."
    if free < _SHORT_OF_SPACE_BYTES:
        return Finding("warn", "disk", "disk_low", words + " New models may not fit.")
    return Finding("ok", "disk", "ok", words)

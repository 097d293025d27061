"""Facts of the machine: its name, its temperatures, its disk and clock."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MANAGER_S = 5.0
_ASKED_AGAIN_S = 30.0
_TIME_ERROR = 5  # adjtimex(2): not synchronised


def default_device_id(root: Path = Path("/"), suffix: str = "") -> str:
    """Return `<hostname>-<6 hex of machine-id>`: every Pi is called raspberrypi.

    Args:
        root: where /etc is; another one in tests.
        suffix: what it ends in, for a second daemon on the same machine.
    """
    room = 57 - len(suffix)
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:room].strip("-_") or "edged"
    machine = _text(root / "etc/machine-id")
    known = re.fullmatch(r"[0-9a-f]{32}", machine)
    return (f"{host}-{machine[:6]}" if known else host) + suffix


def board_name(root: Path = Path("/")) -> str:
    """Return e.g. `Raspberry Pi 4 Model B Rev 1.4`, or the machine's architecture."""
    return _text(root / "proc/device-tree/model").rstrip("\0") or platform.machine()


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Return temperatures in degrees Celsius by sensor: thermal zones and PCIe Edge TPUs."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _text(zone / "temp")
        if value.lstrip("-").isdigit():
            found[_text(zone / "type") or zone.name] = int(value) / 1000
    for device in sorted((root / "sys/class/apex").glob("apex_*")):
        value = _text(device / "temp")
        if value.lstrip("-").isdigit():
            found[device.name] = int(value) / 1000
    return found


@functools.cache  # a handle is a class of its own, and garbage for long
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


def kernel_clock_synchronised() -> bool | None:
    """Say what the kernel was told about its clock; None where it does not answer."""
    # struct timex, all zero: change nothing. Larger than any architecture's.
    timex = ctypes.create_string_buffer(512)
    try:
        state = _libc().adjtimex(timex)
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def manager_clock_synchronised() -> bool | None:
    """Say what systemd-timedated tells of the kernel's clock; None where it does not answer.

    The unit's `ProtectClock=yes` denies adjtimex altogether, reading included; timedated asks in
    our place, whichever daemon sets the clock.
    """
    program = shutil.which("timedatectl")
    if program is None:
        return None
    command = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_MANAGER_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


class Remembered:
    """An answer that costs a process, for whoever asks with every message. Any thread.

    A clock that was set since boot stays so; anything else is asked for again after a while.

    Args:
        ask: gives the answer.
        monotonic: seconds.
    """

    def __init__(
        self, ask: Callable[[], bool | None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._answer: bool | None = None
        self._due_s = float("-inf")

    def __call__(self) -> bool | None:
        """Return the answer, at most half a minute old."""
        with self._lock:
            if self._answer is not True and self._monotonic() >= self._due_s:
                self._answer = self._ask()
                self._due_s = self._monotonic() + _ASKED_AGAIN_S
            return self._answer


_remembered_manager = Remembered(manager_clock_synchronised)


def clock_synchronised(
    root: Path = Path("/"),
    kernel: Callable[[], bool | None] = kernel_clock_synchronised,
    manager: Callable[[], bool | None] = _remembered_manager,
) -> bool | None:
    """Say whether the clock was set from the network since boot; None where nobody knows.

    systemd-timesyncd leaves a file. chrony and ntpd tell the kernel, which may not be asked
    everywhere: our own unit's sandbox forbids it.

    Args:
        root: where /run is; another one in tests.
        kernel: asked where there is no file.
        manager: asked where the kernel does not answer.
    """
    if (root / "run/systemd/timesync/synchronized").exists():
        return True
    known = kernel()
    if known is None:
        known = manager()
    if known is None and (root / "run/systemd/timesync").exists():
        return False
    return known


def free_bytes(path: Path) -> int | None:
    """Return the bytes free where `path` is or would be; None when that cannot be told."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that programs may still take, and that this process takes."""

    available_bytes: int
    resident_bytes: int


def memory_bytes() -> Memory:
    """Return how the memory stands now."""
    available = re.search(r"MemAvailable:\s+([0-9]+) kB", _text(Path("/proc/meminfo")))
    resident = _text(Path("/proc/self/statm")).split()
    page = resource.getpagesize()
    return Memory(
        int(available[1]) * 1024 if available else 2**62,
        int(resident[1]) * page if len(resident) > 1 else 0,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""

"""Which Edge TPUs are plugged in, and what a failed delegate means.

The runtime's own error is mostly silent ("Failed to load delegate from libedgetpu.so.1"), so the
kernel is asked as well: USB vendor and product in /sys, PCIe nodes in /dev.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from edged.errors import AcceleratorError

# Before its firmware is loaded the USB accelerator calls itself Global Unichip, after that Google.
_USB_IDS = {("1a6e", "089a"), ("18d1", "9302")}


@dataclass(frozen=True, slots=True)
class EdgeTpu:
    """One accelerator that the kernel knows.

    Attributes:
        bus: `usb` or `pci`.
        node: its device file.
        accessible: whether this process may open it.
    """

    bus: str
    node: str
    accessible: bool


def list_edgetpus(root: Path = Path("/")) -> tuple[EdgeTpu, ...]:
    """Return the Edge TPUs that the kernel sees. Opens none of them.

    Args:
        root: where /sys and /dev are; another one in tests.
    """
    return (*_usb(root), *_pci(root))


def _usb(root: Path) -> list[EdgeTpu]:
    found = []
    for device in sorted((root / "sys/bus/usb/devices").glob("*")):
        ids = (_text(device / "idVendor"), _text(device / "idProduct"))
        if ids in _USB_IDS:
            bus, number = _text(device / "busnum"), _text(device / "devnum")
            if bus.isdigit() and number.isdigit():
                node = root / f"dev/bus/usb/{int(bus):03}/{int(number):03}"
                found.append(EdgeTpu("usb", str(node), os.access(node, os.R_OK | os.W_OK)))
    return found


def _pci(root: Path) -> list[EdgeTpu]:
    return [
        EdgeTpu("pci", str(node), os.access(node, os.R_OK | os.W_OK))
        for node in sorted((root / "dev").glob("apex_*"))
    ]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip().lower()
    except OSError:
        return ""


def explain_delegate_failure(
    error: Exception, library: str, devices: tuple[EdgeTpu, ...]
) -> AcceleratorError:
    """Turn a delegate that did not load into a reason and advice.

    Args:
        error: what the runtime's `load_delegate` raised.
        library: the library asked for.
        devices: what the kernel sees, from `list_edgetpus`.
    """
    if isinstance(error, OSError):
        return AcceleratorError(
            "edgetpu_library_missing",
            f"the Edge TPU library {library} cannot be loaded ({error}).",
            advice="Install it: docs/install-coral.md says which one fits the runtime.",
        )
    if isinstance(error, AttributeError):
        return AcceleratorError(
            "edgetpu_library_wrong",
            f"{library} is a library, but not the Edge TPU's ({error}).",
            advice="Set edgetpu_library to libedgetpu.so.1.",
        )
    if not devices:
        return AcceleratorError(
            "edgetpu_no_device",
            "no Edge TPU is plugged in: none on USB (1a6e:089a, 18d1:9302), no /dev/apex_*.",
            advice="Check cable and power; the PCIe card needs the gasket driver.",
        )
    if not any(device.accessible for device in devices):
        nodes = ", ".join(device.node for device in devices)
        return AcceleratorError(
            "edgetpu_no_permission",
            f"an Edge TPU is there ({nodes}), but this user may not open it.",
            advice="Install the udev rules and add the user to the group plugdev (USB)"
            " or apex (PCIe).",
        )
    return AcceleratorError(
        "edgetpu_busy",
        f"an Edge TPU is there, but {library} cannot open it: most likely another process has it.",
        advice="One process owns an Edge TPU at a time; stop the other one, or plug it in again.",
    )


def explain_edgetpu_error(text: str) -> AcceleratorError | None:
    """Turn a runtime error of a loaded delegate into a reason and advice, or None if unknown."""
    lowered = text.lower()
    if "newer than this runtime version" in lowered or "package requires runtime" in lowered:
        return AcceleratorError(
            "edgetpu_library_old",
            f"the model was compiled for a newer libedgetpu than is installed ({_line(text)}).",
            advice="Update libedgetpu1-std, or compile with edgetpu_compiler"
            " --min_runtime_version.",
        )
    if "failed to invoke" in lowered:
        return None  # it ran until now: no matter of versions
    if "edgetpudelegateforcustomop" in lowered or "unsupported data type in custom op" in lowered:
        return AcceleratorError(
            "edgetpu_library_mismatch",
            f"libedgetpu and the TFLite runtime do not fit together ({_line(text)}).",
            advice="docs/install-coral.md says which go together.",
        )
    return None


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def pycoral_state(search: str = "pycoral") -> str:
    """Say what the package pycoral is here: `absent`, `genuine` or `impostor`.

    The Python index has an unrelated map tool of that name. Nothing of it is imported.
    """
    spec = importlib.util.find_spec(search)
    if spec is None:
        return "absent"
    places = [Path(place) for place in spec.submodule_search_locations or []]
    genuine = any((place / "utils" / "edgetpu.py").is_file() for place in places)
    return "genuine" if genuine else "impostor"

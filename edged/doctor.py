"""`edged doctor`: what is there and what is not, in plain words.

Looks, and changes nothing: no camera is opened, as the service may be using it.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import platform
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from edged.board import board_name, clock_synchronised, free_bytes, temperatures_c
from edged.config import CameraConfig, Config, MqttConfig
from edged.errors import EdgedError
from edged.inference.edgetpu import (
    EdgeTpu,
    explain_delegate_failure,
    list_edgetpus,
    pycoral_state,
)
from edged.inference.interpreter import edgetpu_library_error, installed_runtimes
from edged.inference.loading import load_servable
from edged.models.source import Limits
from edged.mqtt.attempt import try_broker
from edged.redact import redacted

_SHORT_OF_SPACE_BYTES = 200 * 1024 * 1024
_HOT_C = 80.0
_CONNECT_S = 3.0


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


def examine(config: Config | None, path: str, problem: str) -> list[Finding]:
    """Look at everything.

    Args:
        config: the configuration, or None where there is none or it is wrong.
        path: where it was looked for.
        problem: what is wrong with it, or "".
    """
    findings = [*_machine(), *_runtimes(), *_edgetpu(config)]
    if problem:
        findings.append(Finding("fail", "config", "config_invalid", problem))
    if config is None:
        if not problem:
            findings.append(Finding("warn", "config", "config_missing", f"There is no {path} yet."))
        findings += [*_video_devices(), *_broker(MqttConfig(), "edged-doctor")]
        return findings
    findings.append(Finding("ok", "config", "ok", f"{path} is in order."))
    for model in config.model:
        findings.append(_model(config, model.name))
    for camera in config.camera:
        findings.append(_camera(camera))
    findings += _broker(config.mqtt, f"{config.device_id or 'edged'}-doctor")
    findings += _updates(config)
    for name, directory in (("state_dir", config.state_dir), ("runtime_dir", config.runtime_dir)):
        findings.append(_directory(name, Path(directory)))
    findings.append(_disk(Path(config.state_dir)))
    return findings


def _machine() -> Iterator[Finding]:
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


def _runtimes() -> Iterator[Finding]:
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


def _edgetpu(config: Config | None) -> Iterator[Finding]:
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


def _video_devices() -> Iterator[Finding]:
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


def _model(config: Config, name: str) -> Finding:
    model = next(model for model in config.model if model.name == name)
    if model.accelerator != "cpu" and list_edgetpus():
        # Opening a busy Edge TPU from a second process would kill the service that has it.
        return Finding(
            "ok", f"model {name}", "not_tried", f"{model.factory}: not loaded, to leave the TPU be."
        )
    try:
        servable = load_servable(
            model, edgetpu_library=config.edgetpu_library, cameras=config.cameras_of(name)
        )
    except EdgedError as error:
        return Finding("fail", f"model {name}", error.reason, error.explain())
    try:
        words = (
            f"{servable.kind}, {len(servable.labels)} labels,"
            f" {servable.input.width} x {servable.input.height}, on {servable.accelerator}."
        )
        if servable.states:
            fed = ", ".join(f"{source} by {feeder}" for source, feeder in servable.states)
            words += f" Fed back per camera: {fed}."
        if servable.fallback is not None:
            reason = servable.fallback.reason
            return Finding("warn", f"model {name}", reason, f"{words} {servable.fallback.detail}")
        return Finding("ok", f"model {name}", "ok", words)
    finally:
        servable.close()


def _camera(camera: CameraConfig) -> Finding:
    kind, _, rest = camera.source.partition(":")
    topic = f"cam {camera.name}"
    if kind == "v4l2":
        return _device_file(topic, Path(rest))
    if kind == "picamera":
        return _picamera(topic)
    if kind in ("images", "file"):
        return _stored(topic, Path(rest))
    if kind == "synthetic":
        return Finding("ok", topic, "ok", "The sample scene needs nothing.")
    return _network_camera(topic, camera.source)


def _stored(topic: str, path: Path) -> Finding:
    try:
        path.stat()
    except PermissionError:
        words = f"This user may not look at {path}."
        return Finding("fail", topic, "camera_no_permission", words)
    except OSError:
        return Finding("fail", topic, "camera_not_found", f"{path} does not exist.")
    return Finding("ok", topic, "ok", f"{path} is there.")


def _picamera(topic: str) -> Finding:
    if importlib.util.find_spec("picamera2") is not None:
        return Finding("ok", topic, "ok", "picamera2 is installed.")
    return Finding(
        "fail",
        topic,
        "camera_runtime_missing",
        "picamera2 is not installed: apt install python3-picamera2; a virtual environment"
        " needs --system-site-packages to see it.",
    )


def _device_file(topic: str, device: Path) -> Finding:
    if not device.exists():
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*")))
        return Finding(
            "fail",
            topic,
            "camera_not_found",
            f"{device} does not exist (there is: {there or 'no video device'}).",
        )
    if not os.access(device, os.R_OK | os.W_OK):
        group = _group_of(device)
        return Finding(
            "fail",
            topic,
            "camera_no_permission",
            f"This user may not open {device}: add the user to the group {group}.",
        )
    return Finding("ok", topic, "ok", f"{device} is there and may be opened.")


def _group_of(path: Path) -> str:
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return "video"


def _network_camera(topic: str, source: str) -> Finding:
    shown = redacted(source)
    try:
        parts = urlsplit(source)
        port = parts.port or {"rtsp": 554, "rtsps": 322, "https": 443}.get(parts.scheme, 80)
        with socket.create_connection((parts.hostname or "", port), _CONNECT_S):
            return Finding("ok", topic, "ok", f"{shown} answers.")
    except (OSError, ValueError) as error:
        return Finding("fail", topic, "camera_unreachable", f"{shown} does not answer: {error}.")


def _broker(mqtt: MqttConfig, client_id: str) -> Iterator[Finding]:
    place = f"{mqtt.host}:{mqtt.effective_port}"
    refused = try_broker(mqtt, client_id, _CONNECT_S)
    if refused is None:
        yield Finding("ok", "broker", "ok", f"{place} accepts this device.")
    else:
        yield Finding("fail", "broker", refused.reason, f"{place}: {refused.detail}")


def _updates(config: Config) -> Iterator[Finding]:
    """Ask the repository as the service would, and remember nothing."""
    update = config.update
    if update.metadata_url is None or update.targets_url is None:
        return
    # python-tuf is 90 ms and 20 MB: only for devices that are given models.
    from edged.models.repository import Clock, Repository  # noqa: PLC0415

    limits = Limits(connect_s=_CONNECT_S, silence_s=_CONNECT_S, metadata_s=3 * _CONNECT_S)
    try:
        root = Path(update.root).read_bytes()
        with TemporaryDirectory() as folder:
            refreshed = Repository(
                root, Path(folder, "metadata"), update.metadata_url, Path(folder),
                update.targets_url, limits=limits,
                clock=lambda: Clock(time.time(), clock_synchronised()),
            ).refresh()  # fmt: skip
    except OSError as error:
        words = (
            f"Cannot read {update.root}: {error.strerror}. Put the operator's root.json"
            " (`edgectl repo root`) there, readable for the service."
        )
        yield Finding("fail", "updates", "updates_off", words)
    except EdgedError as error:
        yield Finding("fail", "updates", error.reason, error.explain())
    else:
        until = datetime.fromtimestamp(refreshed.expires_s, UTC)
        words = f"{update.metadata_url} is signed as it should be, good until {until:%Y-%m-%d}."
        yield Finding("ok", "updates", "ok", words)


def _directory(name: str, path: Path) -> Finding:
    place = next((place for place in (path, *path.parents) if os.path.exists(place)), path)  # noqa: PTH110  # no error where it may not look
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return Finding(
            "ok", name, "ok", f"{path} {'may be written' if path.exists() else 'can be made'}."
        )
    return Finding(
        "fail",
        name,
        "not_writable",
        f"This user may not write to {path}. Run as the service's user?",
    )


def _disk(path: Path) -> Finding:
    free = free_bytes(path)
    if free is None:
        return Finding("warn", "disk", "disk_unknown", f"Cannot tell how much is free at {path}.")
    words = f"{free / 1e9:.1f} GB free at {path}."
    if free < _SHORT_OF_SPACE_BYTES:
        return Finding("warn", "disk", "disk_low", words + " New models may not fit.")
    return Finding("ok", "disk", "ok", words)

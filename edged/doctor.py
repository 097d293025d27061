"""`edged doctor`: what is there and what is not, in plain words.

Looks, and changes nothing: no camera is opened, as the service may be using it.
"""

from __future__ import annotations

import grp
import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from edged.board import clock_synchronised
from edged.config import CameraConfig, Config, ModelConfig, MqttConfig
from edged.errors import EdgedError
from edged.hidden import hidden_below, let_it_be_read
from edged.inference.edgetpu import list_edgetpus
from edged.inference.factory import factory_path
from edged.inference.servable import Servable
from edged.machinefindings import Finding, disk, edgetpu, machine, runtimes, video_devices
from edged.models.source import Limits
from edged.mqtt.credentials import SECRET_FILES
from edged.redact import redacted
from edged.running import load_factory, load_running, release_of
from edged.servicefindings import broker, directories, service_status

_CONNECT_S = 3.0


def examine(config: Config | None, path: str, problem: str) -> list[Finding]:
    """Look at everything.

    Args:
        config: the configuration, or None where there is none or it is wrong.
        path: where it was looked for.
        problem: what is wrong with it, or "".
    """
    findings = [*machine(), *runtimes(), *edgetpu(config)]
    if config is None:
        findings += video_devices()
        if not problem:
            findings.append(Finding("warn", "config", "config_missing", f"There is no {path} yet."))
            return [*findings, broker(MqttConfig(), "edged-doctor", {})]
        findings.append(Finding("fail", "config", "config_invalid", problem))
        words = "Not tried: the configuration names it, and models, cameras, updates, directories."
        return [*findings, Finding("warn", "broker", "not_tried", words)]
    findings.append(Finding("ok", "config", "ok", f"{path} is in order."))
    for model in config.model:
        findings += _model(config, model)
    for camera in config.camera:
        findings.append(_camera(camera))
    findings += _hidden(config)
    status = service_status(config)
    findings.append(broker(config.mqtt, f"{config.device_id or 'edged'}-doctor", status))
    findings += _updates(config)
    findings += directories(config, status)
    findings.append(disk(Path(config.state_dir)))
    return findings


def _hidden(config: Config) -> Iterator[Finding]:
    """Look for paths that the service's sandbox hides, though this process may see them."""
    named = [(f"factory of {model.name}", model.factory) for model in config.model]
    named += [(f"labels of {model.name}", model.labels or "") for model in config.model]
    for camera in config.camera:
        kind, _, path = camera.source.partition(":")
        named += [(f"source of {camera.name}", path)] if kind in ("images", "file") else []
    mqtt, update = config.mqtt, config.update
    named += [(key, getattr(mqtt, key) or "") for key in SECRET_FILES]
    named += [("root of [update]", update.root)] if update.metadata_url else []
    for what, path in named:
        # A link is followed: what it leads to is what the service opens.
        place = os.path.realpath(os.path.expanduser(path)) if path[:1] in ("/", "~") else ""  # noqa: PTH111  # a home that nobody has is no error
        if hidden_below(place):
            words = f"{what} ({path}): {let_it_be_read(place)}"
            yield Finding("warn", "paths", "hidden_from_service", words)


def _model(config: Config, model: ModelConfig) -> Iterator[Finding]:
    """Load what runs and, where that is another version, the factory file as well."""
    name, topic = model.name, f"model {model.name}"
    release, _ = release_of(Path(config.state_dir), name)
    if model.accelerator != "cpu" and list_edgetpus():
        # Opening a busy Edge TPU from a second process would kill the service that has it.
        which = model.factory if release is None else release.version
        yield Finding("ok", topic, "not_tried", f"{which}: not loaded, to leave the TPU be.")
        return
    try:
        servable, unknown = load_running(config, name)
    except EdgedError as error:
        yield Finding("fail", topic, error.reason, error.explain())
        return
    words, fallback = _loaded(servable), servable.fallback
    if unknown:
        yield Finding("warn", topic, "running_unknown", f"{words} Which runs: {unknown}")
    elif fallback is not None:
        yield Finding("warn", topic, fallback.reason, f"{words} {fallback.detail}")
    else:
        yield Finding("ok", topic, "ok", words)
    if release is None or unknown or servable.path == factory_path(model.factory):
        return
    try:
        words = _loaded(load_factory(config, name))
    except EdgedError as error:
        # What runs does not need it, and a copy of an earlier one may be there to fall back on.
        yield Finding("warn", f"factory {name}", error.reason, error.explain())
    else:
        yield Finding("ok", f"factory {name}", "ok", words)


def _loaded(servable: Servable) -> str:
    """Say what a model is that could be loaded, and free it."""
    words = (
        f"{servable.id.version}, {servable.kind}, {len(servable.labels)} labels,"
        f" {servable.input.width} x {servable.input.height}, on {servable.accelerator}."
    )
    if servable.states:
        fed = ", ".join(f"{source} by {feeder}" for source, feeder in servable.states)
        words += f" Fed back per camera: {fed}."
    servable.close()
    return words


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

"""Which configuration the arguments of `edged` mean: a file, or a model and a camera directly."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from edged.board import default_device_id
from edged.command import UsageError
from edged.config import Config, MqttConfig
from edged.config_text import ConfigTextError, Problem, from_values, parse, parse_mqtt
from edged.errors import ConfigError

T = TypeVar("T")

DEFAULT_CONFIG = "/etc/edged/edged.toml"
# Which option a key of the configuration comes from when there is no file.
_OPTIONS = {
    "factory": "--model",
    "source": "--camera",
    "labels": "--labels",
    "accelerator": "--accelerator",
    "fps": "--fps",
}


def config_path(args: argparse.Namespace) -> Path:
    """Return the configuration file that is meant."""
    return Path(args.config or os.environ.get("EDGED_CONFIG") or DEFAULT_CONFIG)


def read_config(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: `config_missing`, `config_unreadable`, `config_invalid`.
    """
    return _read(
        path, parse, "Give --config FILE, or run without one: --model FILE --camera SOURCE."
    )


def read_mqtt(path: Path) -> MqttConfig:
    """Read the table `[mqtt]` of a file; what else it holds does not matter.

    Raises:
        ConfigError: `config_missing`, `config_unreadable`, `config_invalid`.
    """
    return _read(path, parse_mqtt, "Give --config FILE, or --broker HOST[:PORT].")


def _read(path: Path, parsed: Callable[[str], T], advice: str) -> T:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise ConfigError(
            "config_missing", f"there is no configuration file {path}.", advice=advice
        ) from error
    except PermissionError as error:
        raise ConfigError(
            "config_unreadable",
            f"this user may not read {path}: {error.strerror}.",
            advice="Use sudo, or join its group. That of a device is for root and the group edged,"
            " mode 640: sudo usermod -aG edged $USER.",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError("config_unreadable", f"cannot read {path}: {error}.") from error
    try:
        return parsed(text)
    except ConfigError as error:
        raise ConfigError(error.reason, f"{path}:\n{error}") from error


def config_of(args: argparse.Namespace) -> Config:
    """Return the configuration that the arguments name: a file, or model and camera directly.

    Raises:
        ConfigError: of the file.
        UsageError: of the arguments.
    """
    if args.model is None and args.camera is None:
        given = [
            name for name in ("labels", "accelerator", "fps") if getattr(args, name) is not None
        ]
        if given:
            raise UsageError(f"--{given[0]} goes with --model and --camera only.")
        return overridden(read_config(config_path(args)), args)
    if args.config is not None:
        raise UsageError("--config and --model/--camera exclude each other.")
    if args.model is None or args.camera is None:
        raise UsageError("--model and --camera go together: give both.")
    model: dict[str, object] = {"name": _slug(Path(args.model).stem), "factory": args.model}
    camera: dict[str, object] = {"name": "cam", "source": args.camera, "model": model["name"]}
    for name, table in (("labels", model), ("accelerator", model), ("fps", camera)):
        if getattr(args, name) is not None:
            table[name] = getattr(args, name)
    values: dict[str, object] = {
        # Not the service's: a broker throws out the one of two that have the same.
        "device_id": default_device_id(suffix="-trial"),
        "model": [model],
        "camera": [camera],
        "state_dir": str(_own_state_dir()),
        "runtime_dir": str(_own_runtime_dir()),
    }
    try:
        config = from_values(values)
    except ConfigTextError as error:
        raise UsageError(
            "\n".join(_as_option(problem, args) for problem in error.problems)
        ) from None
    return overridden(config, args)


def directories(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the state and runtime directories of the daemon that is meant.

    Where no file is named and the usual one is not there, it is the one that this user runs
    without a file.

    Raises:
        ConfigError: of the file.
    """
    path = config_path(args)
    if path == Path(DEFAULT_CONFIG) and not path.exists():
        return _own_state_dir(), _own_runtime_dir()
    config = read_config(path)
    return Path(config.state_dir), Path(config.runtime_dir)


def _as_option(problem: Problem, args: argparse.Namespace) -> str:
    """Say what is wrong with a value in terms of the option it came from."""
    option = _OPTIONS.get(problem.key.rpartition(": ")[2], problem.key)
    hint = f"; did you mean {guess}?" if (guess := _guess_source(args.camera)) else ""
    return f"{option}: {problem.message}{hint if option == '--camera' else ''}"


def _guess_source(text: str) -> str:
    """Return the source that somebody meant who gave a bare path or number, or ""."""
    if re.fullmatch(r"[0-9]+", text):
        return f"v4l2:/dev/video{text}"
    if re.fullmatch(r"(v4l2:|/dev/)?video[0-9]+", text):
        return f"v4l2:/dev/{text.rpartition('/')[2].removeprefix('v4l2:')}"
    path = Path(text)
    try:
        if path.is_dir():
            return f"images:{text}"
        if path.is_file():
            images = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
            return f"{'images' if path.suffix.lower() in images else 'file'}:{text}"
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(text, ("picamera", "synthetic"), 1)
    return close[0] if close else ""


def overridden(config: Config, args: argparse.Namespace) -> Config:
    """Return the configuration with what `--broker` and `--device-id` say instead."""
    if getattr(args, "broker", None) is not None:
        host, port = broker_address(args.broker)
        try:
            mqtt = replace(config.mqtt, host=host, port=port)
        except ValueError as error:
            raise UsageError("--broker: must be HOST or HOST:PORT.") from error
        config = replace(config, mqtt=mqtt)
    if getattr(args, "device_id", None) is not None:
        try:
            config = replace(config, device_id=args.device_id)
        except ValueError as error:
            raise UsageError(
                "--device-id: must be letters, digits, - and _, beginning with a letter or digit,"
                " at most 64."
            ) from error
    return config


def _slug(stem: str) -> str:
    slug = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64]
    return slug or "model"


def _own_state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edged"


def _own_runtime_dir() -> Path:
    per_user = f"/tmp/edged-{os.getuid()}"  # noqa: S108
    return Path(os.environ.get("XDG_RUNTIME_DIR") or per_user) / "edged"


def broker_address(text: str) -> tuple[str, int | None]:
    """Return host and port of `[::1]:1883`, `::1`, `host:1883` or `host`.

    Raises:
        UsageError: it is none of these.
    """
    if "@" in text:
        raise UsageError(
            "--broker: takes no user and no password; put username and password_file into a"
            " configuration file."
        )
    bracketed = re.fullmatch(r"\[(.+)\](?::(.+))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2] or ""
    elif text.count(":") == 1:
        host, port = text.split(":")
    else:
        host, port = text, ""
    if port and not (port.isascii() and port.isdigit()):
        raise UsageError(f"--broker: {port!r} is no port number.")
    if ":" in host and not _is_ipv6(host):
        raise UsageError("--broker: must be HOST or HOST:PORT.")
    return host, int(port) if port else None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False

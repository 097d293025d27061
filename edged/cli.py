"""`edged`: the command on the device. Arguments and presentation only."""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from edged import __version__
from edged.command import FAILED, OK, UsageError, run
from edged.config import CameraConfig, Config
from edged.config_text import ConfigTextError, Problem, from_values, parse
from edged.daemon import Daemon
from edged.doctor import examine
from edged.errors import ConfigError
from edged.lock import is_locked
from edged.snapshot import take_snapshot
from edged.systemd import Notifier, set_up_logging

DEFAULT_CONFIG = "/etc/edged/edged.toml"
# Which option a key of the configuration comes from when there is no file.
_OPTIONS = {
    "factory": "--model",
    "source": "--camera",
    "labels": "--labels",
    "accelerator": "--accelerator",
    "fps": "--fps",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        0 ok, 1 failed, 2 usage, 78 configuration.
    """
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edged", description="On-device vision: camera to MQTT with TFLite models."
    )
    parser.add_argument("--version", action="version", version=f"edged {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run_ = commands.add_parser("run", help="run the service in the foreground")
    _source_arguments(run_)
    run_.add_argument("--broker", metavar="HOST[:PORT]", help="MQTT broker (127.0.0.1:1883)")
    run_.add_argument("--device-id", metavar="ID", help="this device's name in topics")
    run_.add_argument("-v", "--verbose", action="store_true", help="log more")
    run_.set_defaults(command=_run)

    check = commands.add_parser("check-config", help="explain every mistake in a configuration")
    check.add_argument("file", nargs="?", help="the file to check, instead of --config")
    _config_argument(check)
    check.set_defaults(command=_check_config)

    snapshot = commands.add_parser("snapshot", help="save one frame as the model sees it")
    _source_arguments(snapshot)
    snapshot.add_argument(
        "-o", "--output", metavar="FILE", default="snapshot.png", help="PNG or JPEG (%(default)s)"
    )
    snapshot.add_argument("--name", metavar="CAMERA", help="which camera of the configuration")
    snapshot.add_argument("--json", action="store_true", help="print the result as JSON")
    snapshot.set_defaults(command=_snapshot)

    doctor = commands.add_parser("doctor", help="say what is there and what is not")
    _config_argument(doctor)
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.set_defaults(command=_doctor)
    return parser


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"configuration file (default: $EDGED_CONFIG or {DEFAULT_CONFIG})",
    )


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    _config_argument(parser)
    direct = parser.add_argument_group("without a configuration file")
    direct.add_argument(
        "--model", metavar="FILE", help="a .tflite file, or 'belt', the bundled one"
    )
    direct.add_argument(
        "--camera",
        metavar="SOURCE",
        help="picamera[:N] | v4l2:/dev/video0 | rtsp://... | http://... | file:clip.mp4"
        " | images:DIR | synthetic",
    )
    direct.add_argument("--labels", metavar="FILE", help="label file, one label per line")
    direct.add_argument(
        "--accelerator", metavar="WHICH", help="auto (default), cpu, edgetpu, usb:N or pci:N"
    )
    direct.add_argument(
        "--fps", type=float, metavar="N", help="frames per second; 0: as fast as the model goes"
    )


def _config_path(args: argparse.Namespace) -> Path:
    return Path(args.config or os.environ.get("EDGED_CONFIG") or DEFAULT_CONFIG)


def _read_config(path: Path) -> Config:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError as error:
        raise ConfigError(
            "config_missing",
            f"there is no configuration file {path}.",
            advice="Give --config FILE, or run without one: --model FILE --camera SOURCE.",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError("config_unreadable", f"cannot read {path}: {error}.") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(error.reason, f"{path}:\n{error}") from error


def _config(args: argparse.Namespace) -> Config:
    """Return the configuration that the arguments name: a file, or model and camera directly."""
    if args.model is None and args.camera is None:
        given = [
            name for name in ("labels", "accelerator", "fps") if getattr(args, name) is not None
        ]
        if given:
            raise UsageError(f"--{given[0]} goes with --model and --camera only.")
        return _overridden(_read_config(_config_path(args)), args)
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
        "model": [model],
        "camera": [camera],
        "state_dir": _xdg("XDG_STATE_HOME", Path.home() / ".local/state"),
        "runtime_dir": _xdg("XDG_RUNTIME_DIR", Path(f"/tmp/edged-{os.getuid()}")),  # noqa: S108  # per user
    }
    try:
        config = from_values(values)
    except ConfigTextError as error:
        raise UsageError(
            "\n".join(_as_option(problem, args) for problem in error.problems)
        ) from None
    return _overridden(config, args)


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


def _overridden(config: Config, args: argparse.Namespace) -> Config:
    """Return the configuration with what `--broker` and `--device-id` say instead."""
    if getattr(args, "broker", None) is not None:
        host, port = _broker(args.broker)
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


def _xdg(variable: str, default: Path) -> str:
    return str(Path(os.environ.get(variable) or default) / "edged")


def _broker(text: str) -> tuple[str, int | None]:
    # [::1]:1883, ::1, host:1883, host
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


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    set_up_logging(verbose=args.verbose)
    direct = args.model is not None
    reload = None if direct else lambda: _overridden(_read_config(_config_path(args)), args)
    return Daemon(config, reload, Notifier()).run()


def _check_config(args: argparse.Namespace) -> int:
    path = Path(args.file) if args.file else _config_path(args)
    config = _read_config(path)
    cameras = ", ".join(f"{camera.name} ({camera.model})" for camera in config.camera)
    print(f"{path}: ok. Cameras and their models: {cameras}.")
    print("Files and devices were not looked at: `edged doctor` does that.")
    return OK


def _snapshot(args: argparse.Namespace) -> int:
    config = _config(args)
    camera = _camera(config, args.name)
    model = next(model for model in config.model if model.name == camera.model)
    runs = is_locked(Path(config.state_dir))
    taken = take_snapshot(
        camera, model, Path(args.output), config.edgetpu_library, service_runs=runs
    )
    if args.json:
        print(orjson.dumps(taken.to_dict()).decode())
    else:
        print(taken.describe())
    return OK


def _camera(config: Config, name: str | None) -> CameraConfig:
    if name is None:
        return config.camera[0]
    for camera in config.camera:
        if camera.name == name:
            return camera
    names = ", ".join(camera.name for camera in config.camera)
    raise ConfigError("camera_unknown", f"there is no camera '{name}' (there is: {names}).")


def _doctor(args: argparse.Namespace) -> int:
    path = _config_path(args)
    config: Config | None = None
    problem = ""
    try:
        config = _read_config(path)
    except ConfigError as error:
        # Without a file the machine is examined all the same; a wrong one is a finding.
        if error.reason != "config_missing" or args.config:
            problem = error.explain()
    findings = examine(config, str(path), problem)
    if args.json:
        print(orjson.dumps([finding.to_dict() for finding in findings]).decode())
    else:
        for finding in findings:
            print(finding.line())
    return FAILED if any(finding.level == "fail" for finding in findings) else OK

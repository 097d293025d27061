"""`edged`: the command on the device. Arguments and presentation only."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson

from edged import __version__
from edged.arguments import DEFAULT_CONFIG, config_of, config_path, overridden, read_config
from edged.command import FAILED, OK, new_file, run
from edged.config import CameraConfig, Config
from edged.errors import ConfigError
from edged.lock import is_locked
from edged.models.desired import Source
from edged.systemd import Notifier, set_up_logging

# ruff: noqa: PLC0415 - a command imports what it alone needs: numpy, OpenCV and MQTT take a
# quarter of a second on a PC and several times that on a Pi


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

    _service(commands, "status", "say how the service is doing")
    deployed = _service(commands, "deployments", "what was installed, and how it went")
    deployed.add_argument("model", metavar="MODEL", nargs="?", help="of this model only")
    _model_commands(commands.add_parser("models", help="the versions of models on this device"))
    _drift_commands(commands.add_parser("drift", help="whether predictions look as they did"))
    return parser


def _model_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _service(commands, "list", "versions, marks, and who wants which")

    new = _service(commands, "install", "install from a file, such as one on a stick")
    new.add_argument("file", type=Path, metavar="FILE", help="made by `edgectl repo export`")
    new.add_argument("--model", metavar="MODEL", help="which, where the file does not say")
    new.add_argument("--bare", action="store_true", help="a package that nobody signed")

    back = _service(commands, "rollback", "return to the version before")
    back.add_argument("model", metavar="MODEL")

    judged = _service(commands, "mark", "say for good what is to be thought of a version")
    judged.add_argument("model", metavar="MODEL")
    judged.add_argument("release", metavar="VERSION")
    verdict = judged.add_mutually_exclusive_group(required=True)
    for name, words in (
        ("bad", "never install it again"),
        ("good", "it may come back"),
        ("none", "forget what was thought of it"),
    ):
        verdict.add_argument(
            f"--{name}", dest="verdict", action="store_const", const=name, help=words
        )

    ended = _service(commands, "cancel", "give a deployment up")
    ended.add_argument("model", metavar="MODEL")
    ended.add_argument("deployment_id", metavar="DEPLOYMENT")

    order = _service(commands, "forget-order", "let a source's next wish count, whatever its order")
    order.add_argument("model", metavar="MODEL")
    order.add_argument("source", metavar="SOURCE", choices=list(Source), help=", ".join(Source))


def _drift_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, words in (
        ("report", "what was recorded: reference against now"),
        ("acknowledge", "end an alarm that was seen"),
        ("reset", "what comes now is normal: begin the reference anew"),
    ):
        one = commands.add_parser(name, help=words)
        one.add_argument("camera", metavar="CAMERA", nargs="?" if name == "report" else None)
        if name == "report":
            one.add_argument("--png", metavar="FILE", type=new_file, help="draw one camera")
        _config_argument(one)
        one.add_argument("--json", action="store_true", help="print the answer as JSON")
        one.set_defaults(command=_drift(name))


def _drift(name: str) -> Callable[[argparse.Namespace], int]:
    def command(args: argparse.Namespace) -> int:
        from edged.driftcommands import COMMANDS

        return COMMANDS[name](args)

    return command


def _service(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    words: str,
) -> argparse.ArgumentParser:
    """Add a command that speaks with the service; `edged.commands` has it under its name."""

    def command(args: argparse.Namespace) -> int:
        from edged.commands import COMMANDS

        return COMMANDS[name](args)

    parser = commands.add_parser(name, help=words)
    _config_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(command=command)
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


def _run(args: argparse.Namespace) -> int:
    from edged.daemon import Daemon

    config = config_of(args)
    set_up_logging(verbose=args.verbose)
    direct = args.model is not None
    reload = None if direct else lambda: overridden(read_config(config_path(args)), args)
    return Daemon(config, reload, Notifier()).run()


def _check_config(args: argparse.Namespace) -> int:
    path = Path(args.file) if args.file else config_path(args)
    config = read_config(path)
    cameras = ", ".join(f"{camera.name} ({camera.model})" for camera in config.camera)
    print(f"{path}: ok. Cameras and their models: {cameras}.")
    print("Files and devices were not looked at: `edged doctor` does that.")
    return OK


def _snapshot(args: argparse.Namespace) -> int:
    from edged.snapshot import take_snapshot

    config = config_of(args)
    camera = _camera(config, args.name)
    runs = is_locked(Path(config.state_dir))
    direct = args.model is not None
    taken = take_snapshot(camera, config, Path(args.output), service_runs=runs, factory=direct)
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
    from edged.doctor import examine

    path = config_path(args)
    config: Config | None = None
    problem = ""
    try:
        config = read_config(path)
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

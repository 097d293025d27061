"""The options that the commands of `edgectl fleet` share: the broker, and whom it is about."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from edged.arguments import broker_address, read_mqtt
from edged.command import UsageError
from edged.config import DeviceId, MqttConfig, Name
from edged.config_text import ConfigTextError, mqtt_from_values
from edged.operator.fleetplan import To

BROKER_VARIABLE = "EDGED_BROKER"
_KEYS = ("username", "password_file", "ca_file", "cert_file", "key_file", "topic_prefix")
_LISTEN_S = 2.0
TIMEOUT_S = 3600.0
_NAME = TypeAdapter[str](Name)
_DEVICE = TypeAdapter[str](DeviceId)


def add_broker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the broker is."""
    group = parser.add_argument_group(
        "broker",
        f"Without --broker, --config or the variable {BROKER_VARIABLE}: the table [mqtt] of"
        f" {_default_file()} where that exists, else 127.0.0.1:1883 without a user.",
    )
    group.add_argument("--config", type=Path, metavar="FILE", help="TOML with a table [mqtt]")
    group.add_argument("--broker", metavar="HOST[:PORT]")
    group.add_argument("--username", metavar="NAME")
    group.add_argument("--password-file", metavar="FILE", help="its first line is the password")
    group.add_argument("--ca-file", metavar="FILE", help="TLS, with a broker of this CA")
    group.add_argument("--cert-file", metavar="FILE", help="of this client")
    group.add_argument("--key-file", metavar="FILE", help="of this client")
    group.add_argument("--topic-prefix", metavar="TOPIC", help="as on the devices; default edged")


def add_listening(parser: argparse.ArgumentParser) -> None:
    """Add how long is listened first."""
    parser.add_argument(
        "--seconds", type=seconds, default=_LISTEN_S, metavar="S",
        help="first listen so long to what devices and broker say (default: %(default)g)",
    )  # fmt: skip


def add_devices(parser: argparse.ArgumentParser, *, group: bool = True) -> None:
    """Add the options that say whom it is about, of which there must be one."""
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument(
        "--device", type=devices, action="extend", metavar="ID[,ID...]", help="may be repeated"
    )
    if group:
        whom.add_argument("--group", type=name, metavar="NAME", help="all devices of a group")
    words = "all devices" if group else "all devices that are known to be concerned"
    whom.add_argument("--all", action="store_true", help=words)
    parser.add_argument(
        "--yes", action="store_true", help="do not ask, and take names that nobody has heard of"
    )


def add_watch(parser: argparse.ArgumentParser, *, expect: bool) -> None:
    """Add the options that say what is waited for."""
    parser.add_argument(
        "--watch", action="store_true", help="wait for the results; 0 only if all are as meant"
    )
    add_timeout(parser)
    if expect:
        parser.add_argument(
            "--expect", type=count, metavar="N",
            help="wait for N results, where it is not known which devices there are",
        )  # fmt: skip


def add_timeout(
    parser: argparse.ArgumentParser, default_s: float | None = TIMEOUT_S, words: str = "%(default)g"
) -> None:
    """Add the limit for waiting."""
    parser.add_argument(
        "--timeout", type=seconds, default=default_s, metavar="S",
        help=f"wait at most so long (default: {words})",
    )  # fmt: skip


def broker_of(args: argparse.Namespace) -> MqttConfig:
    """Return how to reach the broker.

    The usual file counts only where no other broker is named: its password is for its broker.

    Raises:
        ConfigError: of the file.
        UsageError: of the options.
    """
    broker, path = args.broker, args.config
    if path is None:
        broker = broker or os.environ.get(BROKER_VARIABLE)
        usual = _default_file()
        path = usual if not broker and usual.exists() else None
    values = asdict(MqttConfig() if path is None else read_mqtt(path))
    if broker:
        values["host"], values["port"] = broker_address(broker)
    values |= {key: value for key in _KEYS if (value := getattr(args, key)) is not None}
    try:
        return mqtt_from_values({key: value for key, value in values.items() if value is not None})
    except ConfigTextError as error:
        lines = [f"{_option(problem.key)}: {problem.message}" for problem in error.problems]
        raise UsageError("\n".join(lines)) from None


def to_of(args: argparse.Namespace) -> To:
    """Return whom a message is for."""
    return To(tuple(dict.fromkeys(args.device or ())), getattr(args, "group", None) or "all")


def confirm(args: argparse.Namespace, words: str) -> bool:
    """Ask whether to go on, where more than named devices are meant.

    Raises:
        UsageError: there is no terminal to ask at.
    """
    if args.yes or args.device:
        return True
    if not sys.stdin.isatty():
        raise UsageError("--all and --group are asked about, and this is no terminal: say --yes.")
    print(f"{words} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def name(text: str) -> str:
    """Return the name of a model or a group."""
    return _checked(_NAME, text, "lower-case letters, digits, - and _")


def devices(text: str) -> list[str]:
    """Return device ids, separated by commas."""
    return [
        _checked(_DEVICE, one, "device ids: letters, digits, - and _") for one in text.split(",")
    ]


def percent(text: str) -> int:
    """Return a percentage."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError("must be a whole number from 0 to 100")
    return value


def steps(text: str) -> list[int]:
    """Return rising percentages, separated by commas."""
    found = [percent(one) for one in text.split(",")]
    if found != sorted(set(found)) or found[0] == 0:
        raise argparse.ArgumentTypeError("must rise, e.g. 5,25,100")
    return found


def seconds(text: str) -> float:
    """Return a time that is not negative."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError("must be a number, not below 0")
    return value


def count(text: str) -> int:
    """Return a number from 1."""
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) > 0):
        raise argparse.ArgumentTypeError("must be a whole number from 1")
    return int(text)


def _checked(kind: TypeAdapter[str], text: str, words: str) -> str:
    try:
        return kind.validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!a} is not of {words}") from None


def _default_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edged/fleet.toml"


def _option(key: str) -> str:
    key = key.removeprefix("mqtt.")
    return f"--{key.replace('_', '-')}" if key in _KEYS else "--broker"

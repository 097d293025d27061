"""What outsiders ask for over MQTT: a version that a source wants to run, and commands. Pure.

Payloads are hostile until proven: every refusal is a `MessageError`, for the `error` topic. The
operator's desk writes them with the encoders here, which refuse what a device would refuse.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import orjson

from edged.errors import MessageError
from edged.models.strictjson import StrictJsonError, parse_object
from edged.models.version import Version

LIMIT_BYTES = 64 * 1024
SCHEMA = 1
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Ids that the device gives itself: `auto-<n>`, `local-<n>`, `factory-<sha8>`.
OWN_IDS = ("auto-", "local-", "factory-")


class Source(StrEnum):
    """Who wants a version, highest precedence first. All named groups are one source."""

    DEVICE = "device"
    GROUP = "group"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Desired:
    """What a source wants to run.

    Attributes:
        deployment_id: the operator's name for it.
        version: a Semantic Version; None releases the source.
        order_ms: the operator's Unix time; None where the message does not say.
        percent: of the devices, 0..100, that take part; see `in_rollout`.
    """

    deployment_id: str
    version: str | None
    order_ms: int | None = None
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Cancel:
    """Give a deployment up."""

    id: str
    deployment_id: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Leave a version for the one before."""

    id: str
    from_version: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where an inbound message belongs; `source` says nothing about a command."""

    model: str
    source: Source
    kind: Literal["desired", "command"]


def addresses(
    prefix: str, device_id: str, groups: Iterable[str], models: Iterable[str]
) -> dict[str, Address]:
    """Return the exact topics to subscribe to, and what arrives on each."""
    desired = {device_id: Source.DEVICE, "@all": Source.ALL}
    desired |= {f"@{group}": Source.GROUP for group in groups if group != "all"}
    found = {}
    for model in models:
        for name, source in desired.items():
            found[topic_of(prefix, name, model, "desired")] = Address(model, source, "desired")
        topic = topic_of(prefix, device_id, model, "command")
        found[topic] = Address(model, Source.DEVICE, "command")
    return found


def topic_of(prefix: str, name: str, model: str, kind: Literal["desired", "command"]) -> str:
    """Return the topic of a message to `name`: a device id, `@<group>` or `@all`."""
    return f"{prefix}/{name}/update/{model}/{kind}"


def parse_desired(payload: bytes) -> Desired:
    """Return what a message on `.../desired` asks for.

    Raises:
        MessageError: `message_too_large`, `message_malformed`, `id_reserved`.
    """
    message = _parse(payload)
    if "version" not in message:
        raise _malformed("version is missing; null releases the source")
    version = message["version"]
    order_ms = message.get("order", 0)
    if type(order_ms) is not int or order_ms < 0 or (order_ms == 0 and "order" in message):
        raise _malformed("order is no Unix time in milliseconds")
    return Desired(
        deployment_id=_new_id(message, "deployment_id"),
        version=None if version is None else _version(version),
        order_ms=order_ms or None,
        percent=_percent(message["rollout"]) if "rollout" in message else 100,
    )


def parse_command(payload: bytes) -> Cancel | RollBack:
    """Return what a message on `.../command` asks for.

    Raises:
        MessageError: `message_too_large`, `message_malformed`, `id_reserved`.
    """
    message = _parse(payload)
    command_id = _new_id(message, "id")
    match message.get("action"):
        case "cancel":
            # A device's own deployments, such as a new factory model, can be canceled too.
            return Cancel(command_id, _id(message, "deployment_id"))
        case "rollback":
            return RollBack(command_id, _version(message.get("from_version")))
        case action:
            raise _malformed(f"action is neither cancel nor rollback: {_shown(action)}")


def encode_desired(desired: Desired) -> bytes:
    """Return the payload that `parse_desired` takes for the same.

    Raises:
        MessageError: a device would refuse it.
    """
    message: dict[str, object] = {
        "deployment_id": desired.deployment_id,
        "version": desired.version,
    }
    if desired.order_ms is not None:
        message["order"] = desired.order_ms
    payload = _dumps(message | {"rollout": {"percent": desired.percent}})
    parse_desired(payload)
    return payload


def encode_command(command: Cancel | RollBack) -> bytes:
    """Return the payload that `parse_command` takes for the same.

    Raises:
        MessageError: a device would refuse it.
    """
    match command:
        case Cancel():
            asked = {"action": "cancel", "deployment_id": command.deployment_id}
        case RollBack():
            asked = {"action": "rollback", "from_version": command.from_version}
    payload = _dumps({"id": command.id, **asked})
    parse_command(payload)
    return payload


def in_rollout(deployment_id: str, device_id: str, percent: int) -> bool:
    """Say whether a device takes part: raising `percent` only ever adds devices."""
    digest = hashlib.sha256(f"{deployment_id}:{device_id}".encode()).hexdigest()
    return int(digest[:8], 16) % 100 < percent


def _dumps(message: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(message)
    except orjson.JSONEncodeError as error:  # a lone surrogate, a number beyond 64 bits
        raise _malformed(str(error)) from error


def _parse(payload: bytes) -> dict[str, object]:
    if len(payload) > LIMIT_BYTES:
        raise MessageError("message_too_large", f"{len(payload)} bytes, more than {LIMIT_BYTES}")
    try:
        message = parse_object(payload, LIMIT_BYTES)
    except StrictJsonError as error:
        raise _malformed(f"no strict JSON: {error}") from error
    schema = message.get("schema", SCHEMA)
    if type(schema) is not int or schema != SCHEMA:
        raise _malformed(f"schema is not {SCHEMA}: {_shown(schema)}")
    return message


def _id(message: dict[str, object], key: str) -> str:
    value = message.get(key)
    if value is None:
        raise _malformed(f"{key} is missing")
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise _malformed(
            f"{key} is not 1 to 64 letters, digits, '.', '_', '-', the first no sign: "
            f"{_shown(value)}"
        )
    return value


def _new_id(message: dict[str, object], key: str) -> str:
    value = _id(message, key)
    if value.startswith(OWN_IDS):
        raise MessageError(
            "id_reserved", f"devices give ids that begin with {', '.join(OWN_IDS)} themselves"
        )
    return value


def _version(value: object) -> str:
    if not isinstance(value, str):
        raise _malformed(f"the version is no string: {_shown(value)}")
    try:
        return Version(value).text
    except ValueError as error:
        raise _malformed(f"{_shown(value)} is no version: three numbers such as 1.4.0") from error


def _percent(rollout: object) -> int:
    # A misspelt or missing percent must not mean everybody.
    percent = rollout.get("percent") if isinstance(rollout, dict) else None
    if type(percent) is not int or not 0 <= percent <= 100:
        raise _malformed(f"rollout has no percent of 0 to 100: {_shown(rollout)}")
    return percent


def _malformed(detail: str) -> MessageError:
    return MessageError("message_malformed", detail)


def _shown(value: object) -> str:
    """Return a hostile value for a message: printable, and short even where it is not."""
    return ascii(value if isinstance(value, int | str | None) else type(value).__name__)[:80]

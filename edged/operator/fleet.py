"""What an operator does with a fleet: deploy, widen a rollout, roll back, cancel, wait.

Everything is one message to the broker; what becomes of it the devices say.
"""

from __future__ import annotations

import difflib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from edged.errors import OperatorError
from edged.models.desired import (
    Cancel,
    Desired,
    RollBack,
    encode_command,
    encode_desired,
    topic_of,
)
from edged.models.records import STATUS
from edged.operator.fleetdesk import Desk
from edged.operator.fleetplan import (
    CANCELED,
    ROLLED_BACK,
    To,
    Vigil,
    addressed,
    order_after,
    raised,
    wanted,
)

ROLLBACK_ID = "rollback-"

Sent = Callable[[str, bytes], None]


def new_id(model: str, version: str) -> str:
    """Return a fresh deployment id that people can read."""
    tail = secrets.token_hex(4)
    words = f"{model}-{version}".replace("+", "-")
    return f"{words[: 63 - len(tail)]}-{tail}"


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def check_known(desk: Desk, to: To, model: str) -> None:
    """See that somebody will hear of a message; asked only where devices are known at all.

    Raises:
        OperatorError: `device_unknown`, `group_empty`, `fleet_lacks_model`.
    """
    with desk.fleet() as fleet:
        known = {name: set(device.models) for name, device in fleet.devices.items()}
        heard = addressed(fleet, to, model)
    if not known:
        return
    anyway = "If it is to come: --yes."
    for name in to.devices:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            guess = f"; did you mean {close[0]}?" if close else "."
            raise OperatorError(
                "device_unknown", f"no device {name} has been heard of{guess}", advice=anyway
            )
        if known[name] and model not in known[name]:
            have = ", ".join(sorted(known[name]))
            raise OperatorError(
                "fleet_lacks_model", f"{name} has no model {model}, but {have}.", advice=anyway
            )
    if not heard and to.group != "all":
        raise OperatorError(
            "group_empty", f"no known device with {model} is in {to}.", advice=anyway
        )
    if not heard:
        raise OperatorError("fleet_lacks_model", f"no known device has {model}.", advice=anyway)


def deploy(desk: Desk, model: str, desired: Desired, to: To, *, retain: bool, sent: Sent) -> None:
    """Send one Desired to everybody it is for; its order is set here.

    Raises:
        OperatorError: `id_reused`: what is wanted there under this id is another version.
        MessageError: a device would refuse it.
        DeviceError: `broker_*`.
    """
    with desk.fleet() as fleet:
        held = [fleet.desired.get((name, model)) for name in to.names]
    for one in held:
        if (
            one is not None
            and one.deployment_id == desired.deployment_id
            and (one.version != desired.version)
        ):
            raise OperatorError(
                "id_reused", f"{one.deployment_id} stands for {one.version} already."
            )
    order_ms = max(order_after(one, now_ms()) for one in held)
    payload = encode_desired(replace(desired, order_ms=order_ms))
    _send(desk, to.topics(desk.prefix, model), payload, retain=retain, sent=sent)


def widen(
    desk: Desk, model: str, deployment_id: str, percent: int, to: To, *, force: bool, sent: Sent
) -> None:
    """Raise the percentage of what is wanted, under the same id.

    Raises:
        OperatorError: `desired_unknown`, `desired_differs`, `rollout_lowered`.
        DeviceError: `broker_*`.
    """
    held = _held(desk, model, deployment_id, to)
    payloads = [encode_desired(raised(one, percent, now_ms(), force=force)) for one in held]
    for topic, payload in zip(to.topics(desk.prefix, model), payloads, strict=True):
        _send(desk, (topic,), payload, retain=True, sent=sent)


def reached(desk: Desk, model: str, deployment_id: str, to: To) -> int:
    """Return the percentage that a rollout has at present.

    Raises:
        OperatorError: `desired_unknown`, `desired_differs`.
    """
    return max(one.percent for one in _held(desk, model, deployment_id, to))


def roll_back(desk: Desk, model: str, version: str, devices: Sequence[str], *, sent: Sent) -> Vigil:
    """Tell devices to leave a version; the command's id is the deployment's."""
    command = RollBack(f"{ROLLBACK_ID}{secrets.token_hex(4)}", version)
    topics = _command(desk, model, command, devices, sent)
    return Vigil(model, command.id, To(tuple(devices)), ROLLED_BACK, topics)


def cancel(
    desk: Desk, model: str, deployment_id: str, devices: Sequence[str], *, sent: Sent
) -> Vigil:
    """Tell devices to give a deployment up."""
    command = Cancel(f"cancel-{secrets.token_hex(4)}", deployment_id)
    topics = _command(desk, model, command, devices, sent)
    return Vigil(model, deployment_id, To(tuple(devices)), CANCELED, topics)


def running(desk: Desk, model: str, version: str) -> tuple[str, ...]:
    """Return the devices that are known to run a version."""
    with desk.fleet() as fleet:
        return tuple(
            sorted(
                name
                for name, device in fleet.devices.items()
                if model in device.models and device.models[model].active == version
            )
        )


def under_way(desk: Desk, model: str, deployment_id: str) -> tuple[str, ...]:
    """Return the devices that are known to be busy with a deployment."""
    with desk.fleet() as fleet:
        return tuple(
            sorted(
                name
                for name, device in fleet.devices.items()
                if (seen := device.models.get(model)) is not None
                and seen.last is not None
                and seen.last.deployment_id == deployment_id
                and seen.last.word not in STATUS
            )
        )


def _held(desk: Desk, model: str, deployment_id: str, to: To) -> list[Desired]:
    with desk.fleet() as fleet:
        return [wanted(fleet.desired.get((name, model)), deployment_id) for name in to.names]


def _command(
    desk: Desk, model: str, command: Cancel | RollBack, devices: Sequence[str], sent: Sent
) -> tuple[str, ...]:
    topics = tuple(topic_of(desk.prefix, name, model, "command") for name in devices)
    _send(desk, topics, encode_command(command), retain=False, sent=sent)
    return topics


def _send(desk: Desk, topics: Sequence[str], payload: bytes, *, retain: bool, sent: Sent) -> None:
    for topic in topics:
        desk.publish(topic, payload, retain=retain)
        sent(topic, payload)

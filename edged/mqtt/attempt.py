"""A connection in passing, of which the broker keeps nothing: to see whether it would take us."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edged.config import MqttConfig
from edged.errors import DeviceError
from edged.mqtt import reasons
from edged.mqtt.connection import Connection
from edged.mqtt.inbound import Inbound
from edged.mqtt.status import Refusal, Version


def try_broker(config: MqttConfig, client_id: str, limit_s: float) -> Refusal | None:
    """Connect once and hang up, leaving nothing behind; None where the broker accepts.

    Args:
        config: `[mqtt]`.
        client_id: not the device's own: that would throw out a running daemon.
        limit_s: for each of TCP, TLS and CONNACK, and for each version of the protocol tried.
    """
    try:
        line = connect(config, client_id, limit_s)
    except DeviceError as error:
        return Refusal(error.reason, error.explain())
    line.disconnect()
    line.close()
    return None


def connect(
    config: MqttConfig,
    client_id: str,
    limit_s: float,
    *,
    on_message: Callable[[Connection, Inbound], None] = lambda _line, message: (
        message.acknowledge()
    ),
    wake: Callable[[], None] = lambda: None,
) -> Connection:
    """Return a connection that the broker has accepted; whoever gets it closes it.

    Args:
        config: `[mqtt]`.
        client_id: not the device's own: that would throw out a running daemon.
        limit_s: for each of TCP, TLS and CONNACK, and for each version of the protocol tried.
        on_message: as `Connection`'s.
        wake: called on another thread after something happened to the connection.

    Raises:
        DeviceError: `broker_*`.
    """
    versions: tuple[Version, ...] = (
        ("5", "3.1.1") if config.version == "auto" else (config.version,)
    )
    woken = threading.Event()

    def woke() -> None:
        woken.set()
        wake()

    for version in versions:
        line = Connection(
            config,
            client_id=client_id,
            version=version,
            will=None,
            on_message=on_message,
            wake=woke,
            connect_limit_s=limit_s,
        )
        try:
            line.open()
            _await_answer(line, woken, limit_s)
        except DeviceError as error:
            line.close()
            if version == versions[-1] or error.reason not in reasons.MAYBE_VERSION:
                raise
        except BaseException:
            line.close()
            raise
        else:
            break
    return line


def _await_answer(line: Connection, woken: threading.Event, limit_s: float) -> None:
    """Wait until the broker accepts.

    Raises:
        DeviceError: it does not.
    """
    limit_mono_s = time.monotonic() + limit_s
    while not line.accepted and line.ended is None:
        left_s = limit_mono_s - time.monotonic()
        if left_s <= 0:
            raise reasons.silent("CONNACK", limit_s)
        woken.wait(left_s)
        woken.clear()
    if line.ended is not None:
        raise line.ended

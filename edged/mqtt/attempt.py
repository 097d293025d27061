"""One attempt to connect, to see whether the broker would take this device."""

from __future__ import annotations

import threading

from edged.config import MqttConfig
from edged.errors import DeviceError
from edged.mqtt import reasons
from edged.mqtt.connection import Connection
from edged.mqtt.status import Refusal, Version


def try_broker(config: MqttConfig, client_id: str, limit_s: float) -> Refusal | None:
    """Connect once and hang up, leaving nothing behind; None where the broker accepts.

    Args:
        config: `[mqtt]`.
        client_id: not the device's own: that would throw out a running daemon.
        limit_s: for each of TCP, TLS and CONNACK, and for each version of the protocol tried.
    """
    versions: tuple[Version, ...] = (
        ("5", "3.1.1") if config.version == "auto" else (config.version,)
    )
    error: DeviceError | None = None
    for version in versions:
        error = _try_version(config, client_id, limit_s, version)
        if error is None or error.reason not in reasons.MAYBE_VERSION:
            break
    return None if error is None else Refusal(error.reason, error.explain())


def _try_version(
    config: MqttConfig, client_id: str, limit_s: float, version: Version
) -> DeviceError | None:
    woken = threading.Event()
    line = Connection(
        config,
        client_id=client_id,
        version=version,
        will=None,
        on_message=lambda _line, _message: None,
        wake=woken.set,
        connect_limit_s=limit_s,
    )
    try:
        line.open()
        woken.wait(limit_s)
        if line.ended is None and line.accepted:
            line.disconnect()
            return None
        return line.ended or reasons.silent("CONNACK", limit_s)
    except DeviceError as error:
        return error
    finally:
        line.close()

"""Devices reduced to what a desk sees of them: they answer every Desired at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType

import orjson
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from edged.models.desired import in_rollout, parse_desired
from sim.broker import PATIENCE_S


class Answering:
    """Devices with the model `m` at 1.0.0; what they are sent is kept in `desired`.

    Args:
        port: of the broker.
        devices: name to the state that each deployment ends in there; "" for never.
    """

    def __init__(self, port: int, devices: Mapping[str, str]) -> None:
        self._port, self._devices = port, devices
        self.desired: list[dict] = []
        self._client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=True)
        self._client.on_message = self._answer
        self._ready = threading.Event()
        self._client.on_subscribe = lambda *_: self._ready.set()

    def __enter__(self) -> Answering:
        self._client.connect("127.0.0.1", self._port, 30)
        self._client.loop_start()
        self._client.subscribe("edged/+/update/m/desired", 1)
        assert self._ready.wait(PATIENCE_S)
        for name in self._devices:
            self._say(name, "available", b"online")
            self._say(name, "model/m", {"active": {"version": "1.0.0"}})
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._client.on_message = self._client.on_subscribe = None

    def leave(self, name: str, version: str) -> None:
        """Have a device fall back from a version by itself."""
        said = {"deployment_id": "auto-1", "version": version, "state": "ROLLED_BACK"}
        self._say(name, "update/m/state", said | {"reason": "active_crashed"})

    def _answer(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        desired = parse_desired(message.payload)
        self.desired.append(orjson.loads(message.payload) | {"at": time.monotonic()})
        for name, end in self._devices.items():
            if end and in_rollout(desired.deployment_id, name, desired.percent):
                said = {"deployment_id": desired.deployment_id, "version": desired.version}
                self._say(name, "update/m/state", said | {"state": end, "reason": ""})
                if end != "COMMITTED":
                    self._say(name, "update/m/result", said | {"status": end, "detail": "why"})

    def _say(self, name: str, tail: str, message: dict | bytes) -> None:
        payload = message if isinstance(message, bytes) else orjson.dumps(message)
        self._client.publish(f"edged/{name}/{tail}", payload, 1, retain=True)

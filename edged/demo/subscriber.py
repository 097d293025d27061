"""A subscriber to one device: passes on what arrives, and counts what was lost."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edged.demo.processes import DemoError

_SUBSCRIBED_S = 10.0
_RETAINED = ("available", "info", "model/belt", "update/belt/state")


def device_name() -> str:
    """Return a device id of this run's own, so that two demos on one broker do not mix."""
    return f"demo-{secrets.token_hex(2)}"


class Subscriber:
    """Receives all that a device says.

    Args:
        port: of the broker on localhost.
        device_id: of the device.
        receive: called with the topic behind the device's own and the JSON, for each live message;
            on a thread of the client's.

    Raises:
        DemoError: the broker does not answer.
    """

    def __init__(self, port: int, device_id: str, receive: Callable[[str, Any], None]) -> None:
        self._prefix = f"edged/{device_id}/"
        self._receive = receive
        self._subscribed = threading.Event()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311, client_id=""
        )
        self._client.on_connect = lambda client, *_: client.subscribe(f"{self._prefix}#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        # What the device says first is not to be missed.
        if not self._subscribed.wait(_SUBSCRIBED_S):
            raise DemoError("the broker does not answer a subscription")

    def send(self, topic: str, payload: object) -> str:
        """Publish JSON to the device; return topic and payload as they went out."""
        text = orjson.dumps(payload)
        self._client.publish(self._prefix + topic, text, qos=1).wait_for_publish(_SUBSCRIBED_S)
        return f"{self._prefix}{topic} {text.decode()}"

    def close(self) -> None:
        """Take the demo's retained messages off the broker and leave."""
        for topic in _RETAINED:
            sent = self._client.publish(self._prefix + topic, b"", qos=1, retain=True)
            with suppress(RuntimeError, ValueError):  # the broker is gone, and all it held
                sent.wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        if message.retain or not message.payload:
            return
        topic = message.topic.removeprefix(self._prefix)
        if topic == "available":
            self._receive(topic, message.payload.decode())
        else:
            self._receive(topic, orjson.loads(message.payload))


class Sequence:
    """Counts what a subscriber missed of the predictions of one camera. One thread.

    Attributes:
        received: predictions.
        missing: numbers that never came.
        repeated: numbers that came again, or late.
        boots: of the daemon.
        swaps: predictions between which the version changed.
        largest_gap_s: longest between the frames of two that follow each other, of one version.
        swap_gap_s: the same of two versions.
    """

    def __init__(self) -> None:
        self.received = self.missing = self.repeated = self.swaps = 0
        self.boots: list[str] = []
        self.largest_gap_s = self.swap_gap_s = 0.0
        self._last_seq = 0
        self._last: tuple[float, str] | None = None

    def count(self, prediction: dict[str, Any]) -> None:
        """Count one."""
        if prediction["boot"] not in self.boots:
            self.boots.append(prediction["boot"])
            self._last_seq, self._last = 0, None
        seq, version, taken_s = prediction["seq"], prediction["version"], prediction["t"]
        self.received += 1
        self.missing += max(0, seq - self._last_seq - 1)
        self.repeated += seq <= self._last_seq
        self._last_seq = max(seq, self._last_seq)
        if self._last is not None:
            gap_s = taken_s - self._last[0]
            if version == self._last[1]:
                self.largest_gap_s = max(gap_s, self.largest_gap_s)
            else:
                self.swaps += 1
                self.swap_gap_s = max(gap_s, self.swap_gap_s)
        self._last = (taken_s, version)

"""What drift says on MQTT."""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from edged.drift.records import encode_window
from edged.drift.window import Window
from edged.mqtt.client import Session
from edged.mqtt.messages import SCHEMA, Topics
from edged.mqtt.updates import encode_error


class MqttDriftVoice:
    """Publishes.

    Args:
        session: with the broker.
        topics: of this device.
    """

    def __init__(self, session: Session, topics: Topics) -> None:
        self._session = session
        self._topics = topics

    def window(self, window: Window) -> None:
        """Publish a window.

        It waits in the outbox like all that must come, but does not make it write to the disk
        while the broker answers: the ring has it.
        """
        topic = self._topics.drift(window.subject.camera, "window")
        self._session.publish(topic, encode_window(window), qos=1)

    def standing(self, camera: str, standing: Mapping[str, object]) -> None:
        """Have the camera's state stand on the broker."""
        payload = orjson.dumps({"schema": SCHEMA, **standing})
        self._session.set_retained(self._topics.drift(camera, "state"), payload)

    def silence(self, camera: str) -> None:
        """Take the camera's state off the broker."""
        self._session.set_retained(self._topics.drift(camera, "state"), b"")

    def error(self, topic: str, reason: str, detail: str) -> bool:
        """Answer a message; return whether anybody could hear it."""
        if not self._session.online:
            return False
        self._session.publish(self._topics.error, encode_error(topic, reason, detail), qos=0)
        return True

"""What is asked of drift over MQTT, on its way to the thread that does it: bounded, in order."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from edged.errors import MessageError
from edged.models.fields import Fields, FieldsError
from edged.models.strictjson import StrictJsonError, parse_object
from edged.mqtt.inbound import Inbound

Action = Literal["acknowledge", "reset_reference"]
ACTIONS: tuple[Action, ...] = ("acknowledge", "reset_reference")

_LIMIT_BYTES = 4096
_MOST = 32
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Command:
    """`id` tells it from its own repetition."""

    id: str
    action: Action


def parse_command(payload: bytes) -> Command:
    """Return what a message on `drift/<camera>/command` asks for.

    Raises:
        MessageError: `message_malformed`.
    """
    try:
        fields = Fields(parse_object(payload, _LIMIT_BYTES))
        words = "1 to 64 letters, digits, '.', '-' and '_'"
        command_id, asked = fields.match("id", _ID, words), fields.choice("action", ACTIONS)
    except (StrictJsonError, FieldsError) as error:
        raise MessageError("message_malformed", f"{error}.") from error
    return Command(command_id, next(action for action in ACTIONS if action == asked))


class CommandInbox:
    """What has arrived. It outlives connections, sessions and configurations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cameras: Mapping[str, str] = {}
        self._waiting: deque[Inbound] = deque()
        self._ring: Callable[[], None] = lambda: None

    def know(self, cameras: Mapping[str, str]) -> None:
        """Say which camera each topic is about, from now on."""
        with self._lock:
            self._cameras = cameras

    def call(self, ring: Callable[[], None]) -> None:
        """Have `ring` called for each message from now on."""
        with self._lock:
            self._ring = ring
        ring()

    def arrived(self, message: Inbound) -> None:
        """Take a message. Network thread."""
        if message.retained:
            message.acknowledge()  # a command is for now, not for whoever comes later
            return
        with self._lock:
            self._waiting.append(message)
            lost = self._waiting.popleft() if len(self._waiting) > _MOST else None
            ring = self._ring
        if lost is not None:
            lost.acknowledge()
        ring()

    def take(self) -> tuple[str | None, Inbound] | None:
        """Take out the oldest and the camera it is about; None for the camera where none is."""
        with self._lock:
            if not self._waiting:
                return None
            message = self._waiting.popleft()
            return self._cameras.get(message.topic), message

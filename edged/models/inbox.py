"""What has arrived over MQTT and was not looked at yet: bounded, whatever is sent.

One place for each model and source, where the newest message replaces the one before, and a few
for commands. Filled by the network thread, emptied by the updater.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edged.errors import MessageError
from edged.models.desired import LIMIT_BYTES, Address

_MOST_COMMANDS = 16


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message, and where it belongs; `refused` says why it is not even to be read."""

    topic: str
    payload: bytes
    address: Address
    refused: MessageError | None = None


class Inbox:
    """The mailboxes of all models. They outlive connections, sessions and configurations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Mapping[str, Address] = {}
        self._ring: Callable[[], None] = lambda: None
        self._desired: dict[str, Arrival] = {}
        self._commands: deque[Arrival] = deque(maxlen=_MOST_COMMANDS)

    def listen(self, known: Mapping[str, Address], ring: Callable[[], None]) -> None:
        """Take messages on these topics from now on; `ring` is called for each."""
        with self._lock:
            self._known, self._ring = known, ring
            for topic in [topic for topic in self._desired if topic not in known]:
                del self._desired[topic]

    def arrived(self, topic: str, payload: bytes, retained: bool) -> None:
        """Take a message. Network thread."""
        with self._lock:
            address = self._known.get(topic)
            if address is None or (address.kind == "command" and retained):
                return  # a command is for now, not for whoever comes later
            refused = None
            if len(payload) > LIMIT_BYTES:
                words = f"{len(payload)} bytes, more than {LIMIT_BYTES}"
                refused, payload = MessageError("message_too_large", words), b""
            arrival = Arrival(topic, payload, address, refused)
            if address.kind == "command":
                self._commands.append(arrival)
            else:
                self._desired[topic] = arrival
            ring = self._ring
        ring()

    def commands(self) -> list[Arrival]:
        """Take out the commands, oldest first."""
        with self._lock:
            taken = list(self._commands)
            self._commands.clear()
        return taken

    @property
    def waits(self) -> bool:
        """Whether anything is wanted that nobody has looked at."""
        return bool(self._desired)

    def desired(self) -> list[Arrival]:
        """Take out what is wanted."""
        with self._lock:
            taken = list(self._desired.values())
            self._desired.clear()
        return taken

    def put_back(self, arrival: Arrival) -> None:
        """Keep what cannot be dealt with yet, unless something newer has come."""
        with self._lock:
            if arrival.address.kind == "command":
                self._commands.appendleft(arrival)
            elif arrival.topic in self._known:
                self._desired.setdefault(arrival.topic, arrival)

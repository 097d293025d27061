"""What has arrived over MQTT and was not looked at yet: bounded, whatever is sent.

Filled by the network thread, emptied by the updater.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from edged.errors import MessageError
from edged.models.desired import LIMIT_BYTES, Address
from edged.mqtt.inbound import Inbound

# Of each kind; more than the broker delivers without an acknowledgement. So only what nobody
# waits for can be too much, or what an MQTT 3.1.1 broker with a wider window sends.
MOST = 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message, and where it belongs.

    Attributes:
        message: acknowledged once nothing can lose what comes of it.
        address: None for a model that is not configured.
        refused: why it is not even to be read.
    """

    message: Inbound
    address: Address | None
    refused: MessageError | None = None

    def instead_of(self, other: Arrival) -> Arrival:
        """Return this one, which makes another needless, before either is safe.

        One of the two stays unacknowledged: that is what a broker makes up for a crash with.
        """
        if self.message.done is None:
            return replace(self, message=replace(self.message, done=other.message.done))
        other.message.acknowledge()
        return self


class Inbox:
    """What arrives for all models. It outlives connections, sessions and configurations."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Mapping[str, Address] = {}
        self._ring: Callable[[], None] = lambda: None
        self._desired: deque[Arrival] = deque()
        self._commands: deque[Arrival] = deque()

    def know(self, known: Mapping[str, Address]) -> None:
        """Tell these topics from others, from now on; before anything can arrive."""
        with self._lock:
            self._known = known

    def call(self, ring: Callable[[], None]) -> None:
        """Have `ring` called for each message from now on."""
        with self._lock:
            self._ring = ring
        ring()

    def arrived(self, message: Inbound) -> None:
        """Take a message. Network thread."""
        with self._lock:
            ring, address = self._ring, self._known.get(message.topic)
        if address is not None and address.kind == "command" and message.retained:
            message.acknowledge()  # a command is for now, not for whoever comes later
            return
        refused = None
        if address is None:
            refused = MessageError("model_unknown", "no configured model listens to this topic.")
        elif len(message.payload) > LIMIT_BYTES:
            words = f"{len(message.payload)} bytes, more than {LIMIT_BYTES}"
            refused = MessageError("message_too_large", words)
        if refused is not None:
            message = replace(message, payload=b"")
        self._put(Arrival(message, address, refused))
        ring()

    def commands(self) -> list[Arrival]:
        """Take out the commands, oldest first."""
        return self._take(self._commands)

    def desired(self) -> list[Arrival]:
        """Take out everything else, oldest first."""
        return self._take(self._desired)

    def put_back(self, arrivals: Iterable[Arrival]) -> None:
        """Keep what cannot be dealt with yet, oldest first, before what came since."""
        for arrival in reversed(list(arrivals)):
            with self._lock:
                self._queue_of(arrival).appendleft(arrival)

    def _put(self, arrival: Arrival) -> None:
        with self._lock:
            queue = self._queue_of(arrival)
            queue.append(arrival)
            lost = queue.popleft() if len(queue) > MOST else None
        if lost is not None:
            lost.message.acknowledge()

    def _take(self, queue: deque[Arrival]) -> list[Arrival]:
        with self._lock:
            taken = list(queue)
            queue.clear()
        return taken

    def _queue_of(self, arrival: Arrival) -> deque[Arrival]:
        command = arrival.address is not None and arrival.address.kind == "command"
        return self._commands if command else self._desired

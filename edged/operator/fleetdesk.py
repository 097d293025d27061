"""The operator's desk: a connection with the broker, and the fleet as it is heard there.

Unlike a device's session nothing is kept for the desk: what it missed it learns again from the
retained messages of the next connection.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from edged.config import MqttConfig
from edged.errors import DeviceError
from edged.mqtt import reasons
from edged.mqtt.attempt import connect
from edged.mqtt.connection import Connection
from edged.mqtt.inbound import Inbound
from edged.mqtt.status import Timing
from edged.operator.fleetsaid import Said
from edged.operator.fleetview import Fleet

# Lines nobody has read yet; beyond them the oldest are lost, the view is not.
_MOST_SAID = 10_000
_FAILURE = 0x80
_ATTEMPTS = 3
_GOODBYE_S = 0.3


class Desk:
    """Listens to devices and sends them messages; connects again when the broker blinks.

    Args:
        config: `[mqtt]`.
        topics: to listen to, below the prefix; wildcards allowed.
        note: called with a sentence for the person at the desk.
        timing: how long to wait.
        hear: called with the topic and payload of each message, in place of the view of the
            fleet; on the thread of the connection.

    Raises:
        DeviceError: on entering: `broker_*`.
    """

    def __init__(
        self,
        config: MqttConfig,
        topics: Iterable[str],
        note: Callable[[str], None],
        timing: Timing | None = None,
        *,
        hear: Callable[[str, bytes], None] | None = None,
    ) -> None:
        self._config = config
        self._hear = hear
        self._topics = [f"{config.topic_prefix}/{topic}" for topic in topics]
        self._note = note
        self._timing = timing or Timing(retry_most_s=15.0)
        self._client_id = f"edgectl-{secrets.token_hex(6)}"
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._fleet = Fleet(config.topic_prefix)
        self._said: deque[Said] = deque(maxlen=_MOST_SAID)
        self._line: Connection | None = None
        self._failures = 0
        self._trouble = ""  # the reason that was noted last
        self._next_try_mono_s = 0.0

    @property
    def prefix(self) -> str:
        """The topic prefix."""
        return self._config.topic_prefix

    def __enter__(self) -> Self:
        self._connected()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        line = self._line
        if line is not None:
            line.disconnect()
            limit_mono_s = time.monotonic() + _GOODBYE_S
            while line.ended is None and time.monotonic() < limit_mono_s:
                self._wake.wait(0.02)
                self._wake.clear()
        self._hang_up()

    @contextmanager
    def fleet(self) -> Iterator[Fleet]:
        """Give the fleet as it is known; nothing arrives meanwhile, so be short."""
        with self._lock:
            yield self._fleet

    def heard(self) -> list[Said]:
        """Return what was said since the last call."""
        with self._lock:
            said = list(self._said)
            self._said.clear()
        return said

    def listen(self, seconds: float) -> None:
        """Listen for so long."""
        limit_mono_s = time.monotonic() + seconds
        while (left_s := limit_mono_s - time.monotonic()) > 0:
            self.wait(left_s)

    def wait(self, limit_s: float) -> None:
        """Wait until something may have happened, and see that the desk is connected."""
        if self._line is not None and (ended := self._line.ended) is not None:
            self._hang_up()
            self._tell(ended)
        now_mono_s = time.monotonic()
        if self._line is None and now_mono_s >= self._next_try_mono_s:
            try:
                self._connected()
                self._note("The broker is back.")
            except DeviceError as error:
                self._failures += 1
                self._tell(error)
                pause_s = self._timing.pause_s(self._failures, 0.5)
                self._next_try_mono_s = time.monotonic() + pause_s
        if self._line is None:
            limit_s = min(limit_s, max(0.0, self._next_try_mono_s - now_mono_s))
        self._wake.wait(limit_s)
        self._wake.clear()

    def publish(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Send a message (QoS 1) and wait until the broker has it.

        Where the connection breaks meanwhile it is sent again: to devices it is the same message.

        Raises:
            DeviceError: `broker_refused_publish`, or why there is no connection.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._send(self._connected(), topic, payload, retain=retain)
            except DeviceError as error:
                if attempt == _ATTEMPTS or error.reason == "broker_refused_publish":
                    raise
                self._hang_up()
                time.sleep(self._timing.retry_first_s)
            else:
                return

    def _send(self, line: Connection, topic: str, payload: bytes, *, retain: bool) -> None:
        number = line.send(topic, payload, qos=1, retain=retain)
        codes: dict[int, int] = {}
        self._await(line, "PUBACK", lambda: _collected(line, codes, number))
        if codes[number] >= _FAILURE:
            raise DeviceError(
                "broker_refused_publish",
                f"The broker does not let this user publish to {topic}.",
                advice="Check its permissions.",
            )

    def _connected(self) -> Connection:
        """Return the connection, made and subscribed where there is none.

        Raises:
            DeviceError: `broker_*`.
        """
        if self._line is not None and self._line.ended is None:
            return self._line
        self._hang_up()
        line = connect(
            self._config,
            self._client_id,
            self._timing.connect_s,
            on_message=self._receive,
            wake=self._wake.set,
        )
        try:
            # Not at QoS 1: of a burst of retained messages mosquitto then drops all after 1000.
            asked = {number: one for one in self._topics for number in line.subscribe([one], qos=0)}
            self._await(line, "SUBACK", lambda: asked.keys() <= line.subacks.keys())
        except BaseException:
            line.close()
            raise
        for number, topic in asked.items():
            if any(code >= _FAILURE for code in line.subacks[number]):
                self._note(f"The broker does not let this user read {topic}.")
        self._line, self._failures, self._trouble = line, 0, ""
        return line

    def _await(self, line: Connection, what: str, done: Callable[[], bool]) -> None:
        limit_mono_s = time.monotonic() + self._timing.answer_s
        while not done():
            if line.ended is not None:
                raise line.ended
            left_s = limit_mono_s - time.monotonic()
            if left_s <= 0:
                raise reasons.silent(what, self._timing.answer_s)
            self._wake.wait(min(left_s, 1.0))
            self._wake.clear()

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
            self._next_try_mono_s = 0.0

    def _tell(self, error: DeviceError) -> None:
        if error.reason != self._trouble:
            self._trouble = error.reason
            self._note(f"{error.explain()} Trying again. ({error.reason})")

    def _receive(self, _line: Connection, message: Inbound) -> None:
        message.acknowledge()
        if self._hear is not None:
            self._hear(message.topic, message.payload)
            return
        with self._lock:
            said = self._fleet.take(message.topic, message.payload)
            if said is not None:
                self._said.append(said)
                self._wake.set()


def _collected(line: Connection, codes: dict[int, int], number: int) -> bool:
    while line.acks:
        acknowledged, code = line.acks.popleft()
        codes[acknowledged] = code
    return number in codes

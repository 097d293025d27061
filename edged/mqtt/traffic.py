"""What goes out, and in which order: retained state, `online`, backlog, live.

Knows messages and acknowledgements, and nothing of connecting: a `Line` is put in, used up and
taken out. What it left unacknowledged goes back to the front of the outbox, so QoS 1 messages
arrive at least once and in order. While all goes well it needs no thread of its own: publishing
takes in the acknowledgements of what was published before.

Locking: `_lock` guards all of it, the outbox too, and is held for one window of messages at most.
The line's own locks are taken inside it, never the other way round. So no publisher ever waits for
the network or for the disk.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edged.mqtt.messages import OFFLINE, ONLINE
from edged.mqtt.outbox import Changes, Entry, Outbox
from edged.mqtt.status import Dropped

_LOG = logging.getLogger(__name__)

# Reason codes from here on are failures, MQTT 5 section 2.4.
_FAILURE = 0x80
# QoS 0 messages that the system has not taken yet: more means the broker reads nothing.
_UNSENT_LIMIT = 20
# So many connections in a row must end on a message before that message is blamed.
_BLAME_AFTER = 5


class Line(Protocol):
    """An accepted connection.

    Attributes:
        window: most unacknowledged messages.
        acks: (message id, reason code) of messages that are done; filled by another thread.
        calls_on_ack: whether somebody is to be woken for each of them.
    """

    window: int
    acks: deque[tuple[int, int]]
    calls_on_ack: bool

    def fits(self, topic: str, payload: bytes) -> bool:
        """Return whether the broker takes packets as large as this one."""
        ...

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Send without waiting; return the id that will appear in `acks`."""
        ...


@dataclass(frozen=True, slots=True)
class TrafficCounts:
    """A snapshot: messages in the outbox, sent and not acknowledged, and lost."""

    queued: int
    queued_bytes: int
    in_flight: int
    dropped: Dropped


class Traffic:
    """The messages of one session.

    Args:
        available: topic of `online` and `offline`.
        outbox: where messages wait.
        monotonic: seconds.
    """

    def __init__(self, available: str, outbox: Outbox, monotonic: Callable[[], float]) -> None:
        self._available = available
        self._outbox = outbox
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._retained: dict[str, bytes] = {}
        self._unsaid: dict[str, None] = {}  # retained topics to send, in order
        self._born = False  # `online` went out on this line, and `offline` did not
        self._careful = False  # the last line broke: one message at a time, to know which it was
        self._in_flight: dict[int, Entry | None] = {}  # None: state, said anew on the next line
        self._unsent: set[int] = set()
        self._suspect: Entry | None = None
        self._suspicion = 0
        self._told: set[int] = set()
        self._away = 0
        self._refused = 0

    def counts(self) -> TrafficCounts:
        """Return a snapshot."""
        with self._lock:
            self._take_acks(self._line)
            lost = self._outbox.dropped
            dropped = Dropped(lost.full, lost.stale, self._away, self._refused)
            return TrafficCounts(
                len(self._outbox), self._outbox.size_bytes, len(self._in_flight), dropped
            )

    def publish(self, entry: Entry) -> bool:
        """Send, or keep until there is room on a line (QoS 1), or drop (QoS 0); never waits.

        Returns:
            Whether `send_next` is due: it is kept although there is a line.
        """
        with self._lock:
            self._take_acks(self._line)
            line = self._line if self._born else None
            if entry.qos == 0:
                if line is None or len(self._unsent) >= _UNSENT_LIMIT:
                    self._away += 1
                else:
                    self._send(line, entry)
                return False
            if not self._outbox.admit(entry):
                return False
            if line is not None and not self._unsaid and not self._outbox and self._room(line):
                self._send(line, entry)
                return False
            self._outbox.put(entry)
            return self._line is not None

    def set_retained(self, topic: str, payload: bytes) -> bool:
        """Remember what `topic` holds, to be said by `send_next`; return whether it changed."""
        with self._lock:
            if self._retained.get(topic) == payload:
                return False
            self._retained[topic] = payload
            self._unsaid[topic] = None
            return True

    def open(self, line: Line) -> None:
        """Begin with an accepted connection: all retained state is to be said again."""
        with self._lock:
            self._line = line
            self._born = False
            self._unsaid = dict.fromkeys(self._retained)
            self._told.clear()

    def send_next(self) -> bool:
        """Send what is first in order; return whether there was something, and room for it."""
        with self._lock:
            line = self._line
            if line is None or not self._room(line):
                return False
            if self._unsaid:
                topic = next(iter(self._unsaid))
                del self._unsaid[topic]
                self._say(line, topic, self._retained[topic])
            elif not self._born:
                self._born = True
                self._say(line, self._available, ONLINE)
            else:
                entry = self._outbox.take(self._monotonic())
                if entry is None:
                    return False
                self._send(line, entry)
            return True

    def collect(self, line: Line) -> None:
        """Take in the acknowledgements that have arrived on `line`."""
        with self._lock:
            self._take_acks(line)

    def may_pause(self) -> bool:
        """Have the line call for each acknowledgement as long as something waits for one.

        Returns:
            Whether to wait for a call now; otherwise acknowledgements came before it was asked to.
        """
        with self._lock:
            line = self._line
            if line is None:
                return True
            line.calls_on_ack = bool(self._unsaid or self._outbox or not self._born)
            return not (line.calls_on_ack and line.acks)

    def changes(self, before_mono_s: float) -> Changes:
        """Return what is new for the disk, see `Outbox.changes`: without a line, all of it."""
        with self._lock:
            self._take_acks(self._line)
            return self._outbox.changes(before_mono_s if self._line else float("inf"))

    def say_offline(self, line: Line) -> None:
        """Publish nothing more on `line` but `offline`."""
        with self._lock:
            self._born = False
            self._say(line, self._available, OFFLINE)

    @property
    def online(self) -> bool:
        """Whether `online` was said on the present line, so that QoS 0 goes out."""
        return self._line is not None and self._born

    @property
    def drained(self) -> bool:
        """Whether nothing is waiting and all that was sent has been acknowledged."""
        with self._lock:
            return not (self._unsaid or self._outbox or self._in_flight)

    @property
    def quiet(self) -> bool:
        """Whether all that was sent has been acknowledged."""
        with self._lock:
            return not self._in_flight

    def shut(self) -> None:
        """Send nothing more on the line: it ended. What comes now waits in the outbox."""
        with self._lock:
            self._line = None

    def put_back(self, *, hung_up: bool) -> None:
        """Put what was not acknowledged back in front, after `shut` and the last `collect`.

        Args:
            hung_up: the other side ended the connection; only then can a message be the cause.
        """
        with self._lock:
            entries = [entry for entry in self._in_flight.values() if entry is not None]
            self._in_flight.clear()
            self._unsent.clear()
            if hung_up and entries:
                if self._careful and self._blamed(entries[0]):
                    self._refuse(0, entries[0].topic)
                    self._outbox.forget(entries.pop(0))
                self._careful = True
            self._outbox.put_back(entries)

    def hand_over(self) -> Outbox:
        """Return the outbox, with all that is not acknowledged in it, for another traffic.

        This one has an empty outbox from now on: a thread that still holds it does no harm.
        """
        self.shut()
        self.put_back(hung_up=False)
        with self._lock:
            outbox, self._outbox = self._outbox, Outbox(1, 1)
            return outbox

    def _take_acks(self, line: Line | None) -> None:
        while line is not None and line.acks:
            number, code = line.acks.popleft()
            self._unsent.discard(number)
            if number not in self._in_flight:
                continue
            entry = self._in_flight.pop(number)
            if entry is not None:
                self._careful = False
                self._outbox.forget(entry)
            if code >= _FAILURE:
                self._refuse(code, "" if entry is None else entry.topic)

    def _room(self, line: Line) -> bool:
        return len(self._in_flight) < (1 if self._careful else line.window)

    def _send(self, line: Line, entry: Entry) -> None:
        if not line.fits(entry.topic, entry.payload):
            self._refuse(0x95, entry.topic)
            entry.too_large = True
            if entry.qos == 1:
                self._outbox.forget(entry)
            return
        number = line.send(entry.topic, entry.payload, qos=entry.qos, retain=entry.retain)
        if entry.qos == 0:
            self._unsent.add(number)
        else:
            self._in_flight[number] = entry

    def _say(self, line: Line, topic: str, payload: bytes) -> None:
        if not line.fits(topic, payload):
            self._refuse(0x95, topic)
            return
        self._in_flight[line.send(topic, payload, qos=1, retain=True)] = None

    def _refuse(self, code: int, topic: str) -> None:
        self._refused += 1
        if code not in self._told:  # once per kind and connection, not once per message
            self._told.add(code)
            _LOG.warning("the broker does not take messages (code 0x%02x): %s", code, topic)

    def _blamed(self, first: Entry) -> bool:
        """Return whether connection after connection ended on this message, sent alone.

        A broker of MQTT 3.1.1 can refuse a message (too large, topic not allowed) only by hanging
        up. Sent first on each new connection, it would end them all.
        """
        self._suspicion = self._suspicion + 1 if first is self._suspect else 1
        self._suspect = first
        return self._suspicion >= _BLAME_AFTER

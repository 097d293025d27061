"""Messages that the broker has not taken yet: bounded, in order, losses counted.

The session puts messages here while the broker is away, takes them in order when it is back,
and puts back at the front what a broken connection left unacknowledged. Every operation is
O(1) per message; time is an argument. The session calls it under its own lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prediction", "result", "other"]

PREDICTION_AGE_S = 300.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One message on its way.

    Attributes:
        topic: where to; no wildcards.
        payload: the bytes.
        qos: 0 or 1.
        retain: whether the broker keeps it.
        created_mono_s: monotonic seconds at which it was published.
        kind: a `prediction` grows stale; nothing else does.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    created_mono_s: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class OutboxDropped:
    """Messages lost since the start: `full`: no room; `stale`: prediction too old."""

    full: int
    stale: int


class MemoryOutbox:
    """An outbox that forgets everything when the process ends.

    Attributes:
        capacity: most messages it holds.
    """

    def __init__(self, capacity: int, *, prediction_age_s: float = PREDICTION_AGE_S) -> None:
        if capacity < 1:
            raise ValueError(f"an outbox holds at least 1 message, not {capacity}")
        self.capacity = capacity
        self._prediction_age_s = prediction_age_s
        self._entries: deque[Entry] = deque()
        self._full = 0
        self._stale = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def dropped(self) -> OutboxDropped:
        """What was lost so far, by cause."""
        return OutboxDropped(full=self._full, stale=self._stale)

    def put(self, entry: Entry) -> None:
        """Append; when full, the oldest message is dropped."""
        if len(self._entries) >= self.capacity:
            self._entries.popleft()
            self._full += 1
        self._entries.append(entry)

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put `entries`, oldest first, in front of all others; the oldest that do not fit drop."""
        room = self.capacity - len(self._entries)
        fitting = entries[max(0, len(entries) - room) :]
        self._full += len(entries) - len(fitting)
        self._entries.extendleft(reversed(fitting))

    def take(self, now_mono_s: float) -> Entry | None:
        """Remove and return the oldest message that is still worth sending, or None."""
        while self._entries:
            entry = self._entries.popleft()
            age_s = now_mono_s - entry.created_mono_s
            if entry.kind == "prediction" and age_s > self._prediction_age_s:
                self._stale += 1
                continue
            return entry
        return None

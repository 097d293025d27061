"""Messages that the broker has not acknowledged: bounded, in order, losses counted. Pure.

Every message gets a number that rises in order of publishing and keeps it for life. The outbox
holds those that wait, and knows of all, also of those on their way, which have no row on disk yet.
Bounds are on what waits; what is on its way is bounded by the connection's window. Every operation
is O(1) per message, amortised. The traffic calls it under its lock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prediction", "result", "other"]

PREDICTION_AGE_S = 300.0


@dataclass(slots=True, eq=False)
class Entry:
    """One message on its way. Others than traffic and outbox only read; not frozen: that is slow.

    Attributes:
        topic: where to; no wildcards.
        payload: the bytes.
        qos: 0 or 1.
        retain: whether the broker keeps it.
        created_mono_s: monotonic seconds at which it was published.
        kind: a `prediction` grows stale and is the first to go; a `result` always gets a row.
        key: no second message with the same key is taken while this one is held; "" for none.
        number: its place in the order, from 1; 0 before it has one.
        too_large: it was dropped and would be again: outbox or broker do not take so much.
    """

    topic: str
    payload: bytes
    qos: int
    retain: bool
    created_mono_s: float
    kind: Kind
    key: str = ""
    number: int = 0
    too_large: bool = False

    @property
    def size_bytes(self) -> int:
        """What counts against the bound: payload and topic."""
        return len(self.payload) + len(self.topic)


@dataclass(frozen=True, slots=True)
class OutboxDropped:
    """Messages lost since the start: `full`: no room; `stale`: prediction too old."""

    full: int
    stale: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What the disk has not been told yet.

    Attributes:
        rowless: messages that get a row now, in order.
        gone: numbers of messages that had got one and are held no more.
        lapsed: numbers of predictions that had got one and were dropped: whoever reads them would
            drop them again, so they need not be deleted at once.
    """

    rowless: Sequence[Entry]
    gone: Sequence[int]
    lapsed: Sequence[int]


class Outbox:
    """The messages of one device.

    Args:
        messages: most that wait.
        size_bytes: most that those take, payload and topic.
        prediction_age_s: age at which a prediction that waits is dropped.
    """

    def __init__(
        self, messages: int, size_bytes: int, *, prediction_age_s: float = PREDICTION_AGE_S
    ) -> None:
        self._prediction_age_s = prediction_age_s
        self._predictions: deque[Entry] = deque()
        self._lasting: deque[Entry] = deque()  # all others
        self._size_bytes = 0
        self._last_number = 0
        self._keys: set[str] = set()
        self._rowless: dict[int, Entry] = {}
        self._gone: list[int] = []
        self._lapsed: list[int] = []
        self._full = 0
        self._stale = 0
        self._messages_limit, self._bytes_limit = messages, size_bytes
        self.set_bounds(messages, size_bytes)

    def __len__(self) -> int:
        return len(self._predictions) + len(self._lasting)

    @property
    def size_bytes(self) -> int:
        """Payloads and topics of what waits."""
        return self._size_bytes

    @property
    def dropped(self) -> OutboxDropped:
        """What was lost so far, by cause."""
        return OutboxDropped(full=self._full, stale=self._stale)

    def set_bounds(self, messages: int, size_bytes: int) -> None:
        """Change the bounds; what does not fit drops."""
        if messages < 1 or size_bytes < 1:
            raise ValueError(f"an outbox holds something, not {messages} in {size_bytes} bytes")
        self._messages_limit, self._bytes_limit = messages, size_bytes
        self._shrink()

    def admit(self, entry: Entry) -> bool:
        """Number a new message, to be sent or `put` next; False where its key is held already."""
        if entry.key:
            if entry.key in self._keys:
                return False
            self._keys.add(entry.key)
        self._last_number = entry.number = self._last_number + 1
        self._rowless[entry.number] = entry
        return True

    def restore(self, entries: Iterable[Entry]) -> None:
        """Take what an earlier run left on disk, in order of the numbers, before anything new."""
        for entry in entries:
            self._last_number = entry.number
            if entry.key:
                self._keys.add(entry.key)
            if self._could_fit(entry):
                self._queue_of(entry).append(entry)
        self._shrink()

    def put(self, entry: Entry) -> None:
        """Append; drops predictions that have become stale, and what does not fit."""
        while self._predictions and self._is_stale(self._predictions[0], entry.created_mono_s):
            self._drop_stale()
        if self._could_fit(entry):
            self._queue_of(entry).append(entry)
            self._shrink()

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Put `entries`, oldest first, in front of all others; drops what does not fit."""
        for entry in reversed(entries):
            if self._could_fit(entry):
                self._queue_of(entry).appendleft(entry)
        self._shrink()

    def take(self, now_mono_s: float) -> Entry | None:
        """Remove and return the oldest message that is still worth sending, or None."""
        while self._predictions and self._is_stale(self._predictions[0], now_mono_s):
            self._drop_stale()
        queue = self._predictions or self._lasting
        if queue and self._lasting and self._lasting[0].number < queue[0].number:
            queue = self._lasting
        if not queue:
            return None
        entry = queue.popleft()
        self._size_bytes -= entry.size_bytes
        return entry

    def forget(self, entry: Entry) -> None:
        """Let go of a message that was acknowledged or given up, and does not wait any more."""
        self._let_go(entry, self._gone)

    def changes(self, before_mono_s: float) -> Changes:
        """Return what is new for the disk; each message and number is handed out once.

        Args:
            before_mono_s: only messages published before this get a row, and all results.
        """
        rowless = [
            entry
            for entry in self._rowless.values()
            if entry.created_mono_s < before_mono_s or entry.kind == "result"
        ]
        for entry in rowless:
            del self._rowless[entry.number]
        changes = Changes(rowless, self._gone, self._lapsed)
        self._gone, self._lapsed = [], []
        return changes

    def _queue_of(self, entry: Entry) -> deque[Entry]:
        return self._predictions if entry.kind == "prediction" else self._lasting

    def _could_fit(self, entry: Entry) -> bool:
        """Count the bytes of a message; drop it where it alone is more than the bound."""
        size_bytes = entry.size_bytes
        if size_bytes > self._bytes_limit:
            self._full += 1
            entry.too_large = True
            self.forget(entry)
            return False
        self._size_bytes += size_bytes
        return True

    def _is_stale(self, entry: Entry, now_mono_s: float) -> bool:
        return now_mono_s - entry.created_mono_s > self._prediction_age_s

    def _drop_stale(self) -> None:
        self._stale += 1
        self._drop(self._predictions)

    def _shrink(self) -> None:
        """Drop the oldest predictions, and the oldest others only once there are none."""
        while len(self) > self._messages_limit or self._size_bytes > self._bytes_limit:
            self._full += 1
            self._drop(self._predictions or self._lasting)

    def _drop(self, queue: deque[Entry]) -> None:
        entry = queue.popleft()
        self._size_bytes -= entry.size_bytes
        self._let_go(entry, self._lapsed if entry.kind == "prediction" else self._gone)

    def _let_go(self, entry: Entry, ended: list[int]) -> None:
        if self._rowless.pop(entry.number, None) is None:
            ended.append(entry.number)
        if entry.key:
            self._keys.discard(entry.key)

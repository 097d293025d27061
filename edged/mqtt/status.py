"""What the session says about itself, and how long it waits. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edged.errors import Trouble

Version = Literal["5", "3.1.1"]
State = Literal["connected", "connecting", "waiting", "stopped"]


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the session waits, in seconds.

    Attributes:
        connect_s: limit for each of TCP and the TLS handshake.
        answer_s: limit for each of CONNACK and SUBACK...
        guess_s: ...and for CONNACK while the version of the protocol is a guess.
        retry_first_s: pause after the first failure, doubled after each further one...
        retry_most_s: ...up to this; half of it is jitter.
        lasted_s: a connection that held this long counts as a success: the pause starts over.
        farewell_s: limit for the last acknowledgements when stopping.
    """

    connect_s: float = 5.0
    answer_s: float = 10.0
    guess_s: float = 3.0
    retry_first_s: float = 1.0
    retry_most_s: float = 60.0
    lasted_s: float = 30.0
    farewell_s: float = 0.5

    def pause_s(self, failures: int, chance: float) -> float:
        """Return the pause after `failures` (from 1) in a row; `chance` is random in 0..1."""
        whole = min(self.retry_first_s * 2.0 ** min(failures - 1, 32), self.retry_most_s)
        return whole * (0.5 + 0.5 * chance)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages lost since the start, by cause.

    Attributes:
        full: the outbox had no room.
        stale: a prediction had become too old.
        away: QoS 0 while not connected.
        refused: the broker said no, does not take its size, or hung up on it again and again.
    """

    full: int
    stale: int
    away: int
    refused: int


@dataclass(frozen=True, slots=True)
class Condition:
    """How it stands with the broker: the first fields of `SessionStatus`."""

    state: State
    reason: str
    detail: str
    since_mono_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection did not come to be: slug and words."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A snapshot of the session.

    Attributes:
        state: `waiting` is the pause between two attempts.
        reason: slug of why it is not connected; "" while it is, or before the first attempt
            ended. `broker_refused_subscription` with state `connected`: not all inbound topics.
        detail: the same in words.
        since_mono_s: monotonic seconds since when it is connected, or not connected.
        connects: connections that came to be used.
        reconnects: those after the first.
        protocol: of the last accepted connection; "" before the first.
        queued: messages in the outbox.
        queued_bytes: what those take, payload and topic.
        stored: messages that are on disk as well, also those in flight.
        in_flight: messages sent and not acknowledged.
        dropped: messages lost.
        handler_errors: inbound messages whose handler raised.
        spool_trouble: what is wrong with the outbox on disk.
    """

    state: State
    reason: str
    detail: str
    since_mono_s: float
    connects: int
    reconnects: int
    protocol: Version | Literal[""]
    queued: int
    queued_bytes: int
    stored: int
    in_flight: int
    dropped: Dropped
    handler_errors: int
    spool_trouble: Trouble | None

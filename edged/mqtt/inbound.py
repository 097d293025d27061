"""A message from the broker, on its way to whoever subscribed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inbound:
    """One message.

    Attributes:
        topic: where it was published.
        payload: its bytes.
        retained: the broker had kept it, and gives it to whoever subscribes.
        done: acknowledges it, from any thread; once is enough, and without effect after the
            connection has ended. Until then the broker delivers it again on every connection, and
            few others meanwhile. None where nobody waits for it (QoS 0).
    """

    topic: str
    payload: bytes
    retained: bool
    done: Callable[[], None] | None

    def acknowledge(self) -> None:
        """Tell the broker, if it waits, that nothing more is to come of it."""
        if self.done is not None:
            self.done()

"""Where metadata and packages come from: a web server, or a tar on a stick.

A source is not trusted: whatever it says is checked against signed metadata by those who ask.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from edged.errors import FetchError


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a source may take.

    Attributes:
        connect_s: for a connection to be made, per address.
        silence_s: between two pieces.
        rate_bytes_s: bytes per second that must arrive, averaged over each `rate_window_s`.
        rate_window_s: see there.
        poll_s: how often the rate, the deadline and a cancel are looked at.
        metadata_s: for a whole refresh.
        step_bytes: a download that is cut goes on at once when it came this much further.
    """

    connect_s: float = 10.0
    silence_s: float = 30.0
    rate_bytes_s: float = 1024.0
    rate_window_s: float = 30.0
    poll_s: float = 0.25
    metadata_s: float = 120.0
    step_bytes: int = 64 * 1024


def never() -> bool:
    """Say that nobody cancels."""
    return False


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up what may take several requests.

    Attributes:
        limits: per request.
        ends_s: of the monotonic clock.
        cancelled: asked from another thread, often: an Event's `is_set`.
    """

    limits: Limits
    ends_s: float
    cancelled: Callable[[], bool] = never

    @classmethod
    def of(cls, limits: Limits, whole_s: float, cancelled: Callable[[], bool] = never) -> Patience:
        """Return the patience that lasts for `whole_s` from now."""
        return cls(limits, time.monotonic() + whole_s, cancelled)

    def check(self) -> None:
        """Go on or give up.

        Raises:
            FetchError: `fetch_canceled`, `deadline_passed`.
        """
        if self.cancelled():
            raise FetchError("fetch_canceled", "fetching was canceled.")
        if time.monotonic() >= self.ends_s:
            raise FetchError("deadline_passed", "fetching took too long as a whole.")


@dataclass(frozen=True, slots=True)
class Body:
    """The beginning of an answer.

    Attributes:
        start_bytes: where in the file the pieces begin: 0 when the source begins anew.
        total_bytes: length of the whole file as the source says, or None.
        validator: names this state of the file for a later request, or "".
        pieces: the bytes as they come. Raises FetchError, `connection_lost` where they end early.
    """

    start_bytes: int
    total_bytes: int | None
    validator: str
    pieces: Iterator[bytes] = field(repr=False)


class Source(Protocol):
    """Something to fetch files from, by one thread at a time."""

    def open(
        self, url: str, patience: Patience, *, start_bytes: int = 0, validator: str = ""
    ) -> AbstractContextManager[Body]:
        """Begin to fetch a file.

        Args:
            url: of the file.
            patience: when to give up.
            start_bytes: what comes before is not wanted.
            validator: of the state that it belongs to; if that has changed, the whole is wanted.

        Raises:
            FetchError: `not_found` and `access_denied` where the source says no, others otherwise.
        """
        ...


@dataclass(frozen=True, slots=True)
class ContentRange:
    """What a `Content-Range` header says: `bytes 10-99/100`."""

    start_bytes: int
    total_bytes: int | None

    @classmethod
    def parse(cls, text: str) -> ContentRange | None:
        """Return what the header says, or None where it is none."""
        found = re.fullmatch(r"bytes ([0-9]{1,15})-[0-9]{1,15}/([0-9]{1,15}|\*)", text.strip())
        if not found:
            return None
        return cls(int(found[1]), None if found[2] == "*" else int(found[2]))

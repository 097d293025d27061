"""What a camera's drift state is: both paths together, latched until somebody says so. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

State = Literal["warming", "insufficient", "ok", "warn", "drift"]

_MOST_REASONS = 16


@dataclass(frozen=True, slots=True)
class Reason:
    """Why.

    Attributes:
        kind: a signal, or a kind of `gross.Fault`.
        detail: for a person.
    """

    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A camera's drift state.

    Attributes:
        state: the worse of both paths. `drift` stays until it is acknowledged or the reference is
            reset, whatever comes after.
        since_ms: Unix time in ms since when, as the clock stood.
        reasons: why; in `drift` all since it began.
    """

    state: State = "warming"
    since_ms: int = 0
    reasons: tuple[Reason, ...] = ()

    def told(self, state: State, reasons: Iterable[Reason], at_ms: int) -> Standing:
        """Return the standing after a path has spoken.

        Args:
            state: what it says.
            reasons: why.
            at_ms: Unix time in ms.
        """
        given = tuple(reasons)
        if self.state == "drift":
            known = {reason.kind for reason in self.reasons}
            added = tuple(reason for reason in given if reason.kind not in known)
            if state != "drift" or not added:
                return self
            return replace(self, reasons=(self.reasons + added)[:_MOST_REASONS])
        since_ms = self.since_ms if state == self.state else at_ms
        return Standing(state, since_ms, given[:_MOST_REASONS])

    def acknowledged(self, state: State, at_ms: int) -> Standing:
        """Return the standing after a person has seen the alarm.

        Args:
            state: to go on with: `ok`, or `warming` where there is no complete reference.
            at_ms: Unix time in ms.
        """
        return Standing(state, at_ms) if self.state == "drift" else self

"""What an error, or a verdict, means for a deployment: whose fault it is decides. Pure."""

from __future__ import annotations

import json

from edged.errors import AcceleratorError, EdgedError, FetchError, ReleaseError, VerifyError
from edged.models.records import HEALTH_CHARACTERS, State
from edged.models.transitions import Event, Kind
from edged.models.trial import Verdict

# What a package does again wherever it runs; the rest may be this board's matter.
_BROKEN = {"trial_not_finite", "golden_mismatch", "output_constant", "output_not_finite"}


# What the system has run out of, or refuses: it says nothing about a version.
_PASSING = {"descriptors_exhausted", "disk_unusable"}


def is_passing(error: EdgedError) -> bool:
    """Say whether an error tells nothing about the version that could not be loaded."""
    return isinstance(error, AcceleratorError) or error.reason in _PASSING


def fault(state: State, error: EdgedError) -> Event | None:
    """Return what it means that the action of a state raised an error; None: do it again.

    Args:
        state: in which it was.
        error: what was raised; a device's fault never marks a package bad.
    """
    kind = Kind.FAILED
    match state:
        case State.SYNCING | State.DOWNLOADING:
            # Metadata that are not to be believed, or other bytes than were signed, may be a
            # mirror's mistake: they are asked for again, up to the deadline.
            kind = Kind.TROUBLE if isinstance(error, FetchError | VerifyError) else Kind.FAILED
        case State.VERIFYING | State.VALIDATING | State.TRIAL:
            kind = Kind.REFUSED if isinstance(error, ReleaseError) else Kind.FAILED
            if kind is Kind.REFUSED and state is not State.VERIFYING and error.reason in _BROKEN:
                kind = Kind.BROKEN
        case State.ROLLING_BACK:
            if is_passing(error):
                return None
            kind = Kind.UNUSABLE
    return Event(kind, error.reason, error.explain())


def judged(verdict: Verdict, health: dict[str, object]) -> Event | None:
    """Return what a verdict means; None while there is none."""
    figures = json.dumps(health, separators=(",", ":"))
    figures = figures if len(figures) <= HEALTH_CHARACTERS else ""
    match verdict.outcome:
        case "wait":
            return None
        case "healthy":
            return Event(Kind.HEALTHY, health=figures)
        case "unhealthy":
            kind = Kind.BROKEN if verdict.reason in _BROKEN else Kind.REFUSED
            return Event(kind, verdict.reason, verdict.detail, health=figures)
        case "no_frames":
            return Event(Kind.FAILED, verdict.reason, verdict.detail, health=figures)

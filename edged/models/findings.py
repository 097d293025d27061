"""What is found out about a deployment, as the event that it means. Pure.

Whoever drives a deployment reports facts; whether they are good news is decided here.
"""

from __future__ import annotations

from edged.models.deployment import return_to, under_way
from edged.models.journal import Journal
from edged.models.records import BEFORE_TRIAL, Mark, Origin, Release, Result
from edged.models.transitions import TRANSITIONS, Event, Kind, Reason
from edged.models.version import Version


def found(journal: Journal, sha256: str, *, downgrade_ok: bool) -> Event:
    """Return what it means that the target in SYNCING has this digest.

    Args:
        journal: with a deployment in SYNCING.
        sha256: of the target.
        downgrade_ok: whether the signed metadata let it replace a higher version.
    """
    current = under_way(journal)
    if any(
        known.version == current.version and known.sha256 not in {"", sha256}
        for known in _met(journal)
    ):
        detail = f"another package was called {current.version} before"
        return Event(Kind.REFUSED, Reason.EQUIVOCATION, detail, sha256)
    active = journal.active
    if active is not None and active.sha256 == sha256:
        return Event(Kind.SAME, sha256=sha256)
    if journal.is_bad(sha256):
        detail = "this package failed here before; marks are lifted on the device"
        return Event(Kind.REFUSED, Reason.MARKED_BAD, detail, sha256)
    lower = active is not None and Version(current.version) < Version(active.version)
    if lower and not downgrade_ok and current.origin is Origin.DESIRED:
        detail = "a higher version runs, and this one is not published as a way back"
        return Event(Kind.REFUSED, Reason.DOWNGRADE, detail, sha256)
    return Event(Kind.FOUND, sha256=sha256)


def validated(journal: Journal) -> Event:
    """Return what it means that the candidate in VALIDATING is sound.

    A new factory model only has to prove itself where it would replace one that runs.
    """
    in_use = journal.active is None or (
        journal.factory is not None and journal.active.sha256 == journal.factory.sha256
    )
    adopted = under_way(journal).origin is Origin.FACTORY and not in_use
    return Event(Kind.ADOPTED if adopted else Kind.VALIDATED)


def restored(journal: Journal) -> Event:
    """Return what it means that `return_to` runs again; a command may have nowhere to go."""
    current, target = under_way(journal), return_to(journal)
    stays = target is not None and target.sha256 == current.sha256
    return Event(Kind.STRANDED if stays else Kind.RESTORED)


def overdue(journal: Journal, deadline_s: float) -> Event | None:
    """Return the end of a deployment that has used up its time before TRIAL, else None."""
    current = journal.current
    if current is None or current.state not in BEFORE_TRIAL or current.used_s < deadline_s:
        return None
    return Event(Kind.DEADLINE, current.reason or Reason.DEADLINE_PASSED, current.detail)


def condemned(journal: Journal) -> Event | None:
    """Return the end of a deployment whose package a person has marked bad meanwhile, else None."""
    current = journal.current
    if current is None or (current.state, Kind.REFUSED) not in TRANSITIONS:
        return None
    if not journal.is_bad(current.sha256):
        return None
    return Event(Kind.REFUSED, Reason.MARKED_BAD, "it was marked bad while it was on its way")


def _met(journal: Journal) -> tuple[Release | Mark | Result, ...]:
    """Return all that is known of versions and digests, but those refused as another's double."""
    roles = (journal.active, journal.previous, journal.factory)
    return (
        *(release for release in roles if release is not None),
        *journal.marks,
        *(past for past in journal.history if past.reason != Reason.EQUIVOCATION),
    )

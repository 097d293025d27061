"""What people are told about a journal, and the marks that they set. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from edged.errors import StoreError
from edged.models.journal import Journal
from edged.models.records import Deployment, Mark, Release, Result

BY_HAND = "marked_by_hand"


def overview(journal: Journal) -> dict[str, object]:
    """Return the versions of a model, who wants which, and which are marked.

    `active`, `previous` and `factory` are `{"version","sha256","since"}`, Unix seconds as on the
    wire, or None; `deployment` is the one under way as in `deployments`, or None; `desired` has one
    for each source, highest first.
    """
    return {
        "model": journal.model,
        "active": _release(journal.active),
        "previous": _release(journal.previous),
        "factory": _release(journal.factory),
        "deployment": None if journal.current is None else _record(journal.model, journal.current),
        "desired": [asdict(held) for held in journal.desired],
        "marks": [
            {
                "version": mark.version,
                "sha256": mark.sha256,
                "mark": "bad" if mark.bad else "good",
                "reason": mark.reason,
            }
            for mark in journal.marks
        ],
    }


def deployments(journal: Journal) -> list[dict[str, object]]:
    """Return what has ended, oldest first, with its `status`, and what is under way: `state`.

    With the fields of `Result` and `Deployment`.
    """
    ended = [_record(journal.model, result) for result in journal.history]
    if journal.current is None:
        return ended
    return [*ended, _record(journal.model, journal.current)]


def coming(journals: Iterable[Journal]) -> list[dict[str, object]]:
    """Return what is under way, as in `deployments`."""
    return [_record(one.model, one.current) for one in journals if one.current is not None]


def mark(journal: Journal, version: str, *, bad: bool | None) -> Journal:
    """Return the journal with a person's mark on every package that had this version.

    Args:
        journal: which knows the version.
        version: which.
        bad: None lifts the mark.

    Raises:
        StoreError: `version_never_here`.
    """
    records = (
        *(journal.active, journal.previous, journal.factory, journal.current),
        *journal.history,
        *journal.marks,
    )
    digests = {one.sha256 for one in records if one is not None and one.version == version}
    digests.discard("")  # one that never came so far as to have a digest
    if not digests:
        raise StoreError(
            "version_never_here",
            f"{journal.model} has had no version {version} on this device.",
            advice="`edged deployments` and `edged models list` name those it had.",
        )
    for sha256 in sorted(digests):
        if bad is None:
            journal = journal.unmarked(sha256)
        else:
            reason = BY_HAND if bad else ""
            journal = journal.marked(Mark(version, sha256, bad=bad, reason=reason))
    return journal


def _release(release: Release | None) -> dict[str, object] | None:
    if release is None:
        return None
    since_s = release.since_ms / 1000
    return {"version": release.version, "sha256": release.sha256, "since": since_s}


def _record(model: str, record: Deployment | Result) -> dict[str, object]:
    return {"model": model, **asdict(record)}

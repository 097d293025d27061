"""What people are told about a journal, and the marks that they set. Pure.

Times are Unix seconds, as on the wire.
"""

from __future__ import annotations

from edged.errors import StoreError
from edged.models.journal import Journal
from edged.models.records import Deployment, Mark, Release, Result, State

BY_HAND = "marked_by_hand"


def overview(journal: Journal) -> dict[str, object]:
    """Return the versions of a model, who wants which, and which are marked.

    `active`, `previous`, `factory` and `trial` are `{"version","sha256","since"}` or None,
    `current` the deployment under way as in `deployments`, `wanted` one per source, highest first.
    """
    current = journal.current
    on_trial = current is not None and current.state is State.TRIAL
    return {
        "model": journal.model,
        "active": _release(journal.active),
        "previous": _release(journal.previous),
        "factory": _release(journal.factory),
        "trial": _trial(current) if current is not None and on_trial else None,
        "current": None if current is None else _deployment(journal.model, current),
        "wanted": [
            {
                "source": held.source.value,
                "deployment_id": held.deployment_id,
                "version": held.version,
                "order": held.order_ms,
                "percent": held.percent,
            }
            for held in journal.desired
        ],
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
    """Return what is under way, with its `state`, and what has ended, with its `status`.

    Latest first.
    """
    ended = [_result(journal.model, result) for result in reversed(journal.history)]
    if journal.current is None:
        return ended
    return [_deployment(journal.model, journal.current), *ended]


def mark(journal: Journal, version: str, *, bad: bool | None) -> Journal:
    """Return the journal with a person's mark on every package that had this version.

    Args:
        journal: which knows the version.
        version: which.
        bad: None lifts the mark.

    Raises:
        StoreError: `version_unknown`.
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
            "version_unknown",
            f"{journal.model} has had no version {version} on this device.",
            advice="`edged deployments` and `edged models list` name those it had.",
        )
    for sha256 in sorted(digests):
        if bad is None:
            journal = journal.unmarked(sha256)
        else:
            journal = journal.marked(Mark(version, sha256, bad=bad, reason=BY_HAND))
    return journal


def _release(release: Release | None) -> dict[str, object] | None:
    if release is None:
        return None
    since_s = release.since_ms / 1000
    return {"version": release.version, "sha256": release.sha256, "since": since_s}


def _trial(current: Deployment) -> dict[str, object]:
    return {"version": current.version, "sha256": current.sha256, "since": current.began_ms / 1000}


def _deployment(model: str, current: Deployment) -> dict[str, object]:
    return {**_common(model, current), "state": current.state.value}


def _result(model: str, result: Result) -> dict[str, object]:
    return {
        **_common(model, result),
        "status": result.status.value,
        "ended": result.ended_ms / 1000,
    }


def _common(model: str, record: Deployment | Result) -> dict[str, object]:
    return {
        "deployment_id": record.deployment_id,
        "model": model,
        "origin": record.origin.value,
        "version": record.version,
        "sha256": record.sha256,
        "reason": record.reason,
        "detail": record.detail,
        "health": record.health,
        "began": record.began_ms / 1000,
    }

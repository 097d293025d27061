"""THE transition table of deployments, as data: docs and diagram are made from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from edged.models.records import BEFORE_TRIAL, Origin, State

Role = Literal["active", "previous", "factory"]


class Reason(StrEnum):
    """Why a deployment ended, where the decision is made here; others bring their own slug."""

    ACTIVE_CRASHED = "active_crashed"
    ACTIVE_UNUSABLE = "active_unusable"
    ALREADY_ACTIVE = "already_active"
    CANCELED = "canceled"
    COMMANDED = "commanded"
    DEADLINE_PASSED = "deadline_passed"
    DOWNGRADE = "downgrade"
    EQUIVOCATION = "equivocation"
    INTERRUPTED = "interrupted"
    MARKED_BAD = "marked_bad"
    NOT_ACTIVE = "not_active"
    NOTHING_TO_RETURN_TO = "nothing_to_return_to"
    RELEASED = "released"
    SUPERSEDED = "superseded"
    TOO_MANY_TRANSITIONS = "too_many_transitions"
    TRIAL_CRASHED = "trial_crashed"
    TRIAL_RUNNING = "trial_running"


class Kind(StrEnum):
    """What can happen to a deployment."""

    TROUBLE = "trouble"  # it does not get on at present; the reason says why
    FOUND = "found"  # the target is there and may be installed
    SAME = "same"  # what is asked for is what runs
    DOWNLOADED = "downloaded"
    VERIFIED = "verified"
    VALIDATED = "validated"
    ADOPTED = "adopted"  # a new factory model is sound, and something else runs
    HEALTHY = "healthy"
    RESTORED = "restored"  # what `return_to` says runs again
    UNUSABLE = "unusable"  # what `return_to` says is missing or damaged on disk
    STRANDED = "stranded"  # there is nothing to return to but what was to be left
    REFUSED = "refused"  # by the release's fault, or because it does not suit this device
    BROKEN = "broken"  # it crashed, hung, gave no numbers or failed its golden set
    FAILED = "failed"  # by this device's fault
    DEADLINE = "deadline"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"
    RELEASE = "release"  # nobody wants it any more


@dataclass(frozen=True, slots=True)
class Step:
    """Where an event leads.

    Attributes:
        next: the state after it.
        reason: where the event brings none.
        bad: whether the digest is marked bad.
        only: the one origin it can happen to; None for all.
    """

    next: State
    reason: str = ""
    bad: bool = False
    only: Origin | None = None


S, K = State, Kind
TRANSITIONS: dict[tuple[State, Kind], Step] = {
    (S.SYNCING, K.TROUBLE): Step(S.SYNCING),
    (S.SYNCING, K.FOUND): Step(S.DOWNLOADING),
    (S.SYNCING, K.SAME): Step(S.COMMITTED, Reason.ALREADY_ACTIVE),
    (S.SYNCING, K.REFUSED): Step(S.REJECTED),
    (S.DOWNLOADING, K.TROUBLE): Step(S.DOWNLOADING),
    (S.DOWNLOADING, K.DOWNLOADED): Step(S.VERIFYING),
    (S.VERIFYING, K.VERIFIED): Step(S.VALIDATING),
    (S.VERIFYING, K.REFUSED): Step(S.REJECTED),
    (S.VALIDATING, K.VALIDATED): Step(S.TRIAL),
    (S.VALIDATING, K.ADOPTED): Step(S.COMMITTED, only=Origin.FACTORY),
    (S.VALIDATING, K.REFUSED): Step(S.REJECTED),
    (S.VALIDATING, K.BROKEN): Step(S.REJECTED, bad=True),
    **{(state, K.FAILED): Step(S.FAILED) for state in BEFORE_TRIAL},
    **{(state, K.DEADLINE): Step(S.FAILED) for state in BEFORE_TRIAL},
    **{(state, K.CANCEL): Step(S.CANCELED, Reason.CANCELED) for state in BEFORE_TRIAL},
    **{(state, K.SUPERSEDE): Step(S.CANCELED, Reason.SUPERSEDED) for state in BEFORE_TRIAL},
    **{(state, K.RELEASE): Step(S.CANCELED, Reason.RELEASED) for state in BEFORE_TRIAL},
    (S.TRIAL, K.HEALTHY): Step(S.COMMITTED),
    (S.TRIAL, K.REFUSED): Step(S.ROLLING_BACK),
    (S.TRIAL, K.BROKEN): Step(S.ROLLING_BACK, bad=True),
    (S.TRIAL, K.FAILED): Step(S.ROLLING_BACK),
    (S.TRIAL, K.CANCEL): Step(S.ROLLING_BACK, Reason.CANCELED),
    (S.ROLLING_BACK, K.UNUSABLE): Step(S.ROLLING_BACK),
    (S.ROLLING_BACK, K.STRANDED): Step(S.FAILED, Reason.NOTHING_TO_RETURN_TO, only=Origin.COMMAND),
    (S.ROLLING_BACK, K.RESTORED): Step(S.ROLLED_BACK),
}
START = {
    Origin.DESIRED: S.SYNCING,
    Origin.LOCAL: S.SYNCING,
    Origin.FACTORY: S.VALIDATING,
    Origin.COMMAND: S.ROLLING_BACK,
    Origin.FALLBACK: S.ROLLING_BACK,
}
# What a roll-back returns to: the first of these that is there and not marked bad. After a trial
# it is what was active all along. A command that finds nothing else stays where it is.
_TRIAL: tuple[Role, ...] = ("active", "previous", "factory")
RETURN: dict[Origin, tuple[Role, ...]] = {
    Origin.DESIRED: _TRIAL,
    Origin.LOCAL: _TRIAL,
    Origin.FACTORY: _TRIAL,
    Origin.COMMAND: ("previous", "factory", "active"),
    Origin.FALLBACK: ("previous", "factory"),
}


class Action(StrEnum):
    """What to do next."""

    REST = "rest"
    SYNC = "sync"
    DOWNLOAD = "download"
    VERIFY = "verify"
    VALIDATE = "validate"
    TRY = "try"
    RESTORE = "restore"


TODO = {
    S.SYNCING: Action.SYNC,
    S.DOWNLOADING: Action.DOWNLOAD,
    S.VERIFYING: Action.VERIFY,
    S.VALIDATING: Action.VALIDATE,
    S.TRIAL: Action.TRY,
    S.ROLLING_BACK: Action.RESTORE,
}


@dataclass(frozen=True, slots=True)
class Event:
    """What happened.

    Attributes:
        kind: what.
        reason: slug of why, where the table has none.
        detail: the same in words.
        sha256: of the target, with FOUND and SAME.
        health: JSON text of the trial's figures, with its verdict.
    """

    kind: Kind
    reason: str = ""
    detail: str = ""
    sha256: str = ""
    health: str = ""

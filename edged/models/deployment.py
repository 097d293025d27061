"""The life of a deployment: the functions that follow the transition table. Pure.

Whoever drives it asks `todo` what to do, does it, tells what happened with `advance`, writes the
journal that comes back, and only then acts on it. What is not in the table does not happen.
"""

from __future__ import annotations

from dataclasses import replace

from edged.errors import EdgedError
from edged.models.journal import Journal
from edged.models.records import (
    BEFORE_TRIAL,
    STATUS,
    Deployment,
    Mark,
    Moment,
    Origin,
    Release,
    Result,
    State,
    clip,
)
from edged.models.transitions import (
    RETURN,
    START,
    TODO,
    TRANSITIONS,
    Action,
    Event,
    Kind,
    Reason,
    Step,
)


class IllegalTransitionError(EdgedError):
    """What is told cannot happen in this state, or is about another deployment. Nothing changed."""


def todo(journal: Journal) -> Action:
    """Return what to do next, now that the journal is written."""
    return Action.REST if journal.current is None else TODO[journal.current.state]


def under_way(journal: Journal) -> Deployment:
    """Return the present deployment.

    Raises:
        IllegalTransitionError: there is none.
    """
    if journal.current is None:
        raise _illegal("no deployment is under way")
    return journal.current


def begin(
    journal: Journal,
    deployment_id: str,
    origin: Origin,
    version: str,
    moment: Moment,
    *,
    sha256: str = "",
    order_ms: int = 0,
    reason: str = "",
    detail: str = "",
) -> Journal:
    """Return the journal with a new deployment.

    Args:
        journal: without one.
        deployment_id: never used before.
        origin: who starts it; decides the first state.
        version: what to install; in a roll-back what to leave.
        moment: now.
        sha256: of the same, where it is known.
        order_ms: of the Desired.
        reason: of a roll-back.
        detail: the same in words.

    Raises:
        IllegalTransitionError: there is one already, or this id has had its result.
    """
    if journal.current is not None or journal.result(deployment_id) is not None:
        raise _illegal(f"{deployment_id} cannot begin")
    current = Deployment(
        deployment_id=deployment_id,
        origin=origin,
        order_ms=order_ms,
        version=version,
        sha256=sha256,
        state=START[origin],
        attempts=0,
        interruptions=0,
        transitions=0,
        boot_id=moment.boot_id,
        used_s=0.0,
        reason=reason,
        detail=clip(detail),
        health="",
        began_ms=moment.now_ms,
        unusable=(),
    )
    return replace(journal, current=current, seq=journal.seq + 1)


def advance(journal: Journal, deployment_id: str, event: Event, now_ms: int) -> Journal:
    """Return the journal after something happened to a deployment.

    Args:
        journal: as it is written.
        deployment_id: which deployment it happened to: a worker may tell late.
        event: what happened.
        now_ms: Unix time.

    Raises:
        IllegalTransitionError: it cannot happen in this state, or to this deployment.
        ValueError: the event lacks a reason or digest that it needs.
    """
    current = journal.current
    if current is None or current.deployment_id != deployment_id:
        raise _illegal(f"{deployment_id} is not under way: {event.kind}")
    step = TRANSITIONS.get((current.state, event.kind))
    if step is None or step.only not in {None, current.origin}:
        raise _illegal(f"{event.kind} cannot happen in {current.state}")
    if step.bad:
        mark = Mark(current.version, current.sha256, bad=True, reason=event.reason)
        journal = journal.marked(mark)
    after = _after(journal, current, step, event)
    if step.next in STATUS:
        return _finish(journal, after, step.next, event.kind, now_ms)
    told = (after.state, after.reason) != (current.state, current.reason)
    return replace(journal, current=after, seq=journal.seq + told)


def spend(journal: Journal, seconds: float) -> Journal:
    """Return the journal after `seconds` of monotonic time; only those before TRIAL count.

    A deployment that waits in VALIDATING for another model's trial spends none.
    """
    current = journal.current
    if current is None or current.state not in BEFORE_TRIAL:
        return journal
    return replace(journal, current=replace(current, used_s=current.used_s + max(0.0, seconds)))


def return_to(journal: Journal) -> Release | None:
    """Return what runs after the present roll-back; None: no model is left.

    In the order of `RETURN`, without what is marked bad, missing or damaged, or to be left.
    """
    current = under_way(journal)
    roles = {
        "active": journal.active,
        "previous": journal.previous,
        "factory": journal.factory,
    }
    for role in RETURN[current.origin]:
        release = roles[role]
        if release is None or journal.is_bad(release.sha256):
            continue
        left = release.sha256 == current.sha256 and role != "active"
        if not left and release.sha256 not in current.unusable:
            return release
    return None


def runs(journal: Journal) -> Release | None:
    """Return what serves, or must serve again at once; a candidate on trial is another matter."""
    current = journal.current
    if current is not None and current.state is State.ROLLING_BACK:
        return return_to(journal)
    return journal.active


def fall_back(journal: Journal, reason: Reason, detail: str, moment: Moment) -> Journal:
    """Return the journal with the device on its way from the active model to the one before.

    Args:
        journal: with no deployment, or one before TRIAL, which is superseded.
        reason: ACTIVE_CRASHED, which marks it bad, or ACTIVE_UNUSABLE: missing or damaged on disk.
        detail: the same in words.
        moment: now.

    Raises:
        IllegalTransitionError: there is no active model, or a trial or roll-back is under way.
    """
    active = journal.active
    if active is None:
        raise _illegal("there is no active model to fall back from")
    journal = superseded(journal, moment.now_ms)
    if reason is Reason.ACTIVE_CRASHED:
        journal = journal.marked(Mark(active.version, active.sha256, bad=True, reason=reason))
    journal, deployment_id = journal.numbered("auto")
    return begin(
        journal,
        deployment_id,
        Origin.FALLBACK,
        active.version,
        moment,
        sha256=active.sha256,
        reason=reason,
        detail=detail,
    )


def superseded(journal: Journal, now_ms: int) -> Journal:
    """Return the journal without a deployment, so that another can begin.

    Raises:
        IllegalTransitionError: a trial or roll-back is under way.
    """
    if journal.current is None:
        return journal
    return advance(journal, journal.current.deployment_id, Event(Kind.SUPERSEDE), now_ms)


def _illegal(message: str) -> IllegalTransitionError:
    return IllegalTransitionError("illegal_transition", message)


def _after(journal: Journal, current: Deployment, step: Step, event: Event) -> Deployment:
    """Return the deployment after a step, still under way as far as it can know."""
    moves = step.next is not current.state
    reason, detail = event.reason or step.reason, event.detail
    # A retry and a roll-back keep saying why, a step ahead starts afresh.
    if not reason and (not moves or current.state is State.ROLLING_BACK):
        reason, detail = current.reason, current.detail
    elif event.kind is Kind.UNUSABLE:
        # What cannot be returned to is told beside why it is left, not in its place.
        reason, detail = current.reason, "; ".join(filter(None, (current.detail, event.detail)))
    if step.next is State.CANCELED and current.reason:
        detail = f"it was held up: {current.detail} ({current.reason})"
    gone = return_to(journal) if event.kind is Kind.UNUSABLE else None
    if event.kind is Kind.UNUSABLE and gone is None:
        raise _illegal("there is nothing left that could be unusable")
    return replace(
        current,
        # What has ended becomes a result; its last state says what it ended from.
        state=current.state if step.next in STATUS else step.next,
        sha256=current.sha256 or event.sha256,
        attempts=0 if moves else current.attempts,
        interruptions=0 if moves else current.interruptions,
        # A retry is no transition: the network may be away for a day.
        transitions=current.transitions + (event.kind is not Kind.TROUBLE),
        reason=reason,
        detail=clip(detail),
        health=event.health or current.health,
        unusable=current.unusable + ((gone.sha256,) if gone is not None else ()),
    )


def _finish(journal: Journal, ended: Deployment, state: State, kind: Kind, now_ms: int) -> Journal:
    result = Result(
        deployment_id=ended.deployment_id,
        origin=ended.origin,
        version=ended.version,
        sha256=ended.sha256,
        status=STATUS[state],
        reason=ended.reason,
        detail=ended.detail,
        health=ended.health,
        began_ms=ended.began_ms,
        ended_ms=now_ms,
        reported=False,
    )
    journal = _roles(replace(journal, current=ended), kind, now_ms)
    return replace(journal, current=None, seq=journal.seq + 1).recorded(result)


def _roles(journal: Journal, kind: Kind, now_ms: int) -> Journal:
    """Return who is active, previous and factory after the last event of a deployment."""
    current = under_way(journal)
    match kind:
        case Kind.HEALTHY:
            candidate = Release(current.version, current.sha256, now_ms)
            factory = candidate if current.origin is Origin.FACTORY else journal.factory
            mark = Mark(current.version, current.sha256, bad=False, reason="")
            journal = replace(
                journal.marked(mark), previous=_sound(journal, journal.active), factory=factory
            )
            return replace(journal, active=candidate)
        case Kind.ADOPTED:
            return replace(journal, factory=Release(current.version, current.sha256, now_ms))
        case Kind.RESTORED:
            target = return_to(journal)
            if target == journal.active:
                return journal
            by_command = current.origin is Origin.COMMAND
            before = _sound(journal, journal.active if by_command else None)
            now = replace(target, since_ms=now_ms) if target is not None else None
            return replace(journal, active=now, previous=before)
        case _:
            return journal


def _sound(journal: Journal, release: Release | None) -> Release | None:
    """Return a release that may become previous, or None."""
    return None if release is None or journal.is_bad(release.sha256) else release

"""From what is wanted to what is done: which Desired counts, and what begins because of it. Pure.

`receive` and `command` record what arrives, `pursue` acts on what is recorded: so arrivals may
settle first, and what waits for a trial to end is simply still there when it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from edged.errors import MessageError
from edged.models.deployment import advance, begin, return_to, superseded
from edged.models.desired import Cancel, Desired, RollBack, Source, in_rollout
from edged.models.journal import Journal
from edged.models.records import BEFORE_TRIAL, Held, Moment, Origin, Release, Result, State, Status
from edged.models.transitions import Event, Kind, Reason
from edged.models.version import Version

AHEAD_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Clock:
    """The time: Unix milliseconds, and whether it was set from outside since boot."""

    now_ms: int
    synced: bool


class Receipt(StrEnum):
    """What became of a Desired. Only CLOCK leaves it with the caller, to come again."""

    RECORDED = "recorded"
    KNOWN = "known"  # this id, in these words, before
    OLD = "old"  # the source has said something later since
    CLOCK = "clock"  # its order cannot be judged before the clock is set


def receive(
    journal: Journal, source: Source, desired: Desired, clock: Clock
) -> tuple[Journal, Receipt]:
    """Return the journal with what a source wants, and what became of it.

    Raises:
        MessageError: `order_ahead`: more than 24 h in the future, so that it would block what
            comes later; `id_reused`: the id stands for another version.
    """
    held = _believed(journal.held(source), clock)
    latest_ms = -1 if held is None else held.order_ms
    if (desired.order_ms or 0) > clock.now_ms + AHEAD_MS:
        if not clock.synced:
            return journal, Receipt.CLOCK
        raise MessageError("order_ahead", f"order {desired.order_ms} is more than 24 h ahead")
    if held is not None and held.deployment_id == desired.deployment_id:
        return _repeated(journal, held, desired)
    known = _known(journal, desired.deployment_id, Origin.DESIRED, desired.version)
    order_ms = clock.now_ms if desired.order_ms is None else desired.order_ms
    if order_ms <= latest_ms:
        if known:
            return journal, Receipt.KNOWN
        undated = desired.order_ms is None and not clock.synced
        return journal, Receipt.CLOCK if undated else Receipt.OLD
    if desired.order_ms is None:
        heard = journal.heard_undated(desired.deployment_id, desired.version)
        if heard or (known and held is not None):
            # Re-delivered without an order: nothing says that it is later than what is held.
            return journal, Receipt.KNOWN
        journal = journal.hearing_undated(desired.deployment_id, desired.version)
    new = Held(source, desired.deployment_id, desired.version, order_ms, desired.percent)
    return journal.holding(new), Receipt.RECORDED


def effective(journal: Journal) -> Held | None:
    """Return what the highest source wants that wants anything, whatever became of it."""
    return next((held for held in journal.desired if held.version is not None), None)


def pursue(journal: Journal, device_id: str, moment: Moment) -> Journal:
    """Return the journal after what is recorded has had its way.

    Before TRIAL only the effective Desired goes on; it begins if it has had no result and this
    device is inside its percentage. A trial or a roll-back is waited for.
    """
    held, current = effective(journal), journal.current
    if _busy(journal):
        return journal
    if current is not None and held is not None and current.deployment_id == held.deployment_id:
        return journal
    wanted = (
        held is not None
        and journal.result(held.deployment_id) is None
        and in_rollout(held.deployment_id, device_id, held.percent)
    )
    if current is not None and not wanted and current.origin is Origin.DESIRED:
        kind = Kind.RELEASE if held is None else Kind.SUPERSEDE
        return advance(journal, current.deployment_id, Event(kind), moment.now_ms)
    if held is None or held.version is None or not wanted:
        return journal
    return begin(
        superseded(journal, moment.now_ms),
        held.deployment_id,
        Origin.DESIRED,
        held.version,
        moment,
        order_ms=held.order_ms,
    )


def cancel(journal: Journal, command: Cancel, now_ms: int) -> Journal:
    """Return the journal with a deployment given up; too late, or already so, is no error.

    Raises:
        MessageError: `deployment_unknown`.
    """
    wanted, current = command.deployment_id, journal.current
    if current is not None and current.deployment_id == wanted:
        if current.state is State.ROLLING_BACK:
            return journal
        return advance(journal, wanted, Event(Kind.CANCEL), now_ms)
    if journal.result(wanted) is not None:
        return journal
    for held in journal.desired:
        if held.deployment_id == wanted and held.version is not None:
            ended = _ended(wanted, Origin.DESIRED, held.version, Reason.CANCELED, now_ms)
            return _said(journal, ended)
    raise MessageError("deployment_unknown", f"no deployment is called {wanted}")


def roll_back(journal: Journal, command: RollBack, moment: Moment) -> Journal:
    """Return the journal on the way to the previous version, as a deployment of the command's id.

    Raises:
        MessageError: `id_reused`: the id stands for something else.
    """
    if _known(journal, command.id, Origin.COMMAND, command.from_version):
        return journal
    active, refused, detail = journal.active, Reason.NOT_ACTIVE, "no version is active"
    if active is not None:
        detail = f"{active.version} is active"
    if _busy(journal):
        refused, detail = Reason.TRIAL_RUNNING, ""
    elif active is not None and active.version == command.from_version:
        begun = begin(
            superseded(journal, moment.now_ms),
            command.id,
            Origin.COMMAND,
            active.version,
            moment,
            sha256=active.sha256,
            reason=Reason.COMMANDED,
        )
        target = return_to(begun)
        if target is not None and target.sha256 != active.sha256:
            return begun
        refused, detail = Reason.NOTHING_TO_RETURN_TO, ""
    ended = _ended(
        command.id, Origin.COMMAND, command.from_version, refused, moment.now_ms, detail=detail
    )
    return _said(journal, ended)


def install(journal: Journal, version: str, moment: Moment) -> tuple[Journal, str]:
    """Return the journal with a person's installation begun, or refused, and its id."""
    journal, deployment_id = journal.numbered("local")
    if _busy(journal):
        refused = Reason.TRIAL_RUNNING
        ended = _ended(deployment_id, Origin.LOCAL, version, refused, moment.now_ms)
        return _said(journal, ended), deployment_id
    journal = superseded(journal, moment.now_ms)
    return begin(journal, deployment_id, Origin.LOCAL, version, moment), deployment_id


def use_factory(journal: Journal, sha256: str, moment: Moment) -> Journal:
    """Return the journal after a look at the factory file.

    The first one is active at once, and so is the known one when nothing else is; one that is
    active anyway needs no proof. Another than before begins a deployment, when none is under way,
    unless it was tried and refused; where this device was at fault, a later start tries it again.
    """
    release = Release(Version.factory(sha256).text, sha256, moment.now_ms)
    if journal.is_bad(sha256) or journal.current is not None:
        return journal
    active, factory = journal.active, journal.factory
    if factory is not None and factory.sha256 == sha256:
        return journal if active is not None else replace(journal, active=factory)
    if active is not None and active.sha256 == sha256:
        return replace(journal, factory=active)
    if factory is None:
        return replace(journal, factory=release, active=active or release)
    mine = (Origin.FACTORY, sha256)
    tries = [past for past in journal.history if (past.origin, past.sha256) == mine]
    again = {Status.SUCCEEDED, Status.FAILED}
    if tries and tries[-1].status not in again and tries[-1].reason != Reason.SUPERSEDED:
        return journal
    deployment_id = f"factory-{sha256[:8]}"
    if journal.result(deployment_id) is not None:
        journal, deployment_id = journal.numbered(deployment_id)
    return begin(journal, deployment_id, Origin.FACTORY, release.version, moment, sha256=sha256)


def forget_order(journal: Journal, source: Source) -> Journal:
    """Return the journal in which a source's next Desired is later than its last."""
    held = journal.held(source)
    return journal if held is None else journal.holding(replace(held, order_ms=0))


def _believed(held: Held | None, clock: Clock) -> Held | None:
    """Return what a source wants without an order from the future: the clock was wrong then."""
    if held is None or not clock.synced or held.order_ms <= clock.now_ms + AHEAD_MS:
        return held
    return replace(held, order_ms=0)


def _repeated(journal: Journal, held: Held, desired: Desired) -> tuple[Journal, Receipt]:
    """Return what a source's latest comes to when it comes again: order and percent may change."""
    if held.version != desired.version:
        raise _reused(desired.deployment_id)
    order_ms = held.order_ms if desired.order_ms is None else desired.order_ms
    if order_ms < held.order_ms:
        return journal, Receipt.OLD
    new = replace(held, order_ms=order_ms, percent=desired.percent)
    return (journal, Receipt.KNOWN) if new == held else (journal.holding(new), Receipt.RECORDED)


def _known(journal: Journal, an_id: str, origin: Origin, version: str | None) -> bool:
    """Say whether an id stands for this already.

    Raises:
        MessageError: `id_reused`: it stands for something else.
    """
    bodies: set[tuple[Origin, str | None]] = {
        (Origin.DESIRED, held.version) for held in journal.desired if held.deployment_id == an_id
    }
    past = journal.result(an_id)
    current = (
        journal.current if journal.current and journal.current.deployment_id == an_id else None
    )
    bodies |= {(one.origin, one.version) for one in (past, current) if one is not None}
    if bodies - {(origin, version)}:
        raise _reused(an_id)
    return bool(bodies)


def _reused(an_id: str) -> MessageError:
    return MessageError("id_reused", f"{an_id} stands for something else already")


def _busy(journal: Journal) -> bool:
    return journal.current is not None and journal.current.state not in BEFORE_TRIAL


def _said(journal: Journal, ended: Result) -> Journal:
    """Return the journal with the result of what never began, which is said like any other."""
    return replace(journal, seq=journal.seq + 1).recorded(ended)


def _ended(
    an_id: str, origin: Origin, version: str, reason: Reason, now_ms: int, *, detail: str = ""
) -> Result:
    """Return the result of what never began."""
    return Result(
        deployment_id=an_id,
        origin=origin,
        version=version,
        sha256="",
        status=Status.CANCELED if reason is Reason.CANCELED else Status.REJECTED,
        reason=reason,
        detail=detail,
        health="",
        began_ms=now_ms,
        ended_ms=now_ms,
        reported=False,
    )

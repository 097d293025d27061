"""What becomes of a deployment, and of the active model, when the process starts again. Pure.

Nothing under way is believed to be still under way: each state is resumed, done again or given
up, by the table. Power cuts and restarts never blame a model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from edged.models.deployment import advance, fall_back, runs
from edged.models.findings import restored
from edged.models.journal import Journal
from edged.models.records import BEFORE_TRIAL, Crashes, Deployment, Mark, Moment, State
from edged.models.transitions import Event, Kind, Reason

MOST_TRANSITIONS = 40
MOST_CRASHES = 3


@dataclass(frozen=True, slots=True)
class BootFacts:
    """How the last run ended, and where this one begins.

    Attributes:
        boot_id: of the kernel that runs now.
        clean_stop: whether the last run ended as it was asked to.
        blamed_sha256: what was being loaded or invoked when it did not; None where unknown.
    """

    boot_id: str
    clean_stop: bool
    blamed_sha256: str | None


class End(StrEnum):
    """How the last run ended, as far as a deployment is concerned."""

    STOPPED = "clean stop"
    CRASHED = "crash in the same boot, blamed on the candidate"
    OTHER = "power cut, or another crash"


@dataclass(frozen=True, slots=True)
class Rule:
    """What to do: go on in the same state, counting; at the limit the event ends it."""

    counter: Literal["attempts", "interruptions"] | None = None
    limit: int = 0
    event: Event | None = None


_AGAIN = Rule()
_ONCE_MORE = Rule("attempts", 2, Event(Kind.FAILED, Reason.INTERRUPTED))
_BLAMED = Rule("attempts", 2, Event(Kind.BROKEN, Reason.TRIAL_CRASHED))
_UNLUCKY = Rule("interruptions", 5, Event(Kind.FAILED, Reason.INTERRUPTED))

S = State
RECOVERY: dict[State, dict[End, Rule]] = {
    S.SYNCING: {End.STOPPED: _AGAIN, End.CRASHED: _AGAIN, End.OTHER: _AGAIN},
    S.DOWNLOADING: {End.STOPPED: _AGAIN, End.CRASHED: _AGAIN, End.OTHER: _AGAIN},
    S.VERIFYING: {End.STOPPED: _AGAIN, End.CRASHED: _ONCE_MORE, End.OTHER: _ONCE_MORE},
    S.VALIDATING: {End.STOPPED: _AGAIN, End.CRASHED: _ONCE_MORE, End.OTHER: _ONCE_MORE},
    S.TRIAL: {End.STOPPED: _AGAIN, End.CRASHED: _BLAMED, End.OTHER: _UNLUCKY},
    S.ROLLING_BACK: {End.STOPPED: _AGAIN, End.CRASHED: _AGAIN, End.OTHER: _AGAIN},
}
# Whatever goes wrong over and over again comes to an end; a trial by rolling back, a roll-back by
# taking it as done.
ENOUGH = Event(Kind.FAILED, Reason.TOO_MANY_TRANSITIONS)


def recover(journal: Journal, boot: BootFacts, now_ms: int) -> Journal:
    """Return the journal to go on with, after a start of the process.

    Args:
        journal: as it was read.
        boot: how the last run ended.
        now_ms: Unix time.
    """
    moment = Moment(now_ms, boot.boot_id)
    end = _end(journal.current, boot)
    journal, worn_out = _blamed(journal, boot)
    if worn_out and (journal.current is None or journal.current.state in BEFORE_TRIAL):
        detail = f"it took the process down {MOST_CRASHES} times without a healthy minute"
        return fall_back(journal, Reason.ACTIVE_CRASHED, detail, moment)
    current = journal.current
    if current is None:
        return journal
    if current.transitions >= MOST_TRANSITIONS:
        event = ENOUGH if current.state is not State.ROLLING_BACK else restored(journal)
        return advance(journal, current.deployment_id, event, now_ms)
    rule = RECOVERY[current.state][end]
    again = replace(current, transitions=current.transitions + 1, boot_id=boot.boot_id)
    again, count = _counted(again, rule.counter)
    journal = replace(journal, current=again)
    if rule.event is None or count < rule.limit:
        return journal
    return advance(journal, current.deployment_id, rule.event, now_ms)


def healthy(journal: Journal) -> Journal:
    """Return the journal after what runs has served for a minute: earlier crashes are forgiven."""
    return journal if journal.crashes is None else replace(journal, crashes=None)


def _end(current: Deployment | None, boot: BootFacts) -> End:
    if boot.clean_stop:
        return End.STOPPED
    if current is None or current.boot_id != boot.boot_id:
        return End.OTHER
    return End.CRASHED if boot.blamed_sha256 == current.sha256 else End.OTHER


def _counted(
    again: Deployment, counter: Literal["attempts", "interruptions"] | None
) -> tuple[Deployment, int]:
    match counter:
        case "attempts":
            return replace(again, attempts=again.attempts + 1), again.attempts + 1
        case "interruptions":
            return replace(again, interruptions=again.interruptions + 1), again.interruptions + 1
        case None:
            return again, 0


def _blamed(journal: Journal, boot: BootFacts) -> tuple[Journal, bool]:
    """Count a crash of what runs, and say whether that was one too many.

    In a roll-back such a model is marked bad here, so that the next in the row is returned to.
    """
    running = runs(journal)
    rebooted = journal.current is not None and journal.current.boot_id != boot.boot_id
    if boot.clean_stop or rebooted or running is None or boot.blamed_sha256 != running.sha256:
        return journal, False
    before = journal.crashes
    count = before.count + 1 if before is not None and before.sha256 == running.sha256 else 1
    journal = replace(journal, crashes=Crashes(running.sha256, count))
    if count < MOST_CRASHES:
        return journal, False
    if journal.current is not None and journal.current.state is State.ROLLING_BACK:
        reason = Reason.ACTIVE_CRASHED
        journal = journal.marked(Mark(running.version, running.sha256, bad=True, reason=reason))
    return journal, True

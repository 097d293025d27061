"""One model's deployments, driven: what the journal says is done, what comes of it is journalled.

The journal is written before anything is done about it. Whatever takes long is a `Task`; its
answer counts only while the deployment is still where it was when the task began.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edged.errors import FetchError, StoreError
from edged.models.deployment import advance, return_to, spend, todo
from edged.models.faults import fault, judged
from edged.models.findings import condemned, overdue
from edged.models.journal import Journal
from edged.models.pursuit import pursue
from edged.models.records import BEFORE_TRIAL, Moment, Release, State
from edged.models.task import Outcome, Spawn, Task
from edged.models.transitions import Action, Event, Kind
from edged.models.trial import Verdict

log = logging.getLogger(__name__)

_FIRST_WAIT_S, _LONGEST_WAIT_S = 2.0, 300.0
# A server may ask for more patience, but not for as much as it likes.
_LONGEST_RETRY_AFTER_S = 3600.0
# Time before the trial is written at least so often.
_SPENT_S = 60.0
# The shortest usual trial lasts 60 s, and has to give the 20 samples that a leak is judged by.
_MEASURED_S = 2.0
_HEALTHY_S = 60.0


class Acts(Protocol):
    """What a deployment has done for it. All may take long, but `verdict` and `measure`."""

    def sync(self, journal: Journal, task: Task) -> Event:
        """Find the target: what `findings.found` says about it."""
        ...

    def download(self, journal: Journal, task: Task) -> Event:
        """Fetch it."""
        ...

    def verify(self, journal: Journal, task: Task) -> Event:
        """Check and install it."""
        ...

    def validate(self, journal: Journal, task: Task) -> Event:
        """Try it in a child."""
        ...

    def try_out(self, journal: Journal, task: Task) -> None:
        """Let it serve, on trial."""
        ...

    def restore(self, journal: Journal, task: Task) -> Event:
        """Let what `return_to` says serve."""
        ...

    def settle(self, journal: Journal, task: Task) -> None:
        """After a trial: free what ran before."""
        ...

    def verdict(self, model: str) -> tuple[Verdict, dict[str, object]]:
        """Return how the trial stands."""
        ...

    def measure(self, model: str) -> None:
        """Record the memory in a trial."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a case needs of the world.

    Attributes:
        acts: what can be done.
        keep: writes a journal; on return it is safe. Raises StoreError.
        now_ms: Unix time.
        monotonic: seconds.
        boot_id: of the kernel.
        device_id: of this device.
        deadline_s: most that a deployment may take before its trial.
        spawn: runs a task.
        ring: wakes whoever drives the cases.
    """

    acts: Acts
    keep: Callable[[Journal], None]
    now_ms: Callable[[], int]
    monotonic: Callable[[], float]
    boot_id: str
    device_id: str
    deadline_s: float
    spawn: Spawn
    ring: Callable[[], None]

    def moment(self) -> Moment:
        """Return when something begins."""
        return Moment(self.now_ms(), self.boot_id)


class Case:
    """The deployments of one model. One thread.

    Attributes:
        journal: as it is on the disk, but for seconds spent.

    Args:
        journal: as it was written.
        world: see there.
    """

    def __init__(self, journal: Journal, world: Surroundings) -> None:
        self.journal = journal
        self._world = world
        self._task: Task | None = None
        self._on_trial = ""  # the deployment whose candidate serves
        self._waiting = ""  # the deployment that is sound and waits for another model's trial
        self._returning: Release | None = None  # what is being returned to
        self._complaint = ""  # why the journal cannot be written, as the log was told
        self._wait_s = _FIRST_WAIT_S
        now_s = world.monotonic()
        self._retry_s = self._spent_s = self._written_s = self._measured_s = now_s
        self._began_s = now_s

    @property
    def tries(self) -> bool:
        """Whether a candidate of this model is on trial, or still has to leave."""
        current = self.journal.current
        return bool(self._on_trial) or (current is not None and current.state is State.TRIAL)

    @property
    def progress(self) -> tuple[str, int, int] | None:
        """Deployment, bytes there and bytes in all, while something is being fetched."""
        task = self._task
        if task is None or task.progress is None or task.done:
            return None
        return (task.deployment_id, *task.progress)

    def write(self, journal: Journal) -> None:
        """Make a journal the valid one.

        Raises:
            StoreError: it cannot be written; the one before is still valid.
        """
        if journal == self.journal:
            return
        self._world.keep(journal)
        self._log(journal)
        if _stage(journal) != _stage(self.journal):
            # What held up the one before is no reason for this one to wait.
            self._wait_s, self._retry_s = _FIRST_WAIT_S, self._world.monotonic()
        self.journal = journal
        self._written_s = self._world.monotonic()
        self._complaint = ""

    def complain(self, error: StoreError) -> None:
        """Tell the log that the journal cannot be written: once, not at every attempt."""
        if error.reason != self._complaint:
            self._complaint = error.reason
            log.error("model %s: %s", self.journal.model, error.explain())

    def step(self, *, stage_free: bool) -> None:
        """Go as far as it goes without waiting.

        Args:
            stage_free: whether no other model has a candidate on trial.
        """
        self._spend(stage_free=stage_free)
        try:
            self._answer()
            self.write(pursue(self.journal, self._world.device_id, self._world.moment()))
            end = overdue(self.journal, self._world.deadline_s) or condemned(self.journal)
            if end is not None:
                self._happened(end)
            self._act(stage_free=stage_free)
        except StoreError as error:
            # Nothing has happened then: it is done again once the disk is back.
            self.complain(error)
            self._back_off(None)

    def stop(self) -> None:
        """Let nothing go on that can be stopped."""
        if self._task is not None:
            self._task.cancel()

    @property
    def idle(self) -> bool:
        """Whether nothing is under way on another thread."""
        return self._task is None or self._task.done

    @property
    def served_a_minute(self) -> bool:
        """Whether the process has lasted long enough for earlier crashes to be forgiven."""
        return self._world.monotonic() - self._began_s >= _HEALTHY_S

    def _spend(self, *, stage_free: bool) -> None:
        now_s = self._world.monotonic()
        seconds, self._spent_s = now_s - self._spent_s, now_s
        current = self.journal.current
        if current is None or current.state not in BEFORE_TRIAL:
            return
        if self._waiting != current.deployment_id or stage_free:
            self.journal = spend(self.journal, seconds)
        if now_s - self._written_s >= _SPENT_S:
            self._written_s = now_s
            try:
                self._world.keep(self.journal)
            except StoreError as error:
                self.complain(error)

    def _answer(self) -> None:
        task = self._task
        if task is None or not task.done:
            return
        self._task = None
        current = self.journal.current
        if isinstance(task.outcome, Exception):
            if task.action is Action.REST:
                log.warning("model %s: %s", self.journal.model, task.outcome.explain())
                self._back_off(None)
        elif task.action is Action.TRY:
            self._on_trial = task.deployment_id
        elif task.action in {Action.RESTORE, Action.REST}:
            self._on_trial = ""
        if current is None or (current.deployment_id, todo(self.journal)) != (
            task.deployment_id,
            task.action,
        ):
            return  # too late: nobody waits for it any more
        if task.action is Action.RESTORE and return_to(self.journal) != self._returning:
            return  # marked meanwhile: another one is returned to
        event = self._meant(current.state, task.outcome)
        if event is None:
            return
        if current.state is State.VALIDATING and event.kind is Kind.VALIDATED:
            self._waiting = task.deployment_id
            return
        self._happened(event, task.outcome)

    def _meant(self, state: State, outcome: Outcome) -> Event | None:
        """Return what an answer means; None where there is nothing to tell, or to try it again."""
        if isinstance(outcome, Event | None):
            return outcome
        event = fault(state, outcome)
        if event is None:
            log.warning("model %s: %s", self.journal.model, outcome.explain())
            self._back_off(None)
        return event

    def _happened(self, event: Event, outcome: Outcome = None) -> None:
        current = self.journal.current
        if current is None:
            raise AssertionError(f"{event.kind} without a deployment")
        self.write(advance(self.journal, current.deployment_id, event, self._world.now_ms()))
        self._waiting = ""
        if event.kind is Kind.TROUBLE:
            asked_s = outcome.retry_after_s if isinstance(outcome, FetchError) else None
            self._back_off(asked_s)
        else:
            self._wait_s, self._retry_s = _FIRST_WAIT_S, self._world.monotonic()

    def _back_off(self, asked_s: float | None) -> None:
        wait_s = max(self._wait_s, min(asked_s or 0.0, _LONGEST_RETRY_AFTER_S))
        self._retry_s = self._world.monotonic() + wait_s
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)

    def _act(self, *, stage_free: bool) -> None:
        current, action = self.journal.current, todo(self.journal)
        deployment_id = "" if current is None else current.deployment_id
        task = self._task
        if task is not None:
            if (task.deployment_id, task.action) != (deployment_id, action):
                task.cancel()
            return
        if self._on_trial and action not in {Action.TRY, Action.RESTORE}:
            if self._world.monotonic() >= self._retry_s:
                self._start(self._on_trial, Action.REST)
        elif action is Action.TRY and self._on_trial == deployment_id:
            self._judge()
        elif action is Action.VALIDATE and self._waiting == deployment_id:
            if stage_free:
                self._happened(Event(Kind.VALIDATED))
                self._act(stage_free=stage_free)
        elif action is not Action.REST and self._world.monotonic() >= self._retry_s:
            self._start(deployment_id, action)

    def _judge(self) -> None:
        model, now_s = self.journal.model, self._world.monotonic()
        if now_s - self._measured_s >= _MEASURED_S:
            self._measured_s = now_s
            self._world.acts.measure(model)
        event = judged(*self._world.acts.verdict(model))
        if event is not None:
            self._happened(event)
            self._act(stage_free=True)

    def _start(self, deployment_id: str, action: Action) -> None:
        journal, acts = self.journal, self._world.acts
        calls: dict[Action, Callable[[Journal, Task], Event | None]] = {
            Action.SYNC: acts.sync,
            Action.DOWNLOAD: acts.download,
            Action.VERIFY: acts.verify,
            Action.VALIDATE: acts.validate,
            Action.TRY: acts.try_out,
            Action.RESTORE: acts.restore,
            Action.REST: acts.settle,
        }
        call = calls[action]
        self._returning = return_to(journal) if action is Action.RESTORE else None
        self._task = Task(deployment_id, action, lambda task: call(journal, task), self._world.ring)
        self._world.spawn(self._task.run)

    def _log(self, journal: Journal) -> None:
        """Tell the log of steps ahead, not of seconds spent."""
        before, now = self.journal.current, journal.current
        if now is not None and (
            before is None
            or (before.deployment_id, before.state, before.reason, before.unusable)
            != (now.deployment_id, now.state, now.reason, now.unusable)
        ):
            why = f": {now.reason} {now.detail}".rstrip() if now.reason else ""
            log.info("model %s: %s %s%s", journal.model, now.version, now.state, why)
        known = {past.deployment_id for past in self.journal.history}
        for past in journal.history:
            if past.deployment_id not in known:
                why = f": {past.reason} {past.detail}".rstrip() if past.reason else ""
                log.info("model %s: %s %s%s", journal.model, past.version, past.status, why)


def _stage(journal: Journal) -> tuple[str, State] | None:
    """Return which deployment is under way, and where it stands."""
    current = journal.current
    return None if current is None else (current.deployment_id, current.state)

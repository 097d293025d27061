"""One camera with one model, watched: windows in, a standing out. Pure.

Warm-up, both paths and the commands meet here. Whoever holds it keeps `reference`, `memory` and
`standing` over restarts; everything else follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edged.drift.detector import FRESH, Decision, Detector, Memory, Terms
from edged.drift.gross import faults
from edged.drift.hour import Days, Hours, time_of_day, whole_days
from edged.drift.reference import Reference, WarmUp
from edged.drift.state import Reason, Standing, State
from edged.drift.window import Subject, Tally, Window, add
from edged.drift.words import explain
from edged.errors import DriftError

_MINUTES = 2
"""So many in a row must show a fault: somebody walks past a camera, or wipes it."""

_DAYS = 2
"""Of a reference, before the fast path says anything."""

_USUAL_HOURS = 3
"""Before and after, that are the same time of day for the fast path: a lamp that comes on late
leaves it as dark as it usually is some hours later."""

_WHOLE_DAYS = 4
"""Of a reference, before days are compared."""

_LEAST_DAY_SCALE = 0.3

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives a restart.

    Attributes:
        reference: R1, complete or not.
        memory: of the statistical path, hour by hour.
        daily: of the statistical path, day by day.
        standing: what was last said.
    """

    reference: Reference = field(default_factory=Reference)
    memory: Memory = FRESH
    daily: Memory = FRESH
    standing: Standing = field(default_factory=Standing)


class Watch:
    """Watches one subject.

    Args:
        subject: whose windows it takes.
        terms: of the statistical path.
        warm_up: what makes a reference complete.
        kept: from before a restart.

    Attributes:
        decision: of the last hour or day, None before the first.

    Raises:
        DriftError: `reference_mixed`: what was kept is another subject's.
    """

    def __init__(
        self,
        subject: Subject,
        terms: Terms | None = None,
        warm_up: WarmUp | None = None,
        kept: Kept | None = None,
    ) -> None:
        self._subject = subject
        self._terms, self._warm_up = terms or Terms(), warm_up or WarmUp()
        self._kept = kept or Kept()
        if self._kept.reference.subject not in (None, subject):
            raise DriftError("reference_mixed", "the reference is of another camera or model.")
        self.decision: Decision | None = None
        self._hours, self._days, self._bad_minutes = Hours(), Days(), 0
        self._by_day = False
        self._detector = self._ready()
        self._daily = self._ready_by_day()
        self._usuals: dict[int, Tally | None] = {}

    @property
    def kept(self) -> Kept:
        """What is to outlive a restart."""
        return self._kept

    @property
    def standing(self) -> Standing:
        """What is said now."""
        return self._kept.standing

    @property
    def warming(self) -> bool:
        """Whether the reference is not complete."""
        return self._detector is None

    def window(self, window: Window) -> Standing:
        """Take the next window; decide where it completes an hour.

        Raises:
            DriftError: `reference_mixed`: it is another subject's.
        """
        if window.subject != self._subject:
            raise DriftError("reference_mixed", "the window is of another camera or model.")
        hour = self._hours.add(window)
        if hour is not None:
            self._hour(hour, hour.began_ms + round(hour.seconds * 1000))
        return self.standing

    def minute(self, tally: Tally, at_ms: int) -> Standing:
        """Take what a minute or more has counted: the fast path.

        Args:
            tally: of the time since the last call.
            at_ms: Unix time in ms at its end.
        """
        usual = self._usual(at_ms // _HOUR_MS % 24)
        found = faults(tally, usual) if usual is not None else ()
        self._bad_minutes = self._bad_minutes + 1 if found else 0
        if self._bad_minutes >= _MINUTES:
            # Some days of a reference that is not complete know little of what is usual.
            state: State = "warn" if self.warming else "drift"
            reasons = [Reason(fault.kind, fault.detail) for fault in found]
            self._tell(state, reasons, at_ms)
        return self.standing

    def acknowledge(self, at_ms: int) -> Standing:
        """End an alarm that a person has seen; what goes on being wrong is told again."""
        state: State = "warming" if self.warming else "ok"
        standing = self.standing.acknowledged(state, at_ms)
        self._kept = replace(self._kept, memory=FRESH, daily=FRESH, standing=standing)
        self._bad_minutes = 0
        return self.standing

    def reset(self, at_ms: int) -> Standing:
        """Forget the reference: what comes now is normal."""
        self._kept = Kept(standing=Standing("warming", at_ms))
        self.decision, self._detector, self._daily = None, None, None
        self._hours, self._days, self._bad_minutes = Hours(), Days(), 0
        self._by_day = False
        self._usuals.clear()
        return self.standing

    def _usual(self, hour_of_day: int) -> Tally | None:
        reference = self._kept.reference
        # A single day knows no other dusk.
        if hour_of_day not in self._usuals and reference.days >= _DAYS:
            self._usuals[hour_of_day] = reference.usual(hour_of_day, _USUAL_HOURS)
        return self._usuals.get(hour_of_day)

    def _ready(self) -> Detector | None:
        reference = self._kept.reference
        complete = reference.complete(self._warm_up)
        return Detector(reference, self._terms) if complete else None

    def _ready_by_day(self) -> Detector | None:
        if self._detector is None:
            return None
        days = whole_days(self._kept.reference.hours)
        if len(days) < _WHOLE_DAYS:
            return None
        return Detector(Reference(tuple(days)), self._terms, _LEAST_DAY_SCALE)

    def _tell(self, state: State, reasons: list[Reason], at_ms: int) -> None:
        self._kept = replace(self._kept, standing=self.standing.told(state, reasons, at_ms))

    def _hour(self, hour: Window, at_ms: int) -> None:
        terms = self._terms
        if not (hour.synchronised or terms.trust_clock):
            detail = (
                "the clock is not known to be right, so what is usual now is not known; where it is"
                " right though nothing synchronises it, set trust_clock = true under [drift]"
            )
            self._tell("insufficient", [Reason("clock", detail)], at_ms)
            return
        if self._detector is not None:
            self._day(self._days.add(hour), at_ms)
        if self._detector is not None and hour.n_effective >= terms.least_effective:
            usual = self._kept.reference.usual(time_of_day(hour)) or Tally()
            decision = self._detector.decide(hour, self._kept.memory)
            self._kept = replace(self._kept, memory=decision.memory)
            self._decided(decision, hour.tally, usual, at_ms)
        elif self._detector is None and hour.tally.sampled >= terms.least_effective:
            # However few independent ones: the fast path asks only what is usual.
            self._warm(hour, at_ms)
        elif not self._by_day:
            detail = (
                f"{hour.tally.sampled} samples of an hour are worth {hour.n_effective:.0f}"
                f" independent ones, {terms.least_effective:.0f} are needed"
            )
            self._tell("insufficient", [Reason("samples", detail)], at_ms)

    def _day(self, hours: list[Window], at_ms: int) -> None:
        """Judge a day that has ended, where most of its hours could not be judged."""
        if not hours:
            return
        least = self._terms.least_effective
        few = 2 * sum(hour.n_effective < least for hour in hours) > len(hours)
        days = [one for one in whole_days(hours) if few and one.n_effective >= least]
        self._by_day = self._daily is not None and bool(days)
        if self._daily is not None and days:
            decision = self._daily.decide(days[0], self._kept.daily)
            self._kept = replace(self._kept, daily=decision.memory)
            usual = add(hour.tally for hour in self._kept.reference.hours)
            self._decided(decision, days[0].tally, usual, at_ms)

    def _warm(self, hour: Window, at_ms: int) -> None:
        reference = self._kept.reference.with_hour(hour)
        self._kept = replace(self._kept, reference=reference)
        self._usuals.clear()
        self._detector = self._ready()
        self._daily = self._ready_by_day()
        if self._detector is not None:
            self._tell("ok", [], at_ms)
        else:
            reason = Reason("warm_up", f"the reference has {reference.missing(self._warm_up)}")
            self._tell("warming", [reason], at_ms)

    def _decided(self, decision: Decision, tally: Tally, usual: Tally, at_ms: int) -> None:
        reasons = [Reason(s, explain(s, tally, usual)) for s in decision.suspects]
        self._tell(decision.state, reasons, at_ms)
        self.decision = decision

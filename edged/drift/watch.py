"""One camera with one model, watched: windows in, a standing out. Pure.

Warm-up, both paths and the commands meet here. Whoever holds it keeps `reference`, `memory` and
`standing` over restarts; everything else follows from them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edged.drift.detector import FRESH, Decision, Detector, Memory, Terms
from edged.drift.gross import faults
from edged.drift.hour import Hours, time_of_day
from edged.drift.reference import Reference, WarmUp
from edged.drift.state import Reason, Standing, State
from edged.drift.window import Subject, Tally, Window
from edged.drift.words import explain
from edged.errors import DriftError

_MINUTES = 2
"""So many in a row must show a fault: somebody walks past a camera, or wipes it."""

_DAYS = 2
"""Of a reference, before the fast path says anything."""

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Kept:
    """What outlives a restart.

    Attributes:
        reference: R1, complete or not.
        memory: of the statistical path.
        standing: what was last said.
    """

    reference: Reference = field(default_factory=Reference)
    memory: Memory = FRESH
    standing: Standing = field(default_factory=Standing)


class Watch:
    """Watches one subject.

    Args:
        subject: whose windows it takes.
        terms: of the statistical path.
        warm_up: what makes a reference complete.
        kept: from before a restart.

    Attributes:
        decision: of the last hour, None before the first.

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
        self._hours, self._bad_minutes = Hours(), 0
        self._detector = self._ready()
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
            self._keep(standing=self.standing.told(state, reasons, at_ms))
        return self.standing

    def acknowledge(self, at_ms: int) -> Standing:
        """End an alarm that a person has seen; what goes on being wrong is told again."""
        state: State = "warming" if self.warming else "ok"
        self._keep(memory=FRESH, standing=self.standing.acknowledged(state, at_ms))
        self._bad_minutes = 0
        return self.standing

    def reset(self, at_ms: int) -> Standing:
        """Forget the reference: what comes now is normal."""
        self._kept = Kept(standing=Standing("warming", at_ms))
        self.decision, self._detector = None, None
        self._hours, self._bad_minutes = Hours(), 0
        self._usuals.clear()
        return self.standing

    def _usual(self, hour_of_day: int) -> Tally | None:
        reference = self._kept.reference
        # A single day knows no other dusk.
        if hour_of_day not in self._usuals and reference.days >= _DAYS:
            self._usuals[hour_of_day] = reference.usual(hour_of_day)
        return self._usuals.get(hour_of_day)

    def _ready(self) -> Detector | None:
        reference = self._kept.reference
        complete = reference.complete(self._warm_up)
        return Detector(reference, self._terms) if complete else None

    def _say_insufficient(self, kind: str, detail: str, at_ms: int) -> None:
        told = self.standing.told("insufficient", [Reason(kind, detail)], at_ms)
        self._keep(standing=told)

    def _hour(self, hour: Window, at_ms: int) -> None:
        if not (hour.synchronised or self._terms.trust_clock):
            detail = (
                "the clock is not known to be right, so what is usual now is not known; where it is"
                " right though nothing synchronises it, set trust_clock = true under [drift]"
            )
            self._say_insufficient("clock", detail, at_ms)
        elif hour.n_effective < self._terms.least_effective:
            detail = (
                f"{hour.tally.sampled} samples of an hour are worth {hour.n_effective:.0f}"
                f" independent ones, {self._terms.least_effective:.0f} are needed"
            )
            self._say_insufficient("samples", detail, at_ms)
        elif self._detector is None:
            self._warm(hour, at_ms)
        else:
            self._decide(self._detector, hour, at_ms)

    def _warm(self, hour: Window, at_ms: int) -> None:
        reference = self._kept.reference.with_hour(hour)
        self._keep(reference=reference)
        self._usuals.clear()
        self._detector = self._ready()
        if self._detector is not None:
            self._keep(standing=self.standing.told("ok", (), at_ms))
        else:
            reason = Reason("warm_up", f"the reference has {reference.missing(self._warm_up)}")
            self._keep(standing=self.standing.told("warming", [reason], at_ms))

    def _decide(self, detector: Detector, hour: Window, at_ms: int) -> None:
        decision = detector.decide(hour, self._kept.memory)
        usual = self._usual(time_of_day(hour)) or Tally()
        reasons = [Reason(s, explain(s, hour.tally, usual)) for s in decision.suspects]
        standing = self.standing.told(decision.state, reasons, at_ms)
        self._keep(memory=decision.memory, standing=standing)
        self.decision = decision

    def _keep(
        self,
        *,
        reference: Reference | None = None,
        memory: Memory | None = None,
        standing: Standing | None = None,
    ) -> None:
        before = self._kept
        self._kept = Kept(
            before.reference if reference is None else reference,
            before.memory if memory is None else memory,
            before.standing if standing is None else standing,
        )

"""R1: the hours of the first week that drift is judged against, on this camera with this model.

It is frozen when it is complete and never slides: a slow change would slide into it. It belongs to
one subject; another model version has another reference, and finds its own again when it comes
back. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.drift.histogram import EDGES, SCALES
from edged.drift.hour import day, time_of_day
from edged.drift.window import OTHER, TOP_CLASSES, Subject, Tally, Window, add
from edged.errors import DriftError

CLASSES = "classes"
"""The mix of classes, beside the signals of `SCALES`: `TOP_CLASSES` of the reference, and the rest.
"""

MOST_HOURS = 1000
"""Of a reference; the longest warm-up takes 672."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What makes a reference complete.

    Attributes:
        hours: least number of them.
        days: least number of days that they lie in.
    """

    hours: int = 168
    days: int = 7


@dataclass(frozen=True, eq=False)
class Reference:
    """Hours of one subject.

    Attributes:
        hours: in the order they were seen; each a window of an hour.
    """

    hours: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        """Refuse hours that do not belong together.

        Raises:
            DriftError: `reference_mixed`, `edges_differ`.
        """
        if len({hour.subject for hour in self.hours}) > 1:
            raise DriftError("reference_mixed", "hours of a reference are of different subjects.")
        if any(hour.edges != EDGES for hour in self.hours):
            raise DriftError("edges_differ", f"a reference's edges are not {EDGES}.")

    @property
    def subject(self) -> Subject | None:
        """Whose it is; None while it is empty."""
        return self.hours[0].subject if self.hours else None

    @property
    def days(self) -> int:
        """How many days its hours lie in."""
        return len({day(hour) for hour in self.hours})

    def complete(self, warm_up: WarmUp) -> bool:
        """Say whether it has all the hours it needs."""
        return len(self.hours) >= warm_up.hours and self.days >= warm_up.days

    def missing(self, warm_up: WarmUp) -> str:
        """Say how far the warm-up is, for a person."""
        return f"{len(self.hours)} of {warm_up.hours} hours, {self.days} of {warm_up.days} days"

    def with_hour(self, hour: Window) -> Reference:
        """Return the reference with one more hour.

        With a clock that stands at the same day again and again it never is complete: the oldest
        of very many go.
        """
        return Reference((*self.hours, hour)[-MOST_HOURS:])

    @property
    def digest(self) -> str:
        """SHA-256 of what was counted and when, hex: says which reference a score was against."""
        state = hashlib.sha256()
        for hour in self.hours:
            state.update(repr((hour.subject, hour.began_ms, hour.edges)).encode())
            state.update(repr(sorted(hour.tally.best.items())).encode())
            for signal, counts in sorted(hour.tally.histograms.items()):
                state.update(signal.encode() + np.asarray(counts, "<i8").tobytes())
        return state.hexdigest()

    def usual(self, hour_of_day: int, spread: int = 1) -> Tally | None:
        """Return what was counted around a time of day, or None where nothing was.

        Args:
            hour_of_day: 0..23, UTC.
            spread: hours before and after that count as well.
        """
        chosen = [
            hour.tally
            for hour in self.hours
            if apart(np.array(time_of_day(hour)), hour_of_day) <= spread
        ]
        return add(chosen) if chosen else None

    def named_classes(self) -> tuple[int, ...]:
        """Return the classes that the mix of classes counts by name, the most frequent first."""
        best: dict[int, int] = {}
        for hour in self.hours:
            for number, count in hour.tally.best.items():
                best[number] = best.get(number, 0) + count
        named = sorted((n for n in best if n != OTHER), key=lambda n: (-best[n], n))
        return tuple(named[:TOP_CLASSES])


def apart(hours: npt.NDArray[np.int64], hour: int) -> npt.NDArray[np.int64]:
    """Return how many hours lie between times of day, the shorter way around the clock."""
    gap = np.abs(hours - hour)
    around: npt.NDArray[np.int64] = np.minimum(gap, 24 - gap)
    return around


def counted(tally: Tally, classes: Iterable[int]) -> dict[str, npt.NDArray[np.int64]]:
    """Return the counts that distances are made of: each signal's, and the mix of classes.

    Args:
        tally: of an hour.
        classes: those named.
    """
    named = [tally.best.get(number, 0) for number in classes]
    rest = sum(tally.best.values()) - sum(named)
    found = {
        signal: tally.histograms.get(signal, np.zeros(scale.bins, np.int64))
        for signal, scale in SCALES.items()
    }
    found[CLASSES] = np.array([*named, rest], np.int64)
    return found

"""The statistical path: does this hour look like the same time of day in the reference? Pure.

For each signal the hour's counts are compared with those of the reference at the same time of day,
an hour before and an hour after (Jensen-Shannon); the nearest counts, as the sun and lamps are not
on time. How far apart is far, the reference says itself: each of its hours is compared with those
of its other days in the same way. The logarithm of the distance, less what is usual at
that time, over its spread, goes into a one-sided CUSUM for each signal. No test here takes frames
for independent: hours are compared with hours. Slack and limit are wide, because a week knows
little of how much days differ; docs/drift-evaluation.md has the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edged.drift.histogram import js_distance, psi, psi_floor
from edged.drift.hour import day, time_of_day
from edged.drift.reference import CLASSES, Reference, apart, counted
from edged.drift.window import Window

Verdict = Literal["insufficient", "ok", "warn", "drift"]
Floats = npt.NDArray[np.float64]

SIGNALS = (
    *("top1", "margin", "entropy"),
    *("luma", "contrast", "sharpness", "tilt_x", "tilt_y", "edges"),
    CLASSES,
)
INFORMS = frozenset({CLASSES})
"""Scored and told, but no alarm: what is before a camera may change without anything being wrong.
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """When an hour is far.

    Attributes:
        least_effective: fewer independent samples than this decide nothing.
        spread_hours: hours of the day beside the same one that count as the same time.
        slack: what a CUSUM forgets every hour, in standard scores.
        highest: scores above it count as this, so that no single hour makes an alarm.
        limit: of the CUSUMs; half of it is a warning.
        trust_clock: take the clock as right where nothing synchronises it.
    """

    least_effective: float = 20.0
    spread_hours: int = 1
    slack: float = 4.0
    highest: float = 8.0
    limit: float = 4.0
    trust_clock: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What the statistical path remembers from hour to hour.

    Attributes:
        cusum: by signal.
    """

    cusum: Mapping[str, float]


FRESH = Memory({})

# Distances below this are the same: a logarithm must not make much of them.
_LEAST_DISTANCE = 2.0**-10
_LEAST_SCALE = 0.1


@dataclass(frozen=True, slots=True)
class Score:
    """One signal in one hour.

    Attributes:
        distance: Jensen-Shannon divergence from the reference, 0..1.
        psi: population stability index, for comparison.
        psi_noise: what of it samples of this size have by chance.
        standard: how unusual the distance is, in standard deviations of the reference's own.
        cusum: after this hour.
    """

    distance: float
    psi: float
    psi_noise: float
    standard: float
    cusum: float


@dataclass(frozen=True, slots=True)
class Decision:
    """What one hour says.

    Attributes:
        state: `insufficient`, `ok`, `warn` or `drift`.
        scores: by signal; none where the hour does not suffice.
        n_effective: independent samples of the hour.
        suspects: signals beyond the limit, or in `warn` beyond half of it, the worst first.
        memory: to go on with.
    """

    state: Verdict
    scores: Mapping[str, Score]
    n_effective: float
    suspects: tuple[str, ...]
    memory: Memory


class Detector:
    """Judges hours, or days in their place, against one complete reference.

    Args:
        reference: of at least two days.
        terms: when an hour is far.
        least_scale: of what is usual; days, of which a reference has few, need a larger one, as
            the spread of some of ten signals then comes out small by chance.
    """

    def __init__(
        self, reference: Reference, terms: Terms, least_scale: float = _LEAST_SCALE
    ) -> None:
        self._terms = terms
        self._classes = reference.named_classes()
        self._hour = np.array([time_of_day(hour) for hour in reference.hours])
        self._day = np.array([day(hour) for hour in reference.hours])
        parts = [counted(hour.tally, self._classes) for hour in reference.hours]
        self._counts = {signal: np.array([part[signal] for part in parts]) for signal in SIGNALS}
        self._effective = np.array([hour.n_effective for hour in reference.hours])
        own = np.array([self._distances(part, self._others(n)) for n, part in enumerate(parts)])
        self._usual = np.array([np.median(own[self._around(h, 1)], axis=0) for h in range(24)])
        residual = own - self._usual[self._hour]
        # The upper half tells how far chance goes; the lower half may be cut off by the smoothing.
        above = np.maximum(residual, 0.0)
        count = np.maximum((residual > 0.0).sum(axis=0), 1)
        self._scale = np.maximum(np.sqrt((above**2).sum(axis=0) / count), least_scale)

    def decide(self, hour: Window, memory: Memory) -> Decision:
        """Judge an hour.

        Args:
            hour: of the reference's subject.
            memory: what the hour before left.
        """
        terms, effective = self._terms, hour.n_effective
        if effective < terms.least_effective:
            return Decision("insufficient", {}, effective, (), memory)
        place = time_of_day(hour)
        counts, chosen = counted(hour.tally, self._classes), self._around(place)
        distances = self._distances(counts, self._by_hour(chosen))
        standard = (distances - self._usual[place]) / self._scale
        before = np.array([memory.cusum.get(signal, 0.0) for signal in SIGNALS])
        cusum = np.maximum(before + np.minimum(standard, terms.highest) - terms.slack, 0.0)
        level = dict(zip(SIGNALS, cusum.tolist(), strict=True))
        voting = sorted((s for s in SIGNALS if s not in INFORMS), key=lambda s: -level[s])
        drift = [signal for signal in voting if level[signal] > terms.limit]
        warn = [signal for signal in voting if level[signal] > terms.limit / 2]
        m_effective = float(self._effective[chosen].sum())
        scores = {}
        for n, signal in enumerate(SIGNALS):
            pooled = self._counts[signal][chosen].sum(axis=0)
            scores[signal] = Score(
                distance=float(2.0 ** distances[n] - _LEAST_DISTANCE),
                psi=psi(counts[signal], pooled),
                psi_noise=psi_floor(pooled.size, effective, m_effective),
                standard=float(standard[n]),
                cusum=level[signal],
            )
        state: Verdict = "drift" if drift else "warn" if warn else "ok"
        return Decision(state, scores, effective, tuple(drift or warn), Memory(level))

    def _around(self, place: int, more: int = 0) -> npt.NDArray[np.bool_]:
        """Return which hours of the reference are near a time of day; all, if none is."""
        near: npt.NDArray[np.bool_] = apart(self._hour, place) <= self._terms.spread_hours + more
        return near if near.any() else np.ones_like(near)

    def _others(self, n: int) -> list[npt.NDArray[np.bool_]]:
        """Return the groups that hour n of the reference is compared with: of other days."""
        other: npt.NDArray[np.bool_] = self._day != self._day[n]
        near: npt.NDArray[np.bool_] = other & self._around(int(self._hour[n]))
        return self._by_hour(near if near.any() else other)

    def _by_hour(self, chosen: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.bool_]]:
        """Return hours of the reference in groups: those of the same time of day."""
        return [chosen & (self._hour == hour) for hour in np.unique(self._hour[chosen])]

    def _distances(
        self, counts: Mapping[str, npt.NDArray[np.int64]], groups: list[npt.NDArray[np.bool_]]
    ) -> Floats:
        """Return the logarithm of each signal's distance from the group that is nearest."""
        nearest = np.array(
            [
                min(js_distance(counts[s], self._counts[s][group].sum(axis=0)) for group in groups)
                for s in SIGNALS
            ]
        )
        logarithms: Floats = np.log2(nearest + _LEAST_DISTANCE)
        return logarithms

"""Decision windows: five-minute windows of one subject, an hour or a day together. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from edged.drift.autocorrelation import batch_tau
from edged.drift.histogram import empty
from edged.drift.window import Window, total

_HOUR_MS = 3_600_000
_DAY_HOURS = 24
_DAY_MS = _DAY_HOURS * _HOUR_MS
_LEAST_HOURS = 20


def joined(windows: Sequence[Window]) -> Window:
    """Return windows of one subject as one, from when the first began.

    Their tau is such that the effective samples add up, or longer where the windows' means say so.

    Raises:
        DriftError: `edges_differ`.
    """
    first, tally = windows[0], total(windows)
    scores = [window.tally.histograms.get("top1", empty("top1")) for window in windows]
    tau = hour_tau([window.n_effective for window in windows], np.array(scores))
    return replace(
        first,
        seconds=sum(window.seconds for window in windows),
        synchronised=all(window.synchronised for window in windows),
        trial=any(window.trial for window in windows),
        tally=tally,
        tau=tau,
    )


def hour_tau(effective: Sequence[float], scores: npt.NDArray[np.int64]) -> float | None:
    """Return the autocorrelation time of consecutive windows together, in samples.

    Args:
        effective: what each window's samples are worth by its own tau.
        scores: histogram of each window's best scores, shape (windows, bins).

    Returns:
        None where neither the windows nor their means say any.
    """
    worth, sampled = sum(effective), float(scores.sum())
    found = [sampled / worth] if worth > 0.0 else []
    between = batch_tau(scores)
    return max([*found, between] if between is not None else found, default=None)


def time_of_day(window: Window) -> int:
    """Return the hour of the day, 0..23 UTC, that the middle of a window lies in."""
    return int(_middle_ms(window) // _HOUR_MS % _DAY_HOURS)


def day(window: Window) -> int:
    """Return the day, counted from 1970 in UTC, that the middle of a window lies in."""
    return int(_middle_ms(window) // _DAY_MS)


def whole_days(hours: Iterable[Window]) -> list[Window]:
    """Return the days that hours make, without those of which more than four hours are missing.

    A day without its night is not like others. Days begin at midnight, UTC, whenever their first
    hour did.

    Args:
        hours: of one subject, in the order of time.
    """
    return [whole for _, one in groupby(hours, day) if (whole := _whole(list(one))) is not None]


def _whole(hours: list[Window]) -> Window | None:
    if len(hours) < _LEAST_HOURS:
        return None
    return replace(joined(hours), began_ms=day(hours[0]) * _DAY_MS, seconds=_DAY_MS / 1000)


def _middle_ms(window: Window) -> float:
    return window.began_ms + window.seconds * 500.0


class Hours:
    """Gathers windows until they make an hour.

    An hour holds one subject and no large gap: what does not go on from the windows gathered so
    far, by the clock, begins another hour, and the unfinished one is dropped. Its windows are
    recorded all the same; an hour of bits and pieces would be compared with the wrong time of day.
    """

    def __init__(self) -> None:
        self._gathered: list[Window] = []

    def add(self, window: Window) -> Window | None:
        """Take the next window; return the hour that it completes, if it does."""
        if self._gathered and not self._goes_on(window):
            self._gathered = []
        self._gathered.append(window)
        # A window may end a little early; half of one does not make another hour.
        if sum(one.seconds for one in self._gathered) < _HOUR_MS / 1000 - window.seconds / 2:
            return None
        hour, self._gathered = joined(self._gathered), []
        return hour

    def _goes_on(self, window: Window) -> bool:
        first = self._gathered[0]
        since_ms = window.began_ms - first.began_ms
        return window.subject == first.subject and 0 <= since_ms < 2 * _HOUR_MS


class Days:
    """Gathers the hours of a day, UTC, until one of another day comes."""

    def __init__(self) -> None:
        self._gathered: list[Window] = []

    def add(self, hour: Window) -> list[Window]:
        """Take the next hour; return those of the day that it ends, if it does."""
        if not self._gathered or day(hour) == day(self._gathered[0]):
            self._gathered.append(hour)
            return []
        ended, self._gathered = self._gathered, [hour]
        return ended

"""One camera's trials: clean days, unusual days that are fine, and days on which harm begins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from drifteval.cameras import (
    CLEAN,
    CONTROLS,
    DAY_SAMPLES,
    HOUR_SAMPLES,
    LAMP,
    MINUTE_SAMPLES,
    PERIOD_S,
    WEEKDAYS,
    Camera,
    Onset,
    hours,
    windows,
)
from drifteval.pictures import CELLS
from drifteval.pool import Pool
from edged.drift.detector import FRESH, Detector, Terms
from edged.drift.reference import Reference
from edged.drift.state import Standing
from edged.drift.watch import Kept, Watch
from edged.drift.window import Window

WEEK_DAYS, CLEAN_DAYS, CONTROL_DAYS = 7, 20, 10
MINUTE_DAYS = {CLEAN: 3, LAMP: 10}
"""Days that the fast path watches, of each kind; of others OTHER_MINUTE_DAYS."""

OTHER_MINUTE_DAYS = 2
OTHER_WEEKS = frozenset({LAMP, WEEKDAYS})
"""Controls whose reference differs from that of clean days as well."""

FOUND_WITHIN_HOURS, RAMP_HOURS = 24, 6
ACKNOWLEDGED_AFTER_HOURS = 24
FAST = (("blur", 5), ("dark", 5), ("cover", 5), ("washout", 5), ("freeze", 5))
FOUND_WITHIN_MINUTES = 60


@dataclass
class Found:
    """What one camera gave.

    Attributes:
        alarms: by kind of days: the false alarms of the statistical path, as (hour, signal).
        minute_alarms: those of the fast path.
        insufficient: share of the clean hours that decided nothing.
        effective: median of the hours' independent samples.
        delays: by (kind, severity, ramped): decision windows until the alarm, 1 is the hour in
            which it began; None: not within a day.
        signals: by the same: the signal that was told first.
        minutes: by kind: minutes until the fast path's alarm, or None.
        faults: by kind: what it was called.
    """

    alarms: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    minute_alarms: dict[str, int] = field(default_factory=dict)
    insufficient: float = 0.0
    effective: float = 0.0
    delays: dict[tuple[str, int, bool], int | None] = field(default_factory=dict)
    signals: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    minutes: dict[str, float | None] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)


def alarms(detector: Detector, clean: list[Window]) -> list[tuple[int, str]]:
    """Return the false alarms: each latches, and somebody acknowledges it a day later."""
    memory, until, found = FRESH, 0, []
    for n, hour in enumerate(clean):
        if n < until:
            continue
        decision = detector.decide(hour, memory)
        memory = decision.memory
        if decision.state == "drift":
            found.append((n, decision.suspects[0]))
            memory, until = FRESH, n + ACKNOWLEDGED_AFTER_HOURS
    return found


def delay(detector: Detector, stream: list[Window], onset_hour: int) -> tuple[int | None, str]:
    """Return in which decision window after onset the alarm comes, and the signal told first.

    A false alarm before it counts as not found.
    """
    memory = FRESH
    for n, hour in enumerate(stream[: onset_hour + FOUND_WITHIN_HOURS]):
        decision = detector.decide(hour, memory)
        memory = decision.memory
        if decision.state == "drift":
            return (n - onset_hour + 1, decision.suspects[0]) if n >= onset_hour else (None, "")
    return None, ""


def minute_days(days: str) -> int:
    """Return how many days of a kind the fast path watches."""
    return MINUTE_DAYS.get(days, OTHER_MINUTE_DAYS)


def _watch(reference: Reference, terms: Terms | None = None) -> Watch:
    assert reference.subject is not None
    return Watch(reference.subject, terms, kept=Kept(reference, standing=Standing("ok")))


def _end_ms(minute: Window) -> int:
    return minute.began_ms + MINUTE_SAMPLES * PERIOD_S * 1000


def minute_alarms(reference: Reference, minutes: list[Window]) -> int:
    """Return the false alarms of the fast path, each acknowledged at once."""
    watch, count = _watch(reference), 0
    for minute in minutes:
        if watch.minute(minute.tally, _end_ms(minute)).state == "drift":
            count += 1
            watch.acknowledge(_end_ms(minute))
    return count


def minutes_until(
    reference: Reference, minutes: list[Window], onset_sample: int
) -> tuple[float | None, str]:
    """Return the minutes from the onset to the end of the minute that gave the alarm."""
    watch, first = _watch(reference), onset_sample // MINUTE_SAMPLES
    for n in range(first, min(first + FOUND_WITHIN_MINUTES, len(minutes))):
        standing = watch.minute(minutes[n].tally, _end_ms(minutes[n]))
        if standing.state == "drift":
            ended = (n + 1) * MINUTE_SAMPLES
            return (ended - onset_sample) * PERIOD_S / 60, standing.reasons[0].kind
    return None, ""


def run(pool: Pool, number: int) -> Found:
    """Run all trials of one camera."""
    found = Found()
    clean_camera = Camera(pool, number)
    reference, detector = _calibrated(pool, clean_camera)
    for days in (CLEAN, *CONTROLS):
        camera = clean_camera if days == CLEAN else Camera(pool, number, days)
        its, judge = reference, detector
        if days in OTHER_WEEKS:
            its, judge = _calibrated(pool, camera)
        count = CLEAN_DAYS if days == CLEAN else CONTROL_DAYS
        stream = camera.days(WEEK_DAYS, count, test=True)
        seen = hours(pool, stream)
        found.alarms[days] = alarms(judge, seen)
        if days == CLEAN:
            effective = np.array([hour.n_effective for hour in seen])
            found.insufficient = float((effective < Terms().least_effective).mean())
            found.effective = float(np.median(effective))
        part = replace(stream, samples=stream.samples[: minute_days(days) * DAY_SAMPLES])
        found.minute_alarms[days] = minute_alarms(its, windows(pool, part, MINUTE_SAMPLES))
    rng = np.random.default_rng((3, number))
    for kind, severity in (*CELLS, ("freeze", 5)):
        # Whole days: a fault may begin at any time of the day.
        at = int(rng.integers(DAY_SAMPLES))
        for ramped in (False, True) if (kind, severity) not in FAST else (False,):
            onset = Onset(kind, severity, at, RAMP_HOURS * HOUR_SAMPLES * ramped)
            stream = clean_camera.days(WEEK_DAYS, 2, test=True, onset=onset)
            key = (kind, severity, ramped)
            found.delays[key], found.signals[key] = delay(
                detector, hours(pool, stream), at // HOUR_SAMPLES
            )
            if (kind, severity) in FAST:
                found.minutes[kind], found.faults[kind] = minutes_until(
                    reference, windows(pool, stream, MINUTE_SAMPLES), at
                )
    return found


def _calibrated(pool: Pool, camera: Camera) -> tuple[Reference, Detector]:
    reference = Reference(tuple(hours(pool, camera.days(0, WEEK_DAYS, test=False))))
    return reference, Detector(reference, Terms())


@dataclass
class Slow:
    """What a camera gave whose scenes stay for longer, watched as shipped.

    Attributes:
        dwell: samples that a scene stays.
        effective: median of the hours' independent samples.
        insufficient: share of the hours that decide nothing by themselves.
        alarms: false alarms, each acknowledged at once.
        ungated: the same where every hour decides.
        found: hours until harm is found, or None.
    """

    dwell: int
    effective: float
    insufficient: float
    alarms: int
    ungated: int
    found: float | None


SLOW_DWELLS, SLOW_DAYS, SLOW_FOUND_DAYS = (10, 30, 60, 150, 450), 20, 5
SLOW_HARM = Onset("blur", 3, DAY_SAMPLES // 2)


def run_slow(pool: Pool, number: int) -> list[Slow]:
    """Run one camera with scenes that stay longer and longer."""
    results = []
    for dwell in SLOW_DWELLS:
        camera = Camera(pool, number, dwell=dwell)
        reference, _ = _calibrated(pool, camera)
        clean = hours(pool, camera.days(WEEK_DAYS, SLOW_DAYS, test=True))
        effective = np.array([hour.n_effective for hour in clean])
        onset = SLOW_HARM.sample // HOUR_SAMPLES
        days = 1 + SLOW_FOUND_DAYS
        stream = hours(pool, camera.days(WEEK_DAYS, days, test=True, onset=SLOW_HARM))
        after = [n for n in _alarms(_watch(reference), stream)[:1] if n >= onset]
        results.append(
            Slow(
                dwell,
                float(np.median(effective)),
                float((effective < Terms().least_effective).mean()),
                len(_alarms(_watch(reference), clean)),
                len(_alarms(_watch(reference, Terms(least_effective=0.0)), clean)),
                after[0] - onset + 1.0 if after else None,
            )
        )
    return results


def _alarms(watch: Watch, stream: list[Window]) -> list[int]:
    """Return the hours after which there is an alarm; each is acknowledged at once."""
    found = []
    for n, hour in enumerate(stream):
        if watch.window(hour).state == "drift":
            found.append(n)
            watch.acknowledge(_end_ms(hour))
    return found

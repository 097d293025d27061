"""What everybody tries first, on the same streams: KS, PSI, ADWIN, Page-Hinkley, and two dummies.

Per frame they see the best scores as they come, per window the means of five minutes. Each is run
with its textbook threshold, and with that times each of FACTORS, to find the one at which it gives
false alarms as seldom as wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from drifteval.cameras import (
    DAY_SAMPLES,
    HOUR_SAMPLES,
    PERIOD_S,
    WINDOW_SAMPLES,
    Camera,
    Onset,
    hours,
)
from drifteval.pool import Pool
from drifteval.trials import WEEK_DAYS, alarms
from edged.drift.detector import FRESH, Detector, Terms
from edged.drift.histogram import psi
from edged.drift.reference import Reference

Floats = npt.NDArray[np.float64]
CAMERAS, CLEAN_DAYS = 12, 10
CELLS = (("noise", 3), ("blur", 1), ("jpeg", 3), ("fog", 3), ("smear", 3), ("rotation", 3))
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 48.0, 96.0)
EDGED, ALWAYS, NEVER = "edged", "always", "never"

Method = Callable[[Floats, Floats, float], list[int]]
"""Reference, stream and factor in; the samples after which there is an alarm out."""


@dataclass
class Found:
    """What one camera gave.

    Attributes:
        alarms: by method and factor: false alarms on clean days.
        delays: by method, factor and cell: hours from onset to the first alarm, None within a day.
    """

    alarms: dict[tuple[str, float], int] = field(default_factory=dict)
    delays: dict[tuple[str, float, tuple[str, int]], float | None] = field(default_factory=dict)


def ks(reference: Floats, stream: Floats, factor: float) -> list[int]:
    """Kolmogorov-Smirnov, p < 0.01 for independent samples, windows of 500 frames or 12 means."""
    size = 500 if stream.size > 20_000 else 12
    limit = factor * 1.63 * np.sqrt(1 / size + 1 / reference.size)
    levels = np.linspace(0, 1, 257)
    known = np.searchsorted(np.sort(reference), levels, side="right") / reference.size
    found = []
    for end in range(size, stream.size + 1, size):
        now = np.searchsorted(np.sort(stream[end - size : end]), levels, side="right") / size
        if np.abs(now - known).max() > limit:
            found.append(end)
    return found


def stability(reference: Floats, stream: Floats, factor: float) -> list[int]:
    """Population stability index above 0.25, 20 bins, windows of 500 frames or 12 means."""
    size = 500 if stream.size > 20_000 else 12
    edges = np.quantile(reference, np.linspace(0, 1, 21))[1:-1]

    def counts(values: Floats) -> npt.NDArray[np.int64]:
        return np.bincount(np.searchsorted(edges, values), minlength=20)

    known = counts(reference)
    ends = range(size, stream.size + 1, size)
    return [end for end in ends if psi(counts(stream[end - size : end]), known) > factor * 0.25]


def page_hinkley(reference: Floats, stream: Floats, factor: float) -> list[int]:
    """Page-Hinkley both ways, delta 0.005, threshold 50; of means, 150 times fewer, 1."""
    limit = factor * (50.0 if stream.size > 20_000 else 1.0)
    found, begin, chunk = [], 0, 6000
    while begin < stream.size:
        size = chunk
        while True:
            part = stream[begin : begin + size]
            mean = np.cumsum(part) / np.arange(1, part.size + 1)
            over = np.zeros(part.size, np.bool_)
            for values in (part - mean - 0.005, mean - part - 0.005):
                total = np.cumsum(values)
                over |= total - np.minimum.accumulate(total) > limit
            over[:30] = False
            if over.any() or begin + size >= stream.size:
                break
            size *= 4
        if not over.any():
            break
        begin += int(over.argmax()) + 1
        found.append(begin)
    return found


def adwin(reference: Floats, stream: Floats, factor: float) -> list[int]:
    """ADWIN (Bifet and Gavalda 2007), delta 0.002, looked at every 32 frames or every mean."""
    clock = 32 if stream.size > 20_000 else 1
    blocks = stream[: stream.size // clock * clock].reshape(-1, clock)
    sums, squares = blocks.sum(axis=1), (blocks**2).sum(axis=1)
    buckets: list[tuple[int, float, float]] = []  # oldest first: frames, sum, sum of squares
    found = []
    for n, (added, square) in enumerate(zip(sums.tolist(), squares.tolist(), strict=True)):
        buckets.append((clock, added, square))
        _compress(buckets, clock)
        if len(buckets) > 2 and _cut(buckets, factor):
            found.append((n + 1) * clock)
            buckets = buckets[-1:]
    return found


def _compress(buckets: list[tuple[int, float, float]], clock: int) -> None:
    size = clock
    while True:
        same = [n for n, bucket in enumerate(buckets) if bucket[0] == size]
        if len(same) <= 5:
            return
        one, other = buckets[same[0]], buckets.pop(same[1])
        buckets[same[0]] = (size * 2, one[1] + other[1], one[2] + other[2])
        size *= 2


def _cut(buckets: list[tuple[int, float, float]], factor: float) -> bool:
    table = np.array(buckets)
    frames, added, square = table.cumsum(axis=0).T
    count, total = frames[-1], added[-1]
    n0, n1 = frames[:-1], count - frames[:-1]
    gap = np.abs(added[:-1] / n0 - (total - added[:-1]) / n1)
    m = 1 / (1 / n0 + 1 / n1)
    log = np.log(2 * np.log(max(count, 3.0)) / 0.002)
    variance = max(square[-1] / count - (total / count) ** 2, 0.0)
    limit = np.sqrt(2 / m * variance * log) + 2 / (3 * m) * log
    return bool((gap > factor * limit).any())


METHODS: dict[str, Method] = {
    "KS": ks,
    "PSI": stability,
    "ADWIN": adwin,
    "Page-Hinkley": page_hinkley,
}


def _means(values: Floats) -> Floats:
    size = values.size // WINDOW_SAMPLES
    return values[: size * WINDOW_SAMPLES].reshape(size, WINDOW_SAMPLES).mean(axis=1)


def _every(
    reference: Floats, stream: Floats, look: Callable[[str, float, list[int]], None]
) -> None:
    """Run each method with each factor, per frame and per window."""
    for unit, samples in (("frame", 1), ("window", WINDOW_SAMPLES)):
        known, now = (reference, stream) if samples == 1 else (_means(reference), _means(stream))
        for name, method in METHODS.items():
            for factor in FACTORS:
                ends = [end * samples for end in method(known, now, factor)]
                look(f"{name} per {unit}", factor, ends)
                if not ends:
                    break  # a higher threshold gives none either


def run(pool: Pool, number: int) -> Found:
    """Run all methods on one camera."""
    found = Found()
    camera = Camera(pool, number)
    week = camera.days(0, WEEK_DAYS, test=False)
    detector = Detector(Reference(tuple(hours(pool, week))), Terms())
    reference = pool.top1[week.samples].astype(np.float64)
    clean = camera.days(WEEK_DAYS, CLEAN_DAYS, test=True)
    found.alarms[EDGED, 1.0] = len(alarms(detector, hours(pool, clean)))
    found.alarms[ALWAYS, 1.0] = CLEAN_DAYS * 24
    found.alarms[NEVER, 1.0] = 0

    def count(name: str, factor: float, ends: list[int]) -> None:
        found.alarms[name, factor] = len(ends)

    _every(reference, pool.top1[clean.samples].astype(np.float64), count)
    rng = np.random.default_rng((4, number))
    for cell in CELLS:
        at = int(rng.integers(DAY_SAMPLES))
        stream = camera.days(WEEK_DAYS, 2, test=True, onset=Onset(*cell, at))
        memory, own = FRESH, []
        for n, hour in enumerate(hours(pool, stream)):
            decision = detector.decide(hour, memory)
            memory = decision.memory
            if decision.state == "drift":
                own.append((n + 1) * HOUR_SAMPLES)
                memory = FRESH

        def first(name: str, factor: float, ends: list[int], at=at, cell=cell) -> None:
            after = [end - at for end in ends if 0 < end - at <= DAY_SAMPLES]
            delay = after[0] * PERIOD_S / 3600 if after else None
            found.delays[name, factor, cell] = delay

        first(EDGED, 1.0, own)
        first(ALWAYS, 1.0, [at + HOUR_SAMPLES - at % HOUR_SAMPLES])
        first(NEVER, 1.0, [])
        _every(reference, pool.top1[stream.samples].astype(np.float64), first)
    return found


def matched(found: list[Found], most_per_month: float) -> dict[str, float | None]:
    """Return by method the least factor with at most so many false alarms; None: there is none."""
    months = len(found) * CLEAN_DAYS / 30
    best: dict[str, float | None] = {}
    for name in dict.fromkeys(name for one in found for name, _ in one.alarms):
        rates = {
            factor: sum(one.alarms.get((name, factor), 0) for one in found) / months
            for factor in (FACTORS if name not in {ALWAYS, NEVER} else FACTORS[:1])
        }
        best[name] = next((f for f, rate in rates.items() if rate <= most_per_month), None)
    return best

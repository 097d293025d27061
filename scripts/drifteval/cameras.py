"""Simulated cameras: a week of reference and days after it, drawn from the pool.

A camera looks at some sources, each in its own share, which differ at the weekend and a little from
day to day. No day has the scenes of another: each draws a few, those of the reference from one half
of the pool, those of test days from the other. A scene stays for a geometric time. All tallies are
exact sums of samples; only the pictures are drawn by number instead of being computed again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drifteval.pictures import CELLS, LIGHTS
from drifteval.pool import BINNED, FRAMES, HARMED_FRAMES, HARMED_LIGHTS, HARMED_SCENES, SCENES, Pool
from edged.drift.autocorrelation import tau
from edged.drift.histogram import SCALES
from edged.drift.hour import hour_tau
from edged.drift.window import ClassCount, Subject, Tally, Window

Ints = npt.NDArray[np.int64]
PERIOD_S, WINDOW_SAMPLES, MINUTE_SAMPLES = 2, 150, 30
HOUR_SAMPLES, DAY_SAMPLES = 1800, 43200
_SUBJECT = Subject("front", "birds", "1.0.0", "0" * 64, "litert", "cpu")
SCENES_A_DAY = 14
"""Of each source."""

_MONDAY_MS = 1_767_571_200_000  # 2026-01-05T00:00Z
CLEAN, NIGHT, WEEKDAYS, NEW_SCENES, LAMP = "clean", "night", "weekday mix", "new scenes", "lamp"
CONTROLS = (NIGHT, WEEKDAYS, NEW_SCENES, LAMP)


@dataclass(frozen=True)
class Onset:
    """What goes wrong, and when.

    Attributes:
        kind: of corruption, or `freeze`.
        severity: 1, 3 or 5.
        sample: of the first affected, counted from the first test day.
        ramp_samples: it comes by lower severities over this time; 0: at once.
    """

    kind: str
    severity: int
    sample: int
    ramp_samples: int = 0


@dataclass(frozen=True)
class Stream:
    """Samples in the order of time: numbers in the pool.

    Attributes:
        samples: shape (count,).
        first_day: of them.
        same: whether each is bit by bit the one before.
    """

    samples: Ints
    first_day: int
    same: npt.NDArray[np.bool_]


class Camera:
    """One camera, all of its life a function of its number.

    Args:
        pool: of samples.
        number: its seed.
        control: what is unusual about its test days.
        dwell: how many samples a scene stays, on average; None: 3 to 20 (6 to 40 s), by number.
    """

    def __init__(
        self, pool: Pool, number: int, control: str = CLEAN, dwell: float | None = None
    ) -> None:
        self._pool = pool
        self._number = number
        self._control = control
        rng = np.random.default_rng((1, number))
        order = rng.permutation(pool.sources)
        self._known, self._new = order[:8], order[8:11]
        self._shares = rng.dirichlet(np.full(8, 3.0))
        spread = 1.0 if control == WEEKDAYS else 0.3
        self._weekend = (1 - spread) * self._shares + spread * rng.dirichlet(np.full(8, 3.0))
        self._starts = int(rng.integers(7))
        usual = float(np.exp(rng.uniform(np.log(3.0), np.log(20.0))))
        self.dwell = usual if dwell is None else dwell
        self._lamp = control == LAMP

    def days(self, first: int, count: int, *, test: bool, onset: Onset | None = None) -> Stream:
        """Draw days.

        Args:
            first: number of the first, 0 begins the reference.
            count: how many.
            test: whether scenes are those of test days, which no reference has.
            onset: of what goes wrong, or None.
        """
        total = count * DAY_SAMPLES
        rng = np.random.default_rng((2, self._number, first, test))
        lengths = rng.geometric(1 / self.dwell, int(1.3 * total / self.dwell) + 50)
        ends = np.cumsum(lengths)
        dwells = int(np.searchsorted(ends, total)) + 1
        begins = ends[:dwells] - lengths[:dwells]
        source = self._sources(rng, begins, first, test=test)
        scene = 2 * self._scenes(rng, source, begins) + test
        light = self._lights(rng, begins, first, test=test)
        which = np.repeat(np.arange(dwells), lengths[:dwells])[:total]
        frame = rng.integers(FRAMES, size=total)
        sources = self._pool.sources
        clean = ((light * sources + source) * SCENES + scene)[which] * FRAMES + frame
        same = np.zeros(total, np.bool_)
        if onset is None:
            return Stream(clean, first, same)
        at = np.arange(total) - onset.sample
        wrong = at >= 0
        if onset.kind == "freeze":
            clean[wrong] = clean[onset.sample]
            same[onset.sample + 1 :] = True
            return Stream(clean, first, same)
        steps = [s for s in (1, 3, 5) if s <= onset.severity and (onset.kind, s) in CELLS]
        step = np.full(total, len(steps) - 1)
        if onset.ramp_samples:
            step = np.clip(at * len(steps) // onset.ramp_samples, 0, len(steps) - 1)
        cell = np.array([CELLS.index((onset.kind, s)) for s in steps])[step]
        place = (scene // 2 % HARMED_SCENES)[which]
        group = (cell * HARMED_LIGHTS + np.minimum(light, HARMED_LIGHTS - 1)[which]) * sources
        harmed = ((group + source[which]) * HARMED_SCENES + place) * HARMED_FRAMES
        offset = len(LIGHTS) * sources * SCENES * FRAMES
        return Stream(np.where(wrong, offset + harmed, clean), first, same)

    def _sources(self, rng: np.random.Generator, begins: Ints, first: int, *, test: bool) -> Ints:
        day = begins // DAY_SAMPLES + first
        chosen = np.zeros(begins.size, np.int64)
        for one in np.unique(day):
            shares = self._weekend if (one + self._starts) % 7 >= 5 else self._shares
            today = rng.dirichlet(200 * shares + 0.01)
            mine = day == one
            chosen[mine] = rng.choice(self._known, mine.sum(), p=today)
        if test and self._control == NEW_SCENES:
            fresh = rng.random(begins.size) < 0.15
            chosen[fresh] = rng.choice(self._new, fresh.sum())
        return chosen

    def _scenes(self, rng: np.random.Generator, source: Ints, begins: Ints) -> Ints:
        day, half = begins // DAY_SAMPLES, SCENES // 2
        todays = rng.random((day.max() + 1, self._pool.sources, half)).argsort(axis=2)
        scenes: Ints = todays[day, source, rng.integers(SCENES_A_DAY, size=begins.size)]
        return scenes

    def _lights(self, rng: np.random.Generator, begins: Ints, first: int, *, test: bool) -> Ints:
        day, hour = begins // DAY_SAMPLES, begins % DAY_SAMPLES / HOUR_SAMPLES
        # The sun is not on time: by some minutes every day, clouds; by half an hour in the control.
        late = rng.normal(0, 0.1, day.max() + 1)
        if test and self._control == NIGHT:
            late += 0.5
        rise, fall = 6.0 + late[day], 18.0 - late[day]
        # Twilight lasts two hours: from night by dusk to day, and back.
        dawn, dusk = np.clip((hour - rise) / 2, 0, 1), np.clip((hour - fall) / 2, 0, 1)
        level = np.minimum(dawn, 1 - dusk) * 2 + rng.uniform(-0.5, 0.5, begins.size)
        light = 2 - np.clip(np.rint(level), 0, 2).astype(np.int64)
        if self._lamp:
            on = 18.5 + rng.normal(0, 0.5 if test else 0.1, day.max() + 1)[day]
            light[(hour >= on) & (hour < 22.5)] = LIGHTS.index("lamp")
        return light


def tallies(pool: Pool, stream: Stream, size: int) -> list[Tally]:
    """Return the tallies of every `size` samples."""
    count = stream.samples.size // size
    samples = stream.samples[: count * size]
    part = np.repeat(np.arange(count), size)
    found = {}
    for n, signal in enumerate(BINNED):
        bins = SCALES[signal].bins
        both = part * bins + pool.bins[:, n].astype(np.int64)[samples]
        found[signal] = np.bincount(both, minlength=count * bins).reshape(count, bins)
    found["edges"] = np.stack(
        [
            pool.edges[:, n].astype(np.int64)[samples].reshape(count, size).sum(axis=1)
            for n in range(8)
        ],
        axis=1,
    )
    same = stream.same[: count * size].reshape(count, size).sum(axis=1)
    labels, numbers = np.unique(pool.label, return_inverse=True)
    classes = np.bincount(
        part * labels.size + numbers[samples], minlength=count * labels.size
    ).reshape(count, labels.size)
    result = []
    for n in range(count):
        seen = np.flatnonzero(classes[n])
        best = dict(zip(labels[seen].tolist(), classes[n, seen].tolist(), strict=True))
        result.append(
            Tally(
                frames=size,
                inferred=size,
                sampled=size,
                repeated=int(same[n]),
                best=best,
                classes={label: ClassCount(number, 0) for label, number in best.items()},
                histograms={signal: counts[n] for signal, counts in found.items()},
            )
        )
    return result


def windows(pool: Pool, stream: Stream, size: int) -> list[Window]:
    """Return the windows of every `size` samples; tau is None: see `hours`."""
    began_ms = _MONDAY_MS + stream.first_day * 86_400_000
    return [
        Window(
            device="sim",
            boot="00000000",
            seq=n + 1,
            began_ms=began_ms + n * size * PERIOD_S * 1000,
            seconds=size * PERIOD_S,
            synchronised=True,
            subject=_SUBJECT,
            trial=False,
            tally=tally,
            tau=None,
        )
        for n, tally in enumerate(tallies(pool, stream, size))
    ]


def hours(pool: Pool, stream: Stream) -> list[Window]:
    """Return the hours: what twelve shipped windows make.

    What the windows are worth by their own tau is taken from the first three of the twelve: all of
    them would take most of the time.
    """
    top1 = pool.top1[stream.samples]
    bins = SCALES["top1"].bins
    place = pool.bins[:, BINNED.index("top1")].astype(np.int64)[stream.samples]
    batches = HOUR_SAMPLES // WINDOW_SAMPLES
    joined = []
    for n, hour in enumerate(windows(pool, stream, HOUR_SAMPLES)):
        at = n * HOUR_SAMPLES
        worth = [
            WINDOW_SAMPLES / (tau(top1[begin : begin + WINDOW_SAMPLES]) or np.inf)
            for begin in range(at, at + 3 * WINDOW_SAMPLES, WINDOW_SAMPLES)
        ]
        both = np.repeat(np.arange(batches), WINDOW_SAMPLES) * bins + place[at : at + HOUR_SAMPLES]
        scores = np.bincount(both, minlength=batches * bins).reshape(batches, bins)
        joined.append(replace(hour, tau=hour_tau(worth * (batches // 3), scores)))
    return joined

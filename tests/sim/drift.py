"""Windows of a camera that was never there: hours with chosen looks, for tests of drift."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edged.drift.histogram import SCALES
from edged.drift.window import ClassCount, Subject, Tally, Window

SUBJECT = Subject("front", "birds", "1.0.0", "0" * 64, "litert 2.3.0", "cpu")
MONDAY_MS = 1_767_571_200_000
NORMAL = {
    "top1": (0.7, 0.15),
    "margin": (0.5, 0.2),
    "entropy": (0.3, 0.1),
    "luma": (120.0, 15.0),
    "contrast": (50.0, 6.0),
    "sharpness": (9.0, 0.6),
    "tilt_x": (0.1, 0.15),
    "tilt_y": (-0.1, 0.15),
    "edges": (90.0, 40.0),
}
"""Mean and standard deviation by signal."""


def tally(
    rng: np.random.Generator,
    samples: int,
    changed: Mapping[str, tuple[float, float]] | None = None,
    classes: Mapping[int, float] | None = None,
    repeated: int = 0,
) -> Tally:
    """Count samples drawn as in NORMAL, but for what is changed."""
    shares = classes or {1: 0.5, 2: 0.3, 3: 0.2}
    drawn = rng.multinomial(samples, list(shares.values()))
    best = dict(zip(shares, drawn.tolist(), strict=True))
    histograms = {}
    for signal, (mean, deviation) in {**NORMAL, **(changed or {})}.items():
        scale = SCALES[signal]
        values = rng.normal(mean, deviation, samples)
        places = (values - scale.low) / (scale.high - scale.low) * scale.bins
        places = np.clip(places, 0, scale.bins - 1).astype(np.int64)
        histograms[signal] = np.bincount(places, minlength=scale.bins)
    return Tally(
        frames=samples,
        inferred=samples,
        sampled=samples,
        repeated=repeated,
        best=best,
        classes={label: ClassCount(count, 500 * count) for label, count in best.items()},
        histograms=histograms,
    )


def window(
    counted: Tally,
    began_ms: int = MONDAY_MS,
    seconds: float = 300.0,
    subject: Subject = SUBJECT,
    tau: float | None = 1.0,
    seq: int = 1,
) -> Window:
    """Return a window of a tally."""
    return Window("d", "0a1b2c3d", seq, began_ms, seconds, True, subject, False, counted, tau)


def hour(number: int, counted: Tally, subject: Subject = SUBJECT) -> Window:
    """Return hour `number`, counted from a Monday at midnight."""
    return window(counted, MONDAY_MS + number * 3_600_000, 3600.0, subject, seq=number + 1)


def week(seed: int = 1, samples: int = 400) -> list[Window]:
    """Return 168 hours as in NORMAL, darker and flatter from 18 to 6 o'clock."""
    rng = np.random.default_rng(seed)
    return [hour(n, tally(rng, samples, night(n))) for n in range(168)]


def night(number: int) -> dict[str, tuple[float, float]]:
    """Return what is changed at this hour of the day."""
    dark = not 6 <= number % 24 < 18
    return {"luma": (35.0, 6.0), "contrast": (15.0, 2.0), "sharpness": (6.5, 0.5)} if dark else {}

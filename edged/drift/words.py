"""Why an hour is suspect, in words: what is now, and what is usual at this time of day. Pure."""

from __future__ import annotations

import numpy as np

from edged.drift.histogram import SCALES, Counts
from edged.drift.reference import CLASSES
from edged.drift.window import OTHER, Tally

_MEANING = {
    "top1": ("the model's best score", "{:.2f}"),
    "margin": ("the lead of the best class", "{:.2f}"),
    "entropy": ("the model's indecision", "{:.2f}"),
    "luma": ("brightness (0 to 255)", "{:.0f}"),
    "contrast": ("contrast (0 to 128)", "{:.0f}"),
    "sharpness": ("sharpness (octaves)", "{:.1f}"),
    "tilt_x": ("brightness, right against left", "{:+.2f}"),
    "tilt_y": ("brightness, bottom against top", "{:+.2f}"),
}


def explain(signal: str, now: Tally, usual: Tally) -> str:
    """Say how a signal differs, for a person.

    Args:
        signal: of `detector.SIGNALS`.
        now: the hour.
        usual: of the reference around this time of day.
    """
    if signal == CLASSES:
        return _classes(now, usual)
    mine, its = _counts(now, signal), _counts(usual, signal)
    if signal == "edges":
        return (
            f"the direction of edges: most at {_peak(mine)} degrees, usually at {_peak(its)}"
            " (the camera may have been turned)"
        )
    name, form = _MEANING[signal]
    here, before = form.format(_median(mine, signal)), form.format(_median(its, signal))
    if here == before:
        return f"{name} is about {here} as usual, but spread otherwise"
    return f"{name} is about {here}, usually {before}"


def _classes(now: Tally, usual: Tally) -> str:
    totals = max(sum(now.best.values()), 1), max(sum(usual.best.values()), 1)

    def shares(number: int) -> tuple[float, float]:
        return now.best.get(number, 0) / totals[0], usual.best.get(number, 0) / totals[1]

    named = (now.best.keys() | usual.best.keys()) - {OTHER}
    if not named:
        return "the mix of classes differs"
    most = max(sorted(named), key=lambda number: abs(np.subtract(*shares(number))))
    here, before = shares(most)
    return f"the mix of classes: class {most} is best in {here:.0%}, usually in {before:.0%}"


def _median(counts: Counts, signal: str) -> float:
    return SCALES[signal].centre(int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)))


def _peak(counts: Counts) -> int:
    return round(SCALES["edges"].centre(int(counts.argmax())))


def _counts(tally: Tally, signal: str) -> Counts:
    return tally.histograms.get(signal, np.zeros(SCALES[signal].bins, np.int64))

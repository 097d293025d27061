"""The fast path: faults that a person would see at a glance, within minutes. Pure.

Each rule is relative to what this camera showed around this time of day: night is no fault, nor is
a picture that was always blurred. There are no statistics here: nearly all samples must lie where
next to none did before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edged.drift.histogram import SCALES, Counts
from edged.drift.window import Tally

FEWEST_SAMPLES = 20
"""Below this a minute says nothing."""

_NEARLY_ALL = 0.9
_RARE = 0.005
# In bins: octaves of the Laplacian's variance below what is usual.
_LESS_SHARP = 2
_STILL, _USUALLY_STILL = 0.95, 0.5
_ONE_CLASS, _USUALLY_ONE_CLASS = 0.98, 0.8
_CONSTANT_SAMPLES = 400


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the picture.

    Attributes:
        kind: `black`, `washed_out`, `covered`, `defocused`, `frozen`, `constant_class`.
        detail: for a person.
    """

    kind: str
    detail: str


def faults(tally: Tally, usual: Tally) -> tuple[Fault, ...]:
    """Return what is plainly wrong.

    Args:
        tally: of a minute or more; a class counts as constant only over 400 samples.
        usual: of the reference around this time of day.
    """
    if tally.sampled < FEWEST_SAMPLES:
        return ()
    found = [_frozen(tally, usual), _picture(tally, usual), _constant(tally, usual)]
    return tuple(fault for fault in found if fault is not None)


def _frozen(tally: Tally, usual: Tally) -> Fault | None:
    # The first of a tally has none before it.
    share = tally.repeated / (tally.sampled - 1)
    if share < _STILL or usual.repeated >= _USUALLY_STILL * usual.sampled:
        return None
    return Fault("frozen", f"{share:.0%} of the pictures are bit by bit the one before")


def _constant(tally: Tally, usual: Tally) -> Fault | None:
    total = sum(tally.best.values())
    if tally.sampled < _CONSTANT_SAMPLES or total == 0:
        return None
    number, count = max(tally.best.items(), key=lambda item: item[1])
    before = usual.best.get(number, 0) / max(sum(usual.best.values()), 1)
    if count < _ONE_CLASS * total or before >= _USUALLY_ONE_CLASS:
        return None
    return Fault(
        "constant_class",
        f"class {number} is best in {count / total:.0%} of the inferences,"
        f" usually in {before:.0%} at this time of day",
    )


def _picture(tally: Tally, usual: Tally) -> Fault | None:
    darker, brighter = _beyond(tally, usual, "luma")
    flatter, _ = _beyond(tally, usual, "contrast")
    blurred, _ = _beyond(tally, usual, "sharpness", _LESS_SHARP)
    plain = flatter or blurred
    if darker and plain:
        return Fault("black", _compare(tally, usual, "luma", "brightness"))
    if brighter and plain:
        return Fault("washed_out", _compare(tally, usual, "luma", "brightness"))
    if flatter:
        return Fault("covered", _compare(tally, usual, "contrast", "contrast"))
    if blurred:
        return Fault("defocused", _compare(tally, usual, "sharpness", "sharpness (octaves)"))
    return None


def _beyond(tally: Tally, usual: Tally, signal: str, margin: int = 1) -> tuple[bool, bool]:
    """Say whether nearly all samples lie below, and above, nearly all usual ones."""
    now, before = _counts(tally, signal), _counts(usual, signal)
    if not now.any() or not before.any():
        return False, False
    below = np.cumsum(before) / before.sum()
    lowest = int(np.searchsorted(below, _RARE, side="right"))
    highest = int(np.searchsorted(below, 1.0 - _RARE))
    enough = _NEARLY_ALL * now.sum()
    under = now[: max(lowest - margin + 1, 0)].sum() >= enough
    over = now[highest + margin :].sum() >= enough
    return bool(under), bool(over)


def _compare(tally: Tally, usual: Tally, signal: str, word: str) -> str:
    now, before = _median(_counts(tally, signal), signal), _median(_counts(usual, signal), signal)
    return f"{word} about {now:.0f}, usually {before:.0f} at this time of day"


def _median(counts: Counts, signal: str) -> float:
    return SCALES[signal].centre(int(np.searchsorted(np.cumsum(counts), counts.sum() / 2)))


def _counts(tally: Tally, signal: str) -> Counts:
    return tally.histograms.get(signal, np.zeros(SCALES[signal].bins, np.int64))

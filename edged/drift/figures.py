"""What a tally says, in figures that two times of a device can be compared by. Pure.

All are bounded whatever was counted: shares and means lie in their ranges, times in the bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edged.drift.histogram import SCALES, js_distance
from edged.drift.window import LATENCY_EDGES_MS, OTHER, ClassCount, Tally


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures of a tally; means of nothing are 0.

    Attributes:
        errors: share of the inferences that failed, or could not be read.
        p95_ms: time that 95 % of the invokes took at most: interpolated, and no finer than a bin,
            of which the upper edge is 1.41 times the lower.
        top1: mean of the highest score.
        margin: mean of the highest less the second highest.
        entropy: mean, of 1 for a uniform answer.
        largest: share of the commonest class among the sampled inferences.
        repeated: share of the sampled pictures that were the one before, bit by bit.
        luma: mean brightness, 0..255.
        sharpness: mean, log2.
    """

    errors: float
    p95_ms: float
    top1: float
    margin: float
    entropy: float
    largest: float
    repeated: float
    luma: float
    sharpness: float


def figures(tally: Tally) -> Figures:
    """Return the figures of a tally."""
    counts = [one.count for number, one in tally.classes.items() if number != OTHER]
    return Figures(
        errors=_share(tally.errors, tally.inferred + tally.errors),
        p95_ms=_p95_ms(tally),
        top1=_mean(tally, "top1"),
        margin=_mean(tally, "margin"),
        entropy=_mean(tally, "entropy"),
        largest=_share(max(counts, default=0), tally.sampled),
        repeated=_share(tally.repeated, tally.sampled),
        luma=_mean(tally, "luma"),
        sharpness=_mean(tally, "sharpness"),
    )


def mix_distance(one: Mapping[int, ClassCount], other: Mapping[int, ClassCount]) -> float:
    """Return how far apart two mixes of classes are: 0 the same, 1 no class shared."""
    numbers = sorted(one.keys() | other.keys())
    if not numbers:
        return 0.0
    return js_distance(
        [one[number].count if number in one else 0 for number in numbers],
        [other[number].count if number in other else 0 for number in numbers],
    )


def _share(part: int, whole: int) -> float:
    return min(part / whole, 1.0) if whole else 0.0


def _mean(tally: Tally, signal: str) -> float:
    counts = tally.histograms.get(signal)
    if counts is None or not counts.any():
        return 0.0
    scale = SCALES[signal]
    centres = np.array([scale.centre(number) for number in range(scale.bins)])
    return float(counts @ centres / counts.sum())


def _p95_ms(tally: Tally) -> float:
    reached = np.cumsum(tally.invoke)
    if not reached[-1]:
        return 0.0
    wanted = 0.95 * float(reached[-1])
    at = int(np.searchsorted(reached, wanted))
    last = len(LATENCY_EDGES_MS) - 1
    if at > last:
        return float(LATENCY_EDGES_MS[last])
    high = float(LATENCY_EDGES_MS[at])
    part = (wanted - float(reached[at] - tally.invoke[at])) / float(tally.invoke[at])
    return float(high * math.sqrt(2.0) ** (part - 1.0))

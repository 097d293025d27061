"""Histograms with fixed edges: whole numbers that add up exactly, and distances of two. Pure.

Windows of a camera, of days and of a fleet are added; that only means something where the edges
are the same, so they have a version, `EDGES`, that every record carries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

EDGES = "e1"
"""Version of all scales below: another scale is another version."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scale:
    """Bins of equal width over a range; what lies outside counts in the first or last bin.

    Attributes:
        low: where the first bin begins.
        high: where the last bin ends.
        bins: how many.
    """

    low: float
    high: float
    bins: int

    def bin(self, value: float) -> int:
        """Return the bin of a value.

        Raises:
            ValueError: it is NaN.
        """
        if math.isnan(value):
            raise ValueError("NaN is in no bin")
        place = (value - self.low) / (self.high - self.low) * self.bins
        return int(min(max(place, 0.0), self.bins - 1))

    def centre(self, number: int) -> float:
        """Return the middle of a bin."""
        return self.low + (number + 0.5) * (self.high - self.low) / self.bins


SCALES: Mapping[str, Scale] = MappingProxyType(
    {
        # Steps of 1/32, so that the 1/256 of a quantised softmax never straddle an edge.
        "top1": Scale(0.0, 1.0, 32),
        "margin": Scale(0.0, 1.0, 32),
        "entropy": Scale(0.0, 1.0, 32),
        "luma": Scale(0.0, 256.0, 16),
        "contrast": Scale(0.0, 128.0, 16),
        "sharpness": Scale(-2.0, 14.0, 16),
        "tilt_x": Scale(-1.0, 1.0, 16),
        "tilt_y": Scale(-1.0, 1.0, 16),
        "edges": Scale(0.0, 180.0, 8),
    }
)
"""By signal; `edged.drift.signals` says what each is."""


def empty(signal: str) -> Counts:
    """Return counts of zero for a signal."""
    return np.zeros(SCALES[signal].bins, np.int64)


def js_distance(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the Jensen-Shannon divergence of two counts, base 2: 0 the same, 1 nothing shared.

    Each count gets Jeffreys' half, so that an empty bin is no certainty.
    JSD(p, q) = (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2 (Lin 1991).

    Args:
        one: counts, shape (bins,).
        other: counts, same shape.
    """
    p, q = _shares(one), _shares(other)
    m = (p + q) / 2
    divergence = (np.sum(p * np.log2(p / m)) + np.sum(q * np.log2(q / m))) / 2
    return float(min(max(divergence, 0.0), 1.0))


def psi(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the population stability index: sum of (p - q) ln(p / q), Jeffreys' half added."""
    p, q = _shares(one), _shares(other)
    return float(np.sum((p - q) * np.log(p / q)))


def psi_floor(bins: int, n_effective: float, m_effective: float) -> float:
    """Return the index that two samples of the same distribution have on average.

    (bins - 1) (1/n + 1/m): what of a PSI is noise. With few independent samples the familiar
    limit of 0.25 lies below it.
    """
    return (bins - 1) * (1.0 / max(n_effective, 1.0) + 1.0 / max(m_effective, 1.0))


def _shares(counts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    smoothed = np.asarray(counts, np.float64) + 0.5
    shares: npt.NDArray[np.float64] = smoothed / smoothed.sum()
    return shares

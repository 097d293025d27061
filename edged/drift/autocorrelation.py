"""How many samples of a series are worth one independent sample. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FEWEST = 20


def tau(series: Sequence[float]) -> float | None:
    """Return the integrated autocorrelation time of a series, in samples, at least 1.

    1 + 2 (rho(1) + rho(2) + ...), added up while sums of neighbouring pairs stay positive (the
    initial positive sequence of Geyer 1992): what comes later is noise. In a series that is short
    against its tau this is too little; tau is a lower bound then.

    Args:
        series: finite, evenly spaced in time.

    Returns:
        None for fewer than 20 samples; 1 where all are the same: nothing in it varies together.
    """
    if len(series) < _FEWEST:
        return None
    values = np.asarray(series, np.float64)
    values = values - values.mean()
    count = values.size
    spectrum = np.fft.rfft(values, 2 * count)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[:count]
    # What is left of a constant series by rounding has no course of its own.
    if covariance[0] <= 1e-12 * count:
        return 1.0
    rho = covariance[: count - count % 2] / covariance[0]
    pairs = rho[0::2] + rho[1::2]
    ends = np.flatnonzero(pairs <= 0.0)
    kept = pairs[: ends[0]] if ends.size else pairs
    return max(1.0, float(2.0 * kept.sum() - 1.0))

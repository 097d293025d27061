"""How many samples of a series are worth one independent sample. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_FEWEST = 20
_FEWEST_BATCHES = 6


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


def batch_tau(counts: npt.NDArray[np.int64]) -> float | None:
    """Return the autocorrelation time that the means of consecutive batches show, in samples.

    n B / V, with n samples a batch, B the variance of the batches' means, V that of all samples
    (batch means, e.g. Flegal and Jones 2010). It sees what stays for longer than one batch, which
    the `tau` of none of them does; of what stays for longer than some it sees a part, and never
    more than says that there are as many independent samples as batches.

    Args:
        counts: histogram of each batch in bins of equal width, shape (batches, bins).

    Returns:
        None for fewer than 6 batches that hold anything, and where all samples lie in one bin.
    """
    held = counts[counts.sum(axis=1) > 0].astype(np.float64)
    if len(held) < _FEWEST_BATCHES:
        return None
    places, sizes = np.arange(held.shape[1]), held.sum(axis=1)
    together, total = held.sum(axis=0), sizes.sum()
    mean = together @ places / total
    variance = together @ (places - mean) ** 2 / total
    if variance == 0.0:
        return None
    means = held @ places / sizes
    between = sizes @ (means - mean) ** 2 / total * len(held) / (len(held) - 1)
    return max(1.0, float(total / len(held) * between / variance))

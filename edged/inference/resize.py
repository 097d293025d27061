"""Resizing behind the filter that models were trained with. Pure.

Most models were trained behind an anti-aliasing bilinear filter: a triangle as wide as two steps
of the output (PIL's BILINEAR, tf.image.resize with antialias). Plain linear interpolation reads
two pixels a step and aliases, which moved real scores by up to 0.4. Here a Gaussian with the
triangle's variance runs in the fewest taps that carry it, then linear interpolation picks the
output's pixels; ADR 3 has the figures.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

from edged.frame import Image

# Halving is exact and cheap; below this many source pixels a step the Gaussian takes over.
_HALVE_FROM = 3.0
# Least number of taps that still carries a variance (pixels squared) without becoming a box.
_TAPS = ((0.6, 3), (1.6, 5), (3.0, 7), (5.0, 9), (7.5, 11))
_MOST_TAPS = 31


def resize(image: Image, width: int, height: int) -> Image:
    """Resize with anti-aliasing where the image shrinks, linear where it grows.

    Args:
        image: uint8, (h, w, 3) or (h, w), any size from 1 x 1; not changed.
        width: of the result, pixels.
        height: of the result, pixels.

    Returns:
        uint8, (height, width, ...); `image` itself when it has that size already.
    """
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    halvings = 0
    while rows >= _HALVE_FROM * height and columns >= _HALVE_FROM * width:
        rows, columns, halvings = rows // 2, columns // 2, halvings + 1
        image = _resize(image[: rows * 2, : columns * 2], columns, rows, cv2.INTER_AREA)
    taps_x, sigma_x = _blur(columns / width, halvings)
    taps_y, sigma_y = _blur(rows / height, halvings)
    if (taps_x, taps_y) != (1, 1):
        image = cv2.GaussianBlur(  # type: ignore[assignment]  # uint8 in, uint8 out
            image, (taps_x, taps_y), sigma_x, None, sigma_y, cv2.BORDER_REPLICATE
        )
    return _resize(image, width, height, cv2.INTER_LINEAR)


def _resize(image: Image, width: int, height: int, interpolation: int) -> Image:
    return cv2.resize(image, (width, height), None, 0.0, 0.0, interpolation)  # type: ignore[return-value]


@functools.lru_cache(maxsize=256)
def _blur(step: float, halvings: int) -> tuple[int, float]:
    """Return taps and sigma of the Gaussian that runs before `step` pixels become one.

    A triangle of half-width `step` has the variance step^2 / 6; linear interpolation itself
    brings that of a triangle of half-width 1, so (step^2 - 1) / 6 is missing. A Gaussian cut to
    few taps has less variance than its sigma says, so sigma is solved for the taps in use. A pixel
    halved k times is the mean of 2^k neighbours, whose variance (1 - 4^-k) / 12 counts as well.
    """
    variance = (max(1.0, step) ** 2 - 1.0) / 6.0 - (1.0 - 0.25**halvings) / 12.0
    if variance < 0.02:
        return 1, 1.0
    taps = next((taps for most, taps in _TAPS if variance <= most), 0)
    if not taps:
        # One axis shrinks far more than the other: as wide as it takes, up to a bound.
        taps = min(_MOST_TAPS, 2 * int(np.ceil(2.5 * variance**0.5)) + 1)
    low, high = 0.05, 100.0
    for _ in range(50):
        sigma = (low * high) ** 0.5
        low, high = (sigma, high) if _variance(taps, sigma) < variance else (low, sigma)
    return taps, (low * high) ** 0.5


def _variance(taps: int, sigma: float) -> float:
    at = np.arange(taps) - taps // 2
    weights = np.exp(-(at**2) / (2.0 * sigma**2))
    return float((weights * at**2).sum() / weights.sum())

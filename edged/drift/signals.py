"""What drift looks at in one inference: how sure the model was, and how the picture was. Pure.

Confidence alone misses harm such as fog, so the picture counts as well. No picture is kept: of
each there are a few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edged.drift.histogram import SCALES, Counts

Gray = npt.NDArray[np.uint8]

NOTHING = -2
"""The class of an inference that found nothing."""

SKETCH_SIDE = 112
"""A sketch has at most so many pixels a side."""

EDGE_POINTS = 64
"""What one picture adds to the histogram of edges, in all."""

# Weaker gradients of the picture at half size, which is faster and quieter, are the sensor's noise.
_LEAST_GRADIENT = 12.0
_EDGE_BINS = SCALES["edges"].bins


@dataclass(frozen=True, slots=True)
class Confidence:
    """How sure a model was, before any publishing threshold.

    Attributes:
        top1: highest score, 0..1; 0 where nothing was found.
        margin: highest less second highest score, 0..1.
        entropy: of the scores over that of a uniform answer, 0..1.
        label: number of the best class; `NOTHING` where nothing was found.
    """

    top1: float
    margin: float
    entropy: float
    label: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a picture was like.

    Attributes:
        luma: mean of the green channel, 0..255.
        contrast: its standard deviation.
        sharpness: log2 of the variance of its Laplacian; -2 where it is constant.
        tilt_x: how much brighter the right half is than the left, over twice the contrast, -1..1.
        tilt_y: the same, lower against upper half: sees a camera turned by 180 degrees.
        edges: share of the gradients' strength by direction, 0..180 degrees, shape (8,), sums to 1:
            sees a camera turned by less. All zero where there are no edges.
        print: 64 bits of the picture: the same twice is a frozen camera.
    """

    luma: float
    contrast: float
    sharpness: float
    tilt_x: float
    tilt_y: float
    edges: npt.NDArray[np.float64]
    print: int


def sketch(tensor: npt.NDArray[np.uint8]) -> Gray:
    """Return a small copy of a picture: every nth pixel of its green channel.

    Args:
        tensor: uint8, shape (height, width, 3), or (height, width, 1).

    Returns:
        uint8, at most `SKETCH_SIDE` pixels a side, own memory.
    """
    step = max(1, -(-max(tensor.shape[:2]) // SKETCH_SIDE))
    return tensor[::step, ::step, tensor.shape[2] // 2].copy()


def look(gray: Gray) -> Look:
    """Return what a sketch shows.

    Args:
        gray: uint8, shape (height, width), both at least 3.
    """
    means, deviations = cv2.meanStdDev(gray)
    luma, contrast = float(means[0, 0]), float(deviations[0, 0])
    laplacian = cv2.Laplacian(gray, cv2.CV_16S)[1:-1, 1:-1]
    deviation = float(cv2.meanStdDev(laplacian)[1][0, 0])
    height, width = gray.shape
    half_y, half_x = height // 2, width // 2
    rows = cv2.reduce(gray, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F)
    columns = cv2.reduce(gray, 0, cv2.REDUCE_AVG, dtype=cv2.CV_32F)[0]
    scale = 2.0 * contrast if contrast > 1.0 else math.inf
    return Look(
        luma,
        contrast,
        2.0 * math.log2(deviation) if deviation > 0.5 else -2.0,
        float(columns[-half_x:].mean() - columns[:half_x].mean()) / scale,
        float(rows[-half_y:].mean() - rows[:half_y].mean()) / scale,
        _edges(gray),
        hash(gray.tobytes()),
    )


def edge_points(look: Look) -> Counts:
    """Return what a picture adds to the histogram of edges: its shares of `EDGE_POINTS`."""
    points: Counts = np.rint(look.edges * EDGE_POINTS).astype(np.int64)
    return points


def classified(scores: npt.NDArray[np.float32]) -> Confidence:
    """Return the confidence of a classification.

    Args:
        scores: shape (classes,), at least two; they need not sum to 1.

    Raises:
        ValueError: one is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    label = int(scores.argmax())
    second, first = np.partition(scores, -2)[-2:].tolist()
    total = float(scores.sum())
    entropy = 1.0
    if total > 0.0:
        shares = scores[scores > 0.0] / total
        entropy = float(-(shares * np.log(shares)).sum()) / math.log(scores.size)
    return Confidence(first, first - second, min(max(entropy, 0.0), 1.0), label)


def found(scores: Sequence[float], label: int, most: int) -> Confidence:
    """Return the confidence of a result that may have found nothing: objects, areas.

    Args:
        scores: of all that was found, before any publishing threshold, in any order.
        label: number of the best one's class.
        most: how many there can be, which is the entropy's scale.
    """
    real = sorted((min(max(score, 0.0), 1.0) for score in scores), reverse=True)
    total = sum(real)
    if total <= 0.0:
        return Confidence(0.0, 0.0, 0.0, NOTHING)
    shares = [score / total for score in real if score > 0.0]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(max(most, 2))
    second = real[1] if len(real) > 1 else 0.0
    return Confidence(real[0], real[0] - second, min(max(entropy, 0.0), 1.0), label)


def _edges(gray: Gray) -> npt.NDArray[np.float64]:
    height, width = gray.shape
    half = cv2.resize(gray, (max(3, width // 2), max(3, height // 2)), interpolation=cv2.INTER_AREA)
    across = cv2.Sobel(half, cv2.CV_32F, 1, 0, ksize=1)[1:-1, 1:-1]
    down = cv2.Sobel(half, cv2.CV_32F, 0, 1, ksize=1)[1:-1, 1:-1]
    strength, angle = cv2.cartToPolar(across, down)
    strength[strength < _LEAST_GRADIENT] = 0.0
    # A gradient and its opposite are the same edge. An angle a hair below 2 pi rounds up to it.
    bins = (angle * (_EDGE_BINS / math.pi)).astype(np.intp).ravel() % _EDGE_BINS
    weights = np.bincount(bins, strength.ravel(), _EDGE_BINS)
    total = float(weights.sum())
    return weights / total if total > 0.0 else np.zeros(_EDGE_BINS)

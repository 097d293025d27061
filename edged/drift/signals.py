"""What drift looks at in one inference: how sure the model was, and how the picture was. Pure.

Confidence alone misses harm such as fog, so the picture counts as well. No picture is kept: of
each there are a few numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.drift.histogram import SCALES

Gray = npt.NDArray[np.uint8]

NOTHING = -2
"""The class of an inference that found nothing."""

SKETCH_SIDE = 112
"""A sketch has at most so many pixels a side."""

# Weaker gradients are noise of the sensor.
_LEAST_GRADIENT = 8
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
    values = gray.astype(np.int16)
    luma, contrast = float(gray.mean()), float(gray.std())
    inner = values[1:-1, 1:-1]
    laplacian = (
        values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * inner
    )
    variance = float(laplacian.astype(np.float32).var())
    height, width = gray.shape
    half_y, half_x = height // 2, width // 2
    rows, columns = gray.mean(axis=1), gray.mean(axis=0)
    scale = 2.0 * contrast if contrast > 1.0 else math.inf
    return Look(
        luma,
        contrast,
        math.log2(variance) if variance > 0.25 else -2.0,
        float(columns[-half_x:].mean() - columns[:half_x].mean()) / scale,
        float(rows[-half_y:].mean() - rows[:half_y].mean()) / scale,
        _edges(values),
        hash(gray.tobytes()),
    )


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


def _edges(values: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    across = values[1:-1, 2:] - values[1:-1, :-2]
    down = values[2:, 1:-1] - values[:-2, 1:-1]
    strength = np.abs(across) + np.abs(down)
    clear = strength >= _LEAST_GRADIENT
    if not clear.any():
        return np.zeros(_EDGE_BINS)
    angle = np.arctan2(down[clear].astype(np.float32), across[clear].astype(np.float32))
    bins = ((angle / math.pi + 1.0) * _EDGE_BINS).astype(np.intp) % _EDGE_BINS
    weights = np.bincount(bins, strength[clear], _EDGE_BINS)
    shares: npt.NDArray[np.float64] = weights / weights.sum()
    return shares

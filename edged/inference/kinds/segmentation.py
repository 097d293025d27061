"""Segmentation: one output with a label number, or a score for each class, per pixel. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edged.drift import signals
from edged.drift.signals import Confidence
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut, Habit, best, class_labels, first_class, label_of
from edged.inference.modelfile import ModelFile
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array, TensorSpec
from edged.prediction import Area, Areas, Mask, Result

_NUMBER_TYPES = ("int64", "int32", "uint8")
_SCORE_TYPES = ("uint8", "int8", "int16", "float32", "float16")
# Pixels a side that a confidence is made of.
_SURVEYED = 64
# Counting takes room for every number up to the highest; above this the numbers are sorted instead.
_MOST_COUNTED = 65535


def is_label_map(spec: TensorSpec) -> bool:
    """Say whether an output can be a label number per pixel: [1, height, width] of integers."""
    shape = spec.shape
    return (
        (len(shape) == 3 or (len(shape) == 4 and shape[3] == 1))
        and shape[0] == 1
        and min(shape[1:3]) > 1
        and spec.dtype in _NUMBER_TYPES
        and spec.scale == 0.0
    )


def is_score_map(spec: TensorSpec) -> bool:
    """Say whether an output can be scores of at least two classes per pixel: [1, h, w, classes]."""
    shape = spec.shape
    return len(shape) == 4 and shape[0] == 1 and min(shape[1:]) > 1 and spec.dtype in _SCORE_TYPES


class SegmentationDecoder:
    """What covers how much of the image, and where.

    Args:
        file: the model's structure: says how many classes a label map has.
        position: of the output among the model's.
        spec: the output: a label map or a score map.
        labels: from the model or a file, or None.
        cut: what to report; the least score is the least area.

    Raises:
        ValidationError: `labels_mismatch`.
    """

    kind = "segmentation"
    habit = Habit("stretch", (127.5,), (127.5,))

    def __init__(
        self,
        file: ModelFile,
        position: int,
        spec: TensorSpec,
        labels: Sequence[str] | None,
        cut: Cut,
    ) -> None:
        self._scored = is_score_map(spec)
        count = spec.shape[3] if self._scored else _class_count(file, file.outputs[position])
        if count is None:
            # Compiled into an Edge TPU's operator: the labels are taken at their word.
            named = tuple(labels or ())
            count = named.index("") if "" in named else len(named)
        self.outputs = (position,)
        self.labels = class_labels(labels, count, f"tells {count} classes apart")
        self._spec = spec
        self._cut = cut
        self._least = cut.least(0.0)
        # One depth for all masks of a model, whatever a frame shows.
        self._pixel: type[np.uint8 | np.uint16] = np.uint8 if count <= 256 else np.uint16

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Areas:
        """Return what covers most, and the mask if it is asked for; see `Decoder.decode`."""
        height, width = self._spec.shape[1:3]
        x0, y0, x1, y1 = place.filled(width, height)
        numbers = self._numbers(outputs, place, 1)
        found, counts = _count(numbers)
        shares = (counts / numbers.size).astype(np.float32)
        areas = tuple(
            Area(label_of(self.labels, int(found[i])), float(shares[i]))
            for i in best(shares, self._cut.top_k)
            if shares[i] >= self._least
        )
        if not self._cut.mask:
            return Areas(areas)
        box = place.box_to_source((x0 / width, y0 / height, x1 / width, y1 / height))
        return Areas(areas, Mask(self._png(numbers), box))

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:
        """Return what share of the image the areas have, as if those were scores."""
        height, width = self._spec.shape[1:3]
        # Every nth pixel: shares to a hundredth are enough, and all of them take milliseconds.
        step = max(1, min(height, width) // _SURVEYED)
        numbers, counts = _count(self._numbers(outputs, place, step))
        label = int(numbers[counts.argmax()])
        shares = (counts / counts.sum()).tolist()
        return signals.found(shares, label, len(self.labels))

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:  # noqa: ARG002
        """Return the number of the largest area that was reported."""
        return first_class(self.labels, result)

    def _numbers(self, outputs: Sequence[Array], place: Geometry, step: int) -> Array:
        """Return the label number of every nth pixel in the part of the output that counts."""
        height, width = self._spec.shape[1:3]
        x0, y0, x1, y1 = place.filled(width, height)
        output = outputs[0].reshape(height, width, -1)[y0:y1:step, x0:x1:step]
        if not self._scored:
            return output[:, :, 0]
        if self._spec.is_float and not np.isfinite(output).all():
            raise ValidationError("output_not_finite", "the model returned NaN or infinite scores")
        # Quantisation keeps the order, so the raw values decide.
        best_class: Array = output.argmax(axis=2)
        return best_class

    def _png(self, numbers: Array) -> bytes:
        # Unsigned, a negative number is a huge one; what does not fit a pixel is its largest value.
        top = np.iinfo(self._pixel).max
        fitting = np.minimum(numbers.astype(np.uint64), np.uint64(top))
        pixels: npt.NDArray[np.integer[Any]] = fitting.astype(self._pixel)
        # As they are, OpenCV's settings are the quickest for areas of one value.
        return cv2.imencode(".png", pixels)[1].tobytes()


def _class_count(file: ModelFile, tensor: int) -> int | None:
    """Return between how many classes the graph chooses for a label map, or None if unseen."""
    for _ in range(8):
        operator = file.producer(tensor)
        if operator is None or not operator.inputs:
            break
        source = operator.inputs[0]
        if operator.name == "ARG_MAX":
            # The axis that is gone is the classes, whichever it was.
            pixels = int(np.prod(file.shapes[tensor]))
            return int(np.prod(file.shapes[source])) // max(1, pixels)
        if operator.name not in {"CAST", "RESHAPE"}:
            break
        tensor = source
    return None


def _count(numbers: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the label numbers that occur, lowest first, and how often each does."""
    if numbers.min() < 0 or numbers.max() > _MOST_COUNTED:
        found, counts = np.unique(numbers, return_counts=True)
        return found.astype(np.int64), counts.astype(np.int64)
    all_counts = np.bincount(numbers.reshape(-1))
    found = np.flatnonzero(all_counts)
    return found, all_counts[found]

"""Detection by YOLO heads: boxes with scores, of which the best of each object is kept. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from edged.drift import signals
from edged.drift.signals import Confidence
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut, Habit, best, class_labels, first_class, label_of
from edged.inference.kinds.yolohead import YoloHead
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array, TensorSpec, dequantise
from edged.prediction import FoundObject, Objects, Result

Boxes = npt.NDArray[np.float32]

TYPES = ("uint8", "int8", "int16", "float32", "float16")
# What Ultralytics' and YOLOv5's own programs report from: below it a head answers noise.
MIN_SCORE = 0.25
# Boxes of one class that overlap by more are one object (yolov5 `detect.py`, `--iou-thres`).
MAX_OVERLAP = 0.45
# What a confidence is made of, whatever is published: the best objects, and from this score.
_CLOSE_TOP = 16
_CLOSE_SCORE = 0.05
# Boxes that are compared. Ultralytics' heads without NMS give 300 in all; one object gets up to
# some dozens of boxes, so a crowd needs more.
_CANDIDATES = 1000
# Boxes of normalised coordinates end before, boxes of pixels behind.
_NORMALISED_END = 2.0
# A probability is at most 1, and little more after the rounding of a quantised tensor.
_SCORE_END = 1.5


class YoloDecoder:
    """Objects of a model with one YOLO head.

    Args:
        position: of the output among the model's.
        spec: the output.
        head: its layout.
        labels: from the model or a file, or None.
        cut: what to report.

    Raises:
        ValidationError: `labels_mismatch`.
    """

    kind = "detection"
    # Ultralytics and its ancestors divide pixels by 255 and fill up with this grey, in training too
    # (ultralytics `data/augment.py`, `LetterBox`).
    habit = Habit("letterbox", (0.0,), (255.0,), pad=114)

    def __init__(
        self,
        position: int,
        spec: TensorSpec,
        head: YoloHead,
        labels: Sequence[str] | None,
        cut: Cut,
    ) -> None:
        self.outputs = (position,)
        self.labels = tuple(labels or ())
        if head.classes is not None:
            self.labels = class_labels(labels, head.classes, f"detects {head.classes} classes")
        self._spec = spec
        self._head = head
        self._cut = cut

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Objects:
        """Return the best objects; see `Decoder.decode`.

        Raises:
            ValidationError: `output_not_finite`; `model_kind_unsupported` where values are no
                probabilities or no boxes, so that the head is another one than its shape says.
        """
        return self._decode(outputs, place, self._cut.top_k, self._cut.least(MIN_SCORE))

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:
        """Return how sure the model is of all objects; see `Decoder.confidence`."""
        objects = self._decode(outputs, place, _CLOSE_TOP, _CLOSE_SCORE)
        scores = [line.score for line in objects.objects]
        return signals.found(scores, first_class(self.labels, objects), _CLOSE_TOP)

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:  # noqa: ARG002
        """Return the class of the best object that was reported."""
        return first_class(self.labels, result)

    def _decode(self, outputs: Sequence[Array], place: Geometry, top: int, least: float) -> Objects:
        table = outputs[0].reshape(self._spec.shape[1:])
        if not self._head.transposed:
            table = table.T
        if self._spec.is_float and not np.isfinite(table).all():
            raise ValidationError("output_not_finite", "the model returned NaN or infinite boxes")
        rows, scores = self._candidates(table, least)
        corners = self._corners(table, rows, place)
        real = (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
        rows, scores, corners = rows[real], scores[real], corners[real]
        classes = self._classes(table, rows)
        kept: Iterator[int] = iter(range(rows.size))
        if self._head.form != "end_to_end":
            kept = without_duplicates(corners, classes)
        found: list[FoundObject] = []
        for i in kept:
            if len(found) == top:
                break
            x0, y0, x1, y1 = (float(value) for value in corners[i])
            box = place.box_to_source((x0, y0, x1, y1))
            if box[0] < box[2] and box[1] < box[3]:  # else in the bars beside the image
                label = label_of(self.labels, int(classes[i]))
                found.append(FoundObject(label, min(float(scores[i]), 1.0), box))
        return Objects(tuple(found))

    def _candidates(
        self, table: Array, least: float
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """Return rows and scores of the best boxes, best first.

        Raw values are compared with a raw threshold: turning all 8400 x 84 values of an int8 head
        into real numbers first takes ten times as long.
        """
        raw_least = self._raw(least)
        if self._head.form == "scores":
            raw = table[4:].max(axis=0)
            rows = np.flatnonzero(raw >= raw_least)
            scores = dequantise(self._spec, raw[rows])
        else:
            rows = np.flatnonzero(table[4] >= raw_least)
            scores = dequantise(self._spec, table[4, rows])
        if self._head.form == "objectness":
            scores *= dequantise(self._spec, table[5:, rows].max(axis=0, initial=_low(table)))
        enough = (scores >= least) & (scores > 0.0)
        rows, scores = rows[enough], scores[enough]
        if scores.size and scores.max() > _SCORE_END:
            raise ValidationError(
                "model_kind_unsupported", "the scores of the YOLO head are no probabilities"
            )
        order = np.array(best(scores, _CANDIDATES), np.intp)
        return rows[order], scores[order]

    def _raw(self, least: float) -> float:
        if self._spec.is_float or not self._spec.scale:
            return least
        # Compared before the rounding of float32, so a step is not lost to it.
        return math.ceil(least / self._spec.scale + self._spec.zero_point - 1e-3)

    def _classes(self, table: Array, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        if self._head.form == "end_to_end":
            return np.rint(dequantise(self._spec, table[5, rows])).astype(np.intp)
        first = 5 if self._head.form == "objectness" else 4
        classes: npt.NDArray[np.intp] = table[first:, rows].argmax(axis=0)
        return classes

    def _corners(self, table: Array, rows: npt.NDArray[np.intp], place: Geometry) -> Boxes:
        """Return x0, y0, x1, y1 of boxes in 0..1 of the input."""
        width, height = place.input_size
        if self._head.in_pixels:
            centres = dequantise(self._spec, table[:2])
            if centres.max() < min(width, height) / 2:
                raise ValidationError(
                    "model_kind_unsupported",
                    "the boxes of the YOLO head are not decoded; YOLOX has"
                    " --decode_in_inference for its export",
                )
        boxes = dequantise(self._spec, table[:4, rows]).T
        if self._head.form != "end_to_end":
            half = boxes[:, 2:] / 2
            boxes = np.hstack((boxes[:, :2] - half, boxes[:, :2] + half))
        # TFLite exports of YOLOv5 and Ultralytics divide by the input's size ("xywh are normalized
        # in TFLite", ultralytics `nn/autobackend.py`); YOLOv6 does not, nor do Ultralytics' newer
        # exports with end-to-end heads (`utils/export/litert.py`). The median forgives a stray box.
        if rows.size and np.median(boxes[:, 2:].max(axis=1)) > _NORMALISED_END:
            boxes = boxes / np.array([width, height, width, height], np.float32)
        return boxes


def _low(table: Array) -> float:
    return -np.inf if np.issubdtype(table.dtype, np.floating) else np.iinfo(table.dtype).min


def without_duplicates(
    corners: Boxes, classes: npt.NDArray[np.intp], overlap: float = MAX_OVERLAP
) -> Iterator[int]:
    """Yield the boxes that no better box of their class overlaps: greedy NMS, best first.

    Each box is compared with the ones yielded only, so who stops early pays for what was taken.

    Args:
        corners: shape (boxes, 4): x0, y0, x1, y1 with x0 < x1 and y0 < y1, best first.
        classes: shape (boxes,).
        overlap: intersection over union above which two boxes are one object.
    """
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left = np.arange(len(corners))
    while left.size:
        first, left = left[0], left[1:]
        yield int(first)
        low = np.maximum(corners[left, :2], corners[first, :2])
        high = np.minimum(corners[left, 2:], corners[first, 2:])
        shared = np.clip(high - low, 0.0, None).prod(axis=1)
        same = classes[left] == classes[first]
        left = left[~(same & (shared > overlap * (areas[left] + areas[first] - shared)))]

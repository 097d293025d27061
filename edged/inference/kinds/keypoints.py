"""Keypoints: one output with y, x and score of each point of one body, as MoveNet has it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edged.drift.signals import Confidence, found
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut, Habit, class_labels
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array, TensorSpec, dequantise
from edged.prediction import Keypoint, Keypoints, Result

_BODY = 0
_VALUE_TYPES = ("uint8", "int8", "float32", "float16")
# In the order of the COCO data set, which MoveNet was trained on.
_COCO = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
# MoveNet MultiPose: 17 points of 3 values, a box of 4 and a score for each of its bodies.
_MULTIPOSE_VALUES = 17 * 3 + 4 + 1


def is_keypoints(spec: TensorSpec) -> bool:
    """Say whether an output can be y, x, score of at least three points: [1, 1, points, 3]."""
    shape = spec.shape
    return (
        len(shape) == 4
        and shape[:2] == (1, 1)
        and shape[2] >= 3
        and shape[3] == 3
        and spec.dtype in _VALUE_TYPES
        and (spec.is_float or spec.scale > 0.0)
    )


def is_multipose(spec: TensorSpec) -> bool:
    """Say whether an output looks like that of MoveNet MultiPose, which is not read."""
    return len(spec.shape) == 3 and spec.shape[0] == 1 and spec.shape[2] == _MULTIPOSE_VALUES


class KeypointsDecoder:
    """Points of one body, each y, x in 0..1 of the input and a score.

    Args:
        position: of the output among the model's.
        spec: the output, shape (1, 1, points, 3).
        labels: from the model or a file, or None: then the names of COCO if there are 17 points.
        cut: what to report; only its least score counts.

    Raises:
        ValidationError: `labels_mismatch`.
    """

    kind = "keypoints"
    # MoveNet normalises by itself: it takes 0..255, float or not.
    habit = Habit("letterbox", (0.0,), (1.0,))

    def __init__(
        self, position: int, spec: TensorSpec, labels: Sequence[str] | None, cut: Cut
    ) -> None:
        count = spec.shape[2]
        if labels is None:
            labels = _COCO if count == len(_COCO) else [f"point {i}" for i in range(count)]
        self.outputs = (position,)
        self.labels = class_labels(labels, count, f"has {count} keypoints")
        self._spec = spec
        self._least = cut.least(0.0)

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Keypoints:
        """Return the points that score enough; see `Decoder.decode`."""
        values = dequantise(self._spec, outputs[0].reshape(-1, 3))
        if not np.isfinite(values).all():
            raise ValidationError("output_not_finite", "the model returned NaN or infinite points")
        return Keypoints(
            tuple(
                Keypoint(label, min(score, 1.0), place.point_to_source((x, y)))
                for label, (y, x, score) in zip(self.labels, values.tolist(), strict=True)
                if score >= self._least and score > 0.0
            )
        )

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:  # noqa: ARG002
        """Return the mean score of the points, and how far the best is from it."""
        scores = np.clip(dequantise(self._spec, outputs[0].reshape(-1, 3)[:, 2]), 0.0, 1.0)
        mean = float(scores.mean())
        spread = found(scores.tolist(), _BODY, scores.size)
        return Confidence(mean, spread.top1 - mean, spread.entropy, spread.label)

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:  # noqa: ARG002
        """Return the one class there is: a body."""
        return _BODY

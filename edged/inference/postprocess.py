"""From a model's raw outputs to classes or objects. Pure.

Which kind a model is follows from its graph: the operator TFLite_Detection_PostProcess makes a
detector, a single output of one value per class a classifier. Anything else is refused by name.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from flatbuffers import flexbuffers

from edged.errors import ValidationError
from edged.inference.modelfile import DETECTION_OPERATOR, ModelFile, Operator
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array, TensorSpec, dequantise
from edged.prediction import Classes, FoundObject, Objects, Result, ScoredClass

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a result is reported: at most `top_k` lines of at least `min_score`."""

    top_k: int = 5
    min_score: float = 0.0


class Decoder(Protocol):
    """Reads the outputs of one kind of model."""

    @property
    def kind(self) -> str:
        """`classification` or `detection`."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Which of the model's outputs `decode` wants, by position, in its order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class."""

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Result:
        """Read one set of outputs.

        Args:
            outputs: raw values of the tensors named by `outputs`, copied out of the interpreter.
            place: how the image was put into the input, to map boxes back.

        Raises:
            ValidationError: `output_not_finite` when a value is NaN or infinite.
        """


def make_decoder(
    file: ModelFile, outputs: Sequence[TensorSpec], labels: Sequence[str] | None, cut: Cut
) -> Decoder:
    """Choose the decoder for a model.

    Args:
        file: the model's structure.
        outputs: its output tensors, in the model's order.
        labels: names of the classes, or None where there are none: then `class 0`, `class 1`...
        cut: what to report.

    Raises:
        ValidationError: `model_kind_unsupported` (neither kind), `labels_mismatch` (naming both
            counts).
    """
    detector = next((op for op in file.operators if op.name == DETECTION_OPERATOR), None)
    if detector is not None:
        # The operator's outputs have a fixed order; the model may list them in any.
        order = tuple(
            file.outputs.index(tensor) for tensor in detector.outputs if tensor in file.outputs
        )
        if len(order) == 4 and len(outputs) == 4 and len(detector.inputs) >= 2:
            count = _detected_classes(detector, file.shapes[detector.inputs[1]][-1])
            return DetectionDecoder(order, _detection_labels(labels, count), cut)
    elif len(outputs) == 1:
        spec = outputs[0]
        count = int(np.prod(spec.shape))
        if count >= 2 and max(spec.shape) == count and spec.dtype in _SCORE_TYPES:
            head = file.head(file.outputs[0])
            return ClassificationDecoder(
                spec, _class_labels(labels, count), cut, softmax=_wants_softmax(head, spec)
            )
    raise ValidationError(
        "model_kind_unsupported",
        "the model is neither a classifier nor a detector with TFLite_Detection_PostProcess;"
        f" its outputs are {', '.join(spec.describe() for spec in outputs)}",
    )


_SCORE_TYPES = ("uint8", "int8", "int16", "float32", "float16")


def _wants_softmax(head: str, spec: TensorSpec) -> bool:
    # A compiled graph hides its last operator; a step of 1/256 from 0 is how softmax is quantised.
    low = {"uint8": 0, "int8": -128}.get(spec.dtype)
    probabilities = spec.scale == 1 / 256 and spec.zero_point == low
    return head == "logits" and not probabilities


def _class_labels(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"class {i}" for i in range(count))
    if len(labels) != count:
        hint = ""
        if len(labels) == count - 1:
            hint = "; often the first output is 'background' and its line is missing"
        raise ValidationError(
            "labels_mismatch",
            f"there are {len(labels)} labels, but the model has {count} outputs{hint}",
        )
    return tuple(labels)


def _detected_classes(detector: Operator, columns: int) -> int:
    """Return the number of classes without the background.

    The operator says it as `num_classes`; columns of scores beyond that are background and left
    out of the class numbers. Without it there is one such column, as the SSD models have it.
    """
    try:
        options = flexbuffers.Loads(bytearray(detector.options))
        count = int(options["num_classes"])
    except (ValueError, KeyError, TypeError, IndexError, struct.error, RecursionError):
        return columns - 1
    return count if 0 < count <= columns else columns - 1


def _detection_labels(labels: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if labels is None:
        return tuple(f"class {i}" for i in range(count))
    # A label file may name the background first; the operator leaves it out.
    if len(labels) == count + 1:
        return tuple(labels[1:])
    if len(labels) != count:
        raise ValidationError(
            "labels_mismatch",
            f"there are {len(labels)} labels, but the model detects {count} classes",
        )
    return tuple(labels)


class ClassificationDecoder:
    """One output with a value per class."""

    kind = "classification"
    outputs = (0,)

    def __init__(
        self, spec: TensorSpec, labels: tuple[str, ...], cut: Cut, *, softmax: bool
    ) -> None:
        self.labels = labels
        self._spec = spec
        self._cut = cut
        self._softmax = softmax
        self._top = min(cut.top_k, len(labels))

    def scores(self, outputs: Sequence[Array]) -> Scores:
        """Return the score of every class, before any threshold.

        Returns:
            float32, shape (classes,), each 0..1.

        Raises:
            ValidationError: `output_not_finite`.
        """
        values = dequantise(self._spec, outputs[0].reshape(-1))
        if self._spec.is_float and not np.isfinite(values).all():
            raise ValidationError("output_not_finite", "the model returned NaN or infinite scores")
        if self._softmax:
            values -= values.max()
            np.exp(values, out=values)
            values /= values.sum()
        return values

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Classes:  # noqa: ARG002  # boxes only
        """Return the best classes; see `Decoder.decode`."""
        scores = self.scores(outputs)
        best = _best(scores, self._top)
        return Classes(
            tuple(
                ScoredClass(self.labels[i], float(scores[i]))
                for i in best
                if scores[i] >= self._cut.min_score and scores[i] > 0.0
            )
        )


class DetectionDecoder:
    """Boxes, classes, scores and their count, as TFLite_Detection_PostProcess writes them.

    Boxes are ymin, xmin, ymax, xmax in 0..1 of the input; classes are numbers from 0 without the
    background; all four are float32.
    """

    kind = "detection"

    def __init__(self, order: tuple[int, ...], labels: tuple[str, ...], cut: Cut) -> None:
        self.outputs = order
        self.labels = labels
        self._cut = cut

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Objects:
        """Return the best objects; see `Decoder.decode`."""
        boxes, classes, scores, count = (output.reshape(-1) for output in outputs)
        if not np.isfinite(count[:1]).all():
            raise ValidationError("output_not_finite", "the model returned a count that is NaN")
        n = max(0, min(int(count[0]), scores.size, classes.size, boxes.size // 4))
        scores, classes, corners = scores[:n], classes[:n], boxes[: 4 * n].reshape(n, 4)
        if not (
            np.isfinite(scores).all() and np.isfinite(classes).all() and np.isfinite(corners).all()
        ):
            raise ValidationError("output_not_finite", "the model returned NaN or infinite boxes")
        found = []
        for i in _best(scores, min(self._cut.top_k, n)):
            score = float(scores[i])
            if score < self._cut.min_score or score <= 0.0:
                break
            y0, x0, y1, x1 = (float(value) for value in corners[i])
            box = place.box_to_source((x0, y0, x1, y1))
            found.append(FoundObject(self._label(int(classes[i])), min(score, 1.0), box))
        return Objects(tuple(found))

    def _label(self, number: int) -> str:
        return self.labels[number] if 0 <= number < len(self.labels) else f"class {number}"


def _best(scores: npt.NDArray[np.float32], count: int) -> list[int]:
    """Return the positions of the `count` highest scores, highest first, ties by position."""
    if count <= 0:
        return []
    if count < scores.size:
        # argpartition leaves ties at the edge in any order; take all that reach the edge.
        edge = scores[np.argpartition(scores, -count)[-count:]].min()
        candidates = np.flatnonzero(scores >= edge)
    else:
        candidates = np.arange(scores.size)
    order = np.argsort(-scores[candidates], kind="stable")[:count]
    return [int(i) for i in candidates[order]]

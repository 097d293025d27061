"""Detection by the operator TFLite_Detection_PostProcess, as SSD models end. Pure."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flatbuffers import flexbuffers

from edged.drift.signals import NOTHING, Confidence, found
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut, Habit, best, class_labels, first_class, label_of
from edged.inference.modelfile import ModelFile, Operator
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array
from edged.prediction import FoundObject, Objects, Result

_OPERATOR = "TFLite_Detection_PostProcess"


@dataclass(frozen=True, slots=True)
class SsdHead:
    """Where a model ends in the operator.

    Attributes:
        order: positions of boxes, classes, scores and count among the model's outputs, which may
            list them in any order.
        classes: how many there are, without the background.
    """

    order: tuple[int, ...]
    classes: int


def ssd_head(file: ModelFile) -> SsdHead | None:
    """Return the head of a model that ends in the operator, else None."""
    operator = next((op for op in file.operators if op.name == _OPERATOR), None)
    if operator is None or len(operator.inputs) < 2 or len(operator.outputs) != 4:
        return None
    if any(tensor not in file.outputs for tensor in operator.outputs):
        return None
    order = tuple(file.outputs.index(tensor) for tensor in operator.outputs)
    return SsdHead(order, _class_count(operator, file.shapes[operator.inputs[1]][-1]))


def _class_count(operator: Operator, columns: int) -> int:
    """Return the number of classes without the background.

    The operator says it as `num_classes`; columns of scores beyond that are background and left
    out of the class numbers. Without it there is one such column, as the SSD models have it.
    """
    try:
        options = flexbuffers.Loads(bytearray(operator.options))
        count = int(options["num_classes"])
    except (ValueError, KeyError, TypeError, IndexError, struct.error, RecursionError):
        return columns - 1
    return count if 0 < count <= columns else columns - 1


class SsdDecoder:
    """Boxes, classes, scores and their count, as TFLite_Detection_PostProcess writes them.

    Boxes are ymin, xmin, ymax, xmax in 0..1 of the input; classes are numbers from 0 without the
    background; all four are float32.

    Args:
        head: from `ssd_head`.
        labels: from the model or a file, or None.
        cut: what to report.

    Raises:
        ValidationError: `labels_mismatch`.
    """

    kind = "detection"
    habit = Habit("stretch", (127.5,), (127.5,))

    def __init__(self, head: SsdHead, labels: Sequence[str] | None, cut: Cut) -> None:
        # A label file may name the background first; the operator leaves it out.
        if labels is not None and len(labels) == head.classes + 1:
            labels = labels[1:]
        self.outputs = head.order
        self.labels = class_labels(labels, head.classes, f"detects {head.classes} classes")
        self._cut = cut
        self._least = cut.least(0.0)

    def clear_padding(self, outputs: Sequence[Array]) -> None:
        """Write zeros behind the count, where the operator leaves whatever memory held.

        Args:
            outputs: all of the model's, copied out of the interpreter.
        """
        boxes, classes, scores, count = (outputs[i] for i in self.outputs)
        n = max(0, int(np.nan_to_num(count.reshape(-1)[:1]).sum()))
        for values in (boxes, classes, scores):
            values[:, n:] = 0

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
        objects = []
        for i in best(scores, min(self._cut.top_k, n)):
            score = float(scores[i])
            if score < self._least or score <= 0.0:
                break
            y0, x0, y1, x1 = (float(value) for value in corners[i])
            box = place.box_to_source((x0, y0, x1, y1))
            label = label_of(self.labels, int(classes[i]))
            objects.append(FoundObject(label, min(score, 1.0), box))
        return Objects(tuple(objects))

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:  # noqa: ARG002
        """Return how sure the model is of all objects; see `Decoder.confidence`."""
        _, classes, scores, count = (output.reshape(-1) for output in outputs)
        n = max(0, min(int(count[0]), scores.size, classes.size))
        label = int(classes[scores[:n].argmax()]) if n else NOTHING
        return found(scores[:n].tolist(), max(label, NOTHING), scores.size)

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:  # noqa: ARG002
        """Return the class of the best object that was reported."""
        return first_class(self.labels, result)

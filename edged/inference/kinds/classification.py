"""Classification: one output with a value per class. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edged.drift.signals import Confidence, classified
from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut, Habit, Scores, best, class_labels
from edged.inference.preprocess import Geometry
from edged.inference.tensors import Array, TensorSpec, dequantise
from edged.prediction import Classes, Result, ScoredClass

_SCORE_TYPES = ("uint8", "int8", "int16", "float32", "float16")


def is_classification(spec: TensorSpec) -> bool:
    """Say whether an output can be the scores of at least two classes."""
    count = int(np.prod(spec.shape))
    return count >= 2 and max(spec.shape) == count and spec.dtype in _SCORE_TYPES


class ClassificationDecoder:
    """Scores of a model with a value per class.

    Args:
        position: of the output among the model's.
        spec: the output, shape (1, classes) or alike.
        labels: from the model or a file, or None.
        cut: what to report.
        head: what the graph does last: `softmax`, `logistic` or `logits`.

    Raises:
        ValidationError: `labels_mismatch`.
    """

    kind = "classification"
    habit = Habit("stretch", (127.5,), (127.5,))

    def __init__(
        self, position: int, spec: TensorSpec, labels: Sequence[str] | None, cut: Cut, head: str
    ) -> None:
        count = int(np.prod(spec.shape))
        self.outputs = (position,)
        self.labels = class_labels(labels, count, f"has {count} outputs")
        self._spec = spec
        self._least = cut.least(0.0)
        self._softmax = _wants_softmax(head, spec)
        self._top = min(cut.top_k, count)

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
        chosen = best(scores, self._top)
        # Python's own numbers: comparing numpy's one by one takes longer than all the rest.
        return Classes(
            tuple(
                ScoredClass(self.labels[i], score)
                for i, score in zip(chosen, scores[chosen].tolist(), strict=True)
                if score >= self._least and score > 0.0
            )
        )

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:  # noqa: ARG002
        """Return how sure the model is of all its classes; see `Decoder.confidence`."""
        return classified(self.scores(outputs))

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:  # noqa: ARG002
        """Return the number of the best class: quantisation and softmax keep the order."""
        return int(outputs[0].argmax())


def _wants_softmax(head: str, spec: TensorSpec) -> bool:
    # A compiled graph hides its last operator; a step of 1/256 from 0 is how softmax is quantised.
    low = {"uint8": 0, "int8": -128}.get(spec.dtype)
    probabilities = spec.scale == 1 / 256 and spec.zero_point == low
    return head == "logits" and not probabilities

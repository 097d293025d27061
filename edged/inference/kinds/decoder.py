"""What the kinds of models have in common: the decoder's shape, labels, the best of many. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edged.drift.signals import NOTHING, Confidence
from edged.errors import ValidationError
from edged.inference.preprocess import Geometry, Resize
from edged.inference.tensors import Array
from edged.prediction import Result, seen

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Cut:
    """What of a result is reported.

    Attributes:
        top_k: most lines; keypoints are all reported.
        min_score: least score of a line, or least area; None where the owner chose none.
        mask: whether a segmentation comes with its mask.
    """

    top_k: int = 5
    min_score: float | None = None
    mask: bool = False

    def least(self, usual: float) -> float:
        """Return the least score: the owner's choice, else what is usual for the kind."""
        return usual if self.min_score is None else self.min_score


EVERYTHING = Cut(top_k=100, min_score=0.0)
"""What a model is compared by, whatever its owner wants to be told."""


@dataclass(frozen=True, slots=True)
class Habit:
    """How models of a kind are usually fed, where neither configuration nor file says.

    Attributes:
        resize: how the image is fitted to the input.
        mean: for a float input: a pixel enters as (pixel - mean) / std.
        std: the same.
        pad: value of the pixels beside a letterboxed image, 0..255.
    """

    resize: Resize
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0


class Decoder(Protocol):
    """Reads the outputs of one kind of model."""

    @property
    def kind(self) -> str:
        """`classification`, `detection`, `keypoints` or `segmentation`."""

    @property
    def habit(self) -> Habit:
        """How models of this kind are usually fed."""

    @property
    def outputs(self) -> tuple[int, ...]:
        """Which of the model's outputs `decode` wants, by position, in its order."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class, or of each keypoint."""

    def decode(self, outputs: Sequence[Array], place: Geometry) -> Result:
        """Read one set of outputs.

        Args:
            outputs: raw values of the tensors named by `outputs`, copied out of the interpreter.
            place: how the image was put into the input, to map positions back.

        Raises:
            ValidationError: `output_not_finite` when a value is NaN or infinite.
        """

    def confidence(self, outputs: Sequence[Array], place: Geometry) -> Confidence:
        """Return how sure the model is, whatever its owner wants to be told.

        Args:
            outputs: as for `decode`, which has read them.
            place: the same.
        """

    def best_class(self, outputs: Sequence[Array], result: Result) -> int:
        """Return the number of the best class, `NOTHING` without one; next to free.

        Args:
            outputs: as for `decode`.
            result: what that returned.
        """


def class_labels(labels: Sequence[str] | None, count: int, things: str) -> tuple[str, ...]:
    """Return a label for each of `count` classes: `class 0`... where there are none.

    Lines after a blank one are notes when the lines before it are as many as there are classes.

    Args:
        labels: from the model or a file, or None.
        count: what the model's outputs say.
        things: what is counted, for the message: "the model has 4 outputs".

    Raises:
        ValidationError: `labels_mismatch`, naming both counts.
    """
    if labels is None:
        return tuple(f"class {i}" for i in range(count))
    if not labels_fit(labels, count):
        hint = ""
        if len(labels) == count - 1:
            hint = "; often the first output is 'background' and its line is missing"
        raise ValidationError(
            "labels_mismatch", f"there are {len(labels)} labels, but the model {things}{hint}"
        )
    return tuple(labels[:count])


def labels_fit(labels: Sequence[str], count: int) -> bool:
    """Say whether there is a label for each of `count` classes, and at most notes behind them."""
    return 0 < count == len(labels) or (0 < count < len(labels) and not labels[count])


def label_of(labels: Sequence[str], number: int) -> str:
    """Return the label of a class that a model named by its number, whatever the number."""
    return labels[number] if 0 <= number < len(labels) else f"class {number}"


def first_class(labels: Sequence[str], result: Result) -> int:
    """Return the number of the class that stands first in a result, `NOTHING` without one."""
    lines = seen(result)
    if not lines:
        return NOTHING
    label = lines[0][0]
    # What `label_of` makes of a number without a label is the number.
    return labels.index(label) if label in labels else int(label.removeprefix("class "))


def best(scores: npt.NDArray[np.float32], count: int) -> list[int]:
    """Return the positions of the `count` highest scores, highest first, ties by position."""
    if count <= 0:
        return []
    if count >= scores.size:
        return np.argsort(-scores, kind="stable").tolist()  # type: ignore[no-any-return]
    # A partition leaves ties at the edge in any order; take all that reach the edge.
    reach = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    order = np.argsort(-scores[reach], kind="stable")[:count]
    return reach[order].tolist()  # type: ignore[no-any-return]

"""What a model said about a frame. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

from edged.frame import FrameStamp


@dataclass(frozen=True, slots=True)
class ModelId:
    """Which model made a prediction: never in doubt.

    Attributes:
        name: the configured name.
        version: SemVer; `0.0.0-factory-<sha8>` for a bare factory file.
        sha256: hex digest of the package, or of the bare file.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ScoredClass:
    """One line of a classification. `score` is 0..1."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One detection.

    Attributes:
        label: its class.
        score: 0..1.
        box: x0, y0, x1, y1: corners in the upright camera image, 0..1 of its width and height.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Classes:
    """Result of a classification, best first; already cut to top-k and the least score."""

    classes: tuple[ScoredClass, ...]


@dataclass(frozen=True, slots=True)
class Objects:
    """Result of a detection, best first; already cut to top-k and the least score."""

    objects: tuple[FoundObject, ...]


Result = Classes | Objects


@dataclass(frozen=True, slots=True)
class Prediction:
    """One inference on one frame.

    Attributes:
        frame: which frame.
        model: which model.
        invoke_ms: time inside the interpreter's invoke, in milliseconds.
        result: what the model said.
    """

    frame: FrameStamp
    model: ModelId
    invoke_ms: float
    result: Result

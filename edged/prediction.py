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


@dataclass(frozen=True, slots=True)
class Keypoint:
    """One point of a body.

    Attributes:
        label: which, e.g. `left_elbow`.
        score: 0..1.
        point: x, y in the upright camera image, 0..1 of its width and height.
    """

    label: str
    score: float
    point: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Result of a pose model, in the model's order; those below the least score are left out."""

    points: tuple[Keypoint, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """What one label covers. `area` is 0..1 of the part of the image that the model saw."""

    label: str
    area: float


@dataclass(frozen=True, slots=True)
class Mask:
    """Which label each pixel has.

    Attributes:
        png: a grey PNG image; the value of a pixel is the number of its label, from 0.
        box: x0, y0, x1, y1: the part of the upright camera image that it covers, 0..1.
    """

    png: bytes
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Areas:
    """Result of a segmentation, largest first; already cut to top-k and the least area."""

    areas: tuple[Area, ...]
    mask: Mask | None = None


Result = Classes | Objects | Keypoints | Areas


def seen(result: Result) -> tuple[tuple[str, float], ...]:
    """Return what a model saw, whatever its kind: labels and scores (or areas), in its order."""
    match result:
        case Classes():
            return tuple((line.label, line.score) for line in result.classes)
        case Objects():
            return tuple((found.label, found.score) for found in result.objects)
        case Keypoints():
            return tuple((point.label, point.score) for point in result.points)
        case Areas():
            return tuple((area.label, area.area) for area in result.areas)


def essence(result: Result) -> tuple[str, ...]:
    """Return what changes when the scene does: the best class, or all labels that are seen."""
    labels = [label for label, _ in seen(result)]
    return tuple(labels[:1] if isinstance(result, Classes) else sorted(labels))


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

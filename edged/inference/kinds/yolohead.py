"""Which YOLO head an output is: decided by its shape, the labels and the input's size. Pure.

What exporters write for N boxes of C classes; a box is centre x, centre y, width, height:

* [1, N, 5 + C], 3 boxes a cell: box, objectness, class scores (yolov5 `models/tf.py`).
* [1, 4 + C, N], 1 box a cell: box, class scores (ultralytics `nn/modules/head.py`, YOLOv8 on).
* [1, N, 5 + C], 1 box a cell, in pixels: YOLOv6 (its `Detect.forward`), and YOLOX where it was
  exported with its decoding (its own guide to TFLite leaves that out).
* [1, 300, 6]: corners, score, class, done with NMS (YOLOv10, YOLO26, Ultralytics' `nms=True`).

A cell is one of a grid over the input, one grid for each stride. Keypoints and mask coefficients
stand behind the class scores, an angle too: such heads have more columns than the labels explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edged.errors import ValidationError
from edged.inference.kinds.decoder import labels_fit

Form = Literal["scores", "objectness", "end_to_end"]

# Of three levels, with one finer or one coarser, and of the tiny versions 3, 4 and 7.
_STRIDES = ((8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (16, 32))
_END_TO_END_COLUMNS = 6
_END_TO_END_ROWS = 300  # Ultralytics' `max_det`
_MOST_END_TO_END_ROWS = 1000
_POSE_VALUES = 51  # 17 keypoints of x, y, score, as trained on COCO
_MASK_VALUES = 32  # coefficients of Ultralytics' segmentation heads


@dataclass(frozen=True, slots=True)
class YoloHead:
    """How the values of an output are laid out.

    Attributes:
        form: `scores` is box, class scores; `objectness` has that value between them;
            `end_to_end` is corners, score, number of the class, already without duplicates.
        transposed: whether the boxes are along the last axis.
        classes: how many there are, or None where only the labels could tell.
        in_pixels: whether the boxes can only be in pixels of the input; otherwise they may also
            be in 0..1 of it, as the values tell.
    """

    form: Form
    transposed: bool
    classes: int | None
    in_pixels: bool = False


def yolo_head(
    shape: Sequence[int], labels: Sequence[str] | None, size: tuple[int, int] | None
) -> YoloHead | None:
    """Return the layout of an output, or None for one that is no YOLO head.

    Args:
        shape: of the model's only output.
        labels: from the model or a file, or None.
        size: height, width of the model's input in pixels, or None where it is no image.

    Raises:
        ValidationError: `labels_mismatch` (naming both counts), `model_kind_unsupported` for a head
            that has more than boxes, or that only labels could tell apart.
    """
    if len(shape) != 3 or shape[0] != 1 or shape[1] == shape[2] or min(shape[1:]) < 5:
        return None
    # The axis with a box for every cell of the input's grid is known whatever the labels say.
    for transposed, columns, rows in ((False, shape[2], shape[1]), (True, shape[1], shape[2])):
        anchors = _boxes_per_cell(rows, size)
        if anchors and rows > columns:
            return _on_grid(list(shape), transposed, columns, anchors, labels)
    return _off_grid(list(shape), labels)


def _boxes_per_cell(rows: int, size: tuple[int, int] | None) -> int:
    """Return 1 or 3 where `rows` boxes cover the input's grids, else 0."""
    for strides in _STRIDES if size else ():
        cells = sum((size[0] // stride) * (size[1] // stride) for stride in strides) if size else 0
        if cells and rows in (cells, 3 * cells):
            return rows // cells
    return 0


def _on_grid(
    shape: list[int], transposed: bool, columns: int, anchors: int, labels: Sequence[str] | None
) -> YoloHead:
    if anchors == 3:
        # Several boxes a cell are told apart by anchors, and those heads all have an objectness.
        classes = columns - 5
        if labels is None or labels_fit(labels, classes):
            return YoloHead("objectness", transposed, classes)
        raise _mismatch(shape, labels, classes)
    if labels is None:
        if not transposed:
            raise ValidationError(
                "model_kind_unsupported",
                f"the output {shape} is a YOLO head that may have an objectness or not:"
                " only labels tell",
            )
        if columns == 4 + 1 + _POSE_VALUES:
            raise _more_than_boxes(shape, "pose")
        return YoloHead("scores", transposed, columns - 4)
    if labels_fit(labels, columns - 4):
        return YoloHead("scores", transposed, columns - 4)
    if labels_fit(labels, columns - 5) and not transposed:
        return YoloHead("objectness", transposed, columns - 5, in_pixels=True)
    raise _mismatch(shape, labels, columns - 4)


def _off_grid(shape: list[int], labels: Sequence[str] | None) -> YoloHead | None:
    _, rows, columns = shape
    ended = columns == _END_TO_END_COLUMNS and rows <= _MOST_END_TO_END_ROWS
    classes = None if labels is None else len(labels)
    if ended and (labels is None or rows == _END_TO_END_ROWS):
        return YoloHead("end_to_end", False, classes)
    if labels is None:
        return None
    forms: tuple[tuple[Form, int], ...] = (("scores", 4), ("objectness", 5))
    heads = [
        YoloHead(form, transposed, count - box)
        for transposed, count in ((False, columns), (True, rows))
        for form, box in forms
        if labels_fit(labels, count - box)
    ]
    if ended:
        heads.append(YoloHead("end_to_end", False, classes))
    if len(heads) > 1:
        raise ValidationError(
            "model_kind_unsupported",
            f"the output {shape} with {len(labels)} labels is a YOLO head of more than one layout",
        )
    if not heads:
        raise _mismatch(shape, labels, min(rows, columns) - 4)
    return heads[0]


def _mismatch(shape: list[int], labels: Sequence[str], classes: int) -> ValidationError:
    extra = {_POSE_VALUES: "pose", _MASK_VALUES: "segmentation"}.get(classes - len(labels))
    if extra is not None:
        return _more_than_boxes(shape, extra)
    return ValidationError(
        "labels_mismatch",
        f"there are {len(labels)} labels, but the output {shape} of a YOLO model"
        f" has {classes} classes, unless it has more than boxes (an angle, keypoints, masks), which"
        " cannot be read",
    )


def _more_than_boxes(shape: list[int], what: str) -> ValidationError:
    return ValidationError(
        "model_kind_unsupported",
        f"the output {shape} looks like a YOLO {what} head; only its detection heads can be read",
    )


def other_yolo(shapes: Sequence[Sequence[int]], task: str | None) -> str | None:
    """Say which YOLO head that edged cannot read a model looks like, or return None.

    Args:
        shapes: of its outputs.
        task: what its exporter says it is for, or None.
    """
    if task not in (None, "detect", "classify"):
        return f"this is a YOLO model for the task '{task}'"
    ranks = sorted(len(shape) for shape in shapes)
    if ranks == [3, 4]:
        return "this looks like a YOLO segmentation head"
    deep = [shape for shape in shapes if len(shape) in (4, 5)]
    if 2 <= len(deep) == len(shapes) and len({shape[-1] for shape in deep}) == 1:
        return "this looks like the raw grids of a YOLO head: export it with its decoding"
    if ranks == [3, 3] and shapes[0][1] == shapes[1][1]:
        return "this looks like a detector whose boxes and scores are apart and not decoded"
    return None

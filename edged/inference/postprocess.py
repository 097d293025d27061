"""Which kind a model is, and so what reads its outputs. Pure.

The kind follows from the model's graph and the shapes of its outputs; a model that fits none is
refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence

from edged.errors import ValidationError
from edged.inference.kinds.classification import ClassificationDecoder, is_classification
from edged.inference.kinds.decoder import Cut, Decoder
from edged.inference.kinds.keypoints import KeypointsDecoder, is_keypoints, is_multipose
from edged.inference.kinds.segmentation import SegmentationDecoder, is_label_map, is_score_map
from edged.inference.kinds.ssd import SsdDecoder, ssd_head
from edged.inference.kinds.yolo import TYPES, YoloDecoder
from edged.inference.kinds.yolohead import other_yolo, yolo_head
from edged.inference.modelfile import ModelFile
from edged.inference.tensors import TensorSpec


def make_decoder(
    file: ModelFile,
    outputs: Sequence[TensorSpec],
    positions: Sequence[int],
    labels: Sequence[str] | None,
    cut: Cut,
    *,
    image: int = 0,
) -> Decoder:
    """Choose the decoder for a model.

    Args:
        file: the model's structure.
        outputs: all its output tensors, in the model's order.
        positions: which of them are results; the others are states, fed back.
        labels: names of the classes, or None where there are none: then `class 0`, `class 1`...
        cut: what to report.
        image: which input takes the image.

    Raises:
        ValidationError: `model_kind_unsupported` (no known kind), `labels_mismatch` (naming both
            counts).
    """
    ssd = ssd_head(file)
    if ssd is not None and sorted(ssd.order) == sorted(positions):
        return SsdDecoder(ssd, labels, cut)
    if len(positions) == 1:
        position = positions[0]
        spec = outputs[position]
        head = file.head(file.outputs[position])
        if is_classification(spec):
            return ClassificationDecoder(position, spec, labels, cut, head)
        if is_keypoints(spec):
            return KeypointsDecoder(position, spec, labels, cut)
        if is_label_map(spec) or is_score_map(spec):
            return SegmentationDecoder(file, position, spec, labels, cut)
    results = [outputs[position] for position in positions]
    other = other_yolo([spec.shape for spec in results], file.task)
    if any(is_multipose(spec) for spec in results):
        other = "it looks like MoveNet MultiPose, and edged reads the pose of one body only"
    if other is None and len(positions) == 1 and spec.dtype in TYPES:
        yolo = yolo_head(spec.shape, labels, file.input_size(image))
        if yolo is not None:
            return YoloDecoder(position, spec, yolo, labels, cut)
    raise ValidationError(
        "model_kind_unsupported",
        f"{other or 'the model is of no known kind'}; these can run: classifiers, detectors with"
        " TFLite_Detection_PostProcess, YOLO detectors with one output (some need labels to be"
        " told), keypoints of one body, segmentation;"
        f" the outputs are {', '.join(spec.describe() for spec in results)}",
    )

"""Raw outputs become classes and objects."""

import numpy as np
import pytest
from sim import models

from edged.errors import ValidationError
from edged.inference.kinds.classification import ClassificationDecoder
from edged.inference.kinds.decoder import Cut
from edged.inference.kinds.ssd import SsdDecoder, SsdHead
from edged.inference.modelfile import read_model_file
from edged.inference.postprocess import make_decoder
from edged.inference.preprocess import InputSpec, geometry
from edged.inference.tensors import TensorSpec

INPUT = InputSpec(TensorSpec("input", 0, (1, 100, 100, 3), "uint8"))
PLACE = geometry(100, 100, INPUT)


def classifier(dtype="float32", scale=0.0, zero_point=0, n=4, cut=Cut(), softmax=False):
    spec = TensorSpec("scores", 0, (1, n), dtype, scale, zero_point)
    head = "logits" if softmax else "softmax"
    return ClassificationDecoder(0, spec, tuple("abcdefgh"[:n]), cut, head)


def lines(result) -> list[tuple[str, float]]:
    return [(line.label, round(line.score, 4)) for line in result.classes]


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "raw"),
    [
        ("uint8", 1 / 256, 0, [26, 128, 51, 51]),
        ("int8", 1 / 256, -128, [26 - 128, 0, 51 - 128, 51 - 128]),
        ("float32", 0.0, 0, [26 / 256, 0.5, 51 / 256, 51 / 256]),
    ],
)
def test_scores_of_every_type_mean_the_same(dtype, scale, zero_point, raw) -> None:
    decoder = classifier(dtype, scale, zero_point)

    result = decoder.decode([np.array([raw], dtype)], PLACE)

    expected = [("b", 0.5), ("c", 0.1992), ("d", 0.1992), ("a", 0.1016)]
    assert expected == lines(result)


def test_the_cut() -> None:
    scores = [np.array([[0.1, 0.6, 0.05, 0.25]], np.float32)]

    assert [("b", 0.6)] == lines(classifier(cut=Cut(top_k=1)).decode(scores, PLACE))
    assert [("b", 0.6), ("d", 0.25)] == lines(
        classifier(cut=Cut(min_score=0.2)).decode(scores, PLACE)
    )
    assert lines(classifier(cut=Cut(min_score=0.7)).decode(scores, PLACE)) == []
    assert len(lines(classifier(cut=Cut(top_k=100)).decode(scores, PLACE))) == 4


def test_ties_are_broken_by_position() -> None:
    for k in (1, 2, 3):
        decoder = classifier(n=8, cut=Cut(top_k=k))
        result = decoder.decode([np.array([[0.1] * 4 + [0.15] * 4], np.float32)], PLACE)
        assert [label for label, _ in lines(result)] == list("efg"[:k])


def test_logits_become_probabilities() -> None:
    result = classifier(softmax=True).decode(
        [np.array([[1.0, 3.0, 1.0, 900.0]], np.float32)], PLACE
    )

    assert lines(result)[0] == ("d", 1.0)
    assert sum(score for _, score in lines(result)) == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(bad) -> None:
    for softmax in (False, True):
        with pytest.raises(ValidationError) as caught:
            classifier(softmax=softmax).decode([np.array([[0.1, bad, 0, 0]], np.float32)], PLACE)
        assert caught.value.reason == "output_not_finite"


def detection(boxes, classes, scores, count=None, cut=Cut(), place=PLACE):
    decoder = SsdDecoder(SsdHead((0, 1, 2, 3), 2), ("cat", "dog"), cut)
    outputs = [
        np.array([boxes], np.float32),
        np.array([classes], np.float32),
        np.array([scores], np.float32),
        np.array([len(scores) if count is None else count], np.float32),
    ]
    return decoder.decode(outputs, place).objects


BOX = [0.1, 0.2, 0.3, 0.6]  # ymin, xmin, ymax, xmax


def test_objects_have_corners_x_first() -> None:
    (found,) = detection([BOX], [1], [0.75])

    assert (found.label, found.score) == ("dog", 0.75)
    assert found.box == pytest.approx((0.2, 0.1, 0.6, 0.3))


def test_objects_come_best_first_and_cut() -> None:
    boxes, classes, scores = [BOX] * 4, [0, 1, 0, 1], [0.2, 0.9, 0.5, 0.0]

    everything = [found.score for found in detection(boxes, classes, scores)]
    assert everything == pytest.approx([0.9, 0.5, 0.2])  # a score of 0 is padding
    top = detection(boxes, classes, scores, cut=Cut(top_k=2, min_score=0.6))
    assert [found.label for found in top] == ["dog"]


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 0), (1, 1), (2, 2), (99, 2), (-5, 0), (1.7, 1)]
)
def test_the_count_is_believed_within_reason(count, expected) -> None:
    assert len(detection([BOX, BOX], [0, 0], [0.9, 0.8], count)) == expected


def test_what_memory_held_behind_the_count_is_cleared() -> None:
    decoder = SsdDecoder(SsdHead((2, 0, 1, 3), 2), None, Cut())
    rest = [np.full((1, 3), np.nan, np.float32) for _ in range(2)]
    outputs = [*rest, np.full((1, 3, 4), np.nan, np.float32), np.array([1.0], np.float32)]
    for values in outputs[:3]:
        values[:, 0] = 0.5

    decoder.clear_padding(outputs)

    assert [values[0, :, ...].sum() for values in outputs[:3]] == [0.5, 0.5, 2.0]


def test_values_behind_the_count_are_not_looked_at() -> None:
    assert len(detection([BOX, [np.nan] * 4], [0, np.nan], [0.9, np.nan], 1)) == 1


@pytest.mark.parametrize("where", ["box", "class", "score", "count"])
def test_objects_that_are_no_numbers_are_refused(where) -> None:
    values = {"box": 0.5, "class": 0.0, "score": 0.9, "count": 1.0, where: np.nan}
    with pytest.raises(ValidationError) as caught:
        detection([[values["box"]] * 4], [values["class"]], [values["score"]], values["count"])

    assert caught.value.reason == "output_not_finite"


def test_an_unknown_class_has_a_number() -> None:
    assert detection([BOX], [7], [0.9])[0].label == "class 7"
    assert detection([BOX], [-3], [0.9])[0].label == "class -3"


def test_labels_must_fit_a_classifier() -> None:
    file, specs = _file_and_outputs(models.classifier())

    with pytest.raises(ValidationError, match="3 labels.*4 outputs.*background") as caught:
        make_decoder(file, specs, range(len(specs)), ["a", "b", "c"], Cut())
    assert caught.value.reason == "labels_mismatch"
    with pytest.raises(ValidationError, match="9 labels.*4 outputs"):
        make_decoder(file, specs, range(len(specs)), list("abcdefghi"), Cut())
    assert make_decoder(file, specs, range(len(specs)), None, Cut()).labels[3] == "class 3"


def test_labels_must_fit_a_detector() -> None:
    file, specs = _file_and_outputs(models.detector(), 4)

    assert make_decoder(file, specs, range(len(specs)), ["r", "g", "b"], Cut()).labels == (
        "r",
        "g",
        "b",
    )
    assert make_decoder(file, specs, range(len(specs)), ["???", "r", "g", "b"], Cut()).labels == (
        "r",
        "g",
        "b",
    )
    with pytest.raises(ValidationError, match="2 labels.*3 classes") as caught:
        make_decoder(file, specs, range(len(specs)), ["r", "g"], Cut())
    assert caught.value.reason == "labels_mismatch"


def _file_and_outputs(data: bytes, outputs: int = 1):
    file = read_model_file(data)
    specs = [
        TensorSpec(f"output{i}", i, file.shapes[tensor] or (1,), "float32")
        for i, tensor in enumerate(file.outputs[:outputs])
    ]
    return file, specs


def test_other_kinds_are_refused_by_name() -> None:
    file = read_model_file(models.classifier())
    depth = TensorSpec("depth", 1, (1, 256, 256, 1), "float32")

    with pytest.raises(ValidationError, match="'depth' float32") as caught:
        make_decoder(file, [depth], range(1), None, Cut())

    assert caught.value.reason == "model_kind_unsupported"


def test_many_bodies_are_refused_by_the_model_s_name() -> None:
    file = read_model_file(models.classifier())
    bodies = TensorSpec("poses", 1, (1, 6, 56), "float32")

    with pytest.raises(ValidationError, match="MoveNet MultiPose.*one body.*'poses'") as caught:
        make_decoder(file, [bodies], range(1), None, Cut())

    assert caught.value.reason == "model_kind_unsupported"

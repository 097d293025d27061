"""YOLO heads: which one an output is, boxes out of raw values, and real models end to end."""

import math
from pathlib import Path

import numpy as np
import pytest
from sim import models

from edged.config import ModelConfig
from edged.errors import EdgedError, ValidationError
from edged.inference.kinds.decoder import Cut
from edged.inference.kinds.yolo import MAX_OVERLAP, YoloDecoder, without_duplicates
from edged.inference.kinds.yolohead import YoloHead, other_yolo, yolo_head
from edged.inference.loading import load_servable
from edged.inference.preprocess import InputSpec, Preprocessor, geometry
from edged.inference.servable import Servable
from edged.inference.tensors import TensorSpec
from edged.prediction import Objects

PLACE = geometry(64, 64, InputSpec(TensorSpec("input", 0, (1, 64, 64, 3), "float32")))
NAMES = list(models.FOUND)
SIZE = (640, 640)


def names(count: int) -> list[str]:
    return [f"thing {i}" for i in range(count)]


# Which head it is.


@pytest.mark.parametrize(
    ("shape", "labels", "size", "head"),
    [
        # As exporters write them.
        ((1, 25200, 85), 80, SIZE, YoloHead("objectness", False, 80)),
        ((1, 25200, 85), None, SIZE, YoloHead("objectness", False, 80)),
        ((1, 25200, 6), 1, SIZE, YoloHead("objectness", False, 1)),
        ((1, 25200, 6), None, SIZE, YoloHead("objectness", False, 1)),
        ((1, 85, 25200), 80, SIZE, YoloHead("objectness", True, 80)),
        ((1, 84, 8400), 80, SIZE, YoloHead("scores", True, 80)),
        ((1, 84, 8400), None, SIZE, YoloHead("scores", True, 80)),
        ((1, 5, 8400), 1, SIZE, YoloHead("scores", True, 1)),
        ((1, 6, 8400), 2, SIZE, YoloHead("scores", True, 2)),
        ((1, 8400, 84), 80, SIZE, YoloHead("scores", False, 80)),
        ((1, 8400, 6), 2, SIZE, YoloHead("scores", False, 2)),
        ((1, 8400, 85), 80, SIZE, YoloHead("objectness", False, 80, in_pixels=True)),
        ((1, 84, 2100), None, (320, 320), YoloHead("scores", True, 80)),
        ((1, 3150, 9), 4, (160, 320), YoloHead("objectness", False, 4)),
        ((1, 84, 33600), 80, SIZE, YoloHead("scores", True, 80)),  # with a grid of stride 4
        ((1, 102000, 85), 80, (1280, 1280), YoloHead("objectness", False, 80)),  # stride 64
        ((1, 300, 6), 80, SIZE, YoloHead("end_to_end", False, 80)),
        ((1, 300, 6), 1, SIZE, YoloHead("end_to_end", False, 1)),
        ((1, 300, 6), 2, SIZE, YoloHead("end_to_end", False, 2)),
        ((1, 300, 6), None, SIZE, YoloHead("end_to_end", False, None)),
        ((1, 100, 6), 80, SIZE, YoloHead("end_to_end", False, 80)),
        # Heads of one's own, without the usual grids: the labels tell.
        ((1, 64, 8), 4, (64, 64), YoloHead("scores", False, 4)),
        ((1, 64, 8), 3, (64, 64), YoloHead("objectness", False, 3)),
        ((1, 8, 64), 4, (64, 64), YoloHead("scores", True, 4)),
        ((1, 8, 64), 3, None, YoloHead("objectness", True, 3)),
        # No heads at all.
        ((1, 513, 513), None, SIZE, None),
        ((1, 64, 8), None, (64, 64), None),
        ((1, 1917, 4), 90, (300, 300), None),
        ((2, 84, 8400), 80, SIZE, None),
        ((1, 1001), 1001, (224, 224), None),
    ],
)
def test_the_layout_follows_from_shape_labels_and_input(shape, labels, size, head) -> None:
    assert head == yolo_head(shape, None if labels is None else names(labels), size)


@pytest.mark.parametrize(
    ("shape", "labels", "reason", "words"),
    [
        ((1, 84, 8400), 79, "labels_mismatch", "79 labels.*80 classes"),
        ((1, 84, 8400), 81, "labels_mismatch", "81 labels.*80 classes"),
        ((1, 25200, 85), 81, "labels_mismatch", "81 labels.*80 classes"),
        ((1, 25200, 85), 3, "labels_mismatch", "3 labels.*80 classes"),
        ((1, 77, 9), 9, "labels_mismatch", "9 labels.*5 classes"),
        ((1, 56, 8400), 1, "model_kind_unsupported", "pose"),
        ((1, 56, 8400), None, "model_kind_unsupported", "pose"),
        ((1, 116, 8400), 80, "model_kind_unsupported", "segmentation"),
        ((1, 25200, 117), 80, "model_kind_unsupported", "segmentation"),
        ((1, 20, 8400), 15, "labels_mismatch", "15 labels.*16 classes.*angle"),
        ((1, 8400, 85), None, "model_kind_unsupported", "only labels tell"),
        ((1, 100, 6), 1, "model_kind_unsupported", "more than one layout"),
        ((1, 100, 6), 2, "model_kind_unsupported", "more than one layout"),
        ((1, 84, 85), 80, "model_kind_unsupported", "more than one layout"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(shape, labels, reason, words) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        yolo_head(shape, None if labels is None else names(labels), SIZE)

    assert caught.value.reason == reason
    assert str(list(shape)) in str(caught.value)


def test_notes_behind_the_labels_are_not_counted() -> None:
    head = yolo_head((1, 7, 8400), ["a", "b", "c", "", "a note"], SIZE)

    assert head == YoloHead("scores", True, 3)


@pytest.mark.parametrize(
    ("shapes", "task", "words"),
    [
        ([(1, 116, 8400), (1, 160, 160, 32)], None, "segmentation"),
        ([(1, 80, 80, 255), (1, 40, 40, 255), (1, 20, 20, 255)], None, "raw grids"),
        ([(1, 3, 80, 80, 85), (1, 3, 40, 40, 85)], None, "raw grids"),
        ([(1, 2100, 64), (1, 2100, 80)], None, "apart"),
        ([(1, 20, 21504)], "obb", "'obb'"),
        ([(1, 57, 8400)], "pose", "'pose'"),
        ([(1, 84, 8400)], "detect", None),
        ([(1, 17, 3)], None, None),
        ([(1, 10, 4), (1, 10), (1, 10), (1,)], None, None),
    ],
)
def test_other_heads_are_recognised(shapes, task, words) -> None:
    said = other_yolo(shapes, task)

    assert said is None if words is None else words in (said or "")


# Boxes out of raw values.


def decoder(
    shape, labels, cut=Cut(min_score=0.0), dtype="float32", scale=0.0, zero_point=0, size=(64, 64)
):
    spec = TensorSpec("output", 0, shape, dtype, scale, zero_point)
    head = yolo_head(shape, labels, size)
    assert head is not None
    return YoloDecoder(0, spec, head, labels, cut)


def rows_of(*rows, count=84) -> np.ndarray:
    """Place rows among those of a head with one box a cell, the others empty."""
    table = np.zeros((count, len(rows[0])), np.float32)
    table[10 : 10 + len(rows)] = rows
    return table


CAT = [0.25, 0.5, 0.1, 0.2, 0.1, 0.9]  # centre x, y, width, height, two classes
DOG = [0.75, 0.5, 0.2, 0.2, 0.6, 0.0]
CAT_BOX, DOG_BOX = (0.2, 0.4, 0.3, 0.6), (0.65, 0.4, 0.85, 0.6)


def read(
    table, labels=("dog", "cat"), cut=Cut(min_score=0.0), **kwargs
) -> list[tuple[str, float, tuple]]:
    """Decode rows of box and scores, as a transposed head has them."""
    values = np.ascontiguousarray(table.T)[None]
    found = decoder(values.shape, list(labels), cut, **kwargs).decode([values], PLACE)
    return [(one.label, round(one.score, 3), one.box) for one in found.objects]


def test_boxes_have_corners_best_first() -> None:
    (cat, dog) = read(rows_of(DOG, CAT))

    assert cat == ("cat", 0.9, pytest.approx(CAT_BOX))
    assert dog == ("dog", 0.6, pytest.approx(DOG_BOX))


def test_pixels_of_the_input_are_told_from_fractions() -> None:
    table = rows_of(DOG, CAT)
    table[:, :4] *= 64

    assert read(table) == [
        ("cat", 0.9, pytest.approx(CAT_BOX)),
        ("dog", 0.6, pytest.approx(DOG_BOX)),
    ]


def test_a_box_that_strays_does_not_change_what_the_others_mean() -> None:
    stray = [1.9, 0.5, 1.0, 0.2, 0.3, 0.0]

    assert [label for label, _, _ in read(rows_of(DOG, CAT, stray))] == ["cat", "dog"]


def test_the_objectness_multiplies() -> None:
    values = np.zeros((1, 252, 7), np.float32)
    values[0, 7] = [*CAT[:4], 0.5, 0.1, 0.9]
    values[0, 8] = [*DOG[:4], 0.5, 0.4, 0.0]  # 0.2: below the least score
    values[0, 9] = [*DOG[:4], 0.2, 1.0, 0.0]

    (found,) = decoder(values.shape, ["dog", "cat"]).decode([values], PLACE).objects[:1]
    least = decoder(values.shape, ["dog", "cat"], Cut()).decode([values], PLACE)

    assert (found.label, found.score) == ("cat", pytest.approx(0.45))
    assert [one.label for one in least.objects] == ["cat"]


@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_an_end_to_end_head_is_not_thinned_out(scale) -> None:
    values = np.zeros((1, 300, 6), np.float32)
    box = np.array([0.2, 0.4, 0.3, 0.6]) * scale
    values[0, 0], values[0, 1], values[0, 2] = [*box, 0.9, 1], [*box, 0.8, 0], [*box, 0.7, 1]

    found = decoder(values.shape, ["dog", "cat"]).decode([values], PLACE).objects

    assert [one.label for one in found] == ["cat", "dog", "cat"]
    assert found[0].box == pytest.approx(CAT_BOX)
    unnamed = decoder(values.shape, None).decode([values], PLACE).objects
    assert [one.label for one in unnamed] == ["class 1", "class 0", "class 1"]


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [("uint8", 1 / 255, 0), ("int8", 1 / 255, -128), ("int16", 1 / 32767, 0), ("float16", 0.0, 0)],
)
def test_every_type_means_the_same(dtype, scale, zero_point) -> None:
    table = rows_of(DOG, CAT)
    raw = table.astype(dtype) if not scale else np.rint(table / scale + zero_point).astype(dtype)

    found = read(raw, dtype=dtype, scale=scale, zero_point=zero_point)

    assert [(label, score) for label, score, _ in found] == [
        ("cat", pytest.approx(0.9, abs=0.003)),
        ("dog", pytest.approx(0.6, abs=0.003)),
    ]
    assert found[0][2] == pytest.approx(CAT_BOX, abs=0.005)


def test_the_least_score_is_met_to_the_step() -> None:
    """A quantised score of just the least one is reported, the step below is not."""
    raw = np.full((84, 6), -128, np.int8)
    for i, step in enumerate((-64, -65)):  # 64 / 256 = 0.25 and the step below
        raw[i] = [-128 + 40 * (i + 1), 0, -100, -100, step, -128]

    found = read(raw, cut=Cut(), dtype="int8", scale=1 / 256, zero_point=-128)

    assert [score for _, score, _ in found] == [0.25]


def test_the_cut() -> None:
    table = rows_of(DOG, CAT, [0.5, 0.1, 0.1, 0.1, 0.2, 0.0])

    assert len(read(table)) == 3
    assert len(read(table, cut=Cut())) == 2  # the kind's own least score
    assert len(read(table, cut=Cut(min_score=0.7))) == 1
    assert len(read(table, cut=Cut(top_k=2, min_score=0.0))) == 2
    assert len(read(table, cut=Cut(min_score=0.1))) == 3


def test_boxes_without_area_are_dropped_and_hide_nothing() -> None:
    flat = [[0.5, 0.5, 0.9, -0.9, 0.9, 0], [0.5, 0.5, 0.0, 0.1, 0.9, 0]]

    assert [label for label, _, _ in read(rows_of(*flat, DOG, CAT))] == ["cat", "dog"]


def test_boxes_in_the_bars_beside_the_image_are_dropped() -> None:
    letterbox = InputSpec(TensorSpec("input", 0, (1, 64, 64, 3), "float32"), resize="letterbox")
    place = geometry(480, 640, letterbox)  # rows 8 to 56 hold the image
    table = rows_of([0.5, 0.05, 0.2, 0.08, 0.9, 0], [0.5, 0.5, 0.25, 0.25, 0.8, 0])
    values = np.ascontiguousarray(table.T)[None]

    (found,) = decoder(values.shape, ["dog", "cat"]).decode([values], place).objects

    assert found.box == pytest.approx((0.375, 1 / 3, 0.625, 2 / 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_that_are_no_numbers_are_refused(bad, column, dtype) -> None:
    table = rows_of(DOG, CAT).astype(dtype)
    table[80, column] = bad

    with pytest.raises(ValidationError) as caught:
        read(table, dtype=dtype)
    assert caught.value.reason == "output_not_finite"


def test_scores_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValidationError, match="no probabilities") as caught:
        read(rows_of(DOG, [*CAT[:4], 5.3, -2.0]))
    assert caught.value.reason == "model_kind_unsupported"


def test_a_head_that_is_not_decoded_is_refused() -> None:
    """YOLOX's own TFLite files: offsets within a cell, logarithms of sizes."""
    raw = np.zeros((1, 84, 7), np.float32)
    raw[0, :, :4] = np.random.default_rng(3).normal(0.5, 0.5, (84, 4))
    yolox = decoder(raw.shape, ["dog", "cat"])
    with pytest.raises(ValidationError, match="not decoded") as caught:
        yolox.decode([raw], PLACE)
    assert caught.value.reason == "model_kind_unsupported"

    raw[0, :, :2] = np.linspace(2, 62, 84)[:, None]
    raw[0, 9] = [16, 32, 6.4, 12.8, 1.0, 0.1, 0.9]
    (found,) = yolox.decode([raw], PLACE).objects
    assert (found.label, found.box) == ("cat", pytest.approx(CAT_BOX))


# Duplicates.


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def by_hand(corners, classes) -> list[int]:
    kept: list[int] = []
    for i in range(len(corners)):
        if all(
            classes[i] != classes[j] or overlap(corners[i], corners[j]) <= MAX_OVERLAP for j in kept
        ):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(20))
def test_duplicates_are_those_found_by_hand(seed) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 80))
    low = rng.random((count, 2)) * (0.2 if seed % 2 else 0.9)
    corners = np.hstack((low, low + 0.02 + rng.random((count, 2)) * 0.4)).astype(np.float32)
    if seed % 3 == 0:
        corners = corners[rng.integers(0, max(count, 1), count)]  # many exactly equal
    classes = rng.integers(0, 1 + seed % 4, count)

    kept = list(without_duplicates(corners, classes))

    assert kept == by_hand(corners.astype(float), classes)


def test_ten_thousand_boxes_are_bounded_and_in_order() -> None:
    """All above the least score and apart from each other; equal scores keep their order."""
    rows = np.zeros((10_000, 6), np.float32)
    y, x = np.divmod(np.arange(10_000), 100)
    rows[:, :4] = np.stack([(x + 0.5) / 100, (y + 0.5) / 100, x * 0 + 0.01, x * 0 + 0.01], 1)
    rows[:, 4] = 0.5
    rows[7_000:7_003, 4] = 0.9

    found = read(rows, cut=Cut(top_k=100, min_score=0.0))

    assert len(found) == 100
    assert [score for _, score, _ in found[:4]] == [0.9, 0.9, 0.9, 0.5]
    assert found[0][2] == pytest.approx((0.0, 0.7, 0.01, 0.71), abs=1e-6)
    assert found[3][2] == pytest.approx((0.0, 0.0, 0.01, 0.01), abs=1e-6)
    rows[:, :4] = [0.5, 0.5, 0.2, 0.2]
    assert len(read(rows, cut=Cut(top_k=100, min_score=0.0))) == 1


# Real models in the real runtime.


def load(path: Path, **settings) -> Servable:
    return load_servable(ModelConfig(name="m", factory=str(path), **settings))


def predict(servable: Servable, image: np.ndarray) -> Objects:
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(image, "rgb", tensor)
    result = servable.decode(servable.infer(tensor), preprocessor.geometry(*image.shape[:2]))
    assert isinstance(result, Objects)
    return result


def picture(colour: int) -> np.ndarray:
    """640 x 480 with a square; the input of 64 x 64 shows it letterboxed, in rows 16 to 32."""
    image = np.full((480, 640, 3), 60, np.uint8)
    image[80:240, 320:480] = 0
    image[80:240, 320:480, colour] = 255
    return image


SQUARE = (320 / 640, 80 / 480, 480 / 640, 240 / 480)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("layout", ["scores", "objectness", "rows"])
def test_a_square_is_found_in_a_letterboxed_image(tmp_path, dtype, layout) -> None:
    data = models.with_export_metadata(models.yolo(dtype, layout=layout), NAMES)
    servable = load(models.write(tmp_path / "m.tflite", data))
    assert (servable.kind, servable.labels) == ("detection", tuple(NAMES))
    assert (servable.input.resize, servable.input.pad) == ("letterbox", 114)

    for colour, name in enumerate(NAMES):
        best = predict(servable, picture(colour)).objects[0]
        assert best.label == name
        assert overlap(best.box, SQUARE) > 0.9
        assert 0.8 < best.score < 1.0
    assert predict(servable, np.full((480, 640, 3), 60, np.uint8)).objects == ()


@pytest.mark.parametrize("style", ["metadata.json", "temp_meta.txt", "meta.txt"])
def test_names_come_from_the_metadata_of_exports(tmp_path, style) -> None:
    given = ["it's", 'a "dog"', "Großer\tAra\\"]
    data = models.with_export_metadata(models.yolo(), given, style)

    assert load(models.write(tmp_path / "m.tflite", data)).labels == tuple(given)


def test_boxes_in_pixels_and_channels_first(tmp_path) -> None:
    data = models.yolo(pixels=True, channels_first=True)
    servable = load(models.write(tmp_path / "m.tflite", data))
    assert servable.input.channels_first

    best = predict(servable, picture(2)).objects[0]

    assert (best.label, overlap(best.box, SQUARE) > 0.9) == ("class 2", True)


def test_the_bars_are_grey(tmp_path) -> None:
    servable = load(models.write(tmp_path / "m.tflite", models.yolo()))
    preprocessor = Preprocessor(servable.input)

    view = preprocessor.view(np.full((480, 640, 3), 255, np.uint8), "rgb")

    assert set(np.unique(view[:8])) == set(np.unique(view[56:])) == {114}
    assert set(np.unique(view[8:56])) == {255}


def test_the_owner_s_least_score_goes_before_the_kind_s(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.yolo())
    faint = picture(0)
    faint[80:240, 320:480, 0] = 95  # the cell answers about 0.12

    assert predict(load(path), faint).objects == ()
    assert predict(load(path, min_score=0.05), faint).objects[0].label == "class 0"
    assert predict(load(path, min_score=0.0, top_k=100), faint).objects[-1].score < 0.05


def test_other_tasks_are_refused_by_name(tmp_path) -> None:
    data = models.with_export_metadata(models.yolo(), ["plane", "ship"], task="obb")

    with pytest.raises(ValidationError, match="'obb'") as caught:
        load(models.write(tmp_path / "m.tflite", data))
    assert caught.value.reason == "model_kind_unsupported"


def test_labels_that_do_not_fit_name_both_numbers(tmp_path) -> None:
    data = models.with_export_metadata(models.yolo(), NAMES[:2])

    with pytest.raises(ValidationError, match="2 labels.*3 classes") as caught:
        load(models.write(tmp_path / "m.tflite", data))
    assert caught.value.reason == "labels_mismatch"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_model_of_no_numbers_is_refused(tmp_path, bad) -> None:
    values = np.zeros((1, 7, 84), np.float32)
    values[0, 5, 3] = bad

    with pytest.raises(EdgedError) as caught:
        load(models.write(tmp_path / "m.tflite", models.constant(values)))
    assert caught.value.reason == "output_not_finite"


def test_no_boxes_and_ten_thousand(tmp_path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("red\ngreen\nblue\n")
    values = np.zeros((1, 7, 10_000), np.float32)
    nothing = load(models.write(tmp_path / "0.tflite", models.constant(values)), labels=str(labels))
    side = math.isqrt(10_000)
    y, x = np.divmod(np.arange(10_000), side)
    values[0, 0], values[0, 1] = (x + 0.5) / side, (y + 0.5) / side
    values[0, 2:4], values[0, 5] = 1 / side, 0.5
    many = load(models.write(tmp_path / "n.tflite", models.constant(values)), labels=str(labels))

    square = np.zeros((64, 64, 3), np.uint8)
    assert predict(nothing, square).objects == ()
    assert [found.label for found in predict(many, square).objects] == ["green"] * 5

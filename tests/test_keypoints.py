"""Keypoints: y, x, score of each point become points in the upright camera image."""

import csv

import cv2
import numpy as np
import pytest
from sim import models
from test_servable import load, predict

from edged.errors import ValidationError
from edged.inference.kinds.decoder import Cut
from edged.inference.kinds.keypoints import KeypointsDecoder, is_keypoints
from edged.inference.preprocess import InputSpec, geometry
from edged.inference.tensors import TensorSpec
from edged.prediction import Keypoint, Keypoints

MOVENET = "movenet_single_pose_lightning_ptq"
SQUARE = InputSpec(TensorSpec("input", 0, (1, 100, 100, 3), "uint8"))
BOXED = InputSpec(SQUARE.tensor, resize="letterbox")
# A wide picture fills the middle half of a square input's height.
WIDE = geometry(100, 200, BOXED)


def spec(points=3, dtype="float32", scale=0.0, zero_point=0) -> TensorSpec:
    return TensorSpec("points", 0, (1, 1, points, 3), dtype, scale, zero_point)


def decode(points, cut=Cut(), place=WIDE) -> tuple[Keypoint, ...]:
    decoder = KeypointsDecoder(0, spec(len(points)), None, cut)
    return decoder.decode([np.array([[points]], np.float32)], place).points


def test_points_are_x_first_in_the_camera_image_and_stay_in_it() -> None:
    first, second, third = decode([[0.5, 0.1, 0.9], [0.25, 0.75, 0.8], [0.1, 1.2, 0.7]])

    assert first == Keypoint("point 0", pytest.approx(0.9), pytest.approx((0.1, 0.5)))
    assert second.point == pytest.approx((0.75, 0.0))
    assert third.point == (1.0, 0.0)  # in the bar above the picture, right of the input


def test_the_least_score_drops_points_and_top_k_none() -> None:
    points = [[0.5, 0.5, score] for score in (0.2, 0.9, 0.5, 0.0, -0.1, 1.1)]

    assert [point.label for point in decode(points)] == ["point 0", "point 1", "point 2", "point 5"]
    cut = decode(points, Cut(top_k=1, min_score=0.5))
    assert [(point.label, point.score) for point in cut] == [
        ("point 1", pytest.approx(0.9)), ("point 2", 0.5), ("point 5", 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_points_that_are_no_numbers_are_refused(bad, where) -> None:
    points = [[0.5, 0.5, 0.5] for _ in range(3)]
    points[1][where] = bad

    with pytest.raises(ValidationError) as caught:
        decode(points)

    assert caught.value.reason == "output_not_finite"


def test_seventeen_points_without_labels_are_those_of_coco() -> None:
    labels = KeypointsDecoder(0, spec(17), None, Cut()).labels

    assert (len(labels), len(set(labels))) == (17, 17)
    assert (labels[0], labels[7], labels[16]) == ("nose", "left_elbow", "right_ankle")


def test_labels_must_be_as_many_as_points() -> None:
    assert KeypointsDecoder(0, spec(), ["a", "b", "c", "", "a note"], Cut()).labels[2] == "c"
    with pytest.raises(ValidationError, match="2 labels.*3 keypoints") as caught:
        KeypointsDecoder(0, spec(), ["a", "b"], Cut())
    assert caught.value.reason == "labels_mismatch"


@pytest.mark.parametrize(
    ("shape", "dtype", "scale", "expected"),
    [
        ((1, 1, 17, 3), "float32", 0.0, True),
        ((1, 1, 3, 3), "float16", 0.0, True),
        ((1, 1, 21, 3), "int8", 1 / 256, True),
        ((1, 1, 21, 3), "uint8", 0.0, False),  # no telling what a step is worth
        ((1, 1, 2, 3), "float32", 0.0, False),
        ((1, 2, 17, 3), "float32", 0.0, False),
        ((1, 17, 3), "float32", 0.0, False),
        ((1, 1, 17, 3), "int32", 0.0, False),
    ],
)
def test_what_counts_as_keypoints(shape, dtype, scale, expected) -> None:
    assert is_keypoints(TensorSpec("out", 0, shape, dtype, scale)) == expected


# How a 480 x 240 picture meets 8 x 8 cells: the patch that fills one cell, and where the points are
# that a cell has: its centre, 1/8 of the input to the right, 1/8 of the input below.
SEEN = {
    "stretch": ((slice(60, 90), slice(300, 360)), (0.6875, 0.3125), (0.8125, 0.4375)),
    "letterbox": ((slice(60, 120), slice(300, 360)), (0.6875, 0.375), (0.8125, 0.625)),
    "center_crop": ((slice(60, 90), slice(270, 300)), (0.59375, 0.3125), (0.65625, 0.4375)),
}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("resize", SEEN)
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_points_follow_the_blob_in_the_upright_image(tmp_path, dtype, resize, rotate) -> None:
    path = models.write(tmp_path / "m.tflite", models.keypoints(dtype))
    usual = {"mean": (127.5,), "std": (127.5,)} if dtype == "float32" else {}
    servable = load(path, resize=resize, **usual)
    patch, (x, y), (right, below) = SEEN[resize]
    upright = np.zeros((240, 480, 3), np.uint8)
    upright[patch] = 255
    image = np.ascontiguousarray(np.rot90(upright, k=rotate // 90))

    result = predict(servable, image, rotate=rotate)

    assert isinstance(result, Keypoints)
    assert servable.kind == "keypoints"
    # Twice the step of the quantised output, of an input that may be twice the picture's height.
    expected = {"point 0": (x, y, 0.9), "point 1": (right, y, 0.6), "point 2": (x, below, 0.3)}
    assert {point.label for point in result.points} == set(expected)
    for point in result.points:
        assert (*point.point, point.score) == pytest.approx(expected[point.label], abs=4 / 256)


def test_a_float_model_of_keypoints_takes_raw_pixels_between_bars(tmp_path) -> None:
    servable = load(models.write(tmp_path / "m.tflite", models.keypoints("float32")))

    assert (servable.input.mean, servable.input.std) == ((0.0,), (1.0,))
    assert servable.input.resize == "letterbox"


def body(shared_data, resize, rotate=0) -> np.ndarray:
    """Return x, y, score of the 17 points of the squatting man."""
    servable = load(shared_data / "models" / f"{MOVENET}.tflite", resize=resize)
    upright = cv2.imread(str(shared_data / "images" / "squat.bmp"))
    image = np.ascontiguousarray(np.rot90(upright, k=rotate // 90))
    points = predict(servable, image, "bgr", rotate).points
    assert [point.label for point in points] == list(servable.labels)
    return np.array([(*point.point, point.score) for point in points])


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one - other)[:, :2].max(axis=1)


def test_a_real_pose_is_the_reference_s(shared_data) -> None:
    """The reference was made from the stretched picture, and is met within 0.04 by libcoral's test.

    That resizes by another filter. One grey level of noise on the input moves points by up to 0.03,
    and points lie on a map of 48 x 48 cells of 0.021: one point may be two cells further off.
    """
    with (shared_data / "models" / f"{MOVENET}_reference.csv").open() as file:
        lines = list(csv.DictReader(file))
    reference = np.array([[float(line[f"keypoint_{c}"]) for c in "xy"] for line in lines])

    distances = np.sort(apart(body(shared_data, "stretch")[:, :2], reference))

    assert len(distances) == 17
    assert np.median(distances) <= 0.015
    assert distances[-2] <= 0.04
    assert distances[-1] <= 0.06


def test_a_real_pose_is_the_same_however_the_picture_is_fitted(shared_data) -> None:
    stretched, boxed = body(shared_data, "stretch"), body(shared_data, "letterbox")

    # 0.027 at most as measured; half a cell and the noise of one grey level, as above.
    assert apart(stretched, boxed).max() <= 0.04
    assert apart(boxed, body(shared_data, "letterbox", rotate=90)).max() <= 0.04

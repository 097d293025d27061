"""What is looked at in a picture and in an answer: each cue sees what it is there for."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edged.drift.signals import EDGE_POINTS, Look, classified, edge_points, look, sketch
from edged.scene import BeltScene


def seen(image: np.ndarray) -> Look:
    return look(sketch(image))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    # Brighter on the lower right, so that turning it by 180 degrees can be seen.
    ramp = np.linspace(0.4, 1.0, 240)[:, None] * np.linspace(0.5, 1.0, 240)[None, :]
    return (BeltScene(240, 240).frame(30) * ramp[:, :, None]).astype(np.uint8)


def test_a_sketch_is_small_and_has_its_own_memory(picture: np.ndarray) -> None:
    small = sketch(picture)
    before = small.copy()
    picture = picture.copy()
    picture[:] = 0

    assert small.shape == (80, 80)
    assert np.array_equal(small, before)
    assert max(sketch(np.zeros((1080, 1920, 3), np.uint8)).shape) <= 112


def test_luma_and_contrast_are_those_of_the_sketch(picture: np.ndarray) -> None:
    small = sketch(picture)

    assert look(small).luma == pytest.approx(small.mean())
    assert look(small).contrast == pytest.approx(small.std())


def test_sharpness_is_the_variance_of_the_laplacian_inside(picture: np.ndarray) -> None:
    v = sketch(picture).astype(np.int64)
    inner = v[:-2, 1:-1] + v[2:, 1:-1] + v[1:-1, :-2] + v[1:-1, 2:] - 4 * v[1:-1, 1:-1]

    assert seen(picture).sharpness == pytest.approx(math.log2(inner.var()))


def test_a_blurred_picture_is_less_sharp(picture: np.ndarray) -> None:
    assert seen(cv2.blur(picture, (9, 9))).sharpness < seen(picture).sharpness - 3.0


def test_turned_by_180_degrees_both_tilts_change_sign(picture: np.ndarray) -> None:
    before, after = seen(picture), seen(cv2.rotate(picture, cv2.ROTATE_180))

    assert min(before.tilt_x, before.tilt_y) > 0.1
    assert after.tilt_x == pytest.approx(-before.tilt_x, abs=0.06)
    assert after.tilt_y == pytest.approx(-before.tilt_y, abs=0.06)


@pytest.mark.parametrize("quarter_turns_of_an_eighth", [0, 1, 2, 3])
def test_edges_say_which_way_they_run(quarter_turns_of_an_eighth: int) -> None:
    angle = math.pi / 4 * quarter_turns_of_an_eighth
    y, x = np.mgrid[:112, :112]
    stripes = 128 + 100 * np.sin((x * math.cos(angle) + y * math.sin(angle)) / 4)

    edges = look(stripes.astype(np.uint8)).edges

    # Bins begin at 0, so a direction on an edge between two bins falls on both.
    beside = 2 * quarter_turns_of_an_eighth
    assert edges[beside] + edges[beside - 1] > 0.9
    assert edges.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_of_one_colour_has_no_edges_and_no_sharpness(level: int) -> None:
    plain = look(np.full((112, 112), level, np.uint8))

    assert plain.contrast == pytest.approx(0.0, abs=1e-4)
    assert (plain.sharpness, plain.tilt_x, plain.tilt_y) == (-2.0, 0.0, 0.0)
    assert not plain.edges.any()
    assert not edge_points(plain).any()


def test_one_changed_pixel_is_another_print(picture: np.ndarray) -> None:
    small = sketch(picture)
    other = small.copy()
    other[40, 40] ^= 1

    assert look(small).print == look(small.copy()).print
    assert look(small).print != look(other).print


@given(hnp.arrays(np.uint8, st.tuples(st.integers(3, 40), st.integers(3, 40))))
def test_any_picture_gives_finite_numbers_in_their_ranges(gray: np.ndarray) -> None:
    it = look(gray)

    assert 0 <= it.luma <= 255
    assert 0 <= it.contrast <= 128
    assert -2 <= it.sharpness <= 21
    assert -1 <= it.tilt_x <= 1
    assert -1 <= it.tilt_y <= 1
    assert (it.edges >= 0).all()
    assert abs(int(edge_points(it).sum()) - EDGE_POINTS * bool(it.edges.any())) <= 4


@given(hnp.arrays(np.float32, st.integers(2, 50), elements=st.floats(0, 1, width=32)))
def test_any_scores_give_a_confidence_in_its_ranges(scores: np.ndarray) -> None:
    it = classified(scores)

    assert it.top1 == scores.max()
    assert 0 <= it.margin <= it.top1
    assert 0 <= it.entropy <= 1
    assert scores[it.label] == it.top1


def test_sure_and_unsure_answers() -> None:
    sure = classified(np.array([0, 0, 1, 0], np.float32))
    unsure = classified(np.full(4, 0.25, np.float32))

    assert (sure.top1, sure.margin, sure.entropy, sure.label) == (1.0, 1.0, 0.0, 2)
    assert (unsure.top1, unsure.margin) == (0.25, 0.0)
    assert unsure.entropy == pytest.approx(1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        classified(np.array([0.5, bad], np.float32))

"""The sample scene: the same picture for the same number, and faults that can be seen."""

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import edged.scene
from edged.scene import LABELS, BeltScene, draw_sample


def draw(label: str, seed: int = 5, lamp: float = 1.0) -> np.ndarray:
    return draw_sample(np.random.default_rng(seed), label, 640, 480, lamp)


def test_a_frame_is_the_same_picture_every_time_and_from_any_instance() -> None:
    scene = BeltScene()
    first = scene.frame(30)
    for other in range(200):  # enough to drop every cached bottle
        scene.truth(other)
        scene.frame(other * 8)
    edged.scene._belt.cache_clear()
    edged.scene._grain.cache_clear()
    assert np.array_equal(first, scene.frame(30))
    assert np.array_equal(first, BeltScene().frame(30))
    assert not np.array_equal(first, scene.frame(31))
    assert not np.array_equal(first, BeltScene(seed=2).frame(30))


def test_a_caller_may_draw_on_a_frame_without_changing_later_ones() -> None:
    scene = BeltScene()
    untouched = scene.frame(30).copy()
    scene.frame(30)[:] = 0
    assert np.array_equal(untouched, scene.frame(30))


@pytest.mark.parametrize("size", [(640, 480), (321, 199), (199, 321), (1280, 720), (16, 16)])
def test_frames_and_samples_are_rgb_bytes_of_the_asked_size(size: tuple[int, int]) -> None:
    width, height = size
    pictures = [BeltScene(width, height).frame(n) for n in (0, 30, 10_000_000)]
    rng = np.random.default_rng(0)
    pictures += [draw_sample(rng, label, width, height, 1.0) for label in LABELS]
    for picture in pictures:
        assert picture.shape == (height, width, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.c_contiguous
        assert picture.flags.owndata
        assert picture.std() > 5  # not blank


def test_every_label_comes_by_within_a_minute_and_so_does_the_unclear() -> None:
    for seed in (1, 2, 3):
        truths = [BeltScene(seed=seed).truth(n) for n in range(900)]
        assert set(truths) == {*LABELS, None}
        assert 0.1 < truths.count(None) / len(truths) < 0.5


def test_the_belt_never_runs_out_at_any_width() -> None:
    for first in (-5_000_000, 50_000_000):
        scene = BeltScene(width=321, height=199)
        assert {scene.truth(n) for n in range(first, first + 900)} == {*LABELS, None}


def test_labels_change_only_by_way_of_none() -> None:
    scene = BeltScene(speed=0.01)
    truths = [scene.truth(n) for n in range(1500)]
    for before, after in pairwise(truths):
        assert before == after or None in (before, after)


def test_truth_says_what_is_at_the_centre() -> None:
    # A bottle stands out from the belt at the centre of the picture; bare belt does not.
    scene, spread = BeltScene(noise=0), {True: [], False: []}
    for n in range(0, 900, 5):
        truth = scene.truth(n)
        if truth is not None:
            middle = scene.frame(n)[190:290, 224:416].astype(float)
            spread[truth == "empty"].append(middle.max() - middle.min())
    assert max(spread[True]) < min(spread[False])


def test_the_part_moves_with_the_belt() -> None:
    scene = BeltScene(noise=0)
    step_px = round(scene.speed * scene.width)
    before, after = (scene.frame(n)[100:380].astype(int) for n in (29, 30))
    moved = np.abs(before[:, 200:400] - after[:, 200 + step_px : 400 + step_px]).mean()
    stayed = np.abs(before[:, 200:400] - after[:, 200:400]).mean()
    assert moved < 4 < stayed  # what is left is the vignette, which stands still


def test_the_lamp_dims_the_picture_step_by_step_and_nothing_else() -> None:
    scene = BeltScene()
    lamps = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
    light = [float(replace(scene, lamp=lamp).frame(30).mean()) for lamp in lamps]
    assert all(a < b - 3 for a, b in pairwise(light))
    assert light[0] < 3
    assert {replace(scene, lamp=lamp).truth(30) for lamp in lamps} == {scene.truth(30)}


def test_noise_differs_from_frame_to_frame_and_has_the_asked_strength() -> None:
    still = BeltScene(speed=0.0, noise=6.0)
    a, b = still.frame(1).astype(float), still.frame(2).astype(float)
    assert (a - b).std() == pytest.approx(6.0 * 2**0.5, rel=0.1)
    quiet = replace(still, noise=0.0)
    assert np.array_equal(quiet.frame(1), quiet.frame(2))


@pytest.mark.parametrize("seed", range(12))
def test_a_scratch_shows_and_is_all_that_differs(seed: int) -> None:
    fine, scratched = (draw(label, seed).astype(int) for label in ("fine", "scratched"))
    differs = np.abs(fine - scratched).max(axis=2) > 40
    assert differs.sum() > 150  # pixels
    assert differs.mean() < 0.02  # the same part, place and belt otherwise


@pytest.mark.parametrize("seed", range(6))
def test_a_missing_cap_shows_and_an_empty_place_is_empty(seed: int) -> None:
    fine, bare, empty = (draw(label, seed).astype(int) for label in ("fine", "no cap", "empty"))
    assert 1000 < (np.abs(fine - bare).max(axis=2) > 30).sum() < 12_000
    assert (np.abs(fine - empty).max(axis=2) > 30).sum() > 15_000


def test_parts_differ_in_colour_and_place() -> None:
    redness, places = [], []
    for seed in range(16):
        fine, empty = (draw(label, seed).astype(int)[:, 160:480] for label in ("fine", "empty"))
        rows, columns = np.nonzero(np.abs(fine - empty).max(axis=2) > 40)
        middle = fine[int(np.median(rows)) - 60 :, int(np.median(columns)) - 20 :][:120, :40]
        redness.append(np.percentile(middle[..., 0] - middle[..., 2], 90))
        places.append(np.median(columns))
    assert np.std(redness) > 20
    assert np.std(places) > 20


def test_nonsense_is_refused() -> None:
    for wrong in ({"width": 0}, {"height": 8}, {"lamp": 1.3}, {"lamp": -0.1}, {"seed": -1}):
        with pytest.raises(ValueError, match="must"):
            BeltScene(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown label"):
        draw("dented")


def test_the_scene_is_pure() -> None:
    tree = ast.parse(Path(edged.scene.__file__).read_text(encoding="utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert not names & {"os", "time", "socket", "threading", "logging", "random"}

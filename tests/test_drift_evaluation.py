"""The evaluation's own arithmetic: streams draw the samples they mean to, intervals are right."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from drifteval import intervals
from drifteval.baselines import adwin, ks, page_hinkley
from drifteval.cameras import CONTROLS, DAY_SAMPLES, LAMP, NEW_SCENES, Camera, Onset, hours, tallies
from drifteval.pictures import CELLS, LIGHTS
from drifteval.pool import BINNED, Pool, all_keys

SOURCES = 13
AT = 20_000


@pytest.fixture(scope="module")
def pool() -> Pool:
    keys = np.array(all_keys(SOURCES), np.int32)
    rng = np.random.default_rng(1)
    return Pool(
        keys,
        rng.integers(0, 8, (len(keys), len(BINNED)), np.uint8),
        rng.integers(0, 9, (len(keys), 8), np.uint8),
        rng.integers(0, 20, len(keys)).astype(np.int32),
        rng.random(len(keys), np.float32),
        np.zeros(len(keys), np.float32),
        SOURCES,
    )


def test_the_reference_and_the_test_days_have_no_scene_in_common(pool: Pool) -> None:
    for control in ("clean", *CONTROLS):
        camera = Camera(pool, 5, control)
        before = pool.keys[camera.days(0, 2, test=False).samples]
        after = pool.keys[camera.days(7, 2, test=True).samples]

        assert set(before[:, 3] % 2) == {0}
        assert set(after[:, 3] % 2) == {1}
        assert set(before[:, 0]) == set(after[:, 0]) == {-1}
        known, seen = set(before[:, 2]), set(after[:, 2])
        assert (seen > known) if control == NEW_SCENES else (seen == known)
        assert (LIGHTS.index("lamp") in set(after[:, 1])) == (control == LAMP)


@pytest.mark.parametrize("cell", CELLS)
def test_from_its_onset_a_corruption_is_all_there_is(pool: Pool, cell: tuple[str, int]) -> None:
    camera = Camera(pool, 5)
    clean = pool.keys[camera.days(7, 1, test=True).samples]
    harmed = pool.keys[camera.days(7, 1, test=True, onset=Onset(*cell, AT)).samples]

    assert np.array_equal(clean[:AT], harmed[:AT])
    assert set(harmed[AT:, 0]) == {CELLS.index(cell)}
    assert np.array_equal(clean[AT:, 2], harmed[AT:, 2])
    assert np.array_equal(clean[AT:, 1], harmed[AT:, 1])
    assert set(harmed[AT:, 3] % 2) == {1}


def test_a_ramp_goes_up_by_severities(pool: Pool) -> None:
    onset = Onset("fog", 5, AT, ramp_samples=3000)
    cells = pool.keys[Camera(pool, 5).days(7, 1, test=True, onset=onset).samples][:, 0]

    steps = [CELLS.index(("fog", severity)) for severity in (1, 3, 5)]
    assert cells[AT : AT + 1000].tolist() == [steps[0]] * 1000
    assert cells[AT + 1000 : AT + 2000].tolist() == [steps[1]] * 1000
    assert set(cells[AT + 2000 :]) == {steps[2]}


def test_a_frozen_camera_repeats_one_sample(pool: Pool) -> None:
    stream = Camera(pool, 5).days(7, 1, test=True, onset=Onset("freeze", 5, AT))

    assert len(set(stream.samples[AT:])) == 1
    assert not stream.same[: AT + 1].any()
    assert stream.same[AT + 1 :].all()


def test_tallies_count_every_sample_once(pool: Pool) -> None:
    stream = Camera(pool, 5).days(7, 1, test=True)
    (whole,) = tallies(pool, stream, DAY_SAMPLES)
    parts = hours(pool, stream)

    assert len(parts) == 24
    assert whole.sampled == sum(part.tally.sampled for part in parts) == DAY_SAMPLES
    for n, signal in enumerate(BINNED):
        direct = np.bincount(pool.bins[stream.samples, n], minlength=whole.histograms[signal].size)
        assert np.array_equal(whole.histograms[signal], direct)
        assert np.array_equal(direct, sum(part.tally.histograms[signal] for part in parts))
    assert np.array_equal(
        whole.histograms["edges"], pool.edges[stream.samples].astype(int).sum(axis=0)
    )
    assert sum(whole.best.values()) == DAY_SAMPLES


@pytest.mark.parametrize(
    ("hits", "low", "high"), [(0, 0.0, 0.0881), (38, 0.8308, 0.9939), (40, 0.9119, 1.0)]
)
def test_shares_have_the_intervals_of_the_tables(hits: int, low: float, high: float) -> None:
    assert intervals.share(hits, 40) == pytest.approx((low, high), abs=1e-4)


def test_rates_have_the_intervals_of_the_tables() -> None:
    assert intervals.rate(0, 10) == pytest.approx((0.0, -math.log(0.025) / 10))
    assert intervals.rate(5, 1) == pytest.approx((1.6235, 11.6683), abs=1e-4)


@pytest.mark.parametrize("method", [ks, adwin, page_hinkley])
def test_baselines_are_quiet_on_independent_samples_and_find_a_shift(method) -> None:
    rng = np.random.default_rng(2)
    reference, clean, shifted = (rng.normal(m, 0.1, 40_000) for m in (0.5, 0.5, 0.6))
    stream = np.concatenate([clean, shifted])

    ends = method(reference, stream, 1.0)
    assert sum(end <= 40_000 for end in ends) <= 2
    assert any(40_000 < end <= 42_000 for end in ends)

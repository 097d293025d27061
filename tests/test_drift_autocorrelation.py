"""Autocorrelation time: known for some processes, and never below one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.drift.autocorrelation import batch_tau, tau


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_a_first_order_process_has_the_tau_of_its_formula(rho: float) -> None:
    rng = np.random.default_rng(3)
    value, series = 0.0, []
    for step in rng.normal(size=40_000):
        value = rho * value + step
        series.append(value)

    assert tau(series) == pytest.approx((1 + rho) / (1 - rho), rel=0.15)


@pytest.mark.parametrize("dwell", [5, 40])
def test_scenes_that_stay_are_worth_about_one_sample_each(dwell: int) -> None:
    rng = np.random.default_rng(4)
    series = np.repeat(rng.normal(size=20_000 // dwell), dwell)

    assert tau(series) == pytest.approx(dwell, rel=0.2)


def test_alternating_values_are_worth_no_more_than_they_are() -> None:
    assert tau([0.0, 1.0] * 100) == 1.0


def test_a_constant_series_varies_in_nothing_together() -> None:
    assert tau([0.1] * 150) == 1.0


def test_too_few_say_nothing() -> None:
    assert tau([0.0, 1.0] * 9 + [0.5]) is None
    assert tau([0.0, 1.0] * 10) is not None


def batches(dwell: int, seed: int = 5) -> np.ndarray:
    """Histograms of twelve batches of 150 samples, of scenes that stay for `dwell` samples."""
    rng = np.random.default_rng(seed)
    begins = int(rng.integers(dwell))
    scene = (np.arange(1800) + begins) // dwell
    values = rng.integers(0, 32, size=scene.max() + 1)[scene]
    return np.array([np.bincount(part, minlength=32) for part in values.reshape(12, 150)])


@pytest.mark.parametrize(("dwell", "worth"), [(1, 1800.0), (15, 120.0), (150, 17.0), (450, 12.0)])
def test_what_stays_for_longer_than_a_batch_shows_in_their_means(dwell: int, worth: float) -> None:
    """Of scenes that stay for three batches as many samples are left as there are batches."""
    found = [1800 / batch_tau(batches(dwell, seed)) for seed in range(200)]

    assert np.median(found) == pytest.approx(worth, rel=0.3)


def test_too_few_batches_and_one_bin_say_nothing() -> None:
    assert batch_tau(batches(15)[:5]) is None
    assert batch_tau(np.vstack([batches(15)[:5], np.zeros((7, 32), np.int64)])) is None
    assert batch_tau(np.eye(32, dtype=np.int64)[[3] * 12] * 150) is None


@given(st.lists(st.floats(-1e3, 1e3), min_size=20, max_size=300))
def test_any_series_has_a_tau_between_one_and_its_length(series: list[float]) -> None:
    found = tau(series)

    assert found is not None
    assert math.isfinite(found)
    assert 1.0 <= found <= 2 * len(series)

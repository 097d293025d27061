"""Autocorrelation time: known for some processes, and never below one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.drift.autocorrelation import tau


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


@given(st.lists(st.floats(-1e3, 1e3), min_size=20, max_size=300))
def test_any_series_has_a_tau_between_one_and_its_length(series: list[float]) -> None:
    found = tau(series)

    assert found is not None
    assert math.isfinite(found)
    assert 1.0 <= found <= 2 * len(series)

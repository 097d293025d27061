"""The paired test finds what exceeds its budget on frames of a video, and only that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.pairs import KINDS, frames, scenes

from edged.drift.disagreement import ALPHA, Blocks, BudgetTest, judged

BUDGET = 0.1
DWELL = 100
FRAMES = 40_000


def run(seed: int, kind: str, share: float, blocks: bool = True) -> tuple[str, int]:
    """Return the answer, and the frame on which it was `above`."""
    rng = np.random.default_rng(seed)
    test = BudgetTest(BUDGET)
    folding = Blocks(test)
    for number, differs in enumerate(frames(rng, scenes(rng, kind, share), DWELL, FRAMES)):
        if blocks:
            folding.take(1, int(differs), 1 / (2 * DWELL - 1))
        else:
            test.observe(float(differs))
        if test.answer == "above":
            return "above", number
    return test.answer, FRAMES


@pytest.mark.parametrize("kind", KINDS)
def test_no_alarm_on_what_keeps_the_budget(kind: str) -> None:
    assert [run(seed, kind, BUDGET)[0] for seed in range(8)].count("above") == 0


@pytest.mark.parametrize("kind", KINDS)
def test_three_times_the_budget_is_found(kind: str) -> None:
    found = [run(seed, kind, 0.31) for seed in range(8)]

    assert {answer for answer, _ in found} == {"above"}
    assert np.median([number for _, number in found]) < 10_000


def test_frames_themselves_would_be_wrong() -> None:
    wrong = [run(seed, "whole", BUDGET, blocks=False)[0] for seed in range(8)].count("above")

    assert wrong >= 4


def test_what_stays_far_below_is_within() -> None:
    assert judged([(10, 0, 2.0)] * 200, BUDGET).answer == "within"


def test_nothing_seen_is_open() -> None:
    test = judged([], BUDGET)

    assert (test.answer, test.mean, test.evidence) == ("open", None, 1.0)


def test_stretches_without_pairs_are_no_agreement() -> None:
    assert judged([(0, 0, 5.0)] * 100, BUDGET).observations == 0


def test_a_block_is_followed_by_a_gap() -> None:
    test = judged([(1, 1, 0.5)] * 8, BUDGET)

    assert test.observations == 2  # two halves, two passed over, and so again


@pytest.mark.parametrize("budget", [0.0, 1.0, -1.0, float("nan")])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        BudgetTest(budget)


def test_evidence_is_finite() -> None:
    test = judged([(1, 1, 2.0)] * 20_000, BUDGET)

    assert np.isfinite(test.evidence)
    assert test.answer == "above"


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.9), st.integers(0, 2**32 - 1))
def test_bets_are_fair(budget: float, seed: int) -> None:
    """The mean wealth after one observation at the budget is 1, for each bet of the grid."""
    test = BudgetTest(budget)

    for bets, sign in ((test._up, 1.0), (test._down, -1.0)):
        won = budget * (1 + bets * sign * (1 - budget)) + (1 - budget) * (1 - bets * sign * budget)
        np.testing.assert_allclose(won, 1.0)
        assert (1 + bets * sign * (np.array([[0.0], [1.0]]) - budget) > 0).all()
    assert 0 < ALPHA < 1

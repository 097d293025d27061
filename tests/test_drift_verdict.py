"""The verdict on a candidate: right about what it finds, slow to promote, deaf to one liar."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from sim.driftfleet import NEW, SAME, Candidate, fleet

from edged.drift.cohorts import split
from edged.drift.merging import sift
from edged.drift.permutation import compare
from edged.drift.verdict import Terms, Verdict, decide
from edged.drift.window import Tally, Window

HOUR_S = 3600.0
SEED = 4


@cache
def windows(
    candidate: Candidate = SAME,
    seed: int = SEED,
    *,
    control: int = 8,
    canary: int = 4,
    hours: float = 24.0,
) -> list[Window]:
    return fleet(
        np.random.default_rng(seed), candidate,
        control=control, canary=canary, hours=hours, window_s=HOUR_S,
    )  # fmt: skip


def verdict(known: list[Window], terms: Terms = Terms()) -> Verdict:
    return decide(split(sift(known).windows, NEW), terms)


def test_the_same_model_is_promoted_once_enough_was_seen() -> None:
    decided = verdict(windows())

    assert decided.decision == "promote"
    assert "4 canaries against 8 devices: no signal is worse" in decided.reasons[0]


@pytest.mark.parametrize("seed", range(4))
def test_the_same_model_is_not_rolled_back(seed: int) -> None:
    assert verdict(windows(seed=seed)).decision != "roll back"


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Candidate(confused=0.67), "top-1 score -"),
        (Candidate(slower=2.0), "p95 of invoke x"),
        (Candidate(one_class=0.8), "commonest class +"),
        (Candidate(failing=0.01), "failed inferences +"),
    ],
)
def test_harm_rolls_back_and_is_named(candidate: Candidate, words: str) -> None:
    decided = verdict(windows(candidate))

    assert decided.decision == "roll back"
    assert decided.reasons[0].startswith(words)
    assert "p = 0.00" in decided.reasons[0]


def test_confidence_that_rose_does_not_promote() -> None:
    decided = verdict(windows(Candidate(surer=0.1)))

    assert decided.decision == "hold"
    assert any("rose, which is no reason to promote" in reason for reason in decided.reasons)


def test_a_surer_but_wrong_model_is_not_promoted() -> None:
    assert verdict(windows(Candidate(confused=0.4, surer=0.11))).decision != "promote"


def test_classes_in_another_order_hold() -> None:
    decided = verdict(windows(Candidate(swapped=True)))

    assert decided.decision == "hold"
    assert [reason for reason in decided.reasons if reason.startswith("class mix")]


def test_too_little_seen_says_what_is_missing() -> None:
    decided = verdict(windows(hours=6.0))

    assert decided.decision == "hold"
    assert "canary: 0 of 4 devices with 24 h before and after" in decided.reasons


def test_too_few_devices_hold_whatever_they_show() -> None:
    decided = verdict(windows(Candidate(confused=0.67), control=1, canary=2))

    assert decided.decision == "hold"
    assert "top-1 score: too few devices for limits" in decided.reasons


def test_no_control_at_all_holds() -> None:
    known = [one for one in windows() if one.device.startswith("canary")]
    decided = verdict(known)

    assert decided.decision == "hold"
    assert "control: 0 of 4 devices with 24 h before and after" in decided.reasons


def test_failures_are_harm_even_with_few_devices() -> None:
    decided = verdict(windows(Candidate(failing=0.01), control=1, canary=2))

    assert decided.decision == "roll back"
    assert decided.failing == ("canary-1", "canary-2")
    assert "on 2 of 2 canaries (canary-1, canary-2)" in decided.reasons[0]


def test_failures_that_the_control_has_as_well_are_not_the_candidate() -> None:
    began_ms = split(windows(), NEW).began_ms

    def stormy(window: Window) -> Window:
        late = window.began_ms > began_ms + 4 * 3_600_000
        return replace(window, tally=replace(window.tally, errors=900)) if late else window

    assert verdict([stormy(one) for one in windows()]).decision != "roll back"


def lied(device: str, lie: Callable[[Tally], Tally]) -> list[Window]:
    """Return the windows of the same model, with one device that lies once the candidate came."""
    began_ms = split(windows(), NEW).began_ms
    return [
        replace(one, tally=lie(one.tally))
        if one.device == device and one.began_ms >= began_ms
        else one
        for one in windows()
    ]


def unsure(tally: Tally) -> Tally:
    lowest = np.zeros(32, np.int64)
    lowest[0] = tally.sampled
    return replace(
        tally, histograms={"top1": lowest, "entropy": lowest[::-1].copy()}, errors=tally.inferred
    )


def slow(tally: Tally) -> Tally:
    invoke = np.zeros_like(tally.invoke)
    invoke[-1] = tally.inferred
    return replace(tally, invoke=invoke)


@pytest.mark.parametrize("lie", [unsure, slow])
def test_one_liar_does_not_roll_back(lie: Callable[[Tally], Tally]) -> None:
    assert verdict(lied("canary-1", lie)).decision == "hold"
    assert verdict(lied("control-1", lie)).decision != "roll back"


@pytest.mark.parametrize(
    ("candidate", "lie"), [(Candidate(confused=0.67), unsure), (Candidate(slower=1.6), slow)]
)
def test_one_liar_does_not_save_a_bad_candidate(
    candidate: Candidate, lie: Callable[[Tally], Tally]
) -> None:
    """A control device that seems to get worse does not make the canary look good."""
    known = windows(candidate)
    began_ms = split(known, NEW).began_ms
    told = [
        replace(one, tally=lie(one.tally))
        if one.device == "control-1" and one.began_ms >= began_ms
        else one
        for one in known
    ]

    assert verdict(told).decision != "promote"


def test_one_device_does_not_count_for_others() -> None:
    """A device that calls all its samples independent leaves the rest of them missing."""
    told = [
        replace(one, tau=1.0 if one.device == "canary-1" else 1e6)
        if one.device.startswith("canary")
        else one
        for one in windows()
    ]
    decided = verdict(told)

    assert decided.decision == "hold"
    assert "canary: 50 of 200 independent samples after, at most 50 of a device" in decided.reasons


def test_the_order_of_windows_does_not_count() -> None:
    known = windows(Candidate(confused=0.31))
    mixed = [known[at] for at in np.random.default_rng(0).permutation(len(known))]

    assert verdict(known) == verdict(mixed)


def test_disagreement_beyond_the_budget_holds() -> None:
    known = fleet(np.random.default_rng(SEED), Candidate(confused=0.05), window_s=600.0)
    within = verdict(known, Terms(budget=0.3))
    above = verdict(known, Terms(budget=0.01))

    assert {test.answer for test in within.pairs.values()} == {"within"}
    assert above.decision == "hold"
    assert any("disagrees on more than 1%" in reason for reason in above.reasons)


def exact(canary: list[float], control: list[float], shift: float) -> tuple[float, float]:
    """Return both one-sided p-values of a shift, the slow way."""
    moved = [*(one - shift for one in canary), *control]
    seen = np.mean(moved[: len(canary)]) - np.mean(moved[len(canary) :])
    others = []
    for chosen in itertools.combinations(range(len(moved)), len(canary)):
        rest = [moved[at] for at in range(len(moved)) if at not in chosen]
        others.append(np.mean([moved[at] for at in chosen]) - np.mean(rest))
    differences = np.array(others)
    return float((differences >= seen - 1e-9).mean()), float((differences <= seen + 1e-9).mean())


@pytest.mark.parametrize("seed", range(5))
def test_limits_are_those_of_the_exact_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    canary, control = rng.normal(0.3, 1, 3), rng.normal(0, 1, 5)
    (found,) = compare(canary[:, None], control[:, None], 0.1)

    assert found.p == pytest.approx(exact(list(canary), list(control), 0.0)[0])
    for limit, outwards in ((found.low, -1e-6), (found.high, 1e-6)):
        side = 0 if outwards < 0 else 1
        assert exact(list(canary), list(control), limit + outwards)[side] <= 0.1
        assert exact(list(canary), list(control), limit - outwards)[side] > 0.1


def test_too_few_to_exchange_have_no_limits() -> None:
    (found,) = compare(np.array([[1.0]]), np.array([[0.0], [0.1]]), 0.05)

    assert (found.low, found.high) == (-math.inf, math.inf)
    assert found.p == pytest.approx(1 / 3)


def test_many_devices_are_drawn_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    canary, control = rng.normal(1.5, 1, (20, 2)), rng.normal(0, 1, (30, 2))

    first, again = (compare(canary, control, 0.05) for _ in range(2))

    assert first == again
    assert first[0].p < 0.05
    assert first[0].low < 1.5 < first[0].high


def test_asking_several_signals_does_not_add_up_their_errors() -> None:
    rng = np.random.default_rng(0)
    found = [
        min(one.p for one in compare(noise[:4], noise[4:], 0.05)) <= 0.05
        for noise in rng.normal(0, 1, (400, 12, 6))
    ]

    assert np.mean(found) < 0.08

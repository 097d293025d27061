"""The statistical path: what it was shown is fine, what changes is named, once it is sure."""

from dataclasses import replace

import numpy as np
import pytest

from edged.drift.detector import FRESH, INFORMS, SIGNALS, Decision, Detector, Memory, Terms
from edged.drift.reference import CLASSES, Reference
from edged.drift.window import Window
from tests.sim.drift import hour, night, tally, week

DETECTOR = Detector(Reference(tuple(week())), Terms())
NEXT = 168


def hours(
    count: int, seed: int = 7, first: int = NEXT, **changed: tuple[float, float]
) -> list[Window]:
    rng = np.random.default_rng(seed)
    return [hour(n, tally(rng, 400, {**night(n), **changed})) for n in range(first, first + count)]


def decide(windows: list[Window], memory: Memory = FRESH) -> list[Decision]:
    decisions = []
    for one in windows:
        decisions.append(DETECTOR.decide(one, memory))
        memory = decisions[-1].memory
    return decisions


def test_clean_days_are_ok() -> None:
    assert {decision.state for decision in decide(hours(72))} == {"ok"}


@pytest.mark.parametrize(
    ("signal", "changed"),
    [
        ("top1", (0.5, 0.15)),
        ("entropy", (0.45, 0.1)),
        ("luma", (160.0, 15.0)),
        ("contrast", (35.0, 6.0)),
        ("sharpness", (7.5, 0.6)),
        ("tilt_y", (0.15, 0.15)),
        ("edges", (150.0, 20.0)),
    ],
)
def test_a_signal_that_changes_is_named_within_three_hours(
    signal: str, changed: tuple[float, float]
) -> None:
    decisions = decide(hours(4, first=NEXT + 8, **{signal: changed}))

    first = next(n for n, decision in enumerate(decisions) if decision.state == "drift")
    assert 1 <= first <= 2  # no single hour makes an alarm
    assert decisions[first].suspects[0] == signal


def test_night_at_noon_is_drift_and_night_at_night_is_none() -> None:
    at_noon = decide(hours(4, first=NEXT + 9, **night(0)))
    at_night = decide(hours(6, first=NEXT, **night(0)))

    assert at_noon[-1].state == "drift"
    assert {decision.state for decision in at_night} == {"ok"}


def test_another_mix_of_classes_is_told_and_makes_no_alarm() -> None:
    rng = np.random.default_rng(3)
    other = {1: 0.05, 2: 0.05, 99: 0.9}
    windows = [hour(n, tally(rng, 400, night(n), classes=other)) for n in range(NEXT, NEXT + 12)]
    decisions = decide(windows)

    assert {decision.state for decision in decisions} == {"ok"}
    assert decisions[-1].scores[CLASSES].standard > Terms().highest
    assert CLASSES in INFORMS


def test_an_hour_of_few_independent_samples_decides_nothing_and_changes_nothing() -> None:
    memory = Memory({"luma": 5.0})
    (one,) = hours(1)
    worth_19 = replace(one, tau=400 / 19)
    decision = DETECTOR.decide(worth_19, memory)

    assert (decision.state, decision.scores, decision.memory) == ("insufficient", {}, memory)
    assert decision.n_effective == pytest.approx(19)
    assert DETECTOR.decide(replace(one, tau=400 / 21), memory).state != "insufficient"


def test_a_warning_comes_before_an_alarm_and_goes_when_the_hours_are_fine() -> None:
    bad, good = hours(1, first=NEXT + 9, luma=(220.0, 5.0)), hours(6, first=NEXT + 10)
    decisions = decide(bad + good)

    assert decisions[0].state == "warn"
    assert decisions[0].suspects[0] == "luma"
    assert decisions[-1].state == "ok"


def test_a_single_hour_however_bad_is_no_alarm() -> None:
    terms = Terms()
    assert terms.highest - terms.slack <= terms.limit


def test_scores_come_with_what_is_noise_in_a_psi() -> None:
    (decision,) = decide(hours(1))

    assert set(decision.scores) == set(SIGNALS)
    for signal in SIGNALS:
        score = decision.scores[signal]
        assert 0.0 <= score.distance <= 1.0
        assert score.psi >= 0.0
        assert score.psi_noise > 0.0
    top1 = decision.scores["top1"]
    assert top1.psi_noise == pytest.approx(31 * (1 / 400 + 1 / (400 * 21)))


def test_what_was_so_in_the_reference_at_one_hour_counts_at_that_hour_only() -> None:
    # A lamp from 19 to 21 o'clock on every day of the reference.
    lamp = {"luma": (90.0, 5.0), "contrast": (30.0, 2.0)}
    rng = np.random.default_rng(5)
    lit = [hour(n, tally(rng, 400, lamp if n % 24 in {19, 20} else night(n))) for n in range(168)]
    detector = Detector(Reference(tuple(lit)), Terms())

    def state(first: int) -> str:
        memory = FRESH
        for n in range(first, first + 2):
            decision = detector.decide(hour(n, tally(rng, 400, lamp)), memory)
            memory = decision.memory
        return decision.state

    assert state(NEXT + 19) == "ok"
    assert state(NEXT + 2) == "drift"


def test_a_time_of_day_that_the_reference_has_not_is_compared_with_all() -> None:
    days_only = tuple(one for one in week() if 9 <= one.seq % 24 < 12)
    detector = Detector(Reference(days_only), Terms())
    (one,) = hours(1, first=NEXT, luma=(120.0, 15.0), contrast=(50.0, 6.0), sharpness=(9.0, 0.6))

    assert detector.decide(one, FRESH).state == "ok"


def test_a_reference_that_never_varies_still_tells_the_same_from_another() -> None:
    one = tally(np.random.default_rng(1), 400)
    detector = Detector(Reference(tuple(hour(n, one) for n in range(168))), Terms())
    other = tally(np.random.default_rng(1), 400, {"luma": (200.0, 5.0)})

    same = detector.decide(hour(NEXT, one), FRESH)
    assert same.state == "ok"
    assert detector.decide(hour(NEXT, other), FRESH).suspects == ("luma",)


def test_hours_of_the_reference_are_compared_with_other_days_only() -> None:
    for n in (0, 12, 167):
        groups = DETECTOR._others(n)
        days = {int(day) for group in groups for day in DETECTOR._day[group]}
        assert days == set(DETECTOR._day) - {DETECTOR._day[n]}

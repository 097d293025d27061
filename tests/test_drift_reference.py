"""Hours and the reference made of them: whole, of one subject, around the clock."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.drift.hour import Hours, joined, time_of_day
from edged.drift.reference import CLASSES, MOST_HOURS, Reference, WarmUp, apart, counted
from edged.drift.window import OTHER, Window
from edged.errors import DriftError
from tests.sim.drift import MONDAY_MS, SUBJECT, hour, tally, week, window

RNG = np.random.default_rng(1)
FIVE_MINUTES_MS = 300_000


def five_minutes(number: int, **changed: object) -> Window:
    counted_ = tally(RNG, 150)
    at_ms = MONDAY_MS + number * FIVE_MINUTES_MS
    return replace(window(counted_, at_ms, seq=number + 1), **changed)


def test_twelve_windows_make_an_hour_with_all_they_counted() -> None:
    hours = Hours()
    windows = [five_minutes(n, tau=float(1 + n % 3)) for n in range(12)]
    made = [hours.add(one) for one in windows]

    assert made[:11] == [None] * 11
    whole = made[11]
    assert whole is not None
    assert (whole.began_ms, whole.seconds, whole.tally.sampled) == (MONDAY_MS, 3600.0, 1800)
    assert whole.n_effective == pytest.approx(sum(one.n_effective for one in windows))
    assert hours.add(five_minutes(12)) is None


def test_a_window_without_tau_is_worth_nothing() -> None:
    assert joined([five_minutes(0, tau=None)]).n_effective == 0.0
    assert joined([five_minutes(0), five_minutes(1, tau=None)]).n_effective == 150.0


def test_scenes_that_stay_for_longer_than_a_window_are_few_samples() -> None:
    """Within each window all seems independent; between them it is not."""
    means = (0.3, 0.3, 0.3, 0.8, 0.8, 0.8, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9)
    windows = [
        five_minutes(n, tally=tally(RNG, 150, {"top1": (mean, 0.05)}))
        for n, mean in enumerate(means)
    ]

    assert sum(one.n_effective for one in windows) == 1800.0
    assert joined(windows).n_effective < 15.0


@pytest.mark.parametrize(
    "break_",
    [
        {"subject": replace(SUBJECT, version="1.1.0")},
        {"began_ms": MONDAY_MS + 40 * 3_600_000},
        {"began_ms": MONDAY_MS - 3_600_000},
        {"began_ms": 0},
    ],
    ids=["other model", "gap", "an hour back", "1970"],
)
def test_what_does_not_go_on_begins_another_hour(break_: dict[str, object]) -> None:
    hours = Hours()
    for n in range(11):
        assert hours.add(five_minutes(n)) is None
    first = five_minutes(11, **break_)

    assert hours.add(first) is None
    rest = [replace(first, began_ms=first.began_ms + n * FIVE_MINUTES_MS) for n in range(1, 12)]
    assert [hours.add(one) is None for one in rest] == [True] * 10 + [False]


@pytest.mark.parametrize(("seconds", "count"), [(299.0, 12), (301.5, 12), (180.0, 20)])
def test_windows_that_end_a_little_early_make_an_hour_as_well(seconds: float, count: int) -> None:
    hours = Hours()
    made = [hours.add(five_minutes(n, seconds=seconds)) for n in range(count)]

    assert [one is not None for one in made] == [False] * (count - 1) + [True]


def test_the_time_of_day_is_that_of_the_middle() -> None:
    late = five_minutes(11)  # 00:55 to 01:00
    assert time_of_day(replace(late, seconds=3600.0)) == 1
    assert time_of_day(replace(late, seconds=300.0)) == 0


@given(st.integers(0, 23), st.integers(0, 23))
def test_hours_of_the_day_lie_around_a_clock(one: int, other: int) -> None:
    gap = int(apart(np.array(one), other))

    assert 0 <= gap <= 12
    assert (one + gap) % 24 == other or (one - gap) % 24 == other


def test_a_reference_is_complete_with_enough_hours_of_enough_days() -> None:
    hours = week(samples=20)
    terms = WarmUp()

    assert Reference(tuple(hours)).complete(terms)
    assert not Reference(tuple(hours[:-1])).complete(terms)
    assert Reference(tuple(hours[:-1])).missing(terms) == "167 of 168 hours, 7 of 7 days"
    crowded = tuple(replace(one, began_ms=MONDAY_MS) for one in hours)
    assert not Reference(crowded).complete(terms)


def test_a_reference_is_of_one_subject() -> None:
    other = replace(SUBJECT, accelerator="usb:0")

    with pytest.raises(DriftError) as caught:
        Reference((hour(0, tally(RNG, 20)), hour(1, tally(RNG, 20), other)))
    assert caught.value.reason == "reference_mixed"


def test_a_reference_refuses_other_edges() -> None:
    with pytest.raises(DriftError) as caught:
        Reference((replace(hour(0, tally(RNG, 20)), edges="e0"),))
    assert caught.value.reason == "edges_differ"


def test_the_digest_says_which_reference_it_was() -> None:
    hours = week(samples=20)[:5]
    digest = Reference(tuple(hours)).digest

    assert digest == Reference(tuple(hours)).digest
    assert digest != Reference(tuple(hours[:-1])).digest
    counts = dict(hours[0].tally.histograms)
    counts["luma"] = counts["luma"] + 1
    changed = replace(hours[0], tally=replace(hours[0].tally, histograms=counts))
    assert digest != Reference((changed, *hours[1:])).digest


def test_usual_is_what_was_around_this_time_on_all_days() -> None:
    reference = Reference(tuple(week(samples=20)))

    usual = reference.usual(0)
    assert usual is not None
    assert usual.sampled == 20 * 3 * 7
    assert usual.histograms["luma"][4:].sum() == 0  # night on both sides of midnight
    assert Reference(tuple(week(samples=20)[:3])).usual(12) is None


def test_a_class_never_seen_before_counts_with_the_rest() -> None:
    reference = Reference((hour(0, tally(RNG, 100, classes={3: 0.9, 5: 0.1})),))
    named = reference.named_classes()
    now = tally(RNG, 50, classes={3: 0.5, 99: 0.4, OTHER: 0.1})

    assert named == (3, 5)
    mix = counted(now, named)[CLASSES]
    assert mix.tolist() == [now.best[3], 0, now.best[99] + now.best[OTHER]]


def test_a_clock_that_stands_still_makes_no_endless_reference() -> None:
    same = week()[3]
    reference = Reference()
    for _ in range(MOST_HOURS + 3):
        reference = reference.with_hour(same)
    assert len(reference.hours) == MOST_HOURS
    assert not reference.complete(WarmUp())

"""A camera watched: warm-up, both paths, latching, commands, restarts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.drift.reference import Reference
from edged.drift.state import Reason, Standing
from edged.drift.watch import Kept, Watch
from edged.drift.window import Tally
from edged.drift.words import explain
from edged.errors import DriftError
from tests.sim.drift import MONDAY_MS, SUBJECT, hour, night, tally, week

WEEK = week()
RNG = np.random.default_rng(9)
HOUR_MS = 3_600_000
NOON = 168 + 12


def warm() -> Watch:
    return Watch(SUBJECT, kept=Kept(Reference(tuple(WEEK)), standing=Standing("ok")))


def feed(watch: Watch, first: int, count: int, **changed: tuple[float, float]) -> list[str]:
    return [
        watch.window(hour(n, tally(RNG, 400, {**night(n), **changed}))).state
        for n in range(first, first + count)
    ]


def black_minutes(watch: Watch, count: int, first: int = NOON) -> list[str]:
    dark = {"luma": (5.0, 2.0), "contrast": (2.0, 1.0), "sharpness": (1.0, 1.0)}
    at_ms = MONDAY_MS + first * HOUR_MS
    return [watch.minute(tally(RNG, 30, dark), at_ms + n * 60_000).state for n in range(count)]


def test_a_week_warms_up_and_then_it_is_ok() -> None:
    watch = Watch(SUBJECT)
    states = [watch.window(one).state for one in WEEK]

    assert states == ["warming"] * 167 + ["ok"]
    assert not watch.warming
    assert feed(watch, 168, 3) == ["ok"] * 3


def test_the_warm_up_says_how_far_it_is() -> None:
    watch = Watch(SUBJECT)
    standing = watch.window(WEEK[0])

    assert standing.reasons == (Reason("warm_up", "the reference has 1 of 168 hours, 1 of 7 days"),)


def test_the_reference_is_frozen_when_it_is_complete() -> None:
    watch = warm()
    digest = watch.kept.reference.digest
    feed(watch, 168, 5)

    assert watch.kept.reference.digest == digest


def test_drift_says_why_and_stays_until_it_is_acknowledged() -> None:
    watch = warm()
    assert feed(watch, NOON, 3, sharpness=(5.0, 0.5))[-1] == "drift"
    assert watch.standing.reasons[0] == Reason(
        "sharpness", "sharpness (octaves) is about 4.5, usually 8.5"
    )
    assert feed(watch, NOON + 3, 3) == ["drift"] * 3

    assert watch.acknowledge(MONDAY_MS).state == "ok"
    assert not watch.kept.memory.cusum
    assert feed(watch, NOON + 3, 2) == ["ok", "ok"]


def test_what_goes_on_after_an_acknowledgement_is_told_again() -> None:
    watch = warm()
    feed(watch, NOON - 3, 3, luma=(200.0, 5.0))
    watch.acknowledge(MONDAY_MS)

    assert feed(watch, NOON, 3, luma=(200.0, 5.0))[-1] == "drift"


def test_acknowledging_where_nothing_is_wrong_changes_no_standing() -> None:
    watch = warm()
    before = watch.standing
    assert watch.acknowledge(MONDAY_MS) == before


def test_a_reset_begins_the_warm_up_again() -> None:
    watch = warm()
    feed(watch, NOON, 3, luma=(200.0, 5.0))
    standing = watch.reset(MONDAY_MS)

    assert (standing.state, watch.kept.reference.hours, watch.warming) == ("warming", (), True)
    assert feed(watch, NOON, 1, luma=(200.0, 5.0)) == ["warming"]


def test_two_bad_minutes_are_an_alarm_and_one_is_none() -> None:
    watch = warm()
    assert black_minutes(watch, 1) == ["ok"]
    assert watch.minute(tally(RNG, 30), MONDAY_MS + NOON * HOUR_MS).state == "ok"
    assert black_minutes(watch, 2) == ["ok", "drift"]
    assert watch.standing.reasons[0].kind == "black"


def test_as_dark_as_it_usually_is_some_hours_later_is_no_alarm() -> None:
    """Night begins at 18."""
    watch = warm()
    dark = night(0)
    minutes = {
        at: [
            watch.minute(tally(RNG, 30, dark), MONDAY_MS + (168 + at) * HOUR_MS + n * 60_000).state
            for n in range(3)
        ]
        for at in (16, 11)
    }

    assert minutes[16] == ["ok"] * 3
    assert minutes[11][-1] == "drift"


def test_while_it_warms_up_a_bad_picture_is_a_warning() -> None:
    watch = Watch(SUBJECT)
    for one in WEEK[:20]:
        watch.window(one)
    assert black_minutes(watch, 3, first=12) == ["warming"] * 3  # of one day nothing is known
    for one in WEEK[20:60]:
        watch.window(one)
    assert black_minutes(watch, 3, first=60)[-1] == "warn"


def test_few_independent_samples_and_an_unknown_clock_are_no_ok() -> None:
    watch = warm()
    one = hour(NOON, tally(RNG, 400))

    assert watch.window(replace(one, tau=40.0)).reasons[0] == Reason(
        "samples",
        "400 samples of an hour are worth 10 independent ones, 20 are needed",
    )
    assert watch.standing.state == "insufficient"
    assert watch.window(replace(one, synchronised=False)).reasons[0].kind == "clock"
    assert watch.window(one).state == "ok"


def test_hours_of_few_samples_or_an_unknown_time_are_no_reference() -> None:
    watch = Watch(SUBJECT)
    watch.window(hour(0, tally(RNG, 19)))
    watch.window(replace(WEEK[1], synchronised=False))

    assert watch.kept.reference.hours == ()


def test_where_scenes_stay_for_long_the_fast_path_watches_alone() -> None:
    """Its hours decide nothing, and say what is usual."""
    watch = Watch(SUBJECT)
    states = [watch.window(replace(one, tau=100.0)).state for one in WEEK]

    assert states == ["warming"] * 167 + ["ok"]
    later = replace(hour(168, tally(RNG, 400, night(168))), tau=100.0)
    assert watch.window(later).state == "insufficient"
    assert black_minutes(watch, 2) == ["insufficient", "drift"]


def slow_days(watch: Watch, first: int, count: int, **changed: tuple[float, float]) -> list[str]:
    """Feed whole days of a camera whose hours decide nothing; return the states after each."""
    states = []
    for one in range(first, first + count):
        for n in range(24 * one, 24 * one + 24):
            counted = tally(RNG, 400, {**night(n), **changed})
            watch.window(replace(hour(n, counted), tau=100.0))
        states.append(watch.standing.state)
    return states


def test_where_hours_decide_nothing_days_do() -> None:
    """A day is judged when the next one begins."""
    watch = warm()
    assert slow_days(watch, 7, 3) == ["insufficient", "ok", "ok"]
    assert watch.decision is not None
    assert watch.decision.n_effective == 24 * 4
    assert slow_days(watch, 10, 3, sharpness=(6.0, 0.6)) == ["ok", "warn", "drift"]
    assert watch.standing.reasons[0] == Reason(
        "sharpness", "sharpness (octaves) is about 5.5, usually 7.5"
    )
    watch.acknowledge(MONDAY_MS)
    assert not watch.kept.daily.cusum
    # As soon as hours can decide, they do.
    assert feed(watch, 13 * 24, 1) == ["ok"]


def test_a_day_with_holes_is_not_judged() -> None:
    watch = warm()
    for n in range(7 * 24, 8 * 24 + 1):
        if n % 24 not in {1, 2, 3, 4, 5}:
            watch.window(replace(hour(n, tally(RNG, 400, night(n))), tau=100.0))

    assert (watch.standing.state, watch.decision) == ("insufficient", None)


def test_a_restart_goes_on_where_it_was() -> None:
    one, other = warm(), warm()
    first = hour(NOON, tally(RNG, 400, {"luma": (220.0, 5.0)}))
    second = hour(NOON + 1, tally(RNG, 400, {"luma": (220.0, 5.0)}))
    one.window(first)
    other.window(first)

    again = Watch(SUBJECT, kept=other.kept)
    assert again.window(second) == one.window(second)
    assert again.standing.state == "drift"


def test_windows_and_references_of_others_are_refused() -> None:
    other = replace(SUBJECT, version="2.0.0")

    with pytest.raises(DriftError):
        warm().window(hour(NOON, tally(RNG, 20), other))
    with pytest.raises(DriftError):
        Watch(other, kept=Kept(Reference(tuple(WEEK))))


def test_an_alarm_gathers_reasons_and_keeps_its_time() -> None:
    first = Standing().told("drift", [Reason("luma", "dark")], 10)
    more = first.told("drift", [Reason("luma", "darker"), Reason("frozen", "still")], 20)

    assert (more.since_ms, [reason.detail for reason in more.reasons]) == (10, ["dark", "still"])


@given(
    st.lists(st.tuples(st.sampled_from(["warming", "insufficient", "ok", "warn", "drift"]),
                       st.sampled_from("abc"))),
)  # fmt: skip
def test_drift_ends_by_acknowledgement_only(said: list[tuple[str, str]]) -> None:
    standing, drifted = Standing("ok"), False
    for at_ms, (state, kind) in enumerate(said, 1):
        standing = standing.told(state, [Reason(kind, "")], at_ms)  # type: ignore[arg-type]
        drifted = drifted or state == "drift"
        assert standing.state == ("drift" if drifted else state)
        kinds = [reason.kind for reason in standing.reasons]
        assert len(kinds) == len(set(kinds))
    assert standing.acknowledged("ok", 99).state != "drift"


@pytest.mark.parametrize(
    ("signal", "changed", "words"),
    [
        ("luma", {"luma": (8.0, 2.0)}, "brightness (0 to 255) is about 8, usually 120"),
        ("luma", {"luma": (120.0, 70.0)}, "brightness (0 to 255) is about 120 as usual, but"),
        ("edges", {"edges": (10.0, 5.0)}, "most at 11 degrees, usually at"),
    ],
)
def test_words_give_what_is_and_what_was(
    signal: str, changed: dict[str, tuple[float, float]], words: str
) -> None:
    usual = tally(RNG, 900)
    assert words in explain(signal, tally(RNG, 900, changed), usual)


def test_words_name_the_class_that_changed_most() -> None:
    now, usual = tally(RNG, 900, classes={7: 1.0}), tally(RNG, 900, classes={8: 1.0})

    words = "the mix of classes: class 7 is best in 100%, usually in 0%"
    assert explain("classes", now, usual) == words
    assert explain("classes", Tally(), Tally()) == "the mix of classes differs"

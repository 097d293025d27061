"""Windows of a fleet add up in any order, once each, and what cannot be true is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim.driftfleet import NEW, OLD, fleet

from edged.drift.cohorts import split
from edged.drift.merging import by_device, implausible, merge, sift
from edged.drift.records import encode_window, parse_window
from edged.drift.window import ClassCount, Tally, Window, total
from edged.errors import DriftError

WINDOWS = fleet(np.random.default_rng(1), control=2, canary=1, hours=2.0)
ONE = WINDOWS[0]


def cohort(window: Window) -> str:
    return window.device.partition("-")[0]


def said(windows: tuple[Window, ...]) -> list[object]:
    """Return all that sums say, so that it can be compared."""
    return [
        (one.group, figures_of(one.pooled), {name: (figures_of(share.tally), share.windows,
         share.failing, share.hours, share.n_effective) for name, share in one.devices.items()})
        for one in merge(windows, cohort)
    ]  # fmt: skip


def figures_of(tally: Tally) -> bytes:
    return encode_window(replace(ONE, tally=tally))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(24)), st.lists(st.integers(0, 23)))
def test_neither_order_nor_repetition_counts(order: list[int], again: list[int]) -> None:
    known = [*WINDOWS[:12], *WINDOWS[-12:]]
    sifted = sift([known[at] for at in [*order, *again]])

    assert sifted.repeated == len(again)
    assert said(sifted.windows) == said(sift(known).windows)


def test_cohorts_do_not_depend_on_the_order() -> None:
    there, back = (split(sift(windows).windows, NEW) for windows in (WINDOWS, WINDOWS[::-1]))

    assert [(one.device, one.cohort, one.pairs) for one in there.units] == [
        (one.device, one.cohort, one.pairs) for one in back.units
    ]
    assert there.canaries == {"canary-1"}


def test_a_window_read_back_is_the_same_window() -> None:
    assert sift([ONE, parse_window(encode_window(ONE))]).repeated == 1


def test_of_a_contradiction_nothing_is_taken() -> None:
    other = replace(ONE, tally=replace(ONE.tally, frames=ONE.tally.frames - 1))
    sifted = sift([ONE, other, ONE, WINDOWS[1]])

    assert sifted.windows == (WINDOWS[1],)
    assert sifted.refused == {(ONE.device, "contradicts another of the same number"): 2}


def test_sums_by_package_and_cohort_are_those_of_their_devices() -> None:
    groups = merge(sift(WINDOWS).windows, cohort)

    assert [(one.group.version, one.group.cohort) for one in groups] == [
        (OLD, "canary"), (OLD, "control"), (NEW, "canary"),
    ]  # fmt: skip
    for one in groups:
        assert one.pooled.sampled == sum(share.tally.sampled for share in one.devices.values())
    assert total(WINDOWS).inferred == sum(one.pooled.inferred for one in groups)


def test_other_edges_do_not_add_up() -> None:
    with pytest.raises(DriftError) as refused:
        merge([ONE, replace(WINDOWS[1], edges="e2")], cohort)

    assert refused.value.reason == "edges_differ"


def changed(**fields: object) -> Callable[[Window], Window]:
    return lambda window: replace(window, tally=replace(window.tally, **fields))


def histogram(bins: object) -> Callable[[Window], Window]:
    return changed(histograms={"top1": np.array(bins)})


HUGE = 2**62
LIES = {
    "no time": lambda window: replace(window, seconds=0.0),
    "NaN time": lambda window: replace(window, seconds=float("nan")),
    "a year": lambda window: replace(window, seconds=3e7),
    "NaN tau": lambda window: replace(window, tau=float("nan")),
    "negative tau": lambda window: replace(window, tau=-1.0),
    "negative": changed(errors=-1),
    "huge": changed(frames=HUGE),
    "more samples than inferences": changed(inferred=1),
    "more repeated than sampled": changed(repeated=ONE.tally.sampled + 1),
    "more disagreed than paired": changed(paired=0, disagreed=1),
    "more answers than inferences": changed(best={1: ONE.tally.inferred + 1}),
    "negative class": changed(classes={1: ClassCount(-1, 0)}),
    "more classes than samples": changed(classes={1: ClassCount(ONE.tally.sampled + 1, 0)}),
    "surer than certain": changed(classes={1: ClassCount(1, 1001)}),
    "negative bin": histogram([-1, *[0] * 31]),
    "overflow": histogram([HUGE, HUGE, HUGE, HUGE, *[0] * 28]),
    "too few bins": histogram([0] * 31),
    "no whole numbers": histogram([0.5] * 32),
    "less than sampled": histogram([0] * 32),
    "unknown signal": changed(histograms={"mood": np.zeros(4, np.int64)}),
    "invoke of another shape": changed(invoke=np.zeros(3, np.int64)),
    "invoke of more than there was": changed(invoke=np.array([HUGE] * 4 + [0] * 25)),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_cannot_be_true_is_refused(lie: str) -> None:
    assert implausible(ONE) == ""
    told = LIES[lie](ONE)
    assert implausible(told)

    sifted = sift([told, WINDOWS[1]])

    assert sifted.windows == (WINDOWS[1],)
    assert [(device, count) for (device, _), count in sifted.refused.items()] == [(ONE.device, 1)]


def test_hours_are_those_of_one_camera() -> None:
    both = [ONE, replace(ONE, subject=replace(ONE.subject, camera="back"), seq=9)]

    assert by_device(both)[ONE.device].hours == pytest.approx(ONE.seconds / 3600)


def test_nobody_with_the_candidate() -> None:
    with pytest.raises(DriftError) as refused:
        split(WINDOWS, "9.9.9")
    assert refused.value.reason == "candidate_unseen"

    with pytest.raises(DriftError) as refused:
        split([one for one in WINDOWS if one.subject.version == NEW], NEW)
    assert refused.value.reason == "baseline_unseen"


def test_windows_without_a_clock_are_passed_over_and_counted() -> None:
    lost = [replace(one, synchronised=one.device != "control-1") for one in WINDOWS]
    cohorts = split(lost, NEW)

    assert {unit.device for unit in cohorts.units} == {"control-2", "canary-1"}
    assert cohorts.passed_over == {
        "the clock was not set": sum(one.device == "control-1" for one in WINDOWS)
    }


def test_a_camera_seen_only_afterwards_is_not_compared() -> None:
    moved = [
        replace(one, subject=replace(one.subject, camera="new"))
        if one.device == "canary-1" and one.subject.version == NEW
        else one
        for one in WINDOWS
    ]

    assert split(moved, NEW).left_out.keys() == {"canary-1"}


def test_one_device_does_not_name_the_package() -> None:
    """A device that calls another file by the candidate's version is not compared with others."""
    windows = fleet(np.random.default_rng(2), control=1, canary=3, hours=1.0)
    forged = [
        replace(one, subject=replace(one.subject, sha256="f" * 64))
        if one.device == "canary-3" and one.subject.version == NEW
        else one
        for one in windows
    ]
    cohorts = split(forged, NEW)

    assert cohorts.candidate == (NEW, "b" * 64)
    assert cohorts.passed_over["another package"] > 0
    assert cohorts.canaries == {"canary-1", "canary-2"}

"""The fast path: each fault is named for what it is, and night is none."""

import numpy as np
import pytest

from edged.drift.gross import faults
from edged.drift.reference import Reference
from edged.drift.window import Tally
from tests.sim.drift import night, tally, week

REFERENCE = Reference(tuple(week(samples=200)))
NOON, MIDNIGHT = 12, 0


def kinds(counted: Tally, hour_of_day: int) -> list[str]:
    usual = REFERENCE.usual(hour_of_day)
    assert usual is not None
    return [fault.kind for fault in faults(counted, usual)]


def minute(samples: int = 30, repeated: int = 0, **changed: tuple[float, float]) -> Tally:
    return tally(np.random.default_rng(5), samples, changed, repeated=repeated)


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"luma": (8, 3), "contrast": (3, 1), "sharpness": (4, 1)}, "black"),
        ({"luma": (252, 2), "contrast": (3, 1), "sharpness": (4, 1)}, "washed_out"),
        ({"contrast": (4, 1)}, "covered"),
        ({"sharpness": (3.0, 0.5)}, "defocused"),
    ],
)
def test_each_fault_by_day_has_its_name(changed: dict[str, tuple[float, float]], kind: str) -> None:
    assert kinds(minute(**changed), NOON) == [kind]


def test_a_usual_minute_is_no_fault() -> None:
    assert kinds(minute(), NOON) == []
    assert kinds(minute(**night(0)), MIDNIGHT) == []


def test_night_at_noon_is_a_fault_and_at_night_is_none() -> None:
    assert kinds(minute(**night(0)), NOON) == ["black"]


def test_a_black_picture_is_found_at_night_as_well() -> None:
    black = minute(luma=(3, 1), contrast=(1.5, 0.5), sharpness=(0, 0.5))
    assert kinds(black, MIDNIGHT) == ["black"]


def test_a_frozen_picture_is_one_that_repeats_all_the_time() -> None:
    assert kinds(minute(repeated=29), NOON) == ["frozen"]
    assert kinds(minute(repeated=20), NOON) == []


def test_a_source_that_always_repeats_is_not_frozen() -> None:
    usual = tally(np.random.default_rng(6), 600, repeated=500)
    assert faults(minute(repeated=29), usual) == ()


def test_a_constant_class_needs_time_and_a_mix_before() -> None:
    one = {1: 0.995, 2: 0.005}
    long, short = (tally(np.random.default_rng(7), n, classes=one) for n in (450, 150))
    always = tally(np.random.default_rng(8), 900, classes=one)

    assert kinds(long, NOON) == ["constant_class"]
    assert kinds(short, NOON) == []
    assert faults(long, always) == ()


def test_too_few_samples_say_nothing() -> None:
    assert kinds(minute(19, repeated=19), NOON) == []
    assert kinds(minute(20, repeated=19), NOON) == ["frozen"]


def test_a_tally_without_pictures_has_none_to_judge() -> None:
    usual = REFERENCE.usual(NOON)
    assert usual is not None
    assert faults(Tally(sampled=30), usual) == ()


def test_the_detail_gives_both_numbers() -> None:
    usual = REFERENCE.usual(NOON)
    assert usual is not None
    (fault,) = faults(minute(luma=(8, 3), contrast=(3, 1)), usual)
    assert fault.detail == "brightness about 8, usually 120 at this time of day"

"""The recorder: windows by the monotonic clock, never of two subjects, whatever clocks do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from edged.drift.recorder import Ended, Instant, Recorder, Seen, Traffic
from edged.drift.signals import Confidence, sketch
from edged.drift.window import Subject

SUBJECT = Subject("front", "birds", "1.4.0", "9f" * 32, "litert 2.3.0", "cpu", "ab")
HOUR_MS = 3_600_000
YEAR_MS = 8766 * HOUR_MS


class World:
    """Clocks and counters that a test turns."""

    def __init__(self) -> None:
        self.mono_s = 100.0
        self.unix_ms = 1_763_683_200_000
        self.synchronised = True
        self.traffic = Traffic(0, 0, 0)
        self.recorder = Recorder(
            "porch",
            "4f1c09ab",
            300.0,
            60.0,
            traffic=lambda _camera: self.traffic,
            now=lambda: Instant(self.mono_s, self.unix_ms),
            synchronised=lambda: self.synchronised,
            tau=self._tau,
        )
        self.series: list[list[float]] = []

    def _tau(self, series: Sequence[float]) -> float | None:
        self.series.append(list(series))
        return 2.0 if series else None

    def pass_time(self, seconds: float) -> None:
        self.mono_s += seconds
        self.unix_ms += round(seconds * 1000)

    def frames(self, count: int, dropped: int = 0, failed: int = 0) -> None:
        before = self.traffic
        self.traffic = Traffic(
            before.frames + count, before.dropped + dropped, before.failed + failed
        )

    def due(self) -> list[Ended]:
        return list(self.recorder.due())


def picture(seed: int = 1) -> np.ndarray:
    return sketch(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def seen(subject: Subject = SUBJECT, *, sampled: bool = False, **changes) -> Seen:
    one = Seen(subject, False, 7.5, 3)
    if sampled:
        one = replace(one, confidence=Confidence(0.75, 0.5, 0.25, 3), sketch=picture())
    return replace(one, **changes)


def test_a_window_ends_after_its_time_and_the_next_begins() -> None:
    world = World()
    for second in range(299):
        world.frames(2, 1)
        assert world.recorder.add(seen(sampled=second % 2 == 0)) is None
        world.pass_time(1)
        assert world.due() == []
    world.pass_time(1)

    (ended,) = world.due()

    window = ended.window
    assert (window.seq, window.seconds, window.began_ms) == (1, 300.0, 1_763_683_200_000)
    assert window.subject == SUBJECT
    tally = window.tally
    assert (tally.frames, tally.dropped, tally.inferred, tally.sampled) == (598, 299, 299, 150)
    assert tally.repeated == 149
    assert tally.best == {3: 299}
    assert window.tau == 2.0
    assert world.series == [[0.75] * 150]
    assert world.due() == []
    world.frames(5)
    world.recorder.add(seen())
    world.pass_time(300)
    (second_one,) = world.due()
    assert (second_one.window.seq, second_one.window.tally.frames) == (2, 5)


def test_a_camera_that_gives_nothing_has_windows_that_say_so() -> None:
    world = World()
    world.recorder.add(seen())
    world.pass_time(300)
    world.due()
    world.pass_time(300)

    (ended,) = world.due()

    tally = ended.window.tally
    assert (tally.frames, tally.inferred, tally.sampled) == (0, 0, 0)
    assert ended.window.tau is None
    assert ended.window.n_effective == 0.0


@pytest.mark.parametrize(
    "other",
    [
        replace(SUBJECT, sha256="aa" * 32),
        replace(SUBJECT, runtime="tflite 2.14.0"),
        replace(SUBJECT, accelerator="usb:0"),
        replace(SUBJECT, view="cd"),
    ],
    ids=["model", "runtime", "accelerator", "camera"],
)
def test_no_window_mixes_two_subjects(other: Subject) -> None:
    world = World()
    world.frames(10)
    world.recorder.add(seen(sampled=True))
    world.pass_time(100)
    world.frames(7)

    ended = world.recorder.add(seen(other, sampled=True))

    assert ended is not None
    assert (ended.window.subject, ended.window.seconds) == (SUBJECT, 100.0)
    assert (ended.window.tally.inferred, ended.window.tally.frames) == (1, 17)
    world.pass_time(250)
    assert world.due() == []  # the new window began with the new subject
    world.pass_time(50)
    (after,) = world.due()
    assert (after.window.subject, after.window.tally.inferred) == (other, 1)
    assert after.window.tally.sampled == 1


def test_a_trial_has_windows_of_its_own() -> None:
    world = World()
    world.recorder.add(seen())

    ended = world.recorder.add(seen(trial=True))

    assert ended is not None
    assert not ended.window.trial
    assert [one.window.trial for one in world.recorder.close()] == [True]


def test_a_beginning_without_an_inference_is_no_window_and_its_frames_are_not_lost() -> None:
    world = World()
    world.recorder.add(seen())
    world.pass_time(300)
    world.due()
    world.frames(4)

    assert world.recorder.add(seen(replace(SUBJECT, accelerator="usb:0"))) is None

    (last,) = world.recorder.close()
    assert last.window.tally.frames == 4


def test_cameras_have_windows_apart_and_numbers_in_common() -> None:
    world = World()
    back = replace(SUBJECT, camera="back")
    world.recorder.add(seen())
    world.pass_time(10)
    world.recorder.add(seen(back))
    world.pass_time(290)
    assert [one.window.subject.camera for one in world.due()] == ["front"]
    world.pass_time(10)
    assert [one.window.subject.camera for one in world.due()] == ["back"]
    world.recorder.add(seen())
    assert sorted(one.window.seq for one in world.recorder.close()) == [3]


def test_a_clean_stop_ends_the_window_that_has_begun() -> None:
    world = World()
    world.recorder.add(seen(sampled=True))
    world.pass_time(42)

    (ended,) = world.recorder.close()

    assert (ended.window.seconds, ended.window.tally.sampled) == (42.0, 1)
    assert list(world.recorder.close()) == []


@pytest.mark.parametrize("synchronised", [True, False])
@pytest.mark.parametrize(
    "jump_ms",
    [-1_763_683_200_000, 10 * YEAR_MS, -HOUR_MS, 9000 * YEAR_MS],
    ids=["1970", "ten years", "an hour back", "beyond"],
)
def test_a_clock_that_jumps_changes_no_window(jump_ms: int, synchronised: bool) -> None:
    world = World()
    world.synchronised = synchronised
    before_ms = world.unix_ms
    world.recorder.add(seen(sampled=True))
    world.pass_time(150)
    world.unix_ms += jump_ms
    assert world.due() == []
    world.recorder.add(seen(sampled=True))
    world.pass_time(150)

    (ended,) = world.due()

    assert (ended.window.seconds, ended.window.tally.sampled) == (300.0, 2)
    assert ended.jumped_s == pytest.approx(jump_ms / 1000)
    # One that is known to be right now says when the window began; else it is as it stood.
    right_ms = min(before_ms + jump_ms, 253_402_300_799_000)
    assert ended.window.began_ms == (right_ms if synchronised else before_ms)


def test_a_slewed_clock_is_no_jump() -> None:
    world = World()
    world.recorder.add(seen())
    world.pass_time(300)
    world.unix_ms += 150
    assert [one.jumped_s for one in world.due()] == [0.0]


def test_nan_is_counted_and_is_in_no_histogram() -> None:
    world = World()
    world.recorder.add(seen(best=None))
    nan = Confidence(float("nan"), 0.5, 0.5, 3)
    world.recorder.add(seen(sampled=True, confidence=nan))
    world.recorder.add(seen(sampled=True))
    world.frames(4, failed=1)

    (ended,) = world.recorder.close()

    assert ended.spoilt == 1
    assert (ended.window.tally.inferred, ended.window.tally.errors) == (3, 2)
    assert ended.window.tally.sampled == 1
    assert ended.window.tally.histograms["top1"].sum() == 1


def test_a_class_never_seen_before_is_a_class_like_others() -> None:
    world = World()
    world.recorder.add(seen())
    world.recorder.add(seen(best=991, confidence=Confidence(0.5, 0.1, 0.9, 991), sketch=picture()))
    (ended,) = world.recorder.close()
    assert ended.window.tally.best == {3: 1, 991: 1}
    assert list(ended.window.tally.classes) == [991]


def test_a_picture_too_small_to_look_at_is_no_sample() -> None:
    world = World()
    world.recorder.add(seen(sampled=True, sketch=np.zeros((2, 40), np.uint8)))
    (ended,) = world.recorder.close()
    assert (ended.window.tally.inferred, ended.window.tally.sampled) == (1, 0)


def test_minutes_are_counted_beside_the_windows() -> None:
    world = World()
    counted = []
    for second in range(150):
        world.recorder.add(seen(sampled=second % 2 == 0))
        world.pass_time(1)
        counted += list(world.recorder.minutes())
    assert [one.tally.inferred for one in counted] == [60, 60]
    assert [one.tally.sampled for one in counted] == [30, 30]
    assert counted[0].at_ms == 1_763_683_200_000 + 60_000
    assert counted[0].subject == SUBJECT
    assert counted[0].synchronised
    world.synchronised = False
    world.pass_time(60)
    (last,) = world.recorder.minutes()
    assert (last.tally.inferred, last.synchronised) == (30, False)
    world.pass_time(100)
    (window,) = world.due()
    assert window.window.tally.inferred == 150


def test_a_trial_has_no_minutes() -> None:
    world = World()
    world.recorder.add(seen(trial=True))
    world.pass_time(60)
    assert list(world.recorder.minutes()) == []

"""The drift thread with real recorder, ring and judge: whatever comes is said, and it goes on."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sim.broker import wait_for
from sim.drift import SUBJECT

from edged.drift.autocorrelation import tau
from edged.drift.commands import CommandInbox
from edged.drift.keeper import Keeper
from edged.drift.recorder import Ended, Instant, Recorder, Seen, Traffic
from edged.drift.ring import Ring, read_windows
from edged.drift.signals import Confidence, sketch
from edged.drift.window import Window
from edged.drift.worker import DriftWorker
from edged.models.files import Files

BEGAN_MS = 1_763_683_200_000
HOUR_MS = 3_600_000
YEAR_MS = 8766 * HOUR_MS
RNG = np.random.default_rng(5)
PICTURES = [sketch(RNG.integers(0, 256, (24, 24, 3), np.uint8)) for _ in range(50)]
SURE = Confidence(0.75, 0.5, 0.25, 3)


class Heard:
    """A voice that writes down what it is to say."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.standings: list[dict[str, object]] = []

    def window(self, window: Window) -> None:
        self.windows.append(window)

    def standing(self, camera: str, standing) -> None:
        self.standings.append(dict(standing))

    def error(self, topic: str, reason: str, detail: str) -> bool:
        raise AssertionError(f"{topic}: {reason}: {detail}")


class Counting(Recorder):
    """Counts what it has taken in; `slow` holds it back while it is cleared."""

    def __init__(self, *arguments, **settings) -> None:
        super().__init__(*arguments, **settings)
        self.added = 0
        self.adding, self.slow = threading.Event(), threading.Event()
        self.slow.set()

    def add(self, seen: Seen) -> Ended | None:
        self.adding.set()
        self.slow.wait(20.0)
        ended = super().add(seen)
        self.added += 1
        return ended


class Run:
    """One start of the thread, on clocks and counters that the test turns."""

    def __init__(self, state: Path, boot: str = "4f1c09ab", **ring) -> None:
        self.mono_s, self.unix_ms, self.frames = 100.0, BEGAN_MS, 0
        self.voice = Heard()
        self.keeper = Keeper(state, Files(), ("front",))
        self.recorder = Counting(
            "porch",
            boot,
            300.0,
            60.0,
            traffic=lambda _camera: Traffic(self.frames, 0, 0),
            now=lambda: Instant(self.mono_s, self.unix_ms),
            synchronised=lambda: True,
            tau=tau,
        )
        self.worker = DriftWorker(
            ("front",),
            self.recorder,
            Ring(state, Files(), **ring),
            self.keeper,
            self.voice,
            inbox=CommandInbox(),
            unix_ms=lambda: self.unix_ms,
        )
        self.worker.start()

    def see(self, count: int = 30, **changes) -> None:
        """Hand on inferences, one a second, each with a sample."""
        before = self.recorder.added
        for number in range(count):
            sure = replace(SURE, top1=RNG.random(), margin=RNG.random(), entropy=RNG.random())
            one = Seen(SUBJECT, False, 7.5, 3, sure, PICTURES[number % 50])
            self.frames += 1
            self.worker.take(replace(one, **changes))
        wait_for("all taken", lambda: self.recorder.added == before + count)

    def passes(self, seconds: float) -> None:
        self.mono_s += seconds
        self.unix_ms += round(seconds * 1000)

    def window_ends(self) -> Window:
        """Let the time of the window be over; return it."""
        count = len(self.voice.windows)
        self.passes(300)
        wait_for("a window", lambda: len(self.voice.windows) > count)
        return self.voice.windows[-1]

    def stop(self) -> None:
        assert self.worker.stop(10.0)


@pytest.fixture
def start(tmp_path: Path, caplog) -> Iterator[Callable[..., Run]]:
    caplog.set_level(logging.INFO)
    runs: list[Run] = []

    def begin(state: Path = tmp_path, **settings) -> Run:
        runs.append(Run(state, **settings))
        return runs[-1]

    yield begin
    for run in runs:
        run.stop()


def kept(state: Path) -> list[tuple[str, int]]:
    return [(window.boot, window.seq) for window in read_windows(state, Files())]


@pytest.mark.parametrize(
    "jump_ms", [-BEGAN_MS, 10 * YEAR_MS, -HOUR_MS], ids=["1970", "ten years", "an hour back"]
)
def test_a_clock_that_jumps_is_said_and_no_window_is_lost(
    tmp_path: Path, start: Callable[..., Run], jump_ms: int, caplog
) -> None:
    run = start()
    run.see()
    run.window_ends()
    run.see()
    run.passes(100)
    run.unix_ms += jump_ms
    run.see(10)
    jumped = run.window_ends()
    run.see()
    after = run.window_ends()

    assert (jumped.seconds, jumped.tally.sampled) == (400.0, 40)
    assert caplog.text.count("the clock was set by") == 1
    assert f"{jump_ms / 1000:+.0f} s" in caplog.text
    assert after.seconds == 300.0
    run.stop()
    assert kept(tmp_path) == [("4f1c09ab", seq) for seq in (1, 2, 3)]
    assert "set by" in caplog.text
    again = start(boot="aaaaaaaa")
    again.see()
    again.window_ends()
    assert kept(tmp_path)[-1] == ("aaaaaaaa", 1)
    assert len(kept(tmp_path)) == 4


def test_a_restart_in_a_window_keeps_what_had_begun(
    tmp_path: Path, start: Callable[..., Run]
) -> None:
    first = start()
    first.see()
    first.window_ends()
    first.see(12)
    first.passes(40)
    first.stop()
    assert kept(tmp_path) == [("4f1c09ab", 1), ("4f1c09ab", 2)]
    short = first.voice.windows[-1]
    assert (short.seconds, short.tally.sampled) == (40.0, 12)

    second = start(boot="bbbbbbbb")
    second.see()
    whole = second.window_ends()

    assert (whole.seq, whole.seconds, whole.tally.sampled) == (1, 300.0, 30)
    assert kept(tmp_path)[-1] == ("bbbbbbbb", 1)


def test_scores_that_are_no_numbers_are_counted_and_said_once_a_window(
    start: Callable[..., Run], caplog
) -> None:
    run = start()
    run.see(25)
    run.see(3, confidence=replace(SURE, top1=float("nan")))
    run.see(2, confidence=replace(SURE, entropy=float("inf")))
    run.see(4, best=None, confidence=None, sketch=None)

    window = run.window_ends()

    assert caplog.text.count("5 samples were not finite") == 1
    assert (window.tally.inferred, window.tally.sampled, window.tally.errors) == (34, 25, 4)
    assert window.tau is not None


def test_a_camera_without_frames_is_recorded_and_decides_nothing(
    tmp_path: Path, start: Callable[..., Run]
) -> None:
    run = start()
    run.see(5)
    for _ in range(14):
        window = run.window_ends()
    assert (window.tally.frames, window.tally.sampled, window.n_effective) == (0, 0, 0.0)
    wait_for("an hour", lambda: run.voice.standings[-1]["state"] == "insufficient")
    assert len(kept(tmp_path)) == 14


def test_a_class_never_seen_before_is_recorded_and_read_back(
    tmp_path: Path, start: Callable[..., Run]
) -> None:
    run = start()
    run.see()
    run.see(5, best=998, confidence=replace(SURE, label=998))
    run.see(1, best=10**9, confidence=replace(SURE, label=10**9))  # no record names such a one
    run.window_ends()
    (window,) = read_windows(tmp_path, Files())
    assert window.tally.best == {3: 30, 998: 5, -1: 1}
    assert window.tally.classes.keys() == {3, 998, -1}


def test_a_camera_changed_under_the_same_name_has_a_window_and_a_state_of_its_own(
    tmp_path: Path, start: Callable[..., Run], caplog
) -> None:
    run = start()
    run.see()
    run.window_ends()
    run.see(10)
    run.passes(20)
    run.see(10, subject=replace(SUBJECT, view="ab12"))
    wait_for("the end of the first", lambda: len(run.voice.windows) == 2)
    run.window_ends()
    views = [(one.subject.view, one.tally.sampled) for one in read_windows(tmp_path, Files())]
    assert views == [("", 30), ("", 10), ("ab12", 10)]
    assert "drift now looks at" in caplog.text


def test_a_full_disk_loses_no_window_that_was_kept_and_all_are_published(
    start: Callable[..., Run], small_disk, caplog
) -> None:
    state = small_disk.folder
    run = start(state, segment_bytes=1)  # each window needs room of its own
    run.see()
    run.window_ends()
    before = kept(state)
    small_disk.fill()
    for _ in range(4):
        run.see(3)
        run.window_ends()
    wait_for("trouble", lambda: run.worker.trouble is not None)
    assert run.worker.trouble is not None
    assert run.worker.trouble.reason == "disk_full"
    assert kept(state) == before
    assert caplog.text.count("windows are not kept") == 1
    small_disk.empty()
    last = run.window_ends()
    wait_for("no trouble", lambda: run.worker.trouble is None)
    assert kept(state) == [*before, ("4f1c09ab", last.seq)]
    assert [window.seq for window in run.voice.windows] == list(range(1, last.seq + 1))
    assert caplog.text.count("windows are kept again") == 1


def test_a_corrupt_segment_is_told_and_the_rest_is_kept(
    tmp_path: Path, start: Callable[..., Run], caplog
) -> None:
    run = start()
    for _ in range(6):
        run.see(5)
        run.window_ends()
    run.stop()
    path = tmp_path / "drift" / "00000001.windows"
    data = path.read_bytes()
    at = [found.start() for found in re.finditer(b"\xed\x57", data)][4] + 20  # in the fifth
    path.write_bytes(data[:at] + b"\0\0\0\0" + data[at + 4 :])

    again = start(boot="bbbbbbbb")
    again.see(5)
    again.window_ends()

    assert again.worker.trouble is not None
    assert again.worker.trouble.reason == "drift_state_damaged"
    assert caplog.text.count("is damaged") == 1
    assert path.with_name("00000001.windows.damaged").stat().st_size == len(data)
    *old, new = kept(tmp_path)
    assert 2 <= len(old) < 6
    assert old == [("4f1c09ab", seq) for seq in range(1, len(old) + 1)]
    assert new == ("bbbbbbbb", 1)


def test_what_comes_too_fast_is_left_out_and_said(start: Callable[..., Run], caplog) -> None:
    run = start()
    run.see(1)
    run.recorder.slow.clear()
    run.recorder.adding.clear()
    one = Seen(SUBJECT, False, 7.5, 3)
    run.worker.take(one)
    assert run.recorder.adding.wait(10.0)
    for _ in range(1500):
        run.worker.take(one)
    run.recorder.slow.set()
    wait_for("all taken", lambda: run.recorder.added == 1 + 1 + 1024)
    window = run.window_ends()
    assert "476 inferences were left out" in caplog.text
    assert window.tally.inferred == 1 + 1 + 1024

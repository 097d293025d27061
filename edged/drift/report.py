"""Reference against now, signal by signal, out of recorded windows. Pure.

Made of what is on the disk, so it can be told where no service runs: now is the last hour of the
camera's present subject, and each of its hours has a score. What they are compared with is the
reference at the same time of day; where there is none yet, the first week of windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from edged.drift.histogram import SCALES, Counts, empty, js_distance, psi, psi_floor
from edged.drift.hour import time_of_day
from edged.drift.reference import Reference, apart
from edged.drift.window import Subject, Tally, Window, add

HOUR_S = 3600.0
_REFERENCE_HOURS = 168
_BARS = " ▁▂▃▄▅▆▇█"
_COURSE = 48


class Shelf(Protocol):
    """What hours can be compared with."""

    def reference(self, subject: Subject) -> Reference:
        """Return a subject's reference, without hours where there is none."""

    def validation(self, subject: Subject) -> Tally | None:
        """Return what its model's package says of validation images, or None."""


@dataclass(frozen=True, slots=True)
class SignalReport:
    """One signal.

    Attributes:
        reference: counts that the last hour is compared with.
        now: counts of the last hour.
        distance: Jensen-Shannon divergence of the two, 0..1.
        psi: population stability index of the two.
        psi_noise: what of it is noise.
        course: distance of every hour from the reference, oldest first.
    """

    reference: Counts
    now: Counts
    distance: float
    psi: float
    psi_noise: float
    course: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera.

    Attributes:
        subject: of its newest window.
        windows: how many of that subject there are.
        began_ms: Unix time in ms of the first.
        ended_ms: of the end of the last.
        compared: with what hours are compared, in words; "" where there is only one hour.
        now: what the last hour counted.
        n_effective: independent samples of that hour.
        signals: by name.
        validation: R0, what the model said of validation images; None where its package has none.
            It informs only: a site is not like the images that a model was made with.
    """

    subject: Subject
    windows: int
    began_ms: int
    ended_ms: int
    compared: str
    now: Tally
    n_effective: float
    signals: Mapping[str, SignalReport]
    validation: Tally | None

    def from_validation(self, signal: str) -> float | None:
        """Return how far the last hour is from the validation images, 0..1."""
        if self.validation is None:
            return None
        return js_distance(_counts(self.validation, signal), self.signals[signal].now)

    def to_dict(self) -> dict[str, object]:
        """Return it as JSON can carry it."""
        return {
            "camera": self.subject.camera,
            "model": self.subject.model,
            "version": self.subject.version,
            "runtime": self.subject.runtime,
            "accelerator": self.subject.accelerator,
            "windows": self.windows,
            "began": self.began_ms / 1000,
            "ended": self.ended_ms / 1000,
            "compared": self.compared,
            "n_effective": round(self.n_effective, 1),
            "validation_images": None if self.validation is None else self.validation.sampled,
            "signals": {
                name: {
                    "reference": one.reference.tolist(),
                    "now": one.now.tolist(),
                    "distance": round(one.distance, 4),
                    "validation_distance": self.from_validation(name),
                    "psi": round(one.psi, 3),
                    "psi_noise": round(one.psi_noise, 3),
                    "course": [round(score, 4) for score in one.course],
                }
                for name, one in self.signals.items()
            },
        }


@dataclass(frozen=True, slots=True)
class _Hour:
    """What is kept of an hour.

    Attributes:
        place: hour of the day, 0..23 UTC.
        tally: what was counted.
        n_effective: independent samples.
    """

    place: int
    tally: Tally
    n_effective: float


class Hours:
    """Windows of one camera as they come, an hour together; only what a report needs is kept."""

    def __init__(self) -> None:
        self._subject: Subject | None = None
        self._hours: list[_Hour] = []
        self._open: list[Window] = []
        self._windows = 0
        self._began_ms = self._ended_ms = 0

    def take(self, window: Window) -> None:
        """Take the next window; another subject begins anew, and trials do not count."""
        if window.trial:
            return
        if window.subject != self._subject:
            self._subject = window.subject
            self._hours, self._open, self._windows = [], [], 0
            self._began_ms = window.began_ms
        self._windows += 1
        self._ended_ms = window.began_ms + round(window.seconds * 1000)
        self._open.append(window)
        if sum(one.seconds for one in self._open) >= HOUR_S - 1.0:
            self._close()

    def report(self, shelf: Shelf) -> CameraReport | None:
        """Return what there is to tell; None where no window was taken."""
        if self._open:
            self._close()
        if self._subject is None or not self._hours:
            return None
        reference = shelf.reference(self._subject)
        if reference.hours:
            words = (
                f"{len(reference.hours)} hours on {reference.days} days, the camera's reference,"
                " at the same time of day"
            )
            known = [_hour((window,)) for window in reference.hours]
        else:
            # The hour that is judged is not part of what it is judged by.
            known = self._hours[:-1][:_REFERENCE_HOURS]
            words = f"the first {len(known)} hours on the disk, as there is no reference yet"
        basis = _Basis(known or self._hours, near_only=bool(reference.hours))
        now = self._hours[-1]
        return CameraReport(
            self._subject,
            self._windows,
            self._began_ms,
            self._ended_ms,
            words if known else "",
            now.tally,
            now.n_effective,
            {signal: _signal(signal, basis, self._hours) for signal in SCALES},
            shelf.validation(self._subject),
        )

    def _close(self) -> None:
        self._hours.append(_hour(self._open))
        self._open = []


class _Basis:
    """What hours are compared with, by time of day.

    Args:
        hours: all of them.
        near_only: whether an hour of the day is compared with those around it only.
    """

    def __init__(self, hours: Sequence[_Hour], *, near_only: bool) -> None:
        self._by_place: list[tuple[Tally, float]] = []
        places = np.array([hour.place for hour in hours])
        everything = _together(hours)
        for place in range(24):
            near = apart(places, place) <= 1
            chosen = [hour for hour, is_near in zip(hours, near, strict=True) if is_near]
            self._by_place.append(_together(chosen) if near_only and chosen else everything)

    def at(self, place: int) -> tuple[Tally, float]:
        """Return what is usual at an hour of the day, and its independent samples."""
        return self._by_place[place]


def _together(hours: Sequence[_Hour]) -> tuple[Tally, float]:
    return add(hour.tally for hour in hours), sum(hour.n_effective for hour in hours)


def _hour(windows: Sequence[Window]) -> _Hour:
    return _Hour(
        time_of_day(windows[len(windows) // 2]),
        add(one.tally for one in windows),
        sum(one.n_effective for one in windows),
    )


def reports(windows: Iterable[Window], shelf: Shelf) -> list[CameraReport]:
    """Return the reports of all cameras that windows tell of, by name.

    Args:
        windows: oldest first.
        shelf: of the device.
    """
    cameras: dict[str, Hours] = {}
    for window in windows:
        cameras.setdefault(window.subject.camera, Hours()).take(window)
    found = [cameras[name].report(shelf) for name in sorted(cameras)]
    return [one for one in found if one is not None]


def report_lines(report: CameraReport, standing: Mapping[str, object] | None) -> list[str]:
    """Return a report as lines for a terminal.

    Args:
        report: of a camera.
        standing: what the service says of it; None where no service runs.
    """
    subject, now = report.subject, report.now
    state = "" if standing is None else f" {standing.get('state')}"
    runs = f"{subject.model} {subject.version}, {subject.runtime} on {subject.accelerator}"
    lines = [f"{subject.camera}:{state} ({runs})"]
    lines += [f"  {reason}" for reason in _reasons(standing)]
    if state == " drift":
        lines.append(f"  Seen: `edged drift acknowledge {subject.camera}`.")
        lines.append(f"  Normal from now on: `edged drift reset {subject.camera}`.")
    lines.append(
        f"  {report.windows} windows from {_moment(report.began_ms)} to {_moment(report.ended_ms)};"
        f" in the last hour {now.frames} frames, {now.inferred} inferences, {now.errors} errors,"
        f" {now.sampled} samples worth {report.n_effective:.0f}"
    )
    compared = report.compared or "nothing: this hour is all there is, and stands on both sides"
    lines.append(f"  compared with {compared}")
    images = 0 if report.validation is None else report.validation.sampled
    if images:
        lines.append(f"  valid.: distance from {images} validation images; informs only")
    lines.append(
        f"  {'signal':<10}{'reference':<17}{'now':<17}{'distance':>8}{'PSI':>7}{'(noise)':>9}"
        f"{'valid.' if images else '':>{8 if images else 0}}"
        "  distance by the hour"
    )
    for name, one in report.signals.items():
        apart_from = report.from_validation(name)
        shown = "" if apart_from is None else f"{apart_from:>8.3f}"
        lines.append(
            f"  {name:<10}{bars(one.reference, 16):<17}{bars(one.now, 16):<17}"
            f"{one.distance:>8.3f}{one.psi:>7.2f}{one.psi_noise:>9.2f}{shown}  {course(one.course)}"
        )
    return lines


def bars(counts: Counts, width: int) -> str:
    """Return counts as blocks, so many characters wide at most."""
    step = max(1, counts.size // width)
    sums = counts.reshape(-1, step).sum(axis=1).tolist()
    highest = max(*sums, 1)
    return "".join(_BARS[-(-count * 8 // highest)] for count in sums)


def course(scores: Sequence[float]) -> str:
    """Return the newest scores as blocks: 0 is low, 0.5 and more is full."""
    return "".join(_BARS[1 + min(7, int(score * 16))] for score in scores[-_COURSE:])


def _signal(signal: str, basis: _Basis, hours: Sequence[_Hour]) -> SignalReport:
    last = hours[-1]
    usual, effective = basis.at(last.place)
    before, now = _counts(usual, signal), _counts(last.tally, signal)
    return SignalReport(
        before,
        now,
        js_distance(before, now),
        psi(before, now),
        psi_floor(SCALES[signal].bins, last.n_effective, effective),
        tuple(
            js_distance(_counts(basis.at(hour.place)[0], signal), _counts(hour.tally, signal))
            for hour in hours
        ),
    )


def _counts(tally: Tally, signal: str) -> Counts:
    return tally.histograms.get(signal, empty(signal))


def _reasons(standing: Mapping[str, object] | None) -> list[str]:
    given = None if standing is None else standing.get("reasons")
    found = given if isinstance(given, list) else []
    words = [one.get("detail") if isinstance(one, dict) else one for one in found]
    return ["".join(c if c.isprintable() else "?" for c in str(word)) for word in words]


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")

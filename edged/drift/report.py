"""Reference against now, signal by signal, out of recorded windows. Pure.

Made of the windows alone, so it can be told where no service runs: the reference is the first
week of the camera's present subject, now is the last hour, and each hour between has a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from edged.drift.histogram import SCALES, Counts, empty, js_distance, psi, psi_floor
from edged.drift.window import Subject, Tally, Window, add

HOUR_S = 3600.0
_REFERENCE_HOURS = 168
_BARS = " ▁▂▃▄▅▆▇█"
_COURSE = 48


@dataclass(frozen=True, slots=True)
class SignalReport:
    """One signal.

    Attributes:
        reference: counts.
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
        now: what the last hour counted.
        n_effective: independent samples of that hour.
        signals: by name.
    """

    subject: Subject
    windows: int
    began_ms: int
    ended_ms: int
    now: Tally
    n_effective: float
    signals: Mapping[str, SignalReport]

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
            "n_effective": round(self.n_effective, 1),
            "signals": {
                name: {
                    "reference": one.reference.tolist(),
                    "now": one.now.tolist(),
                    "distance": round(one.distance, 4),
                    "psi": round(one.psi, 3),
                    "psi_noise": round(one.psi_noise, 3),
                    "course": [round(score, 4) for score in one.course],
                }
                for name, one in self.signals.items()
            },
        }


class Hours:
    """Windows of one camera as they come, an hour together; only what a report needs is kept."""

    def __init__(self) -> None:
        self._subject: Subject | None = None
        self._hours: list[tuple[Tally, float]] = []
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

    def report(self) -> CameraReport | None:
        """Return what there is to tell; None where no window was taken."""
        if self._open:
            self._close()
        if self._subject is None or not self._hours:
            return None
        # The hour that is judged is not part of what it is judged by, unless it is all there is.
        known = self._hours[:-1][:_REFERENCE_HOURS] or self._hours
        reference = add(tally for tally, _ in known)
        effective = sum(n for _, n in known)
        now, n_effective = self._hours[-1]
        return CameraReport(
            self._subject,
            self._windows,
            self._began_ms,
            self._ended_ms,
            now,
            n_effective,
            {signal: _signal(signal, reference, effective, self._hours) for signal in SCALES},
        )

    def _close(self) -> None:
        tally = add(one.tally for one in self._open)
        self._hours.append((tally, sum(one.n_effective for one in self._open)))
        self._open = []


def reports(windows: Iterable[Window]) -> list[CameraReport]:
    """Return the reports of all cameras that windows tell of, by name."""
    cameras: dict[str, Hours] = {}
    for window in windows:
        cameras.setdefault(window.subject.camera, Hours()).take(window)
    found = [cameras[name].report() for name in sorted(cameras)]
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
    lines.append(
        f"  {report.windows} windows from {_moment(report.began_ms)} to {_moment(report.ended_ms)};"
        f" in the last hour {now.frames} frames, {now.inferred} inferences, {now.errors} errors,"
        f" {now.sampled} samples worth {report.n_effective:.0f}"
    )
    lines.append(
        f"  {'signal':<10}{'reference':<17}{'now':<17}{'distance':>8}{'PSI':>7}{'(noise)':>9}"
        "  distance by the hour"
    )
    for name, one in report.signals.items():
        lines.append(
            f"  {name:<10}{bars(one.reference, 16):<17}{bars(one.now, 16):<17}"
            f"{one.distance:>8.3f}{one.psi:>7.2f}{one.psi_noise:>9.2f}  {course(one.course)}"
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


def _signal(
    signal: str, reference: Tally, effective: float, hours: Sequence[tuple[Tally, float]]
) -> SignalReport:
    before = _counts(reference, signal)
    now, n_effective = _counts(hours[-1][0], signal), hours[-1][1]
    return SignalReport(
        before,
        now,
        js_distance(before, now),
        psi(before, now),
        psi_floor(SCALES[signal].bins, n_effective, effective),
        tuple(js_distance(before, _counts(tally, signal)) for tally, _ in hours),
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

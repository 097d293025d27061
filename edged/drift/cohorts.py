"""Who tries the candidate and who does not, and what each counted before and after. Pure.

Each device is compared with itself: the cameras that have windows of both times, with the package
that the fleet ran and, on a canary, with the candidate. Where the camera hangs and what it sees
then drops out.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edged.drift.merging import Share, share_of
from edged.drift.window import Window
from edged.errors import DriftError

Cohort = Literal["canary", "control"]
Pairs = tuple[int, int, float]


@dataclass(frozen=True, slots=True)
class Unit:
    """One device: what it counted before, and after.

    Attributes:
        pairs: of the windows after, in order, what `disagreement.judged` takes.
    """

    device: str
    cohort: Cohort
    before: Share
    after: Share
    pairs: tuple[Pairs, ...] = ()


@dataclass(frozen=True, slots=True)
class Cohorts:
    """The fleet, in the two cohorts.

    Attributes:
        candidate: (version, sha256).
        baseline: (version, sha256) of what ran before, and on the control still runs.
        began_ms: when half of the canaries had begun; Unix time in ms.
        canaries: devices that ran the candidate, or those of them that were named.
        units: devices that can be compared.
        left_out: why other devices cannot be, in words.
        passed_over: windows that are of no use here, by why.
    """

    candidate: tuple[str, str]
    baseline: tuple[str, str]
    began_ms: int
    canaries: frozenset[str]
    units: tuple[Unit, ...]
    left_out: dict[str, str]
    passed_over: dict[str, int] = field(default_factory=dict)


def split(
    windows: Sequence[Window],
    candidate: str,
    canary: Collection[str] | None = None,
    control: Collection[str] | None = None,
) -> Cohorts:
    """Return who tries a candidate, who does not, and what they counted.

    Args:
        windows: of one model, sifted.
        candidate: its version.
        canary: devices; None for all that ran the candidate.
        control: devices; None for all others.

    Raises:
        DriftError: `candidate_unseen`, `baseline_unseen`.
    """
    chosen, baseline = _packages(windows, candidate)
    passed_over: Counter[str] = Counter()
    by_device: defaultdict[str, list[Window]] = defaultdict(list)
    for window in windows:
        if _package(window) not in (chosen, baseline):
            passed_over["another package"] += 1
        elif not window.synchronised:
            passed_over["the clock was not set"] += 1
        else:
            by_device[window.device].append(window)
    tried = {
        device: min(own)
        for device, known in by_device.items()
        if (own := [one.began_ms for one in known if _package(one) == chosen])
        and (canary is None or device in canary)
    }
    if not tried:
        raise DriftError("candidate_unseen", f"no canary has a window of {candidate} to go by.")
    began_ms = int(statistics.median_low(tried.values()))
    units, left_out = [], {}
    for device, known in sorted(by_device.items()):
        if device not in tried and control is not None and device not in control:
            continue
        old = [one for one in known if _package(one) == baseline]
        new = [one for one in known if _package(one) == chosen]
        if device in tried:
            unit = _unit(device, "canary", old, new, tried[device])
        else:
            unit = _unit(device, "control", old, old, began_ms)
        if unit is None:
            left_out[device] = "no camera with samples both before and after"
        else:
            units.append(unit)
    return Cohorts(
        chosen, baseline, began_ms, frozenset(tried), tuple(units), left_out, dict(passed_over)
    )


def _packages(windows: Sequence[Window], candidate: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return (version, sha256) of the candidate, and of what ran before."""
    packages: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for window in windows:
        packages[_package(window)].add(window.device)
    theirs = {one: devices for one, devices in packages.items() if one[0] == candidate}
    others = {one: devices for one, devices in packages.items() if one[0] != candidate}
    if not theirs:
        seen = ", ".join(sorted({version for version, _ in others})) or "none"
        raise DriftError("candidate_unseen", f"no window is of {candidate}; versions: {seen}.")
    if not others:
        raise DriftError("baseline_unseen", f"all windows are of {candidate}: nothing to compare.")
    return _commonest(theirs), _commonest(others)


def _commonest(packages: dict[tuple[str, str], set[str]]) -> tuple[str, str]:
    """Return the package on the most devices: one device does not choose for the fleet."""
    return max(packages, key=lambda one: (len(packages[one]), one))


def _unit(
    device: str, cohort: Cohort, old: list[Window], new: list[Window], since_ms: int
) -> Unit | None:
    before = [one for one in old if one.began_ms + one.seconds * 1000.0 <= since_ms]
    after = [one for one in new if one.began_ms >= since_ms]
    cameras = _cameras(before) & _cameras(after)
    before = [one for one in before if one.subject.camera in cameras]
    after = [one for one in after if one.subject.camera in cameras]
    if not cameras:
        return None
    return Unit(device, cohort, share_of(before), share_of(after), _pairs(after))


def _package(window: Window) -> tuple[str, str]:
    return window.subject.version, window.subject.sha256


def _place(window: Window) -> tuple[str, int, str, int]:
    return window.subject.camera, window.began_ms, window.boot, window.seq


def _cameras(windows: list[Window]) -> set[str]:
    """Return the cameras of which there is something of all that is compared."""
    return {
        one.subject.camera
        for one in windows
        if one.tally.sampled
        and one.tally.invoke.any()
        and one.tally.histograms.keys() >= {"top1", "entropy"}
    }


def _pairs(windows: list[Window]) -> tuple[Pairs, ...]:
    """Return the pairs by window, one camera after the other, each in its order.

    A window of which the autocorrelation time is not known has no length.
    """
    found = []
    for window in sorted(windows, key=_place):
        tally = window.tally
        samples = tally.sampled / max(window.tau, 1.0) if window.tau is not None else 0.0
        found.append((tally.paired, tally.disagreed, samples))
    return tuple(found)

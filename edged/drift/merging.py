"""Windows of many devices, sifted and added: by model, by cohort, and by device. Pure.

Anybody who may write under a device's name may have written its windows. What cannot be true is
refused and counted; what can be is bounded by the time that it was counted in. Windows come more
than once and in any order: nothing here depends on either.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edged.drift.histogram import SCALES
from edged.drift.signals import EDGE_POINTS
from edged.drift.window import LATENCY_EDGES_MS, Tally, Window, total
from edged.errors import DriftError

_LONGEST_S = 7200.0
# No camera gives more frames in a second, nor any board more inferences.
_MOST_A_SECOND = 1000
# What one sample adds to a histogram at most; the shares of gradients are rounded bin by bin.
_POINTS = {"edges": EDGE_POINTS + SCALES["edges"].bins}
_COUNTS = (
    *("frames", "inferred", "dropped", "errors", "sampled", "repeated", "paired"),
    "disagreed",
)


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is left of windows, in a fixed order, and what is not.

    Attributes:
        windows: each (device, boot, seq) once.
        repeated: how many came once more.
        refused: how many are refused, by device and why.
    """

    windows: tuple[Window, ...]
    repeated: int
    refused: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Share:
    """What one device counted.

    Attributes:
        tally: of all its windows here.
        windows: how many.
        failing: windows in which more than one inference in 1000 failed.
        hours: that the camera with the most windows was watched.
        n_effective: how many independent samples there are, as the device says.
    """

    tally: Tally
    windows: int
    failing: int
    hours: float
    n_effective: float


@dataclass(frozen=True, slots=True)
class Group:
    """What is added: only windows of one package, with one set of edges, in one cohort."""

    version: str
    sha256: str
    edges: str
    cohort: str


@dataclass(frozen=True, slots=True)
class Merged:
    """A group: all of it, and device by device, as a sum hides one bad device."""

    group: Group
    pooled: Tally
    devices: Mapping[str, Share]


def implausible(window: Window) -> str:
    """Return why a window cannot be true, or ""."""
    tally, seconds, tau = window.tally, window.seconds, window.tau
    named = tally.classes.values()
    counts = [getattr(tally, name) for name in _COUNTS]
    counts += [*tally.best.values(), *(one.count for one in named)]
    checks = (
        (0.0 < seconds <= _LONGEST_S, "lasts no time that a window lasts"),
        (tau is None or 0.0 <= tau < math.inf, "tau is no number of samples"),
        (
            all(0 <= count <= _MOST_A_SECOND * (seconds + 1.0) for count in counts),
            "counts more, or less, than there can be",
        ),
        (tally.repeated <= tally.sampled <= tally.inferred, "samples more than there was"),
        (
            tally.disagreed <= tally.paired <= tally.inferred,
            "disagrees more often than it asked",
        ),
        (
            sum(tally.best.values()) <= tally.inferred
            and sum(one.count for one in named) <= tally.sampled,
            "names more answers than there were inferences",
        ),
        (
            all(0 <= one.score_milli <= 1000 * one.count for one in named),
            "is surer than certain",
        ),
    )
    return next((why for holds, why in checks if not holds), "") or _impossible_histogram(tally)


def sift(windows: Iterable[Window]) -> Sifted:
    """Return windows that can be true, once each, in an order of their own.

    Of windows that say different things under the same (device, boot, seq) none is taken.
    """
    kept: dict[tuple[str, str, int], list[Window]] = {}
    refused: Counter[tuple[str, str]] = Counter()
    repeated = 0
    for window in windows:
        if why := implausible(window):
            refused[window.device, why] += 1
            continue
        known = kept.setdefault((window.device, window.boot, window.seq), [])
        if any(_same(window, one) for one in known):
            repeated += 1
        else:
            known.append(window)
    for (device, _, _), known in kept.items():
        if len(known) > 1:
            refused[device, "contradicts another of the same number"] += len(known)
    chosen = [known[0] for _, known in sorted(kept.items()) if len(known) == 1]
    return Sifted(tuple(chosen), repeated, dict(sorted(refused.items())))


def merge(windows: Iterable[Window], cohort: Callable[[Window], str]) -> tuple[Merged, ...]:
    """Return the sums of sifted windows, by package and cohort.

    Args:
        windows: of one model; see `sift`.
        cohort: names the cohort of a window.

    Raises:
        DriftError: `edges_differ`.
    """
    groups: defaultdict[Group, list[Window]] = defaultdict(list)
    for window in windows:
        subject = window.subject
        groups[Group(subject.version, subject.sha256, window.edges, cohort(window))].append(window)
    if len(edges := {group.edges for group in groups}) > 1:
        raise DriftError(
            "edges_differ", f"windows with edges {', '.join(sorted(edges))} do not add up."
        )
    ordered = sorted(groups, key=lambda one: (one.version, one.sha256, one.cohort))
    return tuple(Merged(one, total(groups[one]), by_device(groups[one])) for one in ordered)


def by_device(windows: Iterable[Window]) -> dict[str, Share]:
    """Return what each device counted."""
    devices: defaultdict[str, list[Window]] = defaultdict(list)
    for window in windows:
        devices[window.device].append(window)
    return {device: share_of(devices[device]) for device in sorted(devices)}


def share_of(windows: Sequence[Window]) -> Share:
    """Return what windows of one device come to; `n_effective` is exact in any order."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for window in windows:
        seconds[window.subject.camera].append(window.seconds)
    return Share(
        total(windows),
        len(windows),
        sum(one.tally.errors > 0.001 * _attempts(one.tally) for one in windows),
        max((math.fsum(one) for one in seconds.values()), default=0.0) / 3600.0,
        math.fsum(window.n_effective for window in windows),
    )


def _attempts(tally: Tally) -> int:
    return tally.inferred + tally.errors


def _impossible_histogram(tally: Tally) -> str:
    parts = [
        (tally.histograms[signal], scale.bins, tally.sampled * _POINTS.get(signal, 1))
        for signal, scale in SCALES.items()
        if signal in tally.histograms
    ]
    parts.append((tally.invoke, len(LATENCY_EDGES_MS) + 1, tally.inferred))
    if not tally.histograms.keys() <= SCALES.keys() or any(
        counts.shape != (bins,) or counts.dtype != np.int64 for counts, bins, _ in parts
    ):
        return "has a histogram that nobody knows"
    # Bin by bin first: a sum of huge numbers may come out small.
    if any(
        counts.min() < 0 or counts.max() > most or counts.sum() > most for counts, _, most in parts
    ):
        return "has a histogram of more than there was"
    # A share of the gradients may be missing, where there are none; a sample of the rest may not.
    whole = [counts for signal, counts in tally.histograms.items() if signal != "edges"]
    if any(counts.sum() != tally.sampled for counts in whole):
        return "has a histogram of less than it sampled"
    return ""


def _same(one: Window, other: Window) -> bool:
    """Return whether two windows say the same; arrays have no plain equality."""
    return _words(one) == _words(other)


def _words(window: Window) -> tuple[object, ...]:
    tally = window.tally
    return (
        *(window.began_ms, window.seconds, window.synchronised, window.subject, window.trial),
        *(window.tau, window.edges, [getattr(tally, name) for name in _COUNTS]),
        *(dict(tally.best), dict(tally.classes), tally.invoke.tolist()),
        {signal: counts.tolist() for signal, counts in tally.histograms.items()},
    )

"""A window: what was counted on one camera with one model for some minutes. Pure.

All that is counted is whole numbers, so windows add up, in any order, over hours and over a fleet.
What is only true of one window (autocorrelation, scores) is never added. A window never mixes two
model versions, runtimes or accelerators.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from edged.drift.histogram import EDGES, SCALES, Counts
from edged.errors import DriftError

TOP_CLASSES = 16
"""Classes of a window that are counted by name; the rest is counted together."""

MOST_CLASSES = 10**6
"""Numbers of classes are below."""

OTHER = -1
"""The number under which the rest is counted."""

LATENCY_EDGES_MS = tuple(2.0 ** (step / 2) for step in range(-4, 24))
"""Upper edges of the invoke times; the last bin has none."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose window: only windows of the same subject are added on a device.

    Attributes:
        camera: its name.
        model: name, as configured.
        version: of the model.
        sha256: of the package, or of the bare file.
        runtime: name and version, e.g. `litert 2.3.0`.
        accelerator: `cpu`, `usb:0`...
        view: digest of the camera's configuration: another source or rotation under the same name
            is another view; "" where that is not known.
    """

    camera: str
    model: str
    version: str
    sha256: str
    runtime: str
    accelerator: str
    view: str = ""


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How often a class was best among the sampled inferences, and how sure: sum of 1/1000s."""

    count: int
    score_milli: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What can be added.

    Attributes:
        frames: captured.
        inferred: inferences.
        dropped: frames that no model saw.
        errors: inferences that failed or could not be read.
        sampled: inferences looked at closely; the histograms are about these.
        repeated: sampled pictures that were bit by bit the one before.
        best: how often each class was best, of all inferences: `TOP_CLASSES`, and `OTHER`.
        classes: of the sampled ones: `TOP_CLASSES`, and `OTHER`.
        invoke: invoke times, shape (len(LATENCY_EDGES_MS) + 1,).
        histograms: by signal, as `SCALES`.
        paired: inferences on which another model was asked as well.
        disagreed: of them, with another best class.
    """

    frames: int = 0
    inferred: int = 0
    dropped: int = 0
    errors: int = 0
    sampled: int = 0
    repeated: int = 0
    best: Mapping[int, int] = field(default_factory=dict)
    classes: Mapping[int, ClassCount] = field(default_factory=dict)
    invoke: Counts = field(default_factory=lambda: np.zeros(len(LATENCY_EDGES_MS) + 1, np.int64))
    histograms: Mapping[str, Counts] = field(default_factory=dict)
    paired: int = 0
    disagreed: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """One record.

    Attributes:
        device: its id.
        boot: of the daemon's start.
        seq: counts windows of all cameras per boot; (device, boot, seq) is unique.
        began_ms: Unix time in ms, as the clock stood.
        seconds: how long it lasted, of the monotonic clock.
        synchronised: whether the clock was known to be right.
        subject: whose.
        trial: whether the model was on trial.
        tally: what was counted.
        tau: samples after which one is as good as independent (integrated autocorrelation time);
            None where there were too few.
        edges: version of the scales.
    """

    device: str
    boot: str
    seq: int
    began_ms: int
    seconds: float
    synchronised: bool
    subject: Subject
    trial: bool
    tally: Tally
    tau: float | None
    edges: str = EDGES

    @property
    def n_effective(self) -> float:
        """How many independent samples the sampled ones are worth."""
        return 0.0 if self.tau is None else self.tally.sampled / max(self.tau, 1.0)


def total(windows: Iterable[Window]) -> Tally:
    """Return the sum of windows, whatever their subjects are: the caller chooses them.

    Raises:
        DriftError: `edges_differ`.
    """
    chosen = list(windows)
    versions = {window.edges for window in chosen}
    if len(versions) > 1:
        raise DriftError(
            "edges_differ", f"windows with edges {', '.join(sorted(versions))} do not add up."
        )
    return add(window.tally for window in chosen)


def add(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of what was counted.

    A class that was named in some windows only counts there; elsewhere it is in `OTHER`.
    """
    parts = list(tallies)
    best: dict[int, int] = {}
    classes: dict[int, ClassCount] = {}
    histograms = {signal: np.zeros(scale.bins, np.int64) for signal, scale in SCALES.items()}
    invoke = np.zeros(len(LATENCY_EDGES_MS) + 1, np.int64)
    for part in parts:
        invoke += part.invoke
        for signal, counts in part.histograms.items():
            histograms[signal] += counts
        for number, count in part.best.items():
            best[number] = best.get(number, 0) + count
        for number, one in part.classes.items():
            before = classes.get(number, ClassCount(0, 0))
            classes[number] = ClassCount(
                before.count + one.count, before.score_milli + one.score_milli
            )
    return Tally(
        frames=sum(part.frames for part in parts),
        inferred=sum(part.inferred for part in parts),
        dropped=sum(part.dropped for part in parts),
        errors=sum(part.errors for part in parts),
        sampled=sum(part.sampled for part in parts),
        repeated=sum(part.repeated for part in parts),
        best=best,
        classes=classes,
        invoke=invoke,
        histograms=histograms,
        paired=sum(part.paired for part in parts),
        disagreed=sum(part.disagreed for part in parts),
    )


def top_classes(classes: Mapping[int, ClassCount]) -> dict[int, ClassCount]:
    """Return the most frequent classes, and all others together under `OTHER`."""
    named = sorted(
        (number for number in classes if number != OTHER),
        key=lambda number: (-classes[number].count, number),
    )
    kept = {number: classes[number] for number in named[:TOP_CLASSES]}
    rest = [classes[number] for number in named[TOP_CLASSES:]]
    rest += [classes[OTHER]] if OTHER in classes else []
    if rest:
        kept[OTHER] = ClassCount(
            sum(one.count for one in rest), sum(one.score_milli for one in rest)
        )
    return kept

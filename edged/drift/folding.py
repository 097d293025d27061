"""Inference by inference, a tally: what one window of one subject counts. Pure."""

from __future__ import annotations

import bisect
import math
from collections import Counter

import numpy as np

from edged.drift.histogram import SCALES, empty
from edged.drift.signals import NOTHING, Confidence, Look, edge_points
from edged.drift.window import (
    LATENCY_EDGES_MS,
    MOST_CLASSES,
    OTHER,
    TOP_CLASSES,
    ClassCount,
    Tally,
    top_classes,
)

# Most samples of which the course is kept, for the autocorrelation: a day at one a minute, five
# minutes at thirty a second.
_MOST_SERIES = 10_000


class Folding:
    """Counts one window.

    Attributes:
        series: highest scores of the sampled inferences, in order.
    """

    def __init__(self) -> None:
        self.series: list[float] = []
        self._inferred = self._unread = self._sampled = self._repeated = 0
        self._paired = self._disagreed = 0
        self._best: Counter[int] = Counter()
        self._classes: dict[int, ClassCount] = {}
        self._invoke = [0] * (len(LATENCY_EDGES_MS) + 1)
        self._histograms = {signal: empty(signal) for signal in SCALES}
        self._last_print: int | None = None

    @property
    def inferred(self) -> int:
        """Inferences so far."""
        return self._inferred

    def inferred_one(self, invoke_ms: float, best: int) -> None:
        """Count an inference that could be read.

        Args:
            invoke_ms: time inside the model.
            best: number of its best class, `signals.NOTHING` where nothing was found.
        """
        self._inferred += 1
        self._best[_number(best)] += 1
        self._invoke[bisect.bisect_left(LATENCY_EDGES_MS, invoke_ms)] += 1

    def unread(self) -> None:
        """Count an inference whose outputs made no sense, NaN for example."""
        self._inferred += 1
        self._unread += 1

    def sampled(self, confidence: Confidence, look: Look) -> bool:
        """Count an inference that was looked at closely, beside `inferred_one`.

        Returns:
            False where one of its figures is NaN or infinite: then it is in no histogram.
        """
        figures = {
            "top1": confidence.top1,
            "margin": confidence.margin,
            "entropy": confidence.entropy,
            "luma": look.luma,
            "contrast": look.contrast,
            "sharpness": look.sharpness,
            "tilt_x": look.tilt_x,
            "tilt_y": look.tilt_y,
        }
        if not all(map(math.isfinite, figures.values())) or not np.isfinite(look.edges).all():
            return False
        for signal, value in figures.items():
            self._histograms[signal][SCALES[signal].bin(value)] += 1
        self._histograms["edges"] += edge_points(look)
        self._sampled += 1
        self._repeated += look.print == self._last_print
        self._last_print = look.print
        label = _number(confidence.label)
        before = self._classes.get(label, ClassCount(0, 0))
        milli = round(min(max(confidence.top1, 0.0), 1.0) * 1000)
        self._classes[label] = ClassCount(before.count + 1, before.score_milli + milli)
        if len(self.series) < _MOST_SERIES:
            self.series.append(confidence.top1)
        return True

    def paired(self, *, disagreed: bool) -> None:
        """Count an inference on which another model was asked as well."""
        self._paired += 1
        self._disagreed += disagreed

    def tally(self, *, frames: int, dropped: int, failed: int) -> Tally:
        """Return what was counted.

        Args:
            frames: captured meanwhile.
            dropped: of them, those that no model saw.
            failed: inferences that the model failed on.
        """
        return Tally(
            frames=frames,
            inferred=self._inferred,
            dropped=dropped,
            errors=self._unread + failed,
            sampled=self._sampled,
            repeated=self._repeated,
            best=_top(self._best),
            classes=top_classes(self._classes),
            invoke=np.array(self._invoke, np.int64),
            histograms={signal: counts.copy() for signal, counts in self._histograms.items()},
            paired=self._paired,
            disagreed=self._disagreed,
        )


def _number(label: int) -> int:
    """Return a class number as records can have it, whatever number a model names."""
    return label if NOTHING <= label < MOST_CLASSES else OTHER


def _top(best: Counter[int]) -> dict[int, int]:
    """Return the most frequent classes, and all others together under `OTHER`."""
    named = sorted(best, key=lambda number: (-best[number], number))
    kept = {number: best[number] for number in named[:TOP_CLASSES]}
    rest = sum(best[number] for number in named[TOP_CLASSES:])
    return kept | ({OTHER: rest} if rest else {})

"""A fleet whose cameras each see scenes of their own, as windows: with a candidate on some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edged.drift.histogram import SCALES
from edged.drift.window import LATENCY_EDGES_MS, ClassCount, Subject, Tally, Window

OLD, NEW = "1.0.0", "1.1.0"
MODEL = "birds"
SCENES, CLASSES = 24, 12
SAMPLE_PERIOD_S = 2.0
FRAMES_A_SECOND = 15
DWELL_SAMPLES = 30
BEGAN_MS = 1_760_000_000_000
_HOUR_MS = 3_600_000
_BINS = SCALES["top1"].bins
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """What a candidate does other than the model before.

    Attributes:
        confused: mean share of the samples on which it is lost: another class, unsure.
        surer: added to the highest score.
        slower: factor of the invoke time.
        failing: share of its inferences that fail.
        one_class: share of the samples that it calls by one class, as sure as ever.
        swapped: whether its classes are named in another order.
    """

    confused: float = 0.0
    surer: float = 0.0
    slower: float = 1.0
    failing: float = 0.0
    one_class: float = 0.0
    swapped: bool = False


SAME = Candidate()


@dataclass(frozen=True)
class World:
    """Scenes that there are: by scene the mean top-1 score and the classes it is taken for."""

    top1: Floats
    classes: Floats

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> World:
        top1 = rng.beta(5.0, 2.2, SCENES)
        classes = np.zeros((SCENES, CLASSES))
        for scene in range(SCENES):
            first, second = rng.choice(CLASSES, 2, replace=False)
            classes[scene, first], classes[scene, second] = 0.85, 0.15
        return cls(np.clip(top1, 0.2, 0.97), classes)


def fleet(
    rng: np.random.Generator,
    candidate: Candidate = SAME,
    *,
    control: int = 8,
    canary: int = 4,
    hours: float = 24.0,
    window_s: float = 300.0,
    new: str = NEW,
) -> list[Window]:
    """Return the windows of devices `control-1`... and `canary-1`..., before and after.

    Args:
        rng: of the run.
        candidate: what the canaries run afterwards.
        control: devices that go on as before.
        canary: devices that change, within some hours of each other.
        hours: watched before, and after.
        window_s: how long a window is.
        new: version of the candidate.
    """
    world = World.drawn(rng)
    lost = np.clip(rng.beta(1.5, 1.5, SCENES) * 2 * candidate.confused, 0, 1)
    windows: list[Window] = []
    for number in range(control + canary):
        tries = number >= control
        name = f"canary-{number - control + 1}" if tries else f"control-{number + 1}"
        change_h = hours + (float(rng.uniform(0, 4)) if tries else 2.0)
        device = _Device(rng, world, name, window_s)
        windows += device.windows(0.0, change_h, OLD, SAME, lost)
        after = (new, candidate) if tries else (OLD, SAME)
        windows += device.windows(change_h, 2 * hours + 4.0, *after, lost)
    return windows


class _Device:
    def __init__(self, rng: np.random.Generator, world: World, name: str, window_s: float) -> None:
        self._rng, self._world, self._name, self._window_s = rng, world, name, window_s
        self._mix = rng.dirichlet(np.full(SCENES, 0.4))
        self._offset = float(rng.normal(0.0, 0.04))  # this camera's light and lens
        self._invoke_ms = float(rng.uniform(6.0, 30.0))
        self._seq = 0

    def windows(
        self, first_h: float, last_h: float, version: str, candidate: Candidate, lost: Floats
    ) -> Iterator[Window]:
        """Yield windows of a stretch of time; the mix of scenes moves every six hours."""
        rng = self._rng
        step_h = self._window_s / 3600.0
        count = int((last_h - first_h) / step_h)
        burst = int(rng.integers(count)) if rng.random() < 0.05 * (last_h - first_h) / 24 else None
        sha256 = ("a" if version == OLD else "b") * 64
        subject = Subject("front", MODEL, version, sha256, "litert 2.3.0", "cpu")
        # Samples by window and scene: scenes follow each other, each for about a minute.
        samples = int(self._window_s / SAMPLE_PERIOD_S)
        blocks = 1 + int(count * step_h / 6.0)
        mixes = self._mix * np.exp(rng.normal(0.0, 0.5, (blocks, SCENES)))
        lasts = rng.geometric(1 / DWELL_SAMPLES, 2 * count * samples // DWELL_SAMPLES + 50)
        starts = np.minimum(np.cumsum(lasts) * SAMPLE_PERIOD_S / 3600.0 / 6.0, blocks - 1)
        mixes /= mixes.sum(axis=1, keepdims=True)
        chances = np.cumsum(mixes, axis=1)[starts.astype(int)]
        shown = (rng.random(len(lasts))[:, None] > chances).sum(axis=1).clip(0, SCENES - 1)
        course = np.repeat(shown, lasts)[: count * samples].reshape(count, samples)
        hot = np.repeat(np.exp(rng.normal(0.0, 0.05, blocks)), int(np.ceil(6.0 / step_h)))
        for at in range(count):
            began_h = first_h + at * step_h
            night = 0.04 if began_h % 24 < 8 else 0.0
            failing = candidate.failing + 2e-5
            if burst is not None and burst <= at < burst + max(1, round(1.0 / step_h)):
                failing += 0.05
            tally = self._tally(
                course[at], candidate, lost, failing, night, float(hot[min(at, len(hot) - 1)])
            )
            self._seq += 1
            yield Window(
                self._name, "0badcafe", self._seq, BEGAN_MS + round(began_h * _HOUR_MS),
                self._window_s, True, subject, False, tally, float(2 * DWELL_SAMPLES - 1),
            )  # fmt: skip

    def _tally(
        self,
        scenes: npt.NDArray[np.intp],
        candidate: Candidate,
        lost: Floats,
        failing: float,
        night: float,
        hot: float,
    ) -> Tally:
        rng, world = self._rng, self._world
        count = len(scenes)
        confused = rng.random(count) < lost[scenes] if candidate.confused else np.zeros(count, bool)
        top1 = world.top1[scenes] + self._offset - night + rng.normal(0.0, 0.08, count)
        top1 = np.where(confused, rng.normal(0.42, 0.12, count), top1) + candidate.surer
        top1 = np.clip(top1, 0.02, 0.999)
        entropy = np.clip((1.0 - top1) * 0.8 + rng.normal(0.0, 0.03, count), 0.0, 1.0)
        cumulated = np.cumsum(world.classes, axis=1)[scenes]
        label = (rng.random(count)[:, None] > cumulated).sum(axis=1).clip(0, CLASSES - 1)
        label = np.where(confused, rng.integers(0, CLASSES, count), label)
        label[rng.random(count) < candidate.one_class] = 0
        if candidate.swapped:
            label = CLASSES - 1 - label
        inferred = int(FRAMES_A_SECOND * self._window_s)
        # The times of all inferences lie as those of a few.
        drawn_ms = self._invoke_ms * hot * candidate.slower * np.exp(rng.normal(0, 0.08, 90))
        invoke = np.bincount(np.searchsorted(LATENCY_EDGES_MS, drawn_ms),
                             minlength=len(LATENCY_EDGES_MS) + 1)  # fmt: skip
        errors = int(rng.binomial(inferred, min(failing, 1.0)))
        named = {
            int(number): ClassCount(int((label == number).sum()),
                                    round(float(top1[label == number].sum()) * 1000))
            for number in np.unique(label)
        }  # fmt: skip
        paired = count // 5
        disagreed = int((rng.random(paired) < 0.02).sum() + confused[:paired].sum())
        return Tally(
            frames=inferred,
            inferred=inferred,
            errors=errors,
            sampled=count,
            best={number: one.count for number, one in named.items()},
            classes=named,
            invoke=invoke.astype(np.int64) * (inferred // 90),
            histograms={"top1": _counts(top1), "entropy": _counts(entropy)},
            paired=paired,
            disagreed=min(disagreed, paired),
        )


def _counts(values: Floats) -> npt.NDArray[np.int64]:
    return np.bincount((values * _BINS).astype(int).clip(0, _BINS - 1), minlength=_BINS).astype(
        np.int64
    )

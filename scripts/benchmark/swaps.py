"""What it costs to replace the model: gaps between frames, numbers that are missing, memory.

Blocks with a swap and blocks without take turns and are equally long; what a swap is stands in
`benchmark.swapping`. The frames around a swap are those from 1 s before its first prediction to
1 s after its result, which tells of the commit; both the start and the end of its trial are in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Literal

import cv2
import numpy as np

from benchmark.figures import Figure, spread
from benchmark.swapping import FPS, TRIAL_FRAMES, Seen, Swap, Swapper
from benchmark.world import Data

SWAPS = 20
MEMORY_SWAPS = 50
AROUND_S = 1.0
# From the first prediction of a candidate to its result, and a second on either side.
BLOCK_S = 2 * AROUND_S + TRIAL_FRAMES / FPS
_MOST_GROWTH_MB = 5.0
_GOLDEN = ("bird", "cat", "hopper", "parrot", "sunflower", "traffic")

When = Literal["captured_s", "arrived_s"]


@dataclass(frozen=True)
class Span:
    """Part of a run, in monotonic seconds of arrival."""

    begin_s: float
    end_s: float


@dataclass
class Course:
    """What came of one model's swaps.

    Attributes:
        seen: all predictions.
        around: the spans around swaps.
        swapping: the same, with the whole of each deployment.
        quiet: the spans without.
        memory_mb: resident at the start, at the end, and the most in between.
        deployment_s: what each took.
    """

    seen: list[Seen]
    around: list[Span]
    swapping: list[Span]
    quiet: list[Span]
    memory_mb: tuple[float, float, float]
    deployment_s: list[float]

    @property
    def captured(self) -> int:
        """Frames that the camera gave, from the first that was seen to the last."""
        return self.seen[-1].frame - self.seen[0].frame + 1


def gaps_ms(seen: Sequence[Seen], span: Span, when: When) -> list[float]:
    """Times between one prediction and the next, of all that begin in a span, milliseconds."""
    return [
        1000 * (getattr(after, when) - getattr(before, when))
        for before, after in pairwise(seen)
        if span.begin_s <= before.arrived_s and after.arrived_s <= span.end_s
    ]


def irregular(seqs: Sequence[int]) -> int:
    """How many numbers are lost or repeated or out of order: steps that are not by one."""
    return sum(after != before + 1 for before, after in pairwise(seqs))


def swaps(data: Data, port: int, folder: Path, *, quick: bool) -> list[Figure]:
    """Swap each model; the figures."""
    count, most = (2, 2) if quick else (SWAPS, MEMORY_SWAPS)
    pictures = _pictures(data, folder / "pictures")
    figures = []
    for number, (name, models, must, in_all) in enumerate(_cases(data, count, most)):
        swapper = Swapper(models, pictures, port, folder / f"swap{number}", f"swap{number}")
        try:
            course = _run(swapper, count, in_all)
            figures += _figures(name, course, must, swapper.model_mb)
        finally:
            swapper.close()
    return figures


def _cases(
    data: Data, count: int, most: int
) -> list[tuple[str, tuple[str, str], float | None, int]]:
    """Name, models that take turns, bound of the gap, and how many swaps in all."""
    if not data.real:
        return [("belt 96", ("belt", "belt"), None, most)]
    birds = str(data.model("mobilenet_v2_1.0_224_inat_bird_quant"))
    traffic = str(data.model("traffic_model"))
    return [
        ("v2 224", (data.v2, birds), 1.3, most),
        ("traffic", (traffic, traffic), 1.6, count),
    ]


def _pictures(data: Data, folder: Path) -> Path:
    """A folder of JPEG files, 640 x 480 as cameras send them."""
    folder.mkdir()
    photographs = [
        path
        for path in data.photographs
        if path.stem.startswith(_GOLDEN) and "seg" not in path.stem
    ]
    images = [cv2.imread(str(path)) for path in photographs]
    if not images:
        rng = np.random.default_rng(1)
        images = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(4)]
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(image, (640, 480)))
    return folder


def _run(swapper: Swapper, count: int, in_all: int) -> Course:
    time.sleep(BLOCK_S)
    start_mb = swapper.memory_mb()
    swapper.forget_peak()
    done: list[Swap] = []
    quiet = []
    for _ in range(count):
        done.append(swapper.swap())
        time.sleep(AROUND_S)
        begin_s = time.monotonic()
        time.sleep(BLOCK_S)
        quiet.append(Span(begin_s, time.monotonic()))
    rest = [swapper.swap() for _ in range(in_all - count)]
    time.sleep(BLOCK_S)
    memory_mb = (start_mb, swapper.memory_mb(), swapper.peak_mb())
    seen = swapper.ledger.seen()
    around, swapping = [], []
    for swap in done:
        live_s = next(
            one.arrived_s
            for one in seen
            if one.arrived_s > swap.asked_s and one.version == swap.version
        )
        around.append(Span(live_s - AROUND_S, swap.ended_s + AROUND_S))
        swapping.append(Span(swap.asked_s, swap.ended_s + AROUND_S))
    took_s = [swap.ended_s - swap.asked_s for swap in [*done, *rest]]
    return Course(seen, around, swapping, quiet, memory_mb, took_s)


def _figures(name: str, course: Course, must: float | None, model_mb: float) -> list[Figure]:
    start_mb, end_mb, peak_mb = course.memory_mb
    swaps_done = len(course.deployment_s)
    may_mb = 2.5 * model_mb + 25
    return [
        _gap(name, course, "arrived_s", must),
        _gap(name, course, "captured_s", must),
        Figure(
            f"{swaps_done} swaps, {name}: lost or repeated seq",
            (float(irregular([one.seq for one in course.seen])),),
            must=0,
            digits=0,
            beside=f"{len(course.seen)} predictions of {course.captured} frames captured",
        ),
        Figure(
            f"memory after {swaps_done} swaps over the start, {name}",
            (end_mb - start_mb,),
            "MB",
            must=_MOST_GROWTH_MB,
            digits=1,
            beside=f"{start_mb:.1f} MB, then {end_mb:.1f} MB",
        ),
        Figure(
            f"peak of it, {name}",
            (peak_mb - start_mb,),
            "MB",
            must=round(may_mb, 1),
            digits=1,
            beside=f"{peak_mb:.1f} MB; the model file has {model_mb:.1f} MB",
        ),
        Figure(
            f"a deployment with a trial of {TRIAL_FRAMES} frames, {name}",
            tuple(course.deployment_s),
            "s",
            beside="from a file at the device",
        ),
    ]


def _gap(name: str, course: Course, when: When, must: float | None) -> Figure:
    """The largest gap around each swap, over the median of the largest ones of quiet blocks."""
    largest = [max(gaps_ms(course.seen, span, when)) for span in course.around]
    quiet = [max(gaps_ms(course.seen, span, when)) for span in course.quiet]
    usual_ms = median(quiet)
    every = {
        "swapping": [g for span in course.swapping for g in gaps_ms(course.seen, span, when)],
        "quiet": [g for span in course.quiet for g in gaps_ms(course.seen, span, when)],
    }
    p99 = {key: float(np.percentile(values, 99)) * FPS / 1000 for key, values in every.items()}
    words = "arrivals" if when == "arrived_s" else "captures"
    return Figure(
        f"largest gap between {words} around a swap over that without, {name}",
        tuple(gap / usual_ms for gap in largest),
        must=must,
        beside=(
            f"{spread(largest, 1)} ms, without {spread(quiet, 1)} ms; p99 of all"
            f" {p99['swapping']:.2f} intervals, without {p99['quiet']:.2f}"
        ),
        details={"largest_ms": largest, "quiet_ms": quiet, "p99_intervals": p99},
    )

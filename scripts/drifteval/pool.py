"""The pool: what the recorder would note of many pictures, computed once.

Days of cameras are drawn from it by number, so that months take seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from drifteval.pictures import CELLS, CORRUPTIONS, LIGHTS, BeltScenes, RealScenes, lit
from edged.config import ModelConfig
from edged.drift.histogram import SCALES
from edged.drift.signals import classified, edge_points, look, sketch
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor

ROOT = Path(__file__).parents[2]
SCENES, FRAMES = 110, 2
"""Of each source, in each light. Even scenes are for references, odd ones for test days."""

HARMED_SCENES, HARMED_FRAMES, HARMED_LIGHTS = 16, 1, 3
"""For each corruption: odd scenes only, and not by lamp light."""

BINNED = tuple(signal for signal in SCALES if signal != "edges")


class Key(NamedTuple):
    """Which picture. `cell` is -1 where nothing is wrong, else a place in CELLS."""

    cell: int
    light: int
    source: int
    scene: int
    frame: int


@dataclass(frozen=True)
class Pool:
    """All samples.

    Attributes:
        keys: shape (samples, 5), see Key.
        bins: of the signals in BINNED, uint8, shape (samples, 8).
        edges: points by direction, uint8, shape (samples, 8).
        label: best class, shape (samples,).
        top1: its score.
        luma: of the picture.
        sources: how many.
        first: number of the first sample of (cell, light, source).
    """

    keys: npt.NDArray[np.int32]
    bins: npt.NDArray[np.uint8]
    edges: npt.NDArray[np.uint8]
    label: npt.NDArray[np.int32]
    top1: npt.NDArray[np.float32]
    luma: npt.NDArray[np.float32]
    sources: int

    def agreement(self, cell: int) -> float:
        """Return the share of a corruption's samples whose class is that of the clean picture."""
        clean = {tuple(k): n for n, k in enumerate(self.keys.tolist()) if k[0] == -1}
        mine = np.flatnonzero(self.keys[:, 0] == cell)
        twins = [clean[(-1, *self.keys[n, 1:].tolist())] for n in mine]
        return float((self.label[mine] == self.label[twins]).mean())


def all_keys(sources: int) -> list[Key]:
    """List the pictures: for each (cell, light, source) its scenes and their frames together."""
    keys = [
        Key(-1, light, source, scene, frame)
        for light in range(len(LIGHTS))
        for source in range(sources)
        for scene in range(SCENES)
        for frame in range(FRAMES)
    ]
    keys += [
        Key(cell, light, source, 2 * scene + 1, frame)
        for cell in range(len(CELLS))
        for light in range(HARMED_LIGHTS)
        for source in range(sources)
        for scene in range(HARMED_SCENES)
        for frame in range(HARMED_FRAMES)
    ]
    return keys


def scenes_and_model(data: Path | None) -> tuple[RealScenes | BeltScenes, Path]:
    """Return the pictures' source and the model: the real ones, or those in the package."""
    if data is not None and (data / "images").is_dir():
        return RealScenes(data / "images"), data / "models/mobilenet_v2_1.0_224_quant.tflite"
    return BeltScenes(), ROOT / "edged/data/belt.tflite"


class _Looker:
    """One worker: pictures, model and preprocessing as in the daemon."""

    def __init__(self, data: Path | None) -> None:
        cv2.setNumThreads(1)
        self._scenes, model = scenes_and_model(data)
        self._servable = load_servable(ModelConfig(name="m", factory=str(model), accelerator="cpu"))
        self._preprocessor = Preprocessor(self._servable.input)
        self._slot = next(self._preprocessor.slots())

    def sample(self, key: Key) -> tuple[list[int], npt.NDArray[np.int64], int, float, float]:
        rng = np.random.default_rng((11, *(n + 1 for n in key)))
        image = lit(self._scenes.frame(key.source, key.scene, key.frame), LIGHTS[key.light], rng)
        if key.cell >= 0:
            kind, severity = CELLS[key.cell]
            image = CORRUPTIONS[kind](image, severity, rng)
        self._preprocessor.write(np.ascontiguousarray(image), "rgb", self._slot)
        seen = look(sketch(self._slot[0]))
        outputs = self._servable.infer(self._slot)
        confidence = classified(self._servable._decoder.scores(outputs.arrays))
        values = {
            name: getattr(confidence if hasattr(confidence, name) else seen, name)
            for name in BINNED
        }
        bins = [SCALES[name].bin(values[name]) for name in BINNED]
        return bins, edge_points(seen), confidence.label, confidence.top1, seen.luma


_looker: _Looker | None = None


def _start(data: Path | None) -> None:
    global _looker  # noqa: PLW0603  # one per worker process
    os.nice(10)
    _looker = _Looker(data)


def _samples(keys: list[Key]) -> list[tuple[list[int], npt.NDArray[np.int64], int, float, float]]:
    assert _looker is not None
    return [_looker.sample(key) for key in keys]


def _chunks(keys: list[Key], size: int) -> Iterable[list[Key]]:
    return (keys[n : n + size] for n in range(0, len(keys), size))


def load(cache: Path, data: Path | None, workers: int) -> Pool:
    """Return the pool, from the cache if it was built before."""
    scenes, model = scenes_and_model(data)
    path = cache / f"pool-{model.stem}.npz"
    if not path.exists():
        keys = all_keys(scenes.sources)
        began_s = time.monotonic()
        with multiprocessing.get_context("spawn").Pool(workers, _start, (data,)) as pool:
            found = []
            for part in pool.imap(_samples, _chunks(keys, 500)):
                found += part
                print(f"\rpool {len(found)} of {len(keys)}", end="", file=sys.stderr, flush=True)
        print(f", {time.monotonic() - began_s:.0f} s", file=sys.stderr)
        bins, edges, label, top1, luma = zip(*found, strict=True)
        cache.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            keys=np.array(keys, np.int32),
            bins=np.array(bins, np.uint8),
            edges=np.array(edges, np.uint8),
            label=np.array(label, np.int32),
            top1=np.array(top1, np.float32),
            luma=np.array(luma, np.float32),
        )
    with np.load(path) as kept:
        return Pool(**{name: kept[name] for name in kept}, sources=scenes.sources)

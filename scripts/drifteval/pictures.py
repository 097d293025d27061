"""Pictures of simulated cameras: scenes, the light of the day, and what can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from edged.scene import BeltScene

Image = npt.NDArray[np.uint8]
WIDTH, HEIGHT = 320, 240
LIGHTS = ("day", "dusk", "night", "lamp")
_GAIN = {"day": 1.0, "dusk": 0.6, "night": 0.3, "lamp": 0.75}
_GRAIN = {"day": 2.0, "dusk": 3.0, "night": 5.0, "lamp": 3.0}


class RealScenes:
    """Crops of photographs: a scene is a place in one of them, its frames a random walk."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(p for p in folder.iterdir() if p.suffix in {".bmp", ".jpg"})
        self._sources = [cv2.imread(str(p))[:, :, ::-1] for p in paths if "mask" not in p.stem]
        self.sources = len(self._sources)

    def frame(self, source: int, scene: int, frame: int) -> Image:
        """Return a frame: uint8, shape (HEIGHT, WIDTH, 3), RGB."""
        picture = self._sources[source]
        rng = np.random.default_rng((7, source, scene))
        size = rng.uniform(0.55, 0.9)
        place, mirrored = rng.uniform(0, 1, 2), rng.random() < 0.5
        for _ in range(frame):
            place = place + rng.normal(0, 0.03, 2)
        height, width = picture.shape[:2]
        h, w = int(height * size), int(width * size)
        y, x = (np.clip(place, 0, 1) * (height - h, width - w)).astype(int)
        part = picture[y : y + h, x : x + w]
        if mirrored:
            part = part[:, ::-1]
        return cv2.resize(np.ascontiguousarray(part), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


class BeltScenes:
    """The bundled scene: a source is a belt with its camera, a scene a place on it."""

    sources = 13

    def frame(self, source: int, scene: int, frame: int) -> Image:
        """Return a frame: uint8, shape (HEIGHT, WIDTH, 3), RGB."""
        return BeltScene(WIDTH, HEIGHT, seed=source + 1, noise=0.0).frame(scene * 32 + frame)


def lit(image: Image, light: str, rng: np.random.Generator) -> Image:
    """Return a frame as the camera shows it in this light, with a little weather and grain."""
    values = image.astype(np.float32) * (_GAIN[light] * rng.uniform(0.92, 1.08))
    if light == "lamp":  # warm, from the left
        values *= np.linspace(1.25, 0.55, WIDTH, dtype=np.float32)[None, :, None]
        values *= np.array((1.1, 1.0, 0.8), np.float32)
    return _grained(values, _GRAIN[light], rng)


def _grained(values: npt.NDArray[np.float32], deviation: float, rng: np.random.Generator) -> Image:
    noise = _grains()[rng.integers(16)][:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    return np.clip(values + noise * deviation, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _grains() -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((16, HEIGHT, WIDTH, 3), np.float32)


# --- what goes wrong: severities 1, 3 and 5 ---------------------------------------------------


def _noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    return _grained(image.astype(np.float32), {1: 10, 3: 25, 5: 60}[severity], rng)


def _blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    return cv2.GaussianBlur(image, (0, 0), {1: 1.0, 3: 2.5, 5: 7.0}[severity])


def _bright(image: Image, severity: int, rng: np.random.Generator) -> Image:
    return cv2.add(image, np.full_like(image, {1: 20, 3: 50, 5: 100}[severity]))


def _dark(image: Image, severity: int, rng: np.random.Generator) -> Image:
    return (image * np.float32({1: 0.75, 3: 0.45, 5: 0.1}[severity])).astype(np.uint8)


def _fog(image: Image, severity: int, rng: np.random.Generator) -> Image:
    share = np.float32({1: 0.2, 3: 0.45, 5: 0.75}[severity])
    cloud = cv2.resize(rng.uniform(0.7, 1.0, (4, 5)).astype(np.float32), (WIDTH, HEIGHT))
    # Fog is lit by what lights the scene.
    white = np.float32(np.percentile(image, 95)) * cloud[:, :, None]
    return np.clip(image * (1 - share) + white * share, 0, 255).astype(np.uint8)


def _occlusion(image: Image, severity: int, rng: np.random.Generator) -> Image:
    share = {1: 0.1, 3: 0.3, 5: 0.6}[severity]
    h, w = int(HEIGHT * share**0.5), int(WIDTH * share**0.5)
    y, x = int((HEIGHT - h) * 0.4), int((WIDTH - w) * 0.6)
    covered = image.copy()
    covered[y : y + h, x : x + w] = int(image.mean() * 0.4)
    return covered


def _smear(image: Image, severity: int, rng: np.random.Generator) -> Image:
    length = {1: 5, 3: 15, 5: 41}[severity]
    return cv2.blur(image, (length, 1))


def _rotation(image: Image, severity: int, rng: np.random.Generator) -> Image:
    turn = cv2.getRotationMatrix2D(
        (WIDTH / 2, HEIGHT / 2), {1: 10.0, 3: 45.0, 5: 180.0}[severity], 1.0
    )
    return cv2.warpAffine(image, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT_101)


def _jpeg(image: Image, severity: int, rng: np.random.Generator) -> Image:
    quality = {1: 30, 3: 10, 5: 3}[severity]
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def _cover(image: Image, severity: int, rng: np.random.Generator) -> Image:
    glow = np.linspace(6, 14, WIDTH, dtype=np.float32)[None, :, None]
    return _grained(np.broadcast_to(glow, image.shape).astype(np.float32), 3.0, rng)


def _washout(image: Image, severity: int, rng: np.random.Generator) -> Image:
    return cv2.add((image * np.float32(0.1)).astype(np.uint8), np.full_like(image, 240))


Corruption = Callable[[Image, int, np.random.Generator], Image]
CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "bright": _bright,
    "dark": _dark,
    "fog": _fog,
    "occlusion": _occlusion,
    "smear": _smear,
    "rotation": _rotation,
    "jpeg": _jpeg,
    "cover": _cover,
    "washout": _washout,
}
TUNED_ON = frozenset({"noise", "blur", "dark", "jpeg", "cover", "freeze"})
"""Kinds that were looked at while the detector's numbers were chosen; the others were held out."""

CELLS = tuple(
    (kind, severity)
    for kind in CORRUPTIONS
    for severity in ((5,) if kind in {"cover", "washout"} else (1, 3, 5))
)

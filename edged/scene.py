"""The sample scene: bottles on a conveyor belt, seen from above.

It stands in for a camera in demonstrations and tests; the bundled model was trained on it.
Everything is a function of its arguments; the caches are bounded and hold read-only arrays.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = ("empty", "fine", "scratched", "no cap")
"""What can stand at the centre of a picture, in the order of the bundled model's output."""

# In picture widths: between two places on the belt; a part whose middle is at most CENTRED from
# the picture's counts as there; with every part at least CLEAR away the centre is empty.
PITCH, CENTRED, CLEAR = 0.8, 0.15, 0.30

Image = NDArray[np.uint8]
_Rgb = tuple[float, float, float]

_ODDS = (0.12, 0.44, 0.22, 0.22)  # relative frequency on the belt, in the order of LABELS
_JITTER, _NOISE_SHIFT_PX = 0.05, 97  # a share of PITCH; how far the grain moves about
_BELTS = ((66, 70, 74), (58, 74, 88), (64, 82, 70), (86, 78, 68))
_BODIES = ((178, 98, 42), (44, 138, 140), (212, 212, 204), (190, 88, 108), (80, 144, 76))
_CAPS = ((236, 236, 230), (50, 52, 56), (206, 58, 48), (232, 188, 52), (56, 110, 196))


@dataclass(frozen=True)
class _Part:
    """One bottle. Lengths are in pixels of a picture 640 x 480, the angle in degrees."""

    label: str
    body: _Rgb
    cap: _Rgb
    paper: float
    angle: float
    across: float
    scratch: tuple[tuple[float, float], ...]
    scratch_width: float


@dataclass(frozen=True)
class BeltScene:
    """A belt that runs from left to right under a camera.

    ``width`` and ``height`` are in pixels. ``lamp`` is the brightness, 0 (dark) to 1.2; changing
    it costs nothing, so ``dataclasses.replace`` may dim it frame by frame. ``speed`` is in
    picture widths per frame; the default suits about 15 frames per second. ``noise`` is the
    standard deviation of the sensor noise in grey levels.
    """

    width: int = 640
    height: int = 480
    seed: int = 1
    lamp: float = 1.0
    speed: float = 0.025
    noise: float = 3.0

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 16 or self.seed < 0:
            raise ValueError("width and height must be at least 16 pixels, seed not negative")
        if not 0.0 <= self.lamp <= 1.2 or self.noise < 0.0:
            raise ValueError("lamp must be within 0 and 1.2, noise not negative")

    def frame(self, n: int) -> Image:
        """Draw frame ``n``: (height, width, 3) uint8, RGB, C-contiguous, the caller's own."""
        travel_px = round(n * self.speed * self.width)
        rng = np.random.default_rng((self.seed, 1, n % 2**32))
        return _render(self, self._parts(travel_px), travel_px, rng)

    def truth(self, n: int) -> str | None:
        """Say what stands at the centre of frame ``n``: one of ``LABELS``.

        None while a part is half way in or out: neither answer would be wrong.
        """
        parts = self._parts(round(n * self.speed * self.width))
        apart = [(abs(x_px / self.width - 0.5), part.label) for part, x_px in parts]
        distance, label = min(apart, default=(1.0, "empty"))
        return label if distance <= CENTRED else "empty" if distance >= CLEAR else None

    def _parts(self, travel_px: int) -> list[tuple[_Part, int]]:
        """List the parts in and near the picture, each with its x in pixels."""
        parts, first = [], math.floor(travel_px / (PITCH * self.width))
        for place in range(first - 1, first + 3):
            rng = np.random.default_rng((self.seed, 0, place % 2**32))
            label = LABELS[int(rng.choice(len(LABELS), p=_ODDS))]
            along = (place + rng.uniform(-_JITTER, _JITTER)) * PITCH - 0.5
            if label != "empty":
                # Rounded apart from the travel, so parts and belt move by the same whole pixels.
                parts.append((_random_part(rng, label), travel_px - round(along * self.width)))
        return parts


def draw_sample(
    rng: np.random.Generator, label: str, width: int, height: int, lamp: float
) -> Image:
    """Draw one picture with ``label`` at its centre, for training and tests.

    Returns (height, width, 3) uint8, RGB, C-contiguous. The draws from ``rng`` do not depend on
    ``label``: equal generators give the same part with and without its fault. A part is up to
    ``CENTRED`` off the centre; neighbours reach in from the sides as they do on the belt.
    """
    if label not in LABELS:
        raise ValueError(f"unknown label {label!r}")
    scene = BeltScene(
        width, height, int(rng.integers(64)), lamp, noise=float(rng.choice((1, 3, 6)))
    )
    # An empty centre is belt between two places, so the first of the three is then off it.
    there, x = label != "empty", 0.5 + rng.uniform(-CENTRED, CENTRED)
    gap = 0.5 - rng.uniform(CLEAR, PITCH - CLEAR)
    parts = []
    for side in (0, 1, -1):
        shift = side * PITCH * (1 + rng.uniform(0, 2) * _JITTER)
        other = LABELS[int(rng.integers(1, len(LABELS)))]
        wanted = there and side == 0
        part = _random_part(rng, label if wanted else other)
        if rng.random() > _ODDS[0] or wanted:
            parts.append((part, round(((x if there else gap) + shift) * width)))
    return _render(scene, parts, int(rng.integers(width)), rng)


def _random_part(rng: np.random.Generator, label: str) -> _Part:
    def shade(colours: tuple[_Rgb, ...]) -> _Rgb:
        rgb = np.array(colours[int(rng.integers(len(colours)))]) * rng.uniform(0.85, 1.1)
        r, g, b = np.clip(rgb + rng.uniform(-12, 12, 3), 20, 245).tolist()
        return r, g, b

    length, direction = rng.uniform(80, 130), math.radians(rng.uniform(15, 165))
    step = length * np.array([math.cos(direction), math.sin(direction)])
    points = rng.uniform((-14, -30), (14, 70)) + np.linspace(-0.5, 0.5, 5)[:, None] * step
    scratch = tuple((float(x), float(y)) for x, y in points + rng.normal(0, 2.5, (5, 2)))
    paper, lean, across, thick = rng.uniform((0.75, -24, -18, 5.0), (1.0, 24, 18, 7.5)).tolist()
    angle = lean + 180 * int(rng.integers(2))
    return _Part(label, shade(_BODIES), shade(_CAPS), paper, angle, across, scratch, thick)


def _render(
    scene: BeltScene, parts: list[tuple[_Part, int]], travel_px: int, rng: np.random.Generator
) -> Image:
    width, height = scene.width, scene.height
    texture, rail, vignette = _belt(scene.seed % len(_BELTS), width, height)
    start = -travel_px % width
    image = texture[:, start : start + width].copy()
    image[: len(rail)], image[height - len(rail) :] = rail, rail[::-1]
    scale = min(width / 640, height / 480)
    for part, x_px in parts:
        side = round(360 * scale)
        left, top = x_px - side // 2, (height - side) // 2 + round(part.across * scale)
        start, stop = max(left, 0), min(left + side, width)
        if start < stop:
            here, cut = image[top : top + side, start:stop], np.s_[:, start - left : stop - left]
            ink, keep = _sprite(part, scale)
            cv2.multiply(here, keep[cut], dst=here, scale=1 / 255)
            cv2.add(here, ink[cut], dst=here)
    cv2.multiply(image, vignette, dst=image, scale=scene.lamp / 255)
    if scene.noise > 0:
        y0, x0 = rng.integers(0, _NOISE_SHIFT_PX, 2)
        grain = _grain(width, height, scene.noise)[y0 : y0 + height, x0 : x0 + width]
        cv2.add(image, grain, dst=image, dtype=cv2.CV_8U)
    return image


def _frozen(array: NDArray[Any], dtype: type = np.uint8) -> NDArray[Any]:
    array = np.ascontiguousarray(array, dtype)
    array.flags.writeable = False  # cached and shared: a write would change later frames
    return array


@lru_cache(maxsize=3)
def _grain(width: int, height: int, noise: float) -> NDArray[np.int16]:
    grain = np.empty((height + _NOISE_SHIFT_PX, width + _NOISE_SHIFT_PX, 3), np.int16)
    rng = np.random.default_rng(0)
    for row in grain:  # at once it would be eight times as much, which the C library may keep
        row[:] = np.rint(rng.normal(0, noise, row.shape))
    return _frozen(grain, np.int16)


@lru_cache(maxsize=len(_BELTS))
def _belt(style: int, width: int, height: int) -> tuple[Image, Image, Image]:
    """Give the texture (H, 2 W, 3), periodic in W; one rail (R, W, 3); the vignette (H, W, 3)."""

    def cloud(sigma_px: float) -> NDArray[Any]:
        # Blurred three times over, so that the left and right edges still meet.
        wide: NDArray[Any] = np.tile(rng.normal(0, 1, (height, width)).astype(np.float32), 3)
        wide = cv2.GaussianBlur(wide, (0, 0), max(sigma_px, 0.3))
        return np.asarray(wide[:, width : 2 * width] / np.std(wide))

    rng, scale = np.random.default_rng(style), min(width / 640, height / 480)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    # Whole periods in one width, else a seam would show where the texture repeats.
    ribs, weave = (np.cos(2 * np.pi * periods * x / width) for periods in (20, 160))
    light = 1 + 0.10 * np.minimum(ribs, 0.2) + 0.03 * weave * np.cos(1.57 * y / scale)
    light += 0.035 * cloud(20 * scale) + 0.05 * cloud(1.2 * scale)
    light *= 1 - 0.35 * np.clip(1.5 * scale - np.abs(x - 0.3 * width - 0.08 * y), 0, 1)
    texture = np.empty((height, 2 * width, 3), np.uint8)
    for row, lit in zip(texture, light, strict=True):
        row[:] = np.clip(np.tile(lit, 2)[:, None] * np.array(_BELTS[style]), 0, 255)

    rail_px = round(26 * scale)
    steel = np.interp(np.linspace(0, 1, rail_px), (0, 0.3, 0.8, 1), (96, 172, 128, 40))
    rail = np.broadcast_to(steel[:, None, None], (rail_px, width, 3)).astype(np.uint8)
    for k in range(8):
        at = (round((k + 0.5) * width * 2), round(rail_px * 7.2))
        cv2.circle(rail, at, round(72 * scale), (70, 70, 72), -1, cv2.LINE_AA, 4)
        cv2.circle(rail, at, round(50 * scale), (190, 190, 194), -1, cv2.LINE_AA, 4)
    away = (x / width - 0.46) ** 2 + (y / height - 0.44) ** 2
    dim = (255 * np.clip(1.03 - 0.75 * away, 0, 1)).astype(np.uint8)
    vignette = np.repeat(dim[..., None], 3, axis=2)
    return _frozen(texture), _frozen(rail), _frozen(vignette)


@lru_cache(maxsize=8)
def _sprite(part: _Part, scale: float) -> tuple[Image, Image]:
    """Paint one bottle: light to add and share of the ground to keep, both (S, S, 3) uint8."""
    side = round(360 * scale)
    turn: NDArray[Any] = cv2.getRotationMatrix2D((75 * scale, 160 * scale), part.angle, 1.0)
    turn[:, 2] += np.array((side / 2 - 75 * scale, side / 2 - 160 * scale))
    *ink, cover = cv2.split(cv2.warpAffine(_upright(part, scale), turn, (side, side)))
    # The lamp stands up and to the left, so the shadow falls down and to the right.
    fall = np.array([[1, 0, 9 * scale], [0, 1, 11 * scale]])
    shadow = cv2.blur(cv2.warpAffine(cover, fall, (side, side)), (max(round(15 * scale), 1),) * 2)
    ground = cv2.bitwise_not(cv2.convertScaleAbs(shadow, alpha=0.6))
    keep = cv2.multiply(cv2.bitwise_not(cover), ground, scale=1 / 255)
    return _frozen(cv2.merge(ink)), _frozen(cv2.merge([keep] * 3))


def _upright(part: _Part, scale: float) -> Image:
    """Paint the bottle standing: (H, W, 4) uint8, RGB already multiplied by the cover A."""
    x = ((np.arange(round(150 * scale), dtype=np.float32) + 0.5) / scale - 75)[None, :]
    y = (160 - (np.arange(round(320 * scale), dtype=np.float32) + 0.5) / scale)[:, None]
    bare, up = part.label == "no cap", y[:, 0]
    half = 62 - 36 * (0.5 - 0.5 * np.cos(np.pi * np.clip((y - 40) / 38, 0, 1)))
    half -= 14 * (1 - np.sqrt(1 - (1 - np.clip((y + 142) / 14, 0, 1)) ** 2))
    thread = half + np.where(y > 90, 2.5 * np.cos(np.pi * (y - 96) / 6), 0)
    half = thread if bare else np.where(y > 86, 36 - 5 * np.clip((y - 134) / 6, 0, 1), half)
    ends = np.clip(np.minimum(y + 142, (124 if bare else 140) - y) * scale + 0.5, 0, 1)
    cover = np.clip((half - np.abs(x)) * scale + 0.5, 0, 1) * ends

    colour = np.empty((up.size, x.size, 3), np.float32)
    cap, paper = np.array(part.cap), np.array((238, 233, 220)) * part.paper
    colour[:] = part.body
    colour[(up > -104) & (up < -4)] = paper
    colour[(up > -24) & (up < -10)] = cap
    for line, reach in ((-44, 34), (-60, 26), (-76, 30)):
        colour[np.ix_(np.abs(up - line) < 2, np.abs(x[0]) < reach)] = paper * 0.62
    colour[up > (116 if bare else 86)] = 25 if bare else cap
    if not bare:
        colour[up > 86] *= (1 - 0.14 * (np.cos(x[0] * 0.9) > 0.3))[:, None]
        colour[(up > 84) & (up < 88)] *= 0.45
    around = np.clip(x / np.maximum(half, 1), -1, 1)
    colour *= (0.42 + 0.62 * np.sqrt(1 - 0.92 * around**2))[..., None]
    # The lamp stays where it is when the bottle turns round, so its gleam changes sides.
    gleam = np.exp(-(((around + 0.4 * math.cos(math.radians(part.angle))) / 0.13) ** 2))
    colour += 74 * gleam[..., None]
    # A scratch is dark with a bright lip, so that it shows on any shade.
    for lip, grey in ((0.55, 250), (0.0, 22)) if part.label == "scratched" else ():
        points = np.add(part.scratch, (75 - lip * part.scratch_width, 160))
        fixed = np.rint(points * scale * 16).astype(np.int32)
        groove = np.zeros(cover.shape, np.uint8)
        for a, b, share in zip(fixed, fixed[1:], (0.6, 1.0, 0.9, 0.7), strict=False):
            thick = max(round(part.scratch_width * share * scale), 1)
            cv2.line(groove, a.tolist(), b.tolist(), (255, 255, 255), thick, cv2.LINE_AA, 4)
        colour += np.float32(0.85 / 255) * groove[..., None] * (grey - colour)
    cover = 255 * cover[..., None]
    return np.dstack([np.clip(colour, 0, 255) * cover / 255, cover]).astype(np.uint8)

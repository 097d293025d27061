"""The sample scene: bottles on a conveyor belt, seen from above.

It stands in for a camera in demonstrations and tests, and it is what the bundled model was
trained on. Everything is a function of its arguments: no clock, no files, no global state but
bounded caches of read-only arrays.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = ("empty", "fine", "scratched", "no cap")
"""What can stand at the centre of a picture, in the order of the bundled model's output."""

PITCH = 0.8
"""Mean distance between two places on the belt, in picture widths."""
CENTRED = 0.15
"""A part whose middle is at most this far from the centre counts as there (picture widths)."""
CLEAR = 0.30
"""The centre is empty when every part's middle is at least this far away (picture widths)."""

Image = NDArray[np.uint8]
_Rgb = tuple[float, float, float]

# Relative frequency of the labels, in the order of LABELS.
_ODDS = (0.12, 0.44, 0.22, 0.22)
_JITTER = 0.05
_BELTS: tuple[_Rgb, ...] = ((66, 70, 74), (58, 76, 92), (64, 84, 70), (86, 78, 68))
_BODIES: tuple[_Rgb, ...] = (
    (178, 98, 42), (44, 138, 140), (212, 212, 204), (58, 82, 150), (80, 144, 76), (190, 92, 112),
)  # fmt: skip
_CAPS: tuple[_Rgb, ...] = (
    (236, 236, 230), (50, 52, 56), (206, 58, 48), (232, 188, 52), (56, 110, 196), (228, 126, 44),
)  # fmt: skip


@dataclass(frozen=True)
class BeltScene:
    """A belt that runs from left to right under a camera.

    ``width`` and ``height`` are in pixels. ``lamp`` is the brightness, 0 (dark) to 1.2; changing
    it costs nothing, so a lamp can be dimmed frame by frame with ``dataclasses.replace``.
    ``speed`` is in picture widths per frame; the default suits about 15 frames per second.
    ``noise`` is the standard deviation of the sensor noise in grey levels.
    """

    width: int = 640
    height: int = 480
    seed: int = 1
    lamp: float = 1.0
    speed: float = 0.025
    noise: float = 3.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn: ``ValueError``."""
        if self.width < 1 or self.height < 1:
            raise ValueError("width and height must be at least 1 pixel")
        if not 0.0 <= self.lamp <= 1.2:  # noqa: PLR2004
            raise ValueError("lamp must be within 0 and 1.2")
        if self.noise < 0:
            raise ValueError("noise must not be negative")

    def frame(self, n: int) -> Image:
        """Draw frame ``n``: (height, width, 3) uint8, RGB, C-contiguous, the caller's own."""
        parts = [(part, x_px) for part, x_px in self._parts(n) if part.label != "empty"]
        rng = np.random.default_rng((self.seed & 0xFFFFFFFF, 1, n & 0xFFFFFFFF))
        return _render(
            parts,
            (self.width, self.height),
            belt=self.seed % len(_BELTS),
            travel_px=round(n * self.speed * self.width),
            lamp=self.lamp,
            noise=self.noise,
            rng=rng,
        )

    def truth(self, n: int) -> str | None:
        """Say what stands at the centre of frame ``n``: one of ``LABELS``.

        None while a part is half way in or out: neither answer would be wrong.
        """
        middle_px = self.width / 2
        near = [
            (abs(x_px - middle_px) / self.width, part.label)
            for part, x_px in self._parts(n)
            if part.label != "empty"
        ]
        distance, label = min(near, default=(1.0, "empty"))
        if distance <= CENTRED:
            return label
        return "empty" if distance >= CLEAR else None

    def _parts(self, n: int) -> "list[tuple[_Part, int]]":
        """List the places on the belt near the picture, each with its x in pixels."""
        travel_px = round(n * self.speed * self.width)
        first = int(travel_px / self.width / PITCH)
        found = []
        for place in range(first - 2, first + 3):
            rng = np.random.default_rng((self.seed & 0xFFFFFFFF, 0, place & 0xFFFFFFFF))
            label = LABELS[int(rng.choice(len(LABELS), p=_ODDS))]
            along = (place + rng.uniform(-_JITTER, _JITTER)) * PITCH - 0.5
            # Rounded apart from the travel: parts and belt then move by the same whole pixels.
            found.append((_random_part(rng, label), travel_px - round(along * self.width)))
        return found


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
    part = _random_part(rng, label)
    x = 0.5 + rng.uniform(-CENTRED, CENTRED)
    gap = 0.5 + rng.uniform(CLEAR, PITCH - CLEAR)
    at = gap if label == "empty" else x + PITCH * rng.uniform(1 - 2 * _JITTER, 1 + 2 * _JITTER)
    parts = [] if label == "empty" else [(part, round(x * width))]
    for x_neighbour in (at, at - (PITCH if label == "empty" else 2 * PITCH)):
        neighbour = _random_part(rng, LABELS[int(rng.integers(1, len(LABELS)))])
        if rng.random() > _ODDS[0]:
            parts.append((neighbour, round(x_neighbour * width)))
    belt, travel_px = int(rng.integers(len(_BELTS))), int(rng.integers(width))
    noise = float(rng.choice((1.0, 3.0, 6.0)))
    return _render(
        parts, (width, height), belt=belt, travel_px=travel_px, lamp=lamp, noise=noise, rng=rng
    )


@dataclass(frozen=True)
class _Part:
    """One bottle. Lengths are in pixels of a picture 640 x 480, angles in degrees."""

    label: str
    body: _Rgb
    cap: _Rgb
    angle: float
    across: float
    sticker: float
    scratch: tuple[tuple[float, float], ...]
    scratch_width: float


def _random_part(rng: np.random.Generator, label: str) -> _Part:
    def shade(colours: tuple[_Rgb, ...]) -> _Rgb:
        base = np.array(colours[int(rng.integers(len(colours)))])
        r, g, b = np.clip(base * rng.uniform(0.85, 1.1) + rng.uniform(-12, 12, 3), 20, 245)
        return float(r), float(g), float(b)

    length, direction = rng.uniform(70, 125), np.radians(rng.uniform(-75, 75) + 90)
    step = np.array([np.cos(direction), np.sin(direction)]) * length
    middle = np.array([rng.uniform(-14, 14), rng.uniform(-30, 70)])
    along = np.linspace(-0.5, 0.5, 5)[:, None]
    points = middle + along * step + rng.normal(0, 2.5, (5, 2))
    return _Part(
        label=label,
        body=shade(_BODIES),
        cap=shade(_CAPS),
        angle=float(rng.uniform(-24, 24) + 180 * rng.integers(2)),
        across=float(rng.uniform(-18, 18)),
        sticker=float(rng.uniform(0.75, 1.0)),
        scratch=tuple((float(x), float(y)) for x, y in points),
        scratch_width=float(rng.uniform(4.0, 6.5)),
    )


def _render(
    parts: list[tuple[_Part, int]],
    size: tuple[int, int],
    *,
    belt: int,
    travel_px: int,
    lamp: float,
    noise: float,
    rng: np.random.Generator,
) -> Image:
    width, height = size
    texture, rails, vignette = _belt(belt, width, height)
    start = -travel_px % width
    image = texture[:, start : start + width].copy()
    rail = len(rails)
    image[:rail], image[height - rail :] = rails, rails[::-1]
    scale = min(width / 640, height / 480)
    for part, x_px in parts:
        ink, keep = _sprite(part, scale)
        left = x_px - ink.shape[1] // 2
        top = height // 2 + round(part.across * scale) - ink.shape[0] // 2
        x0, x1 = max(left, 0), min(left + ink.shape[1], width)
        y0, y1 = max(top, 0), min(top + ink.shape[0], height)
        if x0 < x1 and y0 < y1:
            here, cut = image[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            image[y0:y1, x0:x1] = cv2.add(cv2.multiply(here, keep[cut], scale=1 / 255), ink[cut])
    image = np.asarray(cv2.multiply(image, vignette, scale=lamp / 255), np.uint8)
    if noise > 0:
        dy, dx = rng.integers(0, _NOISE_SHIFT_PX, 2)
        grain = _grain(width, height, noise)[dy : dy + height, dx : dx + width]
        image = np.asarray(cv2.add(image, grain, dtype=cv2.CV_8U), np.uint8)
    return image


_NOISE_SHIFT_PX = 97


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False  # cached and shared: a write would change later frames
    return array


@lru_cache(maxsize=2)
def _grain(width: int, height: int, noise: float) -> NDArray[np.int16]:
    shape = (height + _NOISE_SHIFT_PX, width + _NOISE_SHIFT_PX, 3)
    grain = np.random.default_rng(0).normal(0, noise, shape)
    return _frozen(np.rint(grain).astype(np.int16))


@lru_cache(maxsize=len(_BELTS))
def _belt(belt: int, width: int, height: int) -> tuple[Image, Image, Image]:
    """Give the texture (H, 2 W, 3), periodic in W; one rail (R, W, 3); the vignette (H, W, 3)."""
    rng = np.random.default_rng(belt)
    scale = min(width / 640, height / 480)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    # Whole periods in one width, else a seam would show where the texture repeats.
    ribs = np.cos(2 * np.pi * 20 * x / width)
    weave = np.cos(2 * np.pi * 160 * x / width) * np.cos(2 * np.pi * y / max(4 * scale, 2))
    soft = _wrapped_blur(rng.normal(0, 1, (height, width)), 14 * scale)
    streak = _wrapped_blur(rng.normal(0, 1, (height, width)), 1.2 * scale)
    light = 1 + 0.10 * np.clip(ribs, -1, 0.2) + 0.03 * weave + 0.09 * soft + 0.05 * streak
    seam = np.clip(1.5 * scale - np.abs(x - 0.3 * width - 0.08 * y), 0, 1)
    texture = (light * (1 - 0.35 * seam))[..., None] * np.array(_BELTS[belt])
    texture = np.clip(texture, 0, 255).astype(np.uint8)

    rail_px = round(26 * scale)
    steel = np.interp(np.arange(rail_px) / max(26 * scale, 1), (0, 0.3, 0.8, 1), (96, 172, 128, 40))
    rails = np.repeat(steel[:, None], width, axis=1)[..., None] * np.array([0.97, 1.0, 1.04])
    rails = np.clip(rails, 0, 255).astype(np.uint8)
    for k in range(8 if rail_px else 0):
        at = (round((k + 0.5) * width / 8 * 16), round(rail_px * 0.45 * 16))
        for r, grey in ((4.5, 70), (3.2, 150)):
            cv2.circle(rails, at, round(r * scale * 16), (grey,) * 3, -1, cv2.LINE_AA, shift=4)

    away = ((x - 0.46 * width) / width) ** 2 + ((y - 0.44 * height) / height) ** 2
    vignette = np.repeat((255 * np.clip(1.03 - 0.75 * away, 0, 1))[..., None], 3, axis=2)
    return (
        _frozen(np.concatenate([texture, texture], axis=1)),
        _frozen(rails),
        _frozen(np.rint(vignette).astype(np.uint8)),
    )


def _wrapped_blur(image: NDArray[Any], sigma_px: float) -> NDArray[Any]:
    """Blur so that left and right edges still meet, then scale to unit deviation."""
    width = image.shape[1]
    wide = cv2.GaussianBlur(np.tile(image, 3), (0, 0), max(sigma_px, 0.3))[:, width : 2 * width]
    return np.asarray(wide / max(float(wide.std()), 1e-9))


@lru_cache(maxsize=8)
def _sprite(part: _Part, scale: float) -> tuple[Image, Image]:
    """Paint one bottle: light to add and share of the ground to keep, both (S, S, 3) uint8."""
    colour, mask = _upright(part, scale)
    side = max(round(360 * scale), 2)
    turn = cv2.getRotationMatrix2D((mask.shape[1] / 2, mask.shape[0] / 2), part.angle, 1.0)
    turn[:, 2] += (side - mask.shape[1]) / 2, (side - mask.shape[0]) / 2
    ink = cv2.warpAffine(colour * mask[..., None], turn, (side, side))
    mask = cv2.warpAffine(mask, turn, (side, side))
    # The lamp stands up and to the left, so the shadow falls down and to the right.
    fall = np.array([[1, 0, 9 * scale], [0, 1, 11 * scale]])
    shadow = cv2.blur(cv2.warpAffine(mask, fall, (side, side)), (max(round(15 * scale), 1),) * 2)
    keep = (1 - mask) * (1 - 0.6 * shadow)
    keep_rgb = np.repeat(np.rint(255 * keep)[..., None], 3, axis=2)
    return (
        _frozen(np.clip(np.rint(ink), 0, 255).astype(np.uint8)),
        _frozen(keep_rgb.astype(np.uint8)),
    )


def _upright(part: _Part, scale: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Paint the bottle standing upright: colour (H, W, 3), 0..255, and mask (H, W), 0..1."""
    rows, columns = max(round(320 * scale), 2), max(round(150 * scale), 2)
    x = ((np.arange(columns, dtype=np.float32) + 0.5) / scale - 75)[None, :]
    y = (160 - (np.arange(rows, dtype=np.float32) + 0.5) / scale)[:, None]
    foot = np.clip((y + 142) / 14, 0, 1)
    ease = 0.5 - 0.5 * np.cos(np.pi * np.clip((y - 40) / 38, 0, 1))
    half = 62 - 36 * ease - 14 * (1 - np.sqrt(1 - (1 - foot) ** 2))
    bare = part.label == "no cap"
    if bare:
        half = half + np.where(y > 90, 2.5 * np.cos(np.pi * (y - 96) / 6), 0)
    else:
        half = np.where(y > 86, 36 - 5 * np.clip((y - 134) / 6, 0, 1), half)
    mask = np.clip((half - np.abs(x)) * scale + 0.5, 0, 1)
    mask = mask * np.clip((np.minimum(y + 142, (124 if bare else 140) - y)) * scale + 0.5, 0, 1)

    colour = np.broadcast_to(np.array(part.body, np.float32), (rows, columns, 3)).copy()
    flat = y[:, 0]
    paper = np.array((238, 233, 220), np.float32) * part.sticker
    colour[(flat > -104) & (flat < -4)] = paper
    colour[(flat > -24) & (flat < -10)] = part.cap
    for line, reach in ((-44, 34), (-60, 26), (-76, 30)):
        colour[np.ix_(np.abs(flat - line) < 2, np.abs(x[0]) < reach)] = paper * 0.62
    if bare:
        colour[flat > 116] = (26, 24, 24)
    else:
        ribs = 1 - 0.14 * (np.cos(x[0] * 0.9) > 0.3)
        colour[flat > 86] = np.array(part.cap, np.float32) * ribs[:, None]
        colour[(flat > 84) & (flat < 88)] *= 0.45
    across = np.clip(x / np.maximum(half, 1), -1, 1)
    lit = across + 0.4 * np.cos(np.radians(part.angle))
    colour *= (0.42 + 0.62 * np.sqrt(1 - 0.92 * across**2))[..., None]
    colour += (74 * np.exp(-((lit / 0.13) ** 2)))[..., None]
    if part.label == "scratched":
        _scratch(colour, part, scale)
    return np.clip(colour, 0, 255), mask.astype(np.float32)


def _scratch(colour: NDArray[np.float32], part: _Part, scale: float) -> None:
    """Cut a groove into ``colour``: dark with a bright lip, so it shows on any shade."""
    for offset, grey, share in ((1.0, 245.0, 0.55), (0.0, 18.0, 1.0)):
        points = np.array(part.scratch) + (-offset * part.scratch_width * 0.6, 0)
        points = np.stack([points[:, 0] + 75, 160 + points[:, 1]], axis=1) * scale
        fixed = np.rint(points * 16).astype(np.int32)
        groove = np.zeros(colour.shape[:2], np.uint8)
        thick = max(round(part.scratch_width * share * scale), 1)
        cv2.polylines(groove, [fixed], False, 255, thick, cv2.LINE_AA, shift=4)
        cover = groove.astype(np.float32)[..., None] / 255
        colour += cover * (grey - colour) * 0.85

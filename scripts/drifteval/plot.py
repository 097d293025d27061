"""Delays as a picture: a dot for each camera, a line at the goal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from drifteval import trials
from drifteval.tables import GOALS, goal, name

_ROW, _LEFT, _UNIT, _TOP = 34, 190, 60, 60
_MOST = 12
_BLACK, _GREY, _BLUE, _RED = (30, 30, 30), (210, 210, 210), (190, 110, 30), (60, 60, 220)


def draw(found: Sequence[trials.Found], path: Path) -> None:
    """Write a PNG: decision windows until the alarm, for the corruptions that have a goal."""
    height, width = _TOP + _ROW * len(GOALS) + 50, _LEFT + _UNIT * (_MOST + 1) + 40
    image = np.full((height, width, 3), 255, np.uint8)
    title = f"decision windows (hours) until the alarm; {len(found)} cameras each; red: goal"
    _write(image, title, (20, 30))
    for window in range(1, _MOST + 2):
        x = _LEFT + _UNIT * (window - 1)
        cv2.line(image, (x, _TOP), (x, height - 50), _GREY, 1)
        _write(image, str(window) if window <= _MOST else "later", (x - 5, height - 25))
    for row, cell in enumerate(GOALS):
        y = _TOP + _ROW * row + _ROW // 2
        _write(image, name(cell).replace("°", " deg"), (20, y + 5))
        at = _LEFT + _UNIT * (int(goal(cell).split()[-1]) - 1) + _UNIT // 2
        cv2.line(image, (at, y - 12), (at, y + 12), _RED, 2, cv2.LINE_AA)
        delays = sorted(one.delays[(*cell, False)] or _MOST + 1 for one in found)
        for n, delay in enumerate(delays):
            # Cameras with the same delay lie beside each other.
            x = _LEFT + _UNIT * (min(delay, _MOST + 1) - 1) - 20 + n % 20 * 2
            cv2.circle(image, (x, y - 4 + n // 20 % 2 * 8), 3, _BLUE, -1, cv2.LINE_AA)
    cv2.imwrite(str(path), image)


def _write(image: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.48, _BLACK, 1, cv2.LINE_AA)

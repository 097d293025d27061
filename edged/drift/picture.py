"""A camera's report as a picture: histograms beside each other, scores over time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from edged.drift.histogram import Counts
from edged.drift.report import CameraReport
from edged.frame import Image

_ROW, _LEFT, _HISTOGRAM, _COURSE, _GAP, _HEAD = 92, 130, 330, 480, 30, 74
_WHITE, _INK, _BEFORE, _NOW = (255, 255, 255), (40, 40, 40), (190, 190, 190), (40, 90, 220)


def draw(report: CameraReport) -> bytes:
    """Return the report as PNG: grey is the reference, red is now."""
    rows = list(report.signals.items())
    height, width = _HEAD + _ROW * len(rows) + 10, _LEFT + _HISTOGRAM + _GAP + _COURSE + _GAP
    image: Image = np.full((height, width, 3), _WHITE, np.uint8)
    subject = report.subject
    title = f"{subject.camera}: {subject.model} {subject.version}, {report.windows} windows"
    _write(image, title, 10, 24, 0.6)
    _write(image, f"compared with {report.compared or 'nothing yet'}", 10, 44, 0.42)
    _write(image, "grey: reference, red: the last hour", _LEFT, 60, 0.42)
    _write(image, "distance by the hour, 0 to 1", _LEFT + _HISTOGRAM + _GAP, 60, 0.42)
    for number, (name, one) in enumerate(rows):
        top = _HEAD + number * _ROW
        _write(image, name, 10, top + 34, 0.5)
        _write(image, f"JS {one.distance:.3f}", 10, top + 54, 0.4)
        _write(image, f"PSI {one.psi:.2f} ({one.psi_noise:.2f})", 10, top + 70, 0.4)
        _histogram(image, one.reference, top, _BEFORE, -1)
        _histogram(image, one.now, top, _NOW, 2)
        _course(image, one.course, _LEFT + _HISTOGRAM + _GAP, top)
    return cv2.imencode(".png", image)[1].tobytes()


def _histogram(
    image: Image, counts: Counts, top: int, colour: tuple[int, int, int], thickness: int
) -> None:
    shares = counts / max(int(counts.max()), 1)
    bar, floor = _HISTOGRAM // counts.size, top + _ROW - 12
    for place, share in enumerate(shares.tolist()):
        x, y = _LEFT + place * bar, floor - round(share * (_ROW - 20))
        cv2.rectangle(image, (x, y), (x + bar - 2, floor), colour, thickness)


def _course(image: Image, scores: Sequence[float], left: int, top: int) -> None:
    floor, high = top + _ROW - 12, _ROW - 20
    cv2.rectangle(image, (left, floor - high), (left + _COURSE, floor), _BEFORE, 1)
    step = _COURSE / max(len(scores) - 1, 1)
    points = [(left + round(n * step), floor - round(s * high)) for n, s in enumerate(scores)]
    cv2.polylines(image, [np.array(points, np.int32)], False, _NOW, 2, cv2.LINE_AA)
    cv2.circle(image, points[-1], 3, _NOW, -1, cv2.LINE_AA)  # seen where there is one hour only


def _write(image: Image, text: str, x: int, y: int, size: float) -> None:
    cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)

"""What a person is shown: the camera's own reference at the same time of day, against now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from sim.drift import SUBJECT, hour, night, tally, week

from edged.drift.histogram import SCALES
from edged.drift.keeping import digest_of
from edged.drift.picture import draw
from edged.drift.reference import Reference
from edged.drift.report import CameraReport, report_lines, reports
from edged.drift.shelf import Shelf
from edged.drift.window import Subject, Tally, Window
from edged.models.files import Files

RNG = np.random.default_rng(6)
WEEK = week()
BLACK = {"luma": (4.0, 2.0), "contrast": (2.0, 1.0), "sharpness": (0.5, 0.5)}


@dataclass
class Known:
    """What a device knows of the camera."""

    hours: Reference
    images: Tally | None = None

    def reference(self, subject: Subject) -> Reference:
        assert subject == SUBJECT
        return self.hours

    def validation(self, subject: Subject) -> Tally | None:
        assert subject == SUBJECT
        return self.images


def shown(windows: list[Window], reference: Reference, images: Tally | None = None) -> CameraReport:
    (report,) = reports(windows, Known(reference, images))
    return report


def later(*numbers: int, **changed: tuple[float, float]) -> list[Window]:
    return [hour(168 + n, tally(RNG, 400, {**night(n), **changed})) for n in numbers]


def test_hours_are_compared_with_the_same_time_of_day() -> None:
    report = shown(later(0, 6, 12, 18), Reference(tuple(WEEK)))
    luma = report.signals["luma"]

    assert max(luma.course) < 0.3  # dawn and dusk have both
    assert luma.course[2] < 0.05
    assert luma.reference.sum() == 7 * 3 * 400
    assert "168 hours on 7 days, the camera's reference" in report.compared


def test_what_has_changed_is_far_and_said_in_every_form() -> None:
    report = shown(later(11) + later(12, **BLACK), Reference(tuple(WEEK)))
    luma = report.signals["luma"]
    standing = {"state": "drift", "reasons": [{"kind": "black", "detail": "dark\x1b[2J"}]}
    lines = report_lines(report, standing)

    assert luma.course[0] < 0.05
    assert luma.distance == luma.course[1] > 0.8
    assert report.signals["tilt_x"].distance < 0.05
    assert lines[0].startswith("front: drift (birds 1.0.0")
    assert "  dark?[2J" in lines
    assert "  Seen: `edged drift acknowledge front`." in lines
    assert max(map(len, lines)) < 150
    picture = cv2.imdecode(np.frombuffer(draw(report), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    told = report.to_dict()
    assert told["compared"] == report.compared
    assert told["signals"].keys() == SCALES.keys()  # type: ignore[attr-defined]


def test_before_there_is_a_reference_the_first_hours_are_shown() -> None:
    report = shown(later(10, 11) + later(12, **BLACK), Reference())
    assert report.compared == "the first 2 hours on the disk, as there is no reference yet"
    assert report.signals["luma"].distance > 0.8


def test_one_hour_alone_is_compared_with_nothing() -> None:
    report = shown(later(12), Reference())
    assert report.compared == ""
    assert "compared with nothing" in "\n".join(report_lines(report, None))


def test_the_report_reads_a_damaged_reference_and_changes_nothing(tmp_path: Path) -> None:
    shelf, digest = Shelf(tmp_path, Files()), digest_of(SUBJECT)
    assert shelf.read("front", digest).hours == ()
    shelf.put_reference("front", digest, Reference(tuple(WEEK)))
    (path,) = (tmp_path / "drift").iterdir()
    path.write_bytes(path.read_bytes()[:-50])
    before = path.read_bytes()

    assert len(shelf.read("front", digest).hours) == 167

    assert [one.name for one in (tmp_path / "drift").iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_validation_images_are_a_column_of_their_own_and_nothing_else() -> None:
    images = tally(RNG, 300, {"luma": (220.0, 5.0)})
    plain = shown(later(10, 11), Reference(tuple(WEEK)))
    report = shown(later(10, 11), Reference(tuple(WEEK)), images)

    assert report.compared == plain.compared
    assert report.signals["luma"].distance < 0.05
    assert (report.from_validation("luma") or 0.0) > 0.8
    assert (report.from_validation("top1") or 1.0) < 0.05
    assert plain.from_validation("luma") is None
    lines = "\n".join(report_lines(report, None))
    assert "distance from 300 validation images; informs only" in lines
    assert "valid" not in "\n".join(report_lines(plain, None))
    assert report.to_dict()["validation_images"] == 300

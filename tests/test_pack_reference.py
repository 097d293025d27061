"""Validation images in a package: packed by the operator, shown on the device, asked by nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import golden as sim_golden
from sim import models, packages
from sim.drift import SUBJECT, tally, window

from edged.cli import main
from edged.drift.records import encode_validation, parse_validation
from edged.drift.ring import Ring
from edged.errors import DriftError, PackError
from edged.models.files import Files
from edged.models.package import read_package, unpack
from edged.operator.pack import Choices, Packed, pack

PIXELS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0), "dark": (0, 0, 0)}


def images(folder: Path) -> Path:
    for colour, pixel in PIXELS.items():
        (folder / colour).mkdir(parents=True)
        for number in range(3):
            picture = np.full((48, 64, 3), pixel, np.uint8)
            picture[: 4 * number] = 128
            cv2.imwrite(str(folder / colour / f"{number}.png"), picture)
    return folder


def packed(folder: Path, reference: Path | None) -> Packed:
    data = models.with_metadata(models.classifier("uint8"), sim_golden.COLOURS)
    return pack(
        models.write(folder / "colours.tflite", data),
        name="colours",
        version="1.4.0",
        golden_dir=images(folder / "golden"),
        output=folder / "colours.zip",
        choices=Choices(reference_dir=reference),
    )


def test_a_package_carries_how_the_model_sees_validation_images(tmp_path: Path) -> None:
    reference = images(tmp_path / "validation")
    (reference / ".hidden").write_bytes(b"no image")
    made = packed(tmp_path, reference)

    package = read_package(made.path)
    found = parse_validation(package.read("reference.json"))

    assert made.manifest.files["reference.json"].bytes == len(package.read("reference.json"))
    assert found.sampled == 12
    assert all(found.histograms[name].sum() == 12 for name in ("top1", "luma", "tilt_x"))
    assert found.histograms["luma"][0] == 6  # blue and dark have no green
    assert encode_validation(found) == package.read("reference.json")


@pytest.mark.parametrize(("wrong", "reason"), [
    ("empty", "reference_no_images"), ("text", "reference_unreadable"),
])  # fmt: skip
def test_a_folder_without_images_packs_nothing(tmp_path: Path, wrong: str, reason: str) -> None:
    folder = tmp_path / "validation"
    folder.mkdir()
    if wrong == "text":
        (folder / "notes.txt").write_text("no image")
    with pytest.raises(PackError) as caught:
        packed(tmp_path, folder)
    assert caught.value.reason == reason
    assert not (tmp_path / "colours.zip").exists()


@pytest.mark.parametrize("change", [
    {"schema": 2}, {"edges": "e9"}, {"images": 0}, {"histograms": {"mood": {"0": 1}}},
    {"histograms": {"top1": {"32": 1}}}, {"histograms": {"top1": {"3": -1}}}, {"histograms": []},
])  # fmt: skip
def test_histograms_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    good = orjson.loads(encode_validation(tally(np.random.default_rng(1), 50)))
    with pytest.raises(DriftError):
        parse_validation(orjson.dumps(good | change))


def test_a_device_shows_them_beside_its_own(tmp_path: Path, capsys) -> None:
    made = packed(tmp_path, images(tmp_path / "validation"))
    state = tmp_path / "state"
    version = state / "models" / "colours" / "1.4.0"
    version.mkdir(parents=True)
    unpack(read_package(made.path), version, packages.PlainStorage())
    ring, subject = Ring(state, Files()), replace(SUBJECT, model="colours", version="1.4.0")
    for seq in range(1, 15):
        ring.append(window(tally(np.random.default_rng(seq), 60), seq=seq, subject=subject))
    config = tmp_path / "edged.toml"
    config.write_text(
        f'state_dir = "{state}"\nruntime_dir = "{tmp_path}/run"\n[[model]]\nname = "colours"\n'
        'factory = "belt"\n[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "colours"\n'
    )

    assert main(["drift", "report", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "distance from 12 validation images; informs only" in shown
    assert main(["drift", "report", "--json", "--config", str(config)]) == 0
    (camera,) = json.loads(capsys.readouterr().out)["cameras"]
    assert camera["validation_images"] == 12
    assert camera["signals"]["contrast"]["validation_distance"] > 0.3
    assert "standing" in camera
    (version / "reference.json").write_bytes(b"{}")  # damaged: left out, said, and no more
    assert main(["drift", "report", "--config", str(config)]) == 0
    assert "validation" not in capsys.readouterr().out

"""`edgectl model`: pack, look into, try."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim import badmodels, models

from edged.models.manifest import Requires, Tolerance, TrialTerms
from edged.models.package import read_package
from edged.operator.cli import main

PIXELS = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}  # BGR


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    models.write(tmp_path / "m.tflite", models.classifier())
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))
    for label, pixel in PIXELS.items():
        (tmp_path / "golden" / label).mkdir(parents=True)
        image = np.full((40, 40, 3), pixel, np.uint8)
        cv2.imwrite(str(tmp_path / "golden" / label / "a.png"), image)
    return tmp_path


PACK = [
    "model", "pack", "m.tflite", "--name", "colours", "--version", "1.2.0", "--labels",
    "labels.txt", "--golden", "golden", "-o", "colours.zip",
]  # fmt: skip


def test_a_package_is_made_looked_into_tried_and_published(desk, capsys) -> None:
    assert main(PACK) == 0
    assert "5/5 agree" in capsys.readouterr().out

    assert main(["model", "inspect", "colours.zip"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("colours 1.2.0, classification, made 20")
    assert "1 x 32 x 32 x 3 uint8, rgb, stretch" in shown
    assert "golden    5 samples by litert" in shown
    assert main(["model", "inspect", "colours.zip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"] == 4

    assert main(["model", "check", "colours.zip"]) == 0
    assert "fine" in capsys.readouterr().out
    assert main(["repo", "init", "repo"]) == 0
    assert main(["repo", "publish", "repo", "colours.zip"]) == 0
    assert (desk / "repo" / "targets").is_dir()


def test_folders_that_the_model_contradicts_are_named(desk, capsys) -> None:
    (desk / "golden/red/b.png").write_bytes((desk / "golden/blue/a.png").read_bytes())

    assert main(PACK) == 1
    error = capsys.readouterr().err
    assert "golden/red/b.png shows red, and the model says blue" in error
    assert "Traceback" not in error
    assert not (desk / "colours.zip").exists()


@pytest.mark.parametrize(
    ("make", "signal"),
    [
        (badmodels.segfault_at_load, "SIGSEGV"),
        (lambda: badmodels.harm_when_bright(0.9), "SIGABRT"),  # at an image only
    ],
)
def test_a_model_that_crashes_what_runs_it_is_refused(desk, capsys, make, signal) -> None:
    models.write(desk / "m.tflite", make())

    assert main(PACK) == 1
    error = capsys.readouterr().err
    assert f"ended the process that ran it: {signal}. (validation_crashed)" in error
    assert "Traceback" not in error
    assert [path.name for path in desk.iterdir() if "colours" in path.name] == []


def test_what_the_operator_says_is_in_the_manifest(desk, capsys) -> None:
    (desk / "notice").write_text("do as you like\n")
    said = [
        *("--trial-frames", "45", "--trial-seconds", "7", "--p95-ratio", "2.5"),
        *("--max-disagreement", "0.25", "--memory", "30M", "--accelerator", "cpu"),
        *("--require-runtime", "litert>=1.0", "--require-runtime", "tflite>=2.9"),
        *("--tolerance", "litert=4", "--tolerance", "edgetpu=7", "--images", "2"),
        *("--license", "notice"),
    ]
    assert main([*PACK, *said]) == 0
    capsys.readouterr()

    package = read_package(desk / "colours.zip")
    manifest = package.manifest
    assert manifest.trial == TrialTerms(45, 7, 2.5, 0.25)
    runtimes = {"litert": ">=1.0", "tflite": ">=2.9"}
    assert manifest.requires == Requires("cpu", runtimes, 30_000_000)
    assert manifest.golden.tolerance == Tolerance(litert=4, tflite=6, edgetpu=7)
    assert manifest.golden.samples == 4
    assert package.read("LICENSE") == b"do as you like\n"
    main(["model", "inspect", "colours.zip"])
    shown = capsys.readouterr().out
    assert "needs     litert >=1.0, tflite >=2.9, 30,000,000 bytes of memory" in shown
    assert "at least 45 frames, 7 s; at most 2.5 times the time, disagreement 0.25" in shown


def test_help_names_every_option(capsys) -> None:
    assert main(["model", "pack", "--help"]) == 0
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[1] / "docs/packages.md").read_text()
    for option in (
        *("--trial-frames", "--trial-seconds", "--p95-ratio", "--max-disagreement", "--memory"),
        *("--require-runtime", "--accelerator", "--tolerance", "--mean", "--std", "--images"),
        *("--runtime", "--license", "--readme"),
    ):
        assert f"{option} " in shown
        assert option in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["model"], 2, "COMMAND"),
        (["model", "pack", "m.tflite"], 2, "--name"),
        ([*PACK[:4], "A b", *PACK[5:]], 1, "pack_name_invalid"),
        ([*PACK[:6], "1.2", *PACK[7:]], 1, "pack_version_invalid"),
        ([*PACK[:2], "none.tflite", *PACK[3:]], 1, "model_missing"),
        ([*PACK, "--trial-frames", "-1"], 2, "from 0 to 1e+07"),
        ([*PACK, "--p95-ratio", "nan"], 2, "from 1 to 1000"),
        ([*PACK, "--max-disagreement", "50"], 2, "from 0 to 1"),
        ([*PACK, "--memory", "30MB"], 2, "no size such as"),
        ([*PACK, "--memory", "2000G"], 2, "no size such as"),
        ([*PACK, "--tolerance", "litert=65"], 2, "from 0 to 64"),
        ([*PACK, "--tolerance", "gpu=6"], 2, "none of litert"),
        ([*PACK, "--require-runtime", "litert=1.0"], 2, "not such as litert>=1.0"),
        ([*PACK, "--mean", "1,x", "--std", "1"], 2, "'x' is no number"),
        ([*PACK, "--mean", "127"], 1, "manifest_invalid"),
        (["model", "inspect", "m.tflite"], 1, "package_not_zip"),
        (["model", "check", "none.zip"], 1, "package_unreadable"),
    ],
)
def test_what_goes_wrong_is_said(desk, capsys, arguments, code, words) -> None:
    assert main(arguments) == code
    output = capsys.readouterr()
    assert words in output.err + output.out
    assert "Traceback" not in output.err

"""Models for an Edge TPU over the air: real daemon, broker and repository, a stand-in for the TPU.

No second process may open an Edge TPU that is in use, so the golden set is the first act of the
trial, in the service itself.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from sim import golden, models, packages
from sim.broker import MOSQUITTO, wait_for
from sim.delegate import LOG_VARIABLE, MODE_VARIABLE, answers, delegate_or_skip
from sim.desk import COLOURS, Desk
from sim.device import Device, P
from test_updates import latest, predictions, result_of, results, runs, states, want

from edged.config import ModelConfig
from edged.models.golden import Golden, write_golden
from edged.models.manifest import parse_manifest
from edged.models.package import write_package
from edged.models.validation import Limits, validate

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

MODEL = models.edgetpu_custom_op()
INPUTS = golden.colour_inputs(dtype="uint8")


@pytest.fixture
def mode(tmp_path: Path) -> Path:
    """The file that says how the next Edge TPU to be opened behaves."""
    path = tmp_path / "mode"
    path.write_text("ok")
    return path


@pytest.fixture
def device(make: Callable[..., Device], broker, desk, mode, tmp_path) -> Device:
    library = delegate_or_skip(tmp_path)
    factory = models.write(tmp_path / "m_edgetpu.tflite", MODEL)
    (tmp_path / "labels.txt").write_text("\n".join(COLOURS))
    body = (
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\naccelerator = "edgetpu"\n'
        f'labels = "{tmp_path}/labels.txt"\ninvoke_limit_s = 0.5\n'
        '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 60\n'
    )
    environment = {MODE_VARIABLE: f"@{mode}", "WATCHDOG_USEC": "2000000"}
    top = f'edgetpu_library = "{library}"'
    return make(broker.port, body, top=top, verbose=True, environment=environment)


def contents(
    *,
    off_by: int = 0,
    inputs: np.ndarray = INPUTS,
    classes: int = 4,
    labels: tuple[str, ...] = COLOURS,
) -> tuple[dict[str, bytes], dict[str, object]]:
    """Files and manifest of a package for the Edge TPU only; its answers are off by some steps."""
    files = {
        "model_edgetpu.tflite": MODEL,
        "golden.npz": write_golden(
            Golden((inputs,), (answers(inputs, classes) + np.uint8(off_by),))
        ),
        "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
    }
    facts = packages.facts(files) | {
        "name": "m",
        "input": {"shape": [1, 32, 32, 3], "dtype": "uint8"},
        "labels": len(labels),
        "requires": {"accelerator": "edgetpu"},
        "golden": {"samples": len(inputs), "made_with": "the formula"},
    }
    return files, facts


def publish(desk: Desk, version: str, *, off_by: int = 0) -> None:
    """Sign in a package."""
    files, facts = contents(off_by=off_by)
    path = desk.folder / f"m-{version}.zip"
    with path.open("wb") as file:
        said = packages.encoded(facts | {"version": version})
        write_package(file, parse_manifest(said), files)
    desk.repo.publish(path, "m", version)


def marks(subscriber) -> list[tuple[str, str]]:
    said = orjson.loads(latest(subscriber, f"{P}/model/m"))
    return [(mark["version"], mark["mark"]) for mark in said["marks"]]


def stats(subscriber) -> dict:
    return orjson.loads(latest(subscriber, f"{P}/stats"))["cameras"][0]


def test_the_golden_set_is_the_first_act_of_the_trial(device, desk, subscriber, mode) -> None:
    mode.write_text("slow:20")
    publish(desk, "1.0.0", off_by=8)  # as far as an Edge TPU may be off
    device.start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    want(subscriber, "first", "1.0.0")
    result = result_of(subscriber, "first", device)

    assert (result["status"], result["reason"]) == ("SUCCEEDED", ""), device.log
    assert result["health"]["golden"] == "4/4 agree, worst 8 steps, sample 0"
    assert result["health"]["compared"] == {"verdict": "insufficient", "reason": "no_room"}
    wait_for("the new one", lambda: runs(subscriber) == "1.0.0")
    made = predictions(subscriber)
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1))
    wait_for("frames that were left out", lambda: stats(subscriber)["no_model"] >= 4)
    assert (stats(subscriber)["errors"], stats(subscriber)["reconnects"]) == ({}, 0)

    publish(desk, "1.1.0", off_by=9)
    want(subscriber, "lies", "1.1.0")
    result = result_of(subscriber, "lies", device)

    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "golden_mismatch")
    assert "0/4 agree, worst 9 steps" in result["detail"]
    assert "within 8 steps" in result["detail"]
    assert ("lies", "TRIAL") in states(subscriber)
    assert ("1.1.0", "bad") in marks(subscriber)
    count = len(predictions(subscriber))
    wait_for("predictions", lambda: len(predictions(subscriber)) > count + 5)
    assert {one["version"] for one in predictions(subscriber)[count:]} == {"1.0.0"}


@pytest.mark.slow
def test_an_edge_tpu_that_fails_or_hangs_meanwhile(device, desk, subscriber, mode) -> None:
    publish(desk, "1.0.0")
    device.start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    mode.write_text("invoke_error_after:3")  # the first is the warm-up
    want(subscriber, "cut", "1.0.0")
    wait_for("back", lambda: ("cut", "ROLLING_BACK") in states(subscriber))
    mode.write_text("ok")
    result = result_of(subscriber, "cut", device)

    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "edgetpu_failed")
    assert marks(subscriber) == [], "it is the device's fault"
    count = len(predictions(subscriber))
    wait_for("the Edge TPU is back", lambda: len(predictions(subscriber)) > count + 30)

    mode.write_text("hang_after:3")
    want(subscriber, "hangs", "1.0.0")
    wait_for("the stuck invoke", lambda: "an invoke or a load is stuck" in device.log)
    pings = device.pings()
    time.sleep(1.0)
    assert device.pings() == pings
    device.kill()  # as the watchdog would
    (sha256,) = {one["sha256"] for one in results(subscriber)}
    assert sha256 in (device.folder / "run/breadcrumb").read_text(), "the candidate is blamed"
    mode.write_text("ok")
    device.start().wait_ready()
    result = result_of(subscriber, "hangs", device)

    assert result["status"] == "SUCCEEDED"


@pytest.mark.slow
def test_a_reload_waits_for_a_load_that_cannot_be_canceled(
    device, desk, subscriber, mode, tmp_path
) -> None:
    told = tmp_path / "delegate.log"
    device.environment[LOG_VARIABLE] = str(told)
    publish(desk, "1.0.0")
    device.start().wait_ready()
    process = device.process.pid
    wait_for("predictions", lambda: predictions(subscriber))
    mode.write_text("slow:2500")  # the warm-up; far beyond invoke_limit_s
    want(subscriber, "first", "1.0.0")
    wait_for("the load", lambda: "created slow:2500" in told.read_text())
    mode.write_text("ok")
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    assert device.process.pid == process
    assert result_of(subscriber, "first", device)["status"] == "SUCCEEDED", device.log
    wait_for("the new one", lambda: runs(subscriber) == "1.0.0")


def test_what_a_look_at_its_structure_tells_is_refused_before(tmp_path) -> None:
    config = ModelConfig(name="m", factory="unused.tflite")
    cases = {
        "sound": ({}, None),
        "inputs": ({"inputs": INPUTS[:, :, :16]}, "golden_invalid"),
        "outputs": ({"classes": 5}, "golden_invalid"),
        "labels": ({"labels": COLOURS[:3]}, "labels_mismatch"),
    }
    for name, (settings, reason) in cases.items():
        files, facts = contents(**settings)
        folder = tmp_path / name
        folder.mkdir()
        for entry, data in (files | {"manifest.json": packages.encoded(facts)}).items():
            (folder / entry).write_bytes(data)
        said = validate(config, folder, Limits(2**28), edgetpu=True)
        assert (said.reason, said.marks, said.structure_only) == (reason, False, True), said

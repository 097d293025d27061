"""What an operator says with `edgectl model pack` is what a device keeps to: desk to device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, Broker, wait_for
from sim.desk import Desk
from sim.device import Device, P
from test_updates import body, latest, predictions, result_of, runs, want

from edged.operator.cli import main

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


def publish(desk: Desk, version: str, *options: str, lines: tuple[str, ...] = ()) -> None:
    """Pack with the operator's command, and sign in."""
    folder, model = desk.folder, models.write(desk.folder / "m.tflite", models.classifier())
    (folder / "lines.txt").write_text("\n".join(lines or models.COLOURS))
    (folder / "golden").mkdir(exist_ok=True)
    for number in range(3):
        image = np.zeros((40, 40, 3), np.uint8)
        image[..., number] = 255
        cv2.imwrite(str(folder / f"golden/{number}.png"), image)
    package = folder / f"m-{version}.zip"
    words = ["model", "pack", str(model), "--name", "m", "--version", version, "-o", str(package)]
    words += ["--labels", str(folder / "lines.txt"), "--golden", str(folder / "golden")]
    assert main([*words, *options]) == 0
    desk.repo.publish(package, "m", version)


@pytest.mark.slow
def test_a_device_keeps_to_what_the_package_asks(
    make: Callable[..., Device], broker: Broker, desk: Desk, subscriber, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for number in range(61):
        image = np.full((48, 64, 3), 20, np.uint8)
        image[:, :, number % 3] = 120
        image[number % 24 : number % 24 + 24, number % 32 : number % 32 + 32] = 4 * number
        cv2.imwrite(str(scenes / f"{number:02}.png"), image)
    factory = models.write(tmp_path / "factory.tflite", models.classifier())
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))
    device = make(broker.port, body(desk, scenes, factory, camera="fps = 0"), verbose=True)
    easy = ("--p95-ratio", "1000")
    publish(desk, "1.0.0", "--trial-frames", "900", "--trial-seconds", "2", *easy)
    publish(desk, "1.1.0", "--memory", "900G")
    publish(desk, "1.2.0", "--require-runtime", "litert>=99", "--require-runtime", "tflite>=99")
    swapped = ("blue", "dark", "red", "green")
    strict = ("--trial-frames", "2000", "--max-disagreement", "0.1")
    publish(desk, "1.3.0", *strict, *easy, lines=swapped)
    device.start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))

    want(subscriber, "long", "1.0.0")
    result = result_of(subscriber, "long", device)
    assert result["status"] == "SUCCEEDED", result
    assert result["health"]["frames"] >= 900, "the device asks for 30"
    want(subscriber, "large", "1.1.0")
    assert result_of(subscriber, "large", device)["reason"] == "memory_insufficient"
    want(subscriber, "new", "1.2.0")
    assert result_of(subscriber, "new", device)["reason"] == "runtime_too_old"
    want(subscriber, "odd", "1.3.0")
    result = result_of(subscriber, "odd", device)
    # With other labels a device asks for no agreement of its own accord.
    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "trial_disagrees"), result
    assert "more than 10%" in result["detail"]
    wait_for("back", lambda: runs(subscriber) == "1.0.0")
    assert orjson.loads(latest(subscriber, f"{P}/model/m"))["marks"][-1]["mark"] == "good"

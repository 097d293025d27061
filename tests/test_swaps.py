"""Models that are replaced again and again: nothing is missing, and nothing is left behind."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, wait_for
from sim.desk import Desk
from sim.device import Device, P
from test_live_trial import Line, colours, until
from test_servable import load

from edged.control_client import ask
from edged.control_wire import Request
from edged.inference.preprocess import Preprocessor
from edged.models.trial import TrialLimits
from edged.pipeline.stage import Stage

FRAME_S = 1 / 30
SWAPS = 10
LIMITS = TrialLimits(frames=3, seconds=0.0)


def mapped(process: int | str) -> set[str]:
    """Return the model files that a process has mapped."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.endswith(".tflite")}


def held(process: int | str) -> tuple[int, int]:
    """Return how many threads and descriptors a process has."""
    folder = Path(f"/proc/{process}")
    return len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))


def at_rest(process: int) -> tuple[int, int]:
    """Return the same once what a deployment needed for a moment is gone."""
    seen = []
    for _ in range(20):
        seen.append(held(process))
        time.sleep(0.02)
    return min(threads for threads, _ in seen), min(files for _, files in seen)


def no_more(after: tuple[int, int], before: tuple[int, int]) -> bool:
    return all(now <= then for now, then in zip(after, before, strict=True))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    first = models.write(tmp_path / "first.tflite", models.classifier())
    running = Line(load(first), colours, FRAME_S)
    yield running
    running.stop()


def test_ten_swaps_at_30_frames_a_second_leave_nothing_behind(line: Line, tmp_path: Path) -> None:
    def swap(name: str) -> Path:
        path = models.write(tmp_path / f"{name}.tflite", models.classifier(head="logits"))
        stage.try_out("m", lambda: load(path), LIMITS, alone=False)
        until(lambda: stage.verdict("m")[0].outcome == "healthy")
        stage.commit("m")
        return path

    stage = Stage({"m": line.slot})
    until(lambda: len(line.sent) > 3)
    swap("warm")
    gc.collect()
    before = held("self")
    for number in range(SWAPS):
        newest = swap(f"model{number}")

    seen = len(line.sent)
    until(lambda: len(line.sent) > seen + 3)
    seqs = [seq for seq, _ in line.sent]
    assert seqs == list(range(1, len(seqs) + 1)), "nothing is missing, nothing came twice"
    versions = [sha256 for _, sha256 in line.sent]
    changes = [sha for sha, after in pairwise(versions) if sha != after]
    assert len(changes) == 1, "from the first to its likeness, and never back"
    assert line.counters.no_model == 0
    here = {path for path in mapped("self") if path.startswith(str(tmp_path))}
    assert here == {str(newest)}
    assert no_more(held("self"), before)


def test_what_a_camera_had_for_the_model_before_goes_at_once(tmp_path: Path) -> None:
    """Cycles are looked for after hundreds of swaps."""
    servable = load(models.write(tmp_path / "model.tflite", models.classifier()))
    preprocessor = Preprocessor(servable.input)
    preprocessor.geometry(48, 64)
    gone = weakref.ref(preprocessor)
    gc.disable()
    try:
        del preprocessor
        assert gone() is None
    finally:
        gc.enable()
        servable.close()


@pytest.mark.broker
@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
@pytest.mark.slow
def test_deployments_at_30_frames_a_second_leave_nothing_behind(
    make, broker, subscriber, tmp_path: Path
) -> None:
    desk = Desk(tmp_path / "desk")
    packages = [
        desk.pack("1.0.0", models.classifier("float32", head="logits")),
        desk.pack("1.0.1"),
    ]
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    device: Device = make(
        broker.port,
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\n'
        '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 30\n',
    )
    desk.close()
    device.start().wait_ready()
    process = device.process.pid

    def deploy(package: Path, number: int) -> None:
        request = Request("install", {"model": "m", "bare": True})
        with package.open("rb") as file:
            ask(device.folder / "run", request, file=file.fileno())
        topic = f"{P}/update/m/result"
        wait_for("the result", lambda: len(subscriber.of(topic)) >= number)
        assert orjson.loads(subscriber.of(topic)[-1])["status"] == "SUCCEEDED", device.log

    def installed() -> set[str]:
        return {path for path in mapped(process) if "/models/m/" in path}

    deploy(packages[0], 1)
    before = at_rest(process)
    for number in (2, 3):
        deploy(packages[number % 2 == 0], number)

    topic = f"{P}/prediction/front"
    seen = len(subscriber.of(topic))
    wait_for("predictions", lambda: len(subscriber.of(topic)) > seen + 3)
    made = [orjson.loads(payload) for payload in subscriber.of(topic)]
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1))
    assert made[-1]["version"] == "1.0.0"
    wait_for("the rest", lambda: no_more(held(process), before))
    assert installed() == {str(device.state / "models/m/1.0.0/model.tflite")}
    assert str(factory) not in mapped(process)

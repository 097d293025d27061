"""Many cameras, several models, one accelerator: turns are fair, and nobody waits for the dead."""

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import Broker, Subscriber, wait_for
from sim.delegate import MODE_VARIABLE, delegate_or_skip
from sim.device import Device
from sim.tcp import Silence

pytestmark = pytest.mark.broker

P = "edged/dut"


def model(name: str, path: Path, more: str = "") -> str:
    return f'[[model]]\nname = "{name}"\nfactory = "{path}"\n{more}\n'


def camera(name: str, model: str, source: str = "synthetic", more: str = "") -> str:
    return f'[[camera]]\nname = "{name}"\nsource = "{source}"\nmodel = "{model}"\n{more}\n'


def count(subscriber: Subscriber, camera: str) -> int:
    return len(subscriber.of(f"{P}/prediction/{camera}"))


def stats_of(subscriber: Subscriber) -> dict[str, dict]:
    cameras = orjson.loads(subscriber.of(f"{P}/stats")[-1])["cameras"]
    return {one["name"]: one for one in cameras}


def test_each_camera_at_its_own_rate_beside_dead_and_mute_ones(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device], tmp_path: Path
) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())
    other = models.write(tmp_path / "other.tflite", models.classifier(size=(48, 48)))
    with closing(Silence()) as mute:
        body = "".join(
            [
                model("m", path),
                model("other", other),
                camera("quick", "m", more="fps = 20"),
                camera("slow", "m", more="fps = 5"),
                camera("third", "other", more="fps = 10"),
                camera("gone", "m", "v4l2:/dev/video99"),
                camera("mute", "m", f"http://127.0.0.1:{mute.port}/", more="stall_s = 30"),
            ]
        )
        device = make(broker.port, body).start().wait_ready()
        wait_for("the slow one", lambda: count(subscriber, "slow") >= 20)
        rates = {name: count(subscriber, name) for name in ("quick", "third", "slow")}

    assert 3 < rates["quick"] / rates["slow"] < 5
    assert 1.5 < rates["third"] / rates["slow"] < 2.5
    assert count(subscriber, "gone") == count(subscriber, "mute") == 0
    assert re.search(r"camera gone: .* It is tried again\. \(camera_not_found\)\n", device.log)


def test_a_camera_that_takes_all_it_gets_leaves_the_others_their_frames(
    broker: Broker, subscriber: Subscriber, make: Callable[..., Device], tmp_path: Path
) -> None:
    """One accelerator at its limit: two at full speed and two slow cameras, on two models."""
    library = delegate_or_skip(tmp_path)
    paths = [
        models.write(tmp_path / f"{name}_edgetpu.tflite", models.edgetpu_custom_op())
        for name in "ab"
    ]
    body = "".join(
        [
            *(model(f"m{i}", path, 'accelerator = "edgetpu"') for i, path in enumerate(paths)),
            camera("greedy", "m0", more="fps = 0"),
            camera("greedier", "m1", more="fps = 0"),
            camera("calm", "m0", more="fps = 4"),
            camera("calmer", "m1", more="fps = 4"),
        ]
    )
    device = make(
        broker.port,
        body,
        top=f'edgetpu_library = "{library}"',
        environment={MODE_VARIABLE: "slow:25"},
    )
    device.start().wait_ready()
    wait_for("frames", lambda: min(count(subscriber, name) for name in ("calm", "calmer")) >= 12)
    told = len(subscriber.of(f"{P}/stats"))
    wait_for("stats", lambda: len(subscriber.of(f"{P}/stats")) > told)
    stats = stats_of(subscriber)

    for name in ("calm", "calmer"):
        lost = stats[name]["replaced"] + stats[name]["overrun"]
        # Out of turn they get none; a machine that is busy otherwise costs one or two.
        assert lost <= 0.3 * stats[name]["captured"], f"{name} starves: {stats[name]}"
    greedy, greedier = stats["greedy"]["inferred"], stats["greedier"]["inferred"]
    assert 0.8 < greedy / greedier < 1.25, "equals get equal turns"
    assert greedy > 1.5 * stats["calm"]["inferred"], "what is left is theirs"

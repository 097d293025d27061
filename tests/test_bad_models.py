"""Models that do harm, deployed to the whole daemon: which process it costs, and what is said."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from sim import badmodels, golden, models
from sim.broker import MOSQUITTO, Subscriber, wait_for
from sim.delegate import answers, delegate_or_skip
from sim.desk import Desk
from sim.device import Device, P
from sim.kernel import kernel_or_skip
from sim.service import Service

from edged.models.store import Store

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

UNSURE = np.full((4, 1, 4), 0.25, np.float32)
# What VALIDATING can see: the model, its configuration; reason, words.
SEEN: dict[str, tuple[Callable[[], bytes], str, str, str]] = {
    "segfault-at-load": (badmodels.segfault_at_load, "", "validation_crashed", "SIGSEGV"),
    "frame-7": (lambda: badmodels.harm_at_frame(7), "", "validation_crashed", "at frame 7"),
    "endless": (
        lambda: badmodels.harm_when_bright(0.9, "endless"), "invoke_limit_s = 1.0",
        "validation_hung", "golden sample 0",
    ),
    "8-gb": (lambda: badmodels.huge(8), "", "validation_memory", "one tensor alone"),
    "nan": (models.nan_classifier, "", "output_not_finite", ""),
    "constant": (badmodels.constant, "", "output_constant", "all give the same"),
    "unsure": (lambda: models.classifier("float32"), "", "golden_mismatch", "0/4 agree"),
    "shape": (lambda: models.classifier("float32", (16, 16)), "", "input_mismatch", "16"),
    "labels": (lambda: models.classifier("float32", extra_classes=1), "", "labels_mismatch", "5"),
    "edge-tpu": (models.edgetpu_custom_op, "", "model_needs_edgetpu", ""),
}  # fmt: skip
MARKED = {
    "validation_crashed",
    "validation_hung",
    "output_not_finite",
    "output_constant",
    "golden_mismatch",
}


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    return models.write(tmp_path / "factory.tflite", models.classifier("float32"))


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """Has devices started again whenever they end."""
    made: list[Service] = []

    def start(device: Device, watchdog_s: float | None = None) -> Service:
        made.append(Service(device, watchdog_s).start())
        return made[-1]

    yield start
    for service in made:
        service.close()


def model(name: str, factory: Path, more: str = "") -> str:
    return f'[[model]]\nname = "{name}"\nfactory = "{factory}"\n{more}\n\n'


def camera(name: str, fps: int) -> str:
    return f'[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "{name}"\nfps = {fps}\n'


def online(subscriber: Subscriber) -> None:
    wait_for("online", lambda: (subscriber.of(f"{P}/available") or [b""])[-1] == b"online")


def want(subscriber: Subscriber, name: str, deployment_id: str, version: str) -> None:
    message = {"deployment_id": deployment_id, "version": version}
    subscriber.publish(f"{P}/update/{name}/desired", orjson.dumps(message), retain=True)


def result(subscriber: Subscriber, name: str, limit_s: float = 40.0) -> dict:
    """Wait for the result of the only deployment of a model."""
    topic = f"{P}/update/{name}/result"
    wait_for(f"the result of {name}", lambda: subscriber.of(topic), limit_s)
    assert len(set(subscriber.of(topic))) == 1
    return orjson.loads(subscriber.of(topic)[0])


def predictions(subscriber: Subscriber) -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(f"{P}/prediction/front")]


def marks(subscriber: Subscriber, name: str) -> list[str]:
    said = orjson.loads(subscriber.of(f"{P}/model/{name}")[-1])
    return [mark["mark"] for mark in said["marks"]]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_what_a_child_can_see_costs_no_process(
    broker, subscriber, make, desk, factory, tmp_path
) -> None:
    """All at once, each as a candidate of a model of its own, while another one is watched."""
    sound = golden.load(factory)
    others = {"constant": None, "unsure": UNSURE}
    right = golden.golden_of(sound, golden.colour_inputs()).outputs[0]
    body = f"{desk.update}\n{model('m', factory)}"
    for name, (make_model, more, _, _) in SEEN.items():
        desk.publish("1.0.0", make_model(), name=name, expected=others.get(name, right))
        body += model(name, factory, more)
    # Warm-up and the invokes that a percentile needs.
    desk.publish("1.0.0", badmodels.slow(30_000), trial={"frames": 90})
    kernel = kernel_or_skip(tmp_path / "kernel", memory_bytes=2**30)
    device = make(broker.port, body + camera("m", 60), kernel=kernel).start().wait_ready()
    process = device.process.pid
    online(subscriber)
    wait_for("what is compared with", lambda: len(predictions(subscriber)) > 60)
    for name in ("m", *SEEN):
        want(subscriber, name, "bad", "1.0.0")
    said = {name: result(subscriber, name) for name in ("m", *SEEN)}

    slow = said.pop("m")
    assert (slow["status"], slow["reason"]) == ("ROLLED_BACK", "trial_slow")
    assert {name: (one["status"], one["reason"]) for name, one in said.items()} == {
        name: ("REJECTED", reason) for name, (_, _, reason, _) in SEEN.items()
    }
    for name, (_, _, reason, words) in SEEN.items():
        assert words in said[name]["detail"], name
        assert marks(subscriber, name) == (["bad"] if reason in MARKED else []), name
    told = {(one["reason"], one["detail"]) for one in (slow, *said.values())}
    assert len(told) == len(SEEN) + 1, "each is told from all others"

    assert device.process.pid == process
    assert device.process.poll() is None
    count = len(predictions(subscriber))
    wait_for("predictions go on", lambda: len(predictions(subscriber)) > count + 30)
    made = predictions(subscriber)
    assert [one["seq"] for one in made] == list(range(1, len(made) + 1)), "nothing is missing"
    assert len({one["boot"] for one in made}) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_crash_after_success_costs_no_process(broker, subscriber, make, desk, factory) -> None:
    """Its heap is spoilt; whether and where that shows in the child is up to the allocator."""
    right = golden.golden_of(golden.load(factory), golden.colour_inputs()).outputs[0]
    desk.publish("1.0.0", badmodels.abort_at_exit(), expected=right)
    device = make(broker.port, desk.update + model("m", factory) + camera("m", 20)).start()
    online(subscriber)
    process = device.process.pid
    want(subscriber, "m", "exits", "1.0.0")
    state = f"{P}/update/m/state"
    ends = (b'"REJECTED"', b'"TRIAL"')
    wait_for("the child", lambda: any(end in (subscriber.of(state) or [b""])[-1] for end in ends))
    if b'"TRIAL"' in subscriber.of(state)[-1]:
        pytest.skip("the spoilt heap does no harm to the child with this runtime and allocator")
    said = result(subscriber, "m")
    assert (said["status"], said["reason"]) == ("REJECTED", "validation_crashed")
    assert said["detail"].startswith("SIG"), "told by how it ended, wherever it did"
    assert marks(subscriber, "m") == ["bad"]
    assert device.process.pid == process
    assert device.process.poll() is None


@pytest.fixture
def edge(make, broker, desk, tmp_path) -> Device:
    """A device with an Edge TPU, whose factory model is compiled for that."""
    library = delegate_or_skip(tmp_path)
    path = models.write(tmp_path / "factory_edgetpu.tflite", models.edgetpu_custom_op())
    body = model("m", path, 'accelerator = "edgetpu"') + camera("m", 20)
    return make(broker.port, desk.update + body, top=f'edgetpu_library = "{library}"')


def publish_compiled(desk: Desk, mode: str, **trial: int) -> None:
    desk.publish(
        "1.0.0",
        models.edgetpu_custom_op(mode=mode),
        file="model_edgetpu.tflite",
        expected=answers(golden.colour_inputs(dtype="uint8")),
        dtype="uint8",
        trial=trial,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_candidate_that_segfaults_later_is_rolled_back_within_two_restarts(
    subscriber, desk, edge, serve
) -> None:
    publish_compiled(desk, "segfault_after:30", frames=500)
    service = serve(edge)
    online(subscriber)
    want(subscriber, "m", "segfaults", "1.0.0")
    said = result(subscriber, "m")

    assert (said["status"], said["reason"]) == ("ROLLED_BACK", "trial_crashed")
    assert service.ends == [-signal.SIGSEGV] * 2
    assert marks(subscriber, "m") == ["bad"]
    wait_for("the factory model", lambda: predictions(subscriber)[-1]["version"][:2] == "0.")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_candidate_that_leaks_is_rolled_back(subscriber, desk, edge) -> None:
    publish_compiled(desk, "leak:256", seconds=90)
    edge.start()
    online(subscriber)
    want(subscriber, "m", "leaks", "1.0.0")
    process = edge.process.pid
    said = result(subscriber, "m", 150.0)

    assert (said["status"], said["reason"]) == ("ROLLED_BACK", "trial_leak")
    assert edge.process.pid == process
    assert edge.process.poll() is None
    assert marks(subscriber, "m") == []
    wait_for("the factory model", lambda: predictions(subscriber)[-1]["version"][:2] == "0.")


def test_a_factory_model_that_ends_every_start_is_left_out_after_three(
    broker, subscriber, make, serve, tmp_path
) -> None:
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(badmodels.abort_at_load())
    service = serve(make(broker.port, f"{model('m', bad)}{camera('m', 5)}"))
    online(subscriber)

    assert service.ends == [-signal.SIGABRT] * 3

    def nothing_left() -> bool:
        journal = Store(service.device.state).journal("m").load().journal
        return journal is not None and journal.active is None

    wait_for("nothing that is left to run", nothing_left)
    assert service.device.process.poll() is None


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_candidate_that_hangs_later_is_ended_twice_by_the_watchdog(
    broker, subscriber, make, desk, factory, serve
) -> None:
    desk.publish("1.0.0", badmodels.harm_at_frame(400, "endless"), trial={"frames": 5000})
    body = f"{desk.update}\n{model('m', factory, 'invoke_limit_s = 0.3')}{camera('m', 0)}"
    device = make(broker.port, body, environment={"WATCHDOG_USEC": "1000000"})
    service = serve(device, watchdog_s=1.5)
    online(subscriber)
    want(subscriber, "m", "hangs", "1.0.0")
    said = result(subscriber, "m")

    assert (said["status"], said["reason"]) == ("ROLLED_BACK", "trial_crashed")
    assert (service.hangs, len(service.ends)) == (2, 2)
    assert marks(subscriber, "m") == ["bad"]
    wait_for("the factory model", lambda: predictions(subscriber)[-1]["version"][:2] == "0.")

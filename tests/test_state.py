"""Models that remember: each camera its own state, fed back exactly, fresh after every gap."""

import importlib
import itertools
import signal
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import models, recurrent
from sim.broker import Subscriber, wait_for
from sim.camera import CameraWorld, Step, lost
from sim.device import Device
from sim.recurrent import Ends

from edged.camera.source import open_camera
from edged.cli import main
from edged.config import CameraConfig, ModelConfig
from edged.errors import AcceleratorError, ValidationError
from edged.inference.interpreter import Interpreter, installed_runtimes
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable, State
from edged.pipeline import capture as capture_module
from edged.pipeline.bell import Bell
from edged.pipeline.capture import CaptureWorker
from edged.pipeline.counters import CameraCounters
from edged.pipeline.inference import InferenceWorker
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.results import Inference, Results
from edged.prediction import Classes

PIXELS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
COLOURS = ("red", "green", "blue")
RUNTIMES = [runtime.name for runtime in installed_runtimes()]
# A folder's pictures, and so the order in which they come.
TRAFFIC = [f"traffic_000{i}.bmp" for i in (1, 2, 3)]


def write(tmp_path: Path, data: bytes, name: str = "m.tflite") -> Path:
    return models.write(tmp_path / name, models.with_metadata(data, COLOURS))


def load(path: Path, **settings) -> Servable:
    cameras = settings.pop("cameras", ())
    return load_servable(ModelConfig(name="m", factory=str(path), **settings), cameras=cameras)


def plain(colour: str) -> np.ndarray:
    return np.full((20, 30, 3), PIXELS[colour], np.uint8)


def see(servable: Servable, colour: str, state: State | None = None) -> dict[str, float]:
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(plain(colour), "rgb", tensor)
    return scores(servable.decode(servable.infer(tensor, state), preprocessor.geometry(20, 30)))


def scores(result) -> dict[str, float]:
    assert isinstance(result, Classes)
    return {line.label: line.score for line in result.classes}


def softmax(*sums: float) -> dict[str, float]:
    values = np.exp(np.array(sums))
    return dict(zip(COLOURS, values / values.sum(), strict=True))


def close(*sums: float, within: float = 1e-5):
    return pytest.approx(softmax(*sums), abs=within)


# A servable


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
def test_a_state_is_fed_back(tmp_path, dtype, runtime) -> None:
    servable = load(write(tmp_path, recurrent.counter(dtype)), runtime=runtime)
    state = servable.fresh_state()
    within = 1e-5 if dtype == "float32" else 0.02

    assert see(servable, "red", state) == close(1, 0, 0, within=within)
    assert see(servable, "red", state) == close(2, 0, 0, within=within)
    assert see(servable, "green", state) == close(2, 1, 0, within=within)
    assert see(servable, "green") == close(0, 1, 0, within=within), "a single image"
    assert see(servable, "green", state) == close(2, 2, 0, within=within)
    assert servable.states == ((recurrent.NAMED.source, recurrent.NAMED.feeder),)


def test_two_states_of_one_model_never_mix_and_belong_to_the_caller(tmp_path) -> None:
    servable = load(write(tmp_path, recurrent.counter()))
    mine, yours = servable.fresh_state(), servable.fresh_state()
    see(servable, "red", mine)
    (kept,) = mine
    see(servable, "blue", yours)
    see(servable, "blue", yours)

    assert see(servable, "red", mine) == close(2, 0, 0)
    assert see(servable, "blue", yours) == close(0, 0, 3)
    assert kept.tolist() == [[1.0, 0.0, 0.0]], "an old state stays what it was"


def test_a_fresh_state_is_zero_as_the_quantisation_writes_it(tmp_path) -> None:
    for dtype, zero in (("float32", 0), ("uint8", 0), ("int8", -128)):
        (state,) = load(write(tmp_path, recurrent.counter(dtype))).fresh_state()
        assert (state.dtype, state.shape, set(state.ravel())) == (dtype, (1, 3), {zero})


def test_a_state_may_be_a_number(tmp_path) -> None:
    servable = load(write(tmp_path, recurrent.numbered()))
    state = servable.fresh_state()

    said = [see(servable, "blue", state) for _ in range(4)]

    assert [max(one, key=one.__getitem__) for one in said] == ["red", "red", "green", "green"]
    assert isinstance(state[0], np.ndarray)
    assert (state[0].shape, float(state[0])) == ((), 4.0)


def test_the_image_s_normalisation_is_read_wherever_it_stands(tmp_path) -> None:
    data = models.with_metadata(recurrent.counter(), COLOURS, mean=10.0, std=20.0)

    spec = load(models.write(tmp_path / "m.tflite", data)).input

    assert (spec.mean, spec.std) == ((10.0,), (20.0,))


GENERIC = (
    Ends("serving_default_a:0", "StatefulPartitionedCall:0"),
    Ends("serving_default_b:0", "StatefulPartitionedCall:2"),
)


@pytest.mark.parametrize(
    ("ends", "signature"),
    [
        ((Ends("sum_in", "sum_out"), Ends("last_in", "last_out")), None),
        (GENERIC, (Ends("sum", "sum"), Ends("last", "last"))),
    ],
)
def test_two_states_alike_are_told_apart_by_their_names(tmp_path, ends, signature) -> None:
    """The sum grows by this frame and the one before: red, red, green make 3 red and 1 green."""
    servable = load(write(tmp_path, recurrent.two_states(*ends, signature=signature)))
    state = servable.fresh_state()

    assert see(servable, "red", state) == close(1, 0, 0)
    assert see(servable, "red", state) == close(3, 0, 0)
    assert see(servable, "green", state) == close(4, 1, 0)


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (recurrent.two_states(*GENERIC), "state_ambiguous", "serving_default_b"),
        (recurrent.counter("uint8", mismatch="shape"), "state_mismatch", "shape"),
        (recurrent.counter("uint8", mismatch="type"), "state_mismatch", "type"),
        (recurrent.counter("uint8", mismatch="quantisation"), "state_mismatch", "step 0.25"),
        (recurrent.counter(mismatch="at_run"), "state_mismatch", r"init_sum.*\[3, 1\]"),
        (models.two_inputs(), "model_inputs_unsupported", "'left'.*'right'"),
        (recurrent.resource_counter(), "state_not_resettable", "ASSIGN_VARIABLE"),
    ],
)
def test_states_that_cannot_be_fed_are_refused_by_name(tmp_path, data, reason, words) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        load(write(tmp_path, data))

    assert caught.value.reason == reason


def test_an_image_without_a_size_is_refused(tmp_path) -> None:
    """Where the file leaves a size open and names no usual one, the runtime takes 1."""
    assert load(write(tmp_path, recurrent.counter(open_axes=(0, 1, 2)))).input.width == 16
    with pytest.raises(ValidationError, match=r"'image' .* fixed size") as caught:
        load(write(tmp_path, recurrent.counter(size=(1, 1), open_axes=(1, 2))))

    assert caught.value.reason == "model_input_unsupported"


# States inside the model


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_state_inside_is_set_back(tmp_path, runtime) -> None:
    """Red counts twice. The warm-up, which sees grey, has left nothing behind."""
    path = write(tmp_path, recurrent.hidden_counter())
    servable = load(path, cameras=["front"], runtime=runtime)

    assert see(servable, "red") == close(2, 0, 0)
    assert see(servable, "green") == close(2, 1, 0)
    assert servable.fresh_state() == []
    assert see(servable, "green") == close(0, 1, 0)


def test_cameras_that_would_mix_inside_a_model_are_refused(tmp_path) -> None:
    path = write(tmp_path, recurrent.hidden_counter())

    with pytest.raises(ValidationError, match=r"model 'm'.*cameras front, back") as caught:
        load(path, cameras=["front", "back"])

    assert caught.value.reason == "state_not_shared"
    assert "[[model]] of its own" in caught.value.advice
    assert load(write(tmp_path, recurrent.counter()), cameras=["front", "back"]).states


# The pipeline


class Rig:
    """Cameras on one servable, through the real threads; what each said is kept in order."""

    def __init__(
        self, servable: Servable, *, pace: float | None = 0, invoke_s: float = 0.0
    ) -> None:
        self.bell = Bell()
        self.slot = ModelSlot("m", self.bell)
        self.slot.current = servable
        self.lanes: dict[str, Lane] = {}
        self.results = Results(4096)
        self._captures: list[CaptureWorker] = []
        self._pace, self._invoke_s = pace, invoke_s

    def camera(self, name: str, world: CameraWorld) -> None:
        counters = CameraCounters()
        self.lanes[name] = Lane(name, Mailbox(self.bell, counters), self.slot, counters)
        config = CameraConfig(name=name, source="synthetic", model="m", fps=self._pace)
        worker = CaptureWorker(config, self.lanes[name], world.open, count(1), lambda: None)
        self._captures.append(worker)

    def run(self, until: Callable[[], bool]) -> None:
        lanes = tuple(self.lanes.values())
        inference = InferenceWorker(
            self.bell, lanes, self.results, lambda _sha256: time.sleep(self._invoke_s)
        )
        for worker in (inference, *self._captures):
            worker.start()
        try:
            wait_for("the frames", until)
        finally:
            for capture in self._captures:
                capture.stop(0.05)  # a script at its end waits until it is closed
            assert inference.stop(5.0)

    def said(self) -> dict[str, list[Inference]]:
        said: dict[str, list[Inference]] = {name: [] for name in self.lanes}
        while (inference := self.results.get(0.0)) is not None:
            said[inference.lane.camera].append(inference)
        return said


def seen(inference: Inference) -> dict[str, float]:
    return scores(inference.servable.decode(inference.outputs, inference.place))


def show(*colours: str, gap_s: float = 0.0) -> CameraWorld:
    """A camera that shows these over and over."""
    world = CameraWorld()
    turn = itertools.cycle(colours)
    world.plug_endless(lambda: plain(next(turn)), gap_s=gap_s)
    return world


def steps(*colours: str) -> list[Step]:
    return [lambda colour=colour: plain(colour) for colour in colours]  # type: ignore[misc]


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(capture_module, "_FIRST_WAIT_S", 0.02)


def test_cameras_that_share_a_model_keep_their_states_apart(tmp_path) -> None:
    """Three cameras at their own rates; the k-th word of each is what it alone would have made."""
    rig = Rig(load(write(tmp_path, recurrent.counter())), pace=None)
    rates = {"red": 0.0005, "green": 0.003, "blue": 0.011}
    for colour, gap_s in rates.items():
        rig.camera(colour, show(colour, gap_s=gap_s))

    rig.run(lambda: all(lane.counters.inferred >= 8 for lane in rig.lanes.values()))

    said = rig.said()
    order = [len(said[colour]) for colour in rates]
    assert order == sorted(order, reverse=True)
    assert order[0] > order[2], "the rates do differ"
    for colour, inferences in said.items():
        for k, inference in enumerate(inferences, 1):
            expected = softmax(*(k if colour == one else 0 for one in COLOURS))
            assert seen(inference)[colour] == pytest.approx(expected[colour], abs=1e-5)
        numbers = [inference.stamp.number for inference in inferences]
        assert numbers == sorted(numbers)


def test_a_camera_that_was_away_begins_afresh_and_the_other_goes_on(tmp_path, impatient) -> None:
    rig = Rig(load(write(tmp_path, recurrent.counter())))
    world = CameraWorld()
    world.plug([*steps("red", "red", "red"), lost])
    world.refuse("camera_not_found")
    world.plug(steps("red", "red"))
    rig.camera("away", world)
    other = CameraWorld()
    other.plug(steps(*["blue"] * 6))
    rig.camera("other", other)

    rig.run(lambda: [lane.counters.inferred for lane in rig.lanes.values()] == [5, 6])

    said = rig.said()
    assert [seen(one) for one in said["away"]] == [close(n, 0, 0) for n in (1, 2, 3, 1, 2)]
    assert [seen(one) for one in said["other"]] == [close(0, 0, n) for n in range(1, 7)]
    openings = [one.stamp.opened_mono_s for one in said["away"]]
    assert len(set(openings[:3])) == len(set(openings[3:])) == 1
    assert openings[0] < openings[3]


def test_a_state_inside_is_set_back_when_the_camera_was_away(tmp_path, impatient) -> None:
    rig = Rig(load(write(tmp_path, recurrent.hidden_counter())))
    world = CameraWorld()
    world.plug([*steps("green", "green"), lost])
    world.plug(steps("green", "green"))
    rig.camera("away", world)

    rig.run(lambda: rig.lanes["away"].counters.inferred == 4)

    assert [seen(one) for one in rig.said()["away"]] == [close(0, n, 0) for n in (1, 2, 1, 2)]


def test_frames_left_out_are_no_gap(tmp_path) -> None:
    """The camera is far quicker than the model: what is counted is what the model saw."""
    rig = Rig(load(write(tmp_path, recurrent.counter())), pace=None, invoke_s=0.01)
    rig.camera("quick", show("red"))

    rig.run(lambda: rig.lanes["quick"].counters.replaced > 10)

    said = rig.said()["quick"]
    assert [seen(one)["red"] for one in said[:8]] == [
        pytest.approx(softmax(n, 0, 0)["red"], abs=1e-5) for n in range(1, len(said[:8]) + 1)
    ]


def test_another_servable_begins_afresh(tmp_path) -> None:
    path = write(tmp_path, recurrent.counter())
    first, second = load(path), load(path)
    rig = Rig(first)
    world = CameraWorld()

    def swap() -> np.ndarray:
        wait_for("both", lambda: rig.lanes["cam"].counters.inferred == 2)
        assert rig.slot.swap(second, 5.0) is first
        return plain("red")

    world.plug([*steps("red", "red"), swap, *steps("red")])
    rig.camera("cam", world)

    rig.run(lambda: rig.lanes["cam"].counters.inferred == 4)

    said = rig.said()["cam"]
    assert [one.servable for one in said] == [first, first, second, second]
    assert [seen(one) for one in said] == [close(n, 0, 0) for n in (1, 2, 1, 2)]


def test_a_failed_invoke_leaves_no_state(tmp_path, monkeypatch) -> None:
    servable = load(write(tmp_path, recurrent.counter()))
    rig = Rig(servable)
    calls = count(1)
    invoke = Interpreter.invoke

    def fails_once(interpreter: Interpreter) -> None:
        if next(calls) == 3:
            raise AcceleratorError("edgetpu_failed", "gone")
        invoke(interpreter)

    monkeypatch.setattr(Interpreter, "invoke", fails_once)
    world = CameraWorld()
    world.plug(steps(*["red"] * 5))
    rig.camera("cam", world)

    rig.run(lambda: rig.lanes["cam"].counters.inferred == 4)

    assert rig.lanes["cam"].counters.errors["edgetpu_failed"] == 1
    assert [seen(one) for one in rig.said()["cam"]] == [close(n, 0, 0) for n in (1, 2, 1, 2)]


def test_a_state_that_is_no_number_is_counted_and_forgotten(tmp_path) -> None:
    """The black frame's own scores are fine and are told; what it left is not passed on."""
    rig = Rig(load(write(tmp_path, recurrent.counter(nan_on_black=True))))
    world = CameraWorld()
    world.plug(steps("red", "red", "black", "red", "red"))
    rig.camera("cam", world)

    rig.run(lambda: rig.lanes["cam"].counters.inferred == 5)

    assert dict(rig.lanes["cam"].counters.errors) == {"state_not_finite": 1}
    assert [seen(one) for one in rig.said()["cam"]] == [close(n, 0, 0) for n in (1, 2, 2, 1, 2)]


def test_a_state_inside_that_is_no_number_is_set_back(tmp_path) -> None:
    """A picture of NaN, as no camera makes it, would stay in the model for ever."""
    servable = load(write(tmp_path, recurrent.hidden_counter()))
    rig = Rig(servable)
    rig.camera("cam", CameraWorld())
    memory = rig.lanes["cam"].memory
    tensor = np.full(servable.input.tensor.shape, np.nan, np.float32)

    outputs = servable.infer(tensor, memory.recall(servable, 1.0))
    with pytest.raises(ValidationError) as caught:
        memory.check(outputs)
    assert caught.value.reason == "state_not_finite"
    assert see(servable, "green", memory.recall(servable, 1.0)) == close(0, 1, 0)


# The published traffic model


@pytest.fixture
def traffic(shared_data) -> Path:
    return shared_data / "models" / "traffic_model.tflite"


class Loop:
    """The same model on the bare runtime, its inputs and outputs known by heart."""

    def __init__(self, path: Path, runtime: str) -> None:
        package = {"litert": "ai_edge_litert", "tflite": "tflite_runtime"}[runtime]
        module = importlib.import_module(f"{package}.interpreter")
        self._live = module.Interpreter(model_path=str(path), num_threads=1)
        self._live.allocate_tensors()
        self._inputs = [detail["index"] for detail in self._live.get_input_details()]
        self._outputs = [detail["index"] for detail in self._live.get_output_details()]

    def step(self, image: np.ndarray, c: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        """Boxes, classes, scores, count, c, h."""
        for index, value in zip(self._inputs, (image, c, h), strict=True):
            self._live.set_tensor(index, value)
        self._live.invoke()
        return [self._live.get_tensor(index) for index in self._outputs]


def traffic_images(shared_data: Path) -> list[np.ndarray]:
    return [
        np.ascontiguousarray(cv2.imread(str(shared_data / "images" / name))[None, :, :, ::-1])
        for name in TRAFFIC
    ]


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all((a == b).all() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_traffic_model_gets_and_gives_its_states(shared_data, traffic, runtime) -> None:
    """Both states reach their own inputs, and come from their own outputs, to the last bit.

    What this file hands on is always zero: the gates of its LSTM were quantised to steps of
    1e-35. So that states matter shows in those given to it, not in those it makes.
    """
    servable, loop = load(traffic, runtime=runtime), Loop(traffic, runtime)
    rng = np.random.default_rng(6)
    shape = servable.fresh_state()[0].shape
    differ = 0
    state = servable.fresh_state()
    c, h = (np.zeros(shape, np.uint8) for _ in "ch")
    for image in traffic_images(shared_data):
        ours = servable.infer(image, state)
        *theirs, c, h = loop.step(image, c, h)
        assert same(ours.arrays, theirs)
        assert same(state, [c, h])
        given = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in "ch"]
        *theirs, _, _ = loop.step(image, *given)
        assert same(servable.infer(image, given).arrays, theirs)
        differ += not same(ours.arrays, theirs)
        assert all((values == 0).all() for values in (*state, *given))
    assert differ == 3
    assert (servable.kind, servable.labels) == ("detection", ("class 0", "class 1", "class 2"))
    assert servable.states == (
        ("raw_inputs/init_lstm_c", "raw_outputs/lstm_c"),
        ("raw_inputs/init_lstm_h", "raw_outputs/lstm_h"),
    )


def test_the_traffic_model_through_the_pipeline(shared_data, traffic, tmp_path) -> None:
    folder = tmp_path / "street"
    folder.mkdir()
    for name in TRAFFIC:
        (folder / name).write_bytes((shared_data / "images" / name).read_bytes())
    servable = load(traffic)
    loop = Loop(traffic, servable.runtime.name)
    rig = Rig(servable)
    config = CameraConfig(name="street", source=f"images:{folder}", model="m", fps=0)
    world = CameraWorld()
    world.open = lambda _: open_camera(config)  # type: ignore[method-assign,assignment]
    rig.camera("street", world)

    rig.run(lambda: rig.lanes["street"].counters.inferred >= 4)

    said = rig.said()["street"]
    assert [one.stamp.number for one in said[:4]] == [1, 2, 3, 4]
    images = traffic_images(shared_data)
    c, h = (np.zeros((1, 8, 8, 320), np.uint8) for _ in "ch")
    for inference, image in zip(said[:4], [*images, images[0]], strict=True):
        *theirs, c, h = loop.step(image, c, h)
        assert same(inference.outputs.arrays, theirs)


def test_labels_of_another_model_are_refused(shared_data, traffic) -> None:
    with pytest.raises(ValidationError, match="90 labels, but the model detects 3 classes"):
        load(traffic, labels=str(shared_data / "models" / "coco_labels.txt"))


# The commands


@pytest.fixture
def config(tmp_path) -> Path:
    path = write(tmp_path, recurrent.hidden_counter(), "hidden.tflite")
    fed = write(tmp_path, recurrent.counter(), "fed.tflite")
    cv2.imwrite(str(tmp_path / "red.png"), plain("red")[:, :, ::-1])
    file, source = tmp_path / "edged.toml", f"images:{tmp_path}/red.png"
    file.write_text(
        f'state_dir = "{tmp_path}"\nruntime_dir = "{tmp_path}"\n'
        + "".join(
            f'[[model]]\nname = "{name}"\nfactory = "{factory}"\n'
            for name, factory in (("hidden", path), ("fed", fed))
        )
        + "".join(
            f'[[camera]]\nname = "{name}"\nmodel = "{model}"\nsource = "{source}"\n'
            for name, model in (("a", "hidden"), ("b", "fed"), ("c", "fed"))
        )
    )
    return file


@pytest.mark.parametrize(("camera", "sums"), [("a", (2, 0, 0)), ("b", (1, 0, 0))])
def test_a_snapshot_is_a_single_image(tmp_path, config, capsys, camera, sums) -> None:
    arguments = ["--config", str(config), "--name", camera, "-o", str(tmp_path / "s.png"), "--json"]

    assert main(["snapshot", *arguments]) == 0

    taken = orjson.loads(capsys.readouterr().out)
    assert {line["label"]: line["score"] for line in taken["classes"]} == close(*sums, within=1e-4)


def test_the_doctor_names_states_and_cameras_that_would_mix(config, capsys) -> None:
    def findings() -> dict[str, dict[str, str]]:
        main(["doctor", "--config", str(config), "--json"])
        return {found["topic"]: found for found in orjson.loads(capsys.readouterr().out)}

    found = findings()
    assert found["model hidden"]["level"] == "ok"
    assert "raw_inputs/init_sum by raw_outputs/sum" in found["model fed"]["words"]
    config.write_text(config.read_text().replace('model = "fed"', 'model = "hidden"'))
    assert findings()["model hidden"]["reason"] == "state_not_shared"


@pytest.mark.broker
def test_a_reload_that_would_mix_cameras_is_refused(broker, config, tmp_path) -> None:
    body = config.read_text().split("\n", 2)[2]  # the device has directories of its own
    device = Device(tmp_path / "device", broker.port, body)
    listening = Subscriber(broker.port, "edged/dut/prediction/#").connect()
    try:
        device.start().wait_ready()
        assert "per camera, raw_inputs/init_sum is fed by raw_outputs/sum" in device.log
        device.write(body.replace('model = "fed"', 'model = "hidden"'))
        device.signal(signal.SIGHUP)
        device.wait_ready(times=2)
        assert "reload refused" in device.log
        assert "cameras a, b, c would mix" in device.log
        before = len(listening.of("edged/dut/prediction/c"))
        wait_for("it goes on", lambda: len(listening.of("edged/dut/prediction/c")) > before)
    finally:
        device.close()
        listening.close()

"""The life of a frame: mailbox, turns, swaps, cameras that fail, models that break."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from sim import models
from sim.camera import CameraWorld, SimCamera, lost, picture

from edged.config import CameraConfig, ModelConfig, PublishConfig
from edged.errors import AcceleratorError, EdgedError, Trouble, ValidationError
from edged.frame import FrameStamp
from edged.inference.loading import load_servable
from edged.inference.preprocess import InputSpec, geometry
from edged.inference.servable import Outputs, Servable
from edged.inference.tensors import TensorSpec
from edged.pipeline import capture as capture_module
from edged.pipeline import recovery as recovery_module
from edged.pipeline.bell import Bell
from edged.pipeline.capture import Capture, CaptureWorker
from edged.pipeline.counters import CameraCounters, Times
from edged.pipeline.inference import InferenceWorker
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.publisher import PublisherWorker
from edged.pipeline.recovery import ModelRecovery
from edged.pipeline.results import Inference, Results
from edged.prediction import (
    Area,
    Areas,
    Classes,
    FoundObject,
    Keypoint,
    Keypoints,
    ModelId,
    Objects,
    Prediction,
    ScoredClass,
)

WAIT_S = 10.0


def until(condition: Callable[[], bool], what: str = "") -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > end_s:
            pytest.fail(f"did not happen in {WAIT_S} s: {what}")
        time.sleep(0.002)


def input_spec(size: int = 8) -> InputSpec:
    return InputSpec(TensorSpec("input", 0, (1, size, size, 3), "uint8"))


def tensors(spec: InputSpec) -> Iterator[np.ndarray]:
    while True:
        yield np.zeros(spec.tensor.shape, np.uint8)


class StubServable:
    """Stands in for a loaded model where a test steers each invoke."""

    def __init__(self, name="m", invoke=lambda tensor: None, accelerator="cpu", size=8) -> None:
        self.id = ModelId(name, "1.0.0", "ab" * 32)
        self.input = input_spec(size)
        self.accelerator = accelerator
        self.fallback: Trouble | None = None
        self.closed = False
        self.keeps_state = False
        self._invoke = invoke

    def fresh_state(self) -> list[np.ndarray]:
        return []

    def infer(self, tensor, state=None) -> Outputs:
        assert not self.closed, "a closed servable was used"
        self._invoke(tensor)
        return Outputs([tensor.copy()], 0.001)

    def decode(self, outputs, place) -> Classes:
        value = int(outputs.arrays[0].flat[0])
        if value == 13:
            raise ValidationError("output_not_finite", "NaN")
        return Classes((ScoredClass(str(value), 0.9),))

    def close(self) -> None:
        self.closed = True


def lane(bell, name="cam", slot: ModelSlot | None = None) -> Lane:
    counters = CameraCounters()
    return Lane(name, Mailbox(bell, counters), slot or ModelSlot("m", bell), counters)


def put(to: Lane, spec: InputSpec, number: int) -> None:
    slot = to.mailbox.writable(spec, tensors(spec))
    slot.tensor[:] = number % 256
    slot.stamp = FrameStamp(to.camera, number, time.time(), time.monotonic(), 8, 8)
    slot.place = geometry(8, 8, spec)
    to.mailbox.put(slot)


def stop(*workers) -> None:
    for worker in workers:
        worker.stop(5.0)


# The mailbox


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    bell = Bell()
    one, spec = lane(bell), input_spec()
    for number in (1, 2, 3):
        put(one, spec, number)

    with bell.lock:
        slot = one.mailbox.take()
        assert one.mailbox.take() is None

    assert slot is not None
    assert slot.stamp is not None
    assert slot.stamp.number == 3
    assert one.counters.replaced == 2


def test_slots_never_run_out_and_are_never_shared() -> None:
    """One thread writes, another holds a frame while it works: no frame changes in its hands."""
    bell = Bell()
    one, spec = lane(bell), input_spec(32)
    torn: list[int] = []
    seen = 0

    def write() -> None:
        for number in range(1, 4000):
            put(one, spec, number)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive() or seen == 0:
        with bell.lock:
            slot = one.mailbox.take()
        if slot is None:
            continue
        before = slot.tensor.copy()
        time.sleep(0.0002)
        if (before != slot.tensor).any() or before.min() != before.max():
            torn.append(slot.stamp.number if slot.stamp else 0)
        seen += 1
        one.mailbox.give_back(slot)
    writer.join()

    assert torn == []
    assert seen + one.counters.replaced in (3998, 3999)


def test_slots_of_the_old_model_are_let_go() -> None:
    bell = Bell()
    one, small, large = lane(bell), input_spec(8), input_spec(16)
    put(one, small, 1)
    with bell.lock:
        held = one.mailbox.take()
    assert held is not None
    for number in range(2, 20):
        put(one, large, number)
    one.mailbox.give_back(held)

    for number in range(20, 40):
        put(one, large, number)
        with bell.lock:
            taken = one.mailbox.take()
        assert taken is not None
        assert taken.tensor.shape == (1, 16, 16, 3)
        one.mailbox.give_back(taken)


# The inference thread


def run_inference(lanes) -> tuple[InferenceWorker, Results]:
    results = Results()
    worker = InferenceWorker(lanes[0].mailbox._bell, tuple(lanes), results)
    worker.start()
    return worker, results


def fetch(results: Results) -> Inference:
    inference = results.get(WAIT_S)
    assert inference is not None
    return inference


def test_cameras_take_turns() -> None:
    """A camera that always has a fresh frame does not keep the others waiting."""
    bell = Bell()
    gate = threading.Semaphore(0)
    servable = StubServable(invoke=lambda tensor: gate.acquire())
    slot = ModelSlot("m", bell)
    slot.current = servable  # type: ignore[assignment]  # a stand-in
    lanes = [lane(bell, name, slot) for name in ("a", "b", "c")]
    worker, results = run_inference(lanes)
    order = []
    for _ in range(9):
        for one in lanes:
            put(one, servable.input, 1)
        gate.release()
        order.append(fetch(results).lane.camera)
    for _ in range(9):
        gate.release()
    stop(worker)

    # The first frame may be taken before the others are there; from then on it is a round.
    assert {"a", "b", "c"} == set(order[1:4]) == set(order[4:7])


def test_a_swap_waits_for_the_invoke_and_then_frees() -> None:
    bell = Bell()
    inside, go_on = threading.Event(), threading.Event()

    def invoke(tensor) -> None:
        inside.set()
        assert go_on.wait(WAIT_S)

    old, new = StubServable(invoke=invoke), StubServable()
    slot = ModelSlot("m", bell)
    slot.current = old  # type: ignore[assignment]  # a stand-in
    one = lane(bell, slot=slot)
    worker, results = run_inference([one])
    put(one, old.input, 1)
    assert inside.wait(WAIT_S)

    assert slot.swap(new, 0.05) is None, "still inside invoke: nobody may close it"  # type: ignore[arg-type]
    go_on.set()
    assert fetch(results).servable is old
    put(one, new.input, 2)
    assert fetch(results).servable is new
    assert slot.swap(None, WAIT_S) is new
    stop(worker)


def test_swaps_under_load_lose_nothing_and_mix_nothing() -> None:
    """Sixty swaps between models of two input sizes while frames pour in."""
    bell = Bell()
    sizes: list[tuple[int, int]] = []

    def make(size: int) -> StubServable:
        return StubServable(
            f"m{size}", size=size, invoke=lambda tensor: sizes.append((size, tensor.shape[1]))
        )

    slot = ModelSlot("m", bell)
    slot.current = make(8)  # type: ignore[assignment]  # a stand-in
    world = CameraWorld()
    world.plug_endless(lambda: picture(1), gap_s=0.0)
    one = lane(bell, slot=slot)
    worker, results = run_inference([one])
    capture = CaptureWorker(camera_config(), one, world.open, count(1), lambda: None)
    capture.start()
    taken: list[Inference] = []
    done = threading.Event()

    def fetch_all() -> None:
        while (inference := results.get(0.1)) is not None or not done.is_set():
            if inference is not None:
                taken.append(inference)

    drain = threading.Thread(target=fetch_all)
    drain.start()
    for i in range(60):
        old = slot.swap(make(16 if i % 2 else 8), WAIT_S)  # type: ignore[arg-type]
        assert old is not None
        old.close()
        time.sleep(0.005)
    until(lambda: len(sizes) > 200, "frames under swaps")
    capture.stop(5.0)
    stop(worker)
    done.set()
    drain.join()

    assert all(made == seen for made, seen in sizes)
    numbers = [inference.stamp.number for inference in taken]
    assert numbers == sorted(set(numbers)), "no frame twice, order kept"
    counters = one.counters
    accounted = counters.inferred + counters.replaced + counters.no_model + counters.overrun
    assert counters.captured - accounted in (0, 1, 2), "every frame is accounted for"


def test_a_failing_model_is_counted_and_told() -> None:
    bell = Bell()
    failing = True

    def invoke(tensor) -> None:
        if failing:
            raise AcceleratorError("edgetpu_failed", "gone", advice="Plug it in.")

    slot = ModelSlot("m", bell)
    slot.current = servable = StubServable(invoke=invoke)  # type: ignore[assignment]
    one = lane(bell, slot=slot)
    worker, results = run_inference([one])
    for number in range(3):
        put(one, servable.input, number)
        until(lambda: one.counters.errors["edgetpu_failed"] == number + 1)  # noqa: B023

    until(lambda: slot.broken)
    assert slot.trouble is not None
    assert slot.trouble.detail == "gone Plug it in."
    failing = False
    put(one, servable.input, 9)
    fetch(results)
    until(lambda: slot.trouble is None and not slot.broken)
    stop(worker)


def test_results_that_nobody_fetches_are_dropped_oldest_first() -> None:
    bell = Bell()
    slot = ModelSlot("m", bell)
    slot.current = servable = StubServable()  # type: ignore[assignment]
    one = lane(bell, slot=slot)
    results = Results(most=4)
    worker = InferenceWorker(bell, (one,), results)
    worker.start()
    for number in range(10):
        put(one, servable.input, number)
        until(lambda: one.counters.inferred == number + 1)  # noqa: B023
    stop(worker)

    assert [fetch(results).stamp.number for _ in range(4)] == [6, 7, 8, 9]
    assert one.counters.overrun == 6


def test_large_results_that_nobody_fetches_are_bounded_by_bytes() -> None:
    """A segmentation leaves 2 MB a frame: a publisher that stands still must not eat the memory."""
    one = ready_lane()
    servable = StubServable()
    results = Results(most_bytes=1000)

    def hand_on(number: int, size_bytes: int) -> None:
        outputs = Outputs([np.zeros(size_bytes, np.uint8)], 0.001)
        stamp = FrameStamp("cam", number, 0.0, 0.0, 8, 8)
        place = geometry(8, 8, servable.input)
        results.put(Inference(one, servable, stamp, place, outputs))  # type: ignore[arg-type]

    for number in range(5):
        hand_on(number, 400)
    assert [fetch(results).stamp.number for _ in range(2)] == [3, 4]
    assert one.counters.overrun == 3
    hand_on(5, 5000)  # larger than all the room: it goes alone
    assert fetch(results).stamp.number == 5
    hand_on(6, 600)
    hand_on(7, 400)
    assert [fetch(results).stamp.number for _ in range(2)] == [6, 7]
    assert results.get(0.0) is None
    assert one.counters.overrun == 3


def test_a_stuck_invoke_shows() -> None:
    bell = Bell()
    go_on = threading.Event()
    slot = ModelSlot("m", bell, invoke_limit_s=0.1)
    patient = ModelSlot("patient", bell, invoke_limit_s=600.0)
    for place in (slot, patient):
        place.current = StubServable(invoke=lambda tensor: go_on.wait(WAIT_S))  # type: ignore[assignment]
    one, other = lane(bell, slot=slot), lane(bell, "other", patient)
    worker, results = run_inference([one, other])
    assert not worker.stuck()
    put(one, slot.current.input, 1)  # type: ignore[union-attr]
    until(worker.stuck, "its own limit, not that of the patient one")
    go_on.set()
    until(lambda: not worker.stuck())
    fetch(results)
    go_on.clear()
    put(other, patient.current.input, 1)  # type: ignore[union-attr]
    time.sleep(0.3)
    assert not worker.stuck()
    go_on.set()
    stop(worker)


# The capture thread


def camera_config(**settings) -> CameraConfig:
    return CameraConfig(name="cam", source="synthetic", model="m", **settings)


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(capture_module, "_FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(capture_module, "_LONGEST_WAIT_S", 0.05)


def ready_lane() -> Lane:
    bell = Bell()
    slot = ModelSlot("m", bell)
    slot.current = StubServable()  # type: ignore[assignment]  # a stand-in
    return lane(bell, slot=slot)


def test_a_camera_that_fails_is_opened_again(impatient) -> None:
    world = CameraWorld()
    world.refuse("camera_not_found")
    world.refuse("camera_busy")
    world.plug([lambda: picture(1), lambda: picture(2), lost])
    world.plug_endless(lambda: picture(3))
    one = ready_lane()
    states: list[tuple[str, str]] = []
    worker = CaptureWorker(
        camera_config(),
        one,
        world.open,
        count(1),
        lambda: states.append((worker.state.state, worker.state.reason)),
    )
    worker.start()
    until(lambda: one.counters.captured > 5)
    worker.stop(5.0)

    assert states == [
        ("waiting", "camera_not_found"),
        ("waiting", "camera_busy"),
        ("streaming", ""),
        ("waiting", "camera_lost"),
        ("streaming", ""),
    ]
    assert one.counters.reconnects == 2  # opened again with success
    assert dict(one.counters.errors) == {
        "camera_not_found": 1,
        "camera_busy": 1,
        "camera_lost": 1,
    }
    assert all(camera.closed.is_set() for camera in world.opened)


def test_the_same_failure_is_told_once(impatient) -> None:
    world = CameraWorld()  # nothing is ever there
    told: list[str] = []
    one = ready_lane()
    worker = CaptureWorker(camera_config(), one, world.open, count(1), lambda: told.append(""))
    worker.start()
    until(lambda: one.counters.errors["camera_not_found"] > 3)
    worker.stop(5.0)

    assert len(told) == 1


def test_a_stalled_camera_is_reported() -> None:
    world = CameraWorld()
    world.plug([lambda: picture(1)])  # then nothing
    one = ready_lane()
    worker = CaptureWorker(camera_config(stall_s=0.5), one, world.open, count(1), lambda: None)
    worker.start()
    until(lambda: worker.state.reason == "camera_stalled")
    worker.stop(5.0)


def test_a_hung_driver_is_told_and_left_behind_within_bounds(monkeypatch, impatient) -> None:
    """Every thread hangs: three are left behind, no fourth; when they end, another begins."""
    monkeypatch.setattr(capture_module, "_HANG_GRACE_S", 0.02)
    release = threading.Event()

    def hang() -> np.ndarray:
        release.wait(WAIT_S)
        return picture(99)

    world = CameraWorld()
    for _ in range(3):
        world.plug([hang])
    world.plug_endless(lambda: picture(2))
    one = ready_lane()
    told: list[str] = []
    capture = Capture(
        camera_config(stall_s=0.5), one, world.open, lambda: told.append(capture.state.reason)
    )
    capture.start()

    def beaten(times: int) -> bool:
        capture.supervise()
        return one.counters.errors["camera_hung"] >= times

    until(lambda: beaten(3), "three hangs")
    until(lambda: capture.state.reason == "camera_hung")
    time.sleep(0.5)
    capture.supervise()
    assert "camera_hung" in told
    assert len(world.opened) == 3, "no more threads while three hang"
    release.set()
    until(lambda: capture.state.state == "streaming")
    capture.stop(5.0)


def test_a_hung_driver_is_noticed_and_a_new_worker_counts_on(monkeypatch) -> None:
    monkeypatch.setattr(capture_module, "_HANG_GRACE_S", 0.05)
    release = threading.Event()

    def hang() -> np.ndarray:
        release.wait(WAIT_S)
        return picture(99)

    world = CameraWorld()
    world.plug([lambda: picture(1), hang])
    world.plug_endless(lambda: picture(2))
    one = ready_lane()
    numbers = count(1)
    first = CaptureWorker(camera_config(stall_s=0.5), one, world.open, numbers, lambda: None)
    first.start()
    until(first.hung)
    first.ask_to_stop()
    second = CaptureWorker(camera_config(stall_s=0.5), one, world.open, numbers, lambda: None)
    second.start()
    until(lambda: one.counters.captured > 3)
    release.set()  # the old driver comes back to life: its frame must not get through
    until(lambda: not first._thread.is_alive())
    second.stop(5.0)

    assert next(numbers) == one.counters.captured + 1


def test_a_slow_rate_is_no_hang(monkeypatch) -> None:
    """A picture every two seconds from a folder, with a stall limit of half a second."""
    monkeypatch.setattr(capture_module, "_HANG_GRACE_S", 0.05)

    class Slow(SimCamera):
        pause_s = 2.0

    one = ready_lane()
    reading = threading.Event()
    camera = Slow(iter([lambda: (reading.set(), time.sleep(0.8), picture(1))[2]]))
    worker = CaptureWorker(
        camera_config(stall_s=0.5), one, lambda config: camera, count(1), lambda: None
    )
    worker.start()
    assert reading.wait(WAIT_S)
    time.sleep(0.7)
    assert not worker.hung()
    worker.stop(5.0)


@pytest.mark.parametrize("fps", [None, 0])
def test_a_camera_without_a_model_goes_on_and_does_not_spin(fps) -> None:
    world = CameraWorld()
    world.plug_endless(lambda: picture(1), gap_s=0.0 if fps == 0 else 0.002)
    one = ready_lane()
    one.model.current = None
    worker = CaptureWorker(camera_config(fps=fps), one, world.open, count(1), lambda: None)
    worker.start()
    until(lambda: one.counters.no_model > 3)
    assert worker.state.state == "streaming"
    if fps == 0:
        before = one.counters.no_model
        time.sleep(0.3)
        assert one.counters.no_model - before <= 5
    worker.stop(5.0)


def test_at_the_model_s_pace_no_frame_is_left_out() -> None:
    """`fps = 0`: the next frame is read when the model has taken the last one."""
    bell = Bell()
    slot = ModelSlot("m", bell)
    slot.current = StubServable(invoke=lambda tensor: time.sleep(0.003))  # type: ignore[assignment]
    one = lane(bell, slot=slot)
    world = CameraWorld()
    world.plug_endless(lambda: picture(1), gap_s=0.0)
    worker, results = run_inference([one])
    capture = CaptureWorker(camera_config(fps=0), one, world.open, count(1), lambda: None)
    capture.start()
    numbers = [fetch(results).stamp.number for _ in range(30)]
    capture.stop(5.0)
    stop(worker)

    assert numbers == list(range(1, 31))
    assert one.counters.replaced == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (48, 64), (2000, 3)])
def test_frames_of_every_shape_reach_the_model(size) -> None:
    world = CameraWorld()
    world.plug_endless(lambda: picture(77, size))
    one = ready_lane()
    worker = CaptureWorker(camera_config(rotate=90), one, world.open, count(1), lambda: None)
    worker.start()
    inference, results = run_inference([one])
    done = fetch(results)
    worker.stop(5.0)
    stop(inference)

    assert (done.outputs.arrays[0] == 77).all()
    assert (done.stamp.height, done.stamp.width) == size


# The publisher


def publish(values, config=PublishConfig(), step_s=0.1) -> tuple[list[tuple[str, int]], Lane]:
    bell = Bell()
    one = lane(bell)
    results = Results()
    sent: list[tuple[str, int]] = []

    def send(prediction: Prediction, seq: int) -> None:
        assert isinstance(prediction.result, Classes)
        sent.append((prediction.result.classes[0].label, seq))

    worker = PublisherWorker(results, {"cam": PublishPolicy(config)}, send)
    worker.start()
    servable = StubServable()
    place = geometry(8, 8, servable.input)
    for i, value in enumerate(values):
        stamp = FrameStamp("cam", i + 1, 0.0, i * step_s, 8, 8)
        outputs = Outputs([np.full((1, 4), value, np.uint8)], 0.001)
        results.put(Inference(one, servable, stamp, place, outputs))  # type: ignore[arg-type]
    worker.stop(WAIT_S)
    return sent, one


def test_every_prediction_is_sent_with_its_number() -> None:
    sent, one = publish([5, 5, 6])

    assert sent == [("5", 1), ("5", 2), ("6", 3)]
    assert one.counters.published == 3


def test_on_change_only_changes_are_sent() -> None:
    sent, one = publish([5, 5, 6, 6, 5], PublishConfig(mode="change"))

    assert sent == [("5", 1), ("6", 2), ("5", 3)]
    assert one.counters.withheld == 2


def test_the_rate_is_kept_evenly() -> None:
    sent, _ = publish(range(100), PublishConfig(mode="rate", per_second=4), step_s=1 / 16)

    values = [int(label) for label, _ in sent]
    assert len(values) == 25
    assert set(np.diff(values)) == {4}


def test_after_a_pause_the_rate_does_not_catch_up() -> None:
    policy = PublishPolicy(PublishConfig(mode="rate", per_second=2))
    result = Classes((ScoredClass("a", 1.0),))

    times = [0.0, 0.1, 0.5, 10.0, 10.1, 10.2, 10.5, 10.6]
    assert [policy.wants(result, t) for t in times] == [
        True, False, True, True, False, False, True, False,
    ]  # fmt: skip


def test_a_change_of_objects_is_a_change_of_their_labels() -> None:
    def seen(*labels: str) -> Objects:
        return Objects(tuple(FoundObject(label, 0.5, (0, 0, 1, 1)) for label in labels))

    policy = PublishPolicy(PublishConfig(mode="change"))
    results = [seen("cat"), seen("cat"), seen("cat", "dog"), seen("dog", "cat"), seen(), seen()]

    assert [policy.wants(result, 0.0) for result in results] == [
        True, False, True, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["keypoints", "areas"])
def test_a_change_of_keypoints_or_areas_is_a_change_of_their_labels(kind) -> None:
    def seen(**values: float) -> Keypoints | Areas:
        if kind == "areas":
            return Areas(tuple(Area(label, value) for label, value in values.items()))
        points = (Keypoint(label, value, (value, 0.5)) for label, value in values.items())
        return Keypoints(tuple(points))

    policy = PublishPolicy(PublishConfig(mode="change"))
    results = [
        *(seen(nose=0.6, hip=0.4), seen(hip=0.7, nose=0.3)),  # moved, and others are larger
        *(seen(nose=0.6), seen(nose=0.9), seen(), seen(), seen(hip=0.6)),
    ]

    assert [policy.wants(result, 0.0) for result in results] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip


def test_outputs_that_make_no_sense_are_counted_and_the_next_is_fine() -> None:
    sent, one = publish([5, 13, 13, 6])

    assert sent == [("5", 1), ("6", 2)]
    assert one.counters.errors["output_not_finite"] == 2
    assert one.model.trouble is None, "the last one was fine"
    _, bad = publish([5, 13])
    assert bad.model.trouble is not None
    assert bad.model.trouble.reason == "output_not_finite"


def test_percentiles_of_recent_times() -> None:
    times = Times()
    assert times.percentiles_ms() == {}
    for i in range(1, 101):
        times.add(i / 1000)

    assert times.percentiles_ms() == {"p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0}


# Recovery


def recover(slot: ModelSlot, load, there=lambda: False) -> ModelRecovery:
    config = ModelConfig(name="m", factory="x")
    worker = ModelRecovery({"m": slot}, {"m": config}, load, there, lambda: None)
    worker.start()
    return worker


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(recovery_module, "_TICK_S", 0.005)
    monkeypatch.setattr(recovery_module, "_FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(recovery_module, "_LONGEST_WAIT_S", 0.02)


def test_a_broken_model_is_freed_and_loaded_again(quick) -> None:
    slot = ModelSlot("m", Bell())
    slot.current = old = StubServable()  # type: ignore[assignment]
    attempts: list[bool] = []

    def load(config) -> Servable:
        attempts.append(old.closed)
        if len(attempts) < 3:
            raise AcceleratorError("edgetpu_no_device", "not there yet")
        return StubServable("new")  # type: ignore[return-value]

    for _ in range(3):
        slot.did_not_run(AcceleratorError("edgetpu_failed", "gone"))
    worker = recover(slot, load)
    until(lambda: slot.current is not None and slot.current is not old)
    stop(worker)

    assert attempts == [True, True, True], "the old one is closed before the accelerator is opened"
    assert slot.trouble is None


def test_while_it_cannot_be_loaded_the_reason_is_kept(quick) -> None:
    slot = ModelSlot("m", Bell())

    def load(config) -> Servable:
        raise AcceleratorError("edgetpu_no_device", "not there")

    worker = recover(slot, load)
    until(lambda: slot.trouble is not None)
    stop(worker)

    assert slot.trouble is not None
    assert slot.trouble.reason == "edgetpu_no_device"


def test_back_to_the_accelerator_when_it_is_there_again(quick) -> None:
    slot = ModelSlot("m", Bell())
    slot.current = running = StubServable()  # type: ignore[assignment]
    running.fallback = Trouble("edgetpu_no_device", "gone")
    plugged = threading.Event()
    asked: list[bool] = []

    def load(config) -> Servable:
        asked.append(running.closed)
        if len(asked) == 1:
            raise AcceleratorError("edgetpu_busy", "not yet")
        return StubServable(accelerator="edgetpu")  # type: ignore[return-value]

    worker = recover(slot, load, plugged.is_set)
    time.sleep(0.05)
    assert slot.current is running, "no device, nothing to try"
    plugged.set()
    until(lambda: slot.current is not None and slot.current.accelerator == "edgetpu")
    until(lambda: running.closed)
    stop(worker)

    assert asked == [False, False], "the CPU model runs on until the accelerator answers"


def test_while_the_accelerator_does_not_answer_the_attempts_thin_out(quick, monkeypatch) -> None:
    """A device that is plugged in but may not be opened: the CPU model is not loaded for ever."""
    monkeypatch.setattr(recovery_module, "_LONGEST_WAIT_S", 10.0)
    slot = ModelSlot("m", Bell())
    slot.current = running = StubServable()  # type: ignore[assignment]
    running.fallback = Trouble("edgetpu_no_permission", "not yours")
    at: list[float] = []
    spare: list[StubServable] = []

    def load(config) -> Servable:
        at.append(time.monotonic())
        spare.append(StubServable())
        spare[-1].fallback = running.fallback
        return spare[-1]  # type: ignore[return-value]

    worker = recover(slot, load, lambda: True)
    until(lambda: len(at) >= 6)
    stop(worker)

    gaps = np.diff(at)
    assert gaps[-1] > 4 * gaps[0]
    assert all(servable.closed for servable in spare)
    assert slot.current is running


def test_a_load_that_ends_after_the_stop_is_let_go(quick) -> None:
    slot = ModelSlot("m", Bell())
    loading, go_on = threading.Event(), threading.Event()
    late = StubServable()

    def load(config) -> Servable:
        loading.set()
        assert go_on.wait(WAIT_S)
        return late  # type: ignore[return-value]

    worker = recover(slot, load)
    assert loading.wait(WAIT_S)
    assert worker.stop(0.01) is False
    go_on.set()
    until(lambda: late.closed)
    assert slot.current is None


# Real models all the way


def test_real_models_from_camera_to_prediction(tmp_path: Path) -> None:
    """Two cameras, two real models, colours in, labels out."""
    bell = Bell()
    labels = ["red", "green", "blue", "dark"]
    data = models.with_metadata(models.classifier(), labels)
    path = models.write(tmp_path / "m.tflite", data)
    slots = {name: ModelSlot(name, bell) for name in ("one", "two")}
    for name, slot in slots.items():
        slot.current = load_servable(ModelConfig(name=name, factory=str(path)))
    seen: dict[str, set[tuple[str, str]]] = {"a": set(), "b": set()}
    colours = {"a": (255, 0, 0), "b": (0, 0, 255)}
    lanes, captures = [], []
    for camera, slot in zip(colours, slots.values(), strict=True):
        world = CameraWorld()
        colour = np.array(colours[camera], np.uint8)
        world.plug_endless(lambda colour=colour: np.full((30, 40, 3), colour, np.uint8))
        one = lane(bell, camera, slot)
        lanes.append(one)
        config = CameraConfig(name=camera, source="synthetic", model=slot.name)
        captures.append(CaptureWorker(config, one, world.open, count(1), lambda: None))
    results = Results()
    inference = InferenceWorker(bell, tuple(lanes), results)

    def send(prediction: Prediction, seq: int) -> None:
        assert isinstance(prediction.result, Classes)
        best = prediction.result.classes[0].label
        seen[prediction.frame.camera].add((prediction.model.name, best))

    policies = {name: PublishPolicy(PublishConfig()) for name in colours}
    publisher = PublisherWorker(results, policies, send)
    for worker in (publisher, inference, *captures):
        worker.start()
    until(lambda: all(one.counters.published > 20 for one in lanes))
    for capture in captures:
        capture.stop(5.0)
    stop(inference, publisher)

    assert seen == {"a": {("one", "red")}, "b": {("two", "blue")}}


def test_errors_have_their_slug() -> None:
    error: EdgedError = AcceleratorError("edgetpu_busy", "taken.", advice="Stop the other.")

    assert (error.reason, error.explain()) == ("edgetpu_busy", "taken. Stop the other.")

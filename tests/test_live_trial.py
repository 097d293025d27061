"""A candidate on trial in the running pipeline: real models, real threads, frame by frame."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from sim import models
from sim.camera import CameraWorld
from test_servable import load

from edged.config import CameraConfig, PublishConfig
from edged.errors import AcceleratorError
from edged.frame import FrameStamp
from edged.inference.preprocess import geometry
from edged.inference.servable import Servable
from edged.models.trial import SCENES_NEEDED, TrialLimits, TrialWatch
from edged.pipeline.bell import Bell
from edged.pipeline.capture import CaptureWorker
from edged.pipeline.counters import CameraCounters
from edged.pipeline.inference import InferenceWorker
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.publisher import PublisherWorker
from edged.pipeline.results import Inference, Results
from edged.pipeline.stage import Stage
from edged.pipeline.trial import LiveTrial

WAIT_S = 10.0
LIMITS = TrialLimits(frames=60, seconds=0.1)


def until(done: Callable[[], object]) -> None:
    limit_s = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < limit_s, "nothing happened"
        time.sleep(0.005)


class Line:
    """A camera at the model's pace, one model slot, and a publisher that remembers."""

    def __init__(
        self,
        servable: Servable,
        scenes: Callable[[int], np.ndarray],
        invoking: Callable[[str], None] = lambda sha256: None,
    ) -> None:
        bell = Bell()
        self.slot = ModelSlot("m", bell)
        self.slot.current = servable
        self.stage = Stage({"m": self.slot})
        self.counters = CameraCounters()
        lane = Lane("cam", Mailbox(bell, self.counters), self.slot, self.counters)
        results = Results()
        self.sent: list[tuple[int, str]] = []
        policies = {"cam": PublishPolicy(PublishConfig())}
        publisher = PublisherWorker(
            results,
            policies,
            lambda prediction, seq: self.sent.append((seq, prediction.model.sha256)),
        )
        world = CameraWorld()
        number = count()
        world.plug_endless(lambda: scenes(next(number)), gap_s=0.0)
        config = CameraConfig(name="cam", source="synthetic", model="m", fps=0)
        capture = CaptureWorker(config, lane, world.open, count(1), lambda: None)
        self._workers = (capture, InferenceWorker(bell, (lane,), results, invoking), publisher)
        for worker in self._workers:
            worker.start()

    def try_out(self, candidate: Servable, *, compare: bool = True, every: int = 2) -> LiveTrial:
        """Swap the candidate in and begin its trial."""
        previous = self.slot.current
        watch = TrialWatch(LIMITS, time.monotonic())
        trial = LiveTrial(candidate, watch, previous if compare else None, every)
        self.slot.swap(candidate, WAIT_S)
        assert self.slot.set_trial(trial, WAIT_S)
        return trial

    def end_trial(self) -> None:
        assert self.slot.set_trial(None, WAIT_S)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop(5.0)


def colours(number: int) -> np.ndarray:
    """Scenes that differ: a patch of one colour, elsewhere in each, on a ground of another.

    Each is seen three times in a row, and now and then it is dark.
    """
    if number % 10 == 0:
        return np.zeros((48, 64, 3), np.uint8)
    rng = np.random.default_rng(number // 3)
    image = np.full((48, 64, 3), 20, np.uint8)
    image[:, :, rng.integers(0, 3)] = 120
    y, x = rng.integers(0, 24), rng.integers(0, 32)
    image[y : y + 24, x : x + 32] = rng.integers(0, 256, 3)
    return image


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "good": models.write(tmp_path / "good.tflite", models.classifier()),
        "equal": models.write(tmp_path / "equal.tflite", models.classifier(head="logits")),
        "right": models.write(tmp_path / "right.txt", "\n".join(models.COLOURS).encode()),
        "swapped": models.write(tmp_path / "swapped.txt", b"blue\ndark\nred\ngreen\n"),
        "large": models.write(tmp_path / "large.tflite", models.classifier(size=(48, 48))),
        "nan": models.write(tmp_path / "nan.tflite", models.nan_classifier(only_black=True)),
    }


@pytest.fixture
def line(files: dict[str, Path]) -> Iterator[Line]:
    running = Line(load(files["good"], labels=str(files["right"])), colours)
    yield running
    running.stop()


def outcome(trial: LiveTrial) -> str:
    until(lambda: trial.verdict().outcome != "wait")
    return trial.verdict().reason or trial.verdict().outcome


def test_an_equal_candidate_is_healthy_and_was_compared(line: Line, files) -> None:
    until(lambda: len(line.sent) > 5)
    trial = line.try_out(load(files["equal"], labels=str(files["right"])))

    assert outcome(trial) == "healthy"
    until(lambda: trial.health()["compared"].get("scenes", 0) >= SCENES_NEEDED)
    compared = trial.health()["compared"]
    assert compared["disagreement"] == 0.0
    seqs = [seq for seq, _ in line.sent]
    assert seqs == list(range(1, len(seqs) + 1))
    assert len({sha for _, sha in line.sent}) == 2


def test_a_candidate_that_says_something_else_is_told(line: Line, files) -> None:
    trial = line.try_out(load(files["good"], labels=str(files["swapped"])))
    until(lambda: trial.health()["compared"].get("scenes", 0) >= SCENES_NEEDED)

    assert outcome(trial) == "trial_disagrees"


def test_a_candidate_whose_outputs_are_no_numbers_at_night(line: Line, files) -> None:
    trial = line.try_out(load(files["nan"]))

    assert outcome(trial) == "trial_not_finite"
    assert line.counters.errors["output_not_finite"] >= 3


def test_another_input_is_not_compared_and_says_so(line: Line, files) -> None:
    trial = line.try_out(load(files["large"]))

    assert outcome(trial) == "healthy"
    assert trial.health()["compared"] == {"verdict": "insufficient", "reason": "other_input"}


def test_without_room_for_two_nothing_is_compared(line: Line, files) -> None:
    trial = line.try_out(load(files["good"], labels=str(files["swapped"])), compare=False)

    assert outcome(trial) == "healthy"
    assert trial.health()["compared"] == {"verdict": "insufficient", "reason": "no_room"}


def test_the_device_s_faults_do_not_count_and_the_previous_model_s_neither(
    line: Line, files, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = load(files["equal"])
    previous = line.slot.current
    assert previous is not None
    good, turns = candidate.infer, count()

    def flaky(tensor, state=None):
        if next(turns) % 2:
            raise AcceleratorError("edgetpu_failed", "unplugged")
        return good(tensor, state)

    def broken(tensor, state=None):
        raise AcceleratorError("edgetpu_failed", "unplugged")

    monkeypatch.setattr(candidate, "infer", flaky)
    monkeypatch.setattr(previous, "infer", broken)
    trial = line.try_out(candidate)

    assert outcome(trial) == "healthy"
    assert trial.health()["errors"] == {}
    assert trial.health()["compared"] == {"verdict": "insufficient", "reason": "edgetpu_failed"}


def test_frames_written_for_the_model_before_serve_one_with_the_same_input(files) -> None:
    """A swap costs no frame where both models see the same pixels."""
    before, after, other = (load(files[name]) for name in ("good", "equal", "large"))

    assert before.input is not after.input
    assert before.input.same_pixels(after.input)
    assert not before.input.same_pixels(other.input)

    line = Line(before, colours)
    until(lambda: line.counters.inferred > 5)
    for servable in (after, before) * 10:
        line.slot.swap(servable, WAIT_S)
        seen = line.counters.inferred
        until(lambda seen=seen: line.counters.inferred > seen + 3)
    line.stop()

    assert line.counters.no_model == 0
    assert line.counters.replaced == 0


def test_the_end_of_a_trial_waits_for_the_previous_model(line: Line, files, monkeypatch) -> None:
    """Only then may it be freed: an interpreter that is closed inside invoke takes the process."""
    previous = line.slot.current
    assert previous is not None
    inside, go_on = threading.Event(), threading.Event()
    real = previous.infer

    def slow(tensor, state=None):
        inside.set()
        assert go_on.wait(WAIT_S)
        return real(tensor, state)

    candidate = load(files["equal"])
    line.slot.swap(candidate, WAIT_S)
    monkeypatch.setattr(previous, "infer", slow)
    watch = TrialWatch(LIMITS, time.monotonic())
    line.slot.set_trial(LiveTrial(candidate, watch, previous, every=1), WAIT_S)
    assert inside.wait(WAIT_S)

    assert not line.slot.set_trial(None, 0.1), "still inside"
    go_on.set()
    assert line.slot.set_trial(None, WAIT_S)
    previous.close()
    seen = line.counters.inferred
    until(lambda: line.counters.inferred > seen + 5)


def test_the_last_frames_of_the_model_before_say_nothing_about_the_candidate(files) -> None:
    """They are still on their way to the publisher when the trial begins."""
    before, candidate = load(files["good"]), load(files["equal"])
    slot = ModelSlot("m", Bell())
    counters = CameraCounters()
    lane = Lane("cam", Mailbox(Bell(), counters), slot, counters)
    slot.trial = LiveTrial(candidate, TrialWatch(LIMITS, time.monotonic()), None)
    results = Results()
    publisher = PublisherWorker(
        results, {"cam": PublishPolicy(PublishConfig())}, lambda prediction, seq: None
    )
    tensor = np.zeros(before.input.tensor.shape, before.input.tensor.dtype)
    stamp = FrameStamp("cam", 1, 0.0, 0.0, 32, 32)
    for servable in (before, before, candidate):
        place = geometry(32, 32, servable.input)
        results.put(Inference(lane, servable, stamp, place, servable.infer(tensor)))
    publisher.start()
    publisher.stop(WAIT_S)

    assert counters.published == 3
    assert slot.trial.health()["frames"] == 1

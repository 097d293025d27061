"""A candidate on trial in the running pipeline: real models, real threads, frame by frame."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from sim import models
from sim.camera import CameraWorld
from test_servable import load

from edged.board import memory_bytes
from edged.config import CameraConfig, PublishConfig, UpdateConfig
from edged.errors import AcceleratorError, ValidationError
from edged.frame import FrameStamp
from edged.inference.preprocess import geometry
from edged.inference.servable import Outputs, Servable
from edged.models import casework, updater
from edged.models import trial as trial_module
from edged.models.faults import judged
from edged.models.transitions import Kind
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
    """A camera, by default at the model's pace, one model slot, a publisher that remembers."""

    def __init__(
        self,
        servable: Servable,
        scenes: Callable[[int], np.ndarray],
        gap_s: float = 0.0,
        fps: float = 0,
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
        world.plug_endless(lambda: scenes(next(number)), gap_s)
        config = CameraConfig(name="cam", source="synthetic", model="m", fps=fps)
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

    Each is seen three times in a row, and now and then it is dark; not in step with comparisons.
    """
    if number % 7 == 0:
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


def stuck_comparison(line: Line, files, monkeypatch) -> tuple[Servable, threading.Event]:
    """Begin a trial whose previous model stays in `infer` until the event; both are returned."""
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
    return previous, go_on


def test_a_prediction_does_not_wait_for_the_comparison(line: Line, files, monkeypatch) -> None:
    """On a board that takes 100 ms for an invoke every tenth frame would come that much later."""
    _, go_on = stuck_comparison(line, files, monkeypatch)

    until(lambda: len(line.sent) == line.counters.inferred)
    go_on.set()


def test_the_end_of_a_trial_waits_for_the_previous_model(line: Line, files, monkeypatch) -> None:
    """Only then may it be freed: an interpreter that is closed inside invoke takes the process."""
    previous, go_on = stuck_comparison(line, files, monkeypatch)

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


# Every sign of illness, on the real stage: it measures what served before, and judges.


def tried(line: Line, candidate: Servable, limits: TrialLimits = LIMITS, **changes: object) -> str:
    """Try a candidate as updates do; return the verdict."""
    until(lambda: line.slot.invoke.count >= 60)
    line.stage.try_out("m", lambda: candidate, limits, **({"alone": False} | changes))  # type: ignore[arg-type]
    until(lambda: line.stage.verdict("m")[0].outcome != "wait")
    verdict, _ = line.stage.verdict("m")
    return verdict.reason or verdict.outcome


def with_outputs(candidate: Servable, change: Callable[[Outputs], Outputs]) -> Servable:
    """Let a candidate answer something else."""
    infer = candidate.infer
    candidate.infer = lambda tensor, state=None: change(infer(tensor, state))  # type: ignore[method-assign]
    return candidate


# As many frames as it takes to see enough scenes, one frame in ten.
# Twenty distinct scenes, also where a busy machine leaves frames out.
LONG = TrialLimits(frames=1800, seconds=0.1, p95_ratio=1000.0)


def test_frames_that_fail_end_a_trial(line: Line, files) -> None:
    turns = count()

    def fail(outputs: Outputs) -> Outputs:
        if next(turns) % 4 == 0:
            raise ValidationError("invoke_failed", "it says no")
        return outputs

    assert tried(line, with_outputs(load(files["equal"]), fail)) == "trial_errors"
    assert line.stage.verdict("m")[1]["errors"]["invoke_failed"] >= 3  # type: ignore[index]


def test_slower_than_what_ran_in_the_minutes_before(line: Line, files) -> None:
    def slow(outputs: Outputs) -> Outputs:
        return replace(outputs, invoke_s=outputs.invoke_s + 0.2)

    limits = TrialLimits(frames=100, seconds=0.1)
    assert tried(line, with_outputs(load(files["equal"]), slow), limits) == "trial_slow"
    assert line.stage.verdict("m")[1]["p95_before_ms"] is not None


def test_one_class_for_all_scenes_that_the_model_before_tells_apart(line: Line, files) -> None:
    turns = count()

    def collapse(outputs: Outputs) -> Outputs:
        # Not the same to the last bit: the scores move, the best class does not.
        scores = np.array([[200, 1, 1, next(turns) % 50]], np.uint8)
        return replace(outputs, arrays=[scores])

    candidate = with_outputs(load(files["good"]), collapse)
    assert tried(line, candidate, LONG) == "trial_collapsed"


def night(number: int) -> np.ndarray:
    """Distinct scenes, and dark all of them."""
    image = np.full((48, 64, 3), 4, np.uint8)
    rng = np.random.default_rng(number // 3)
    image[rng.integers(0, 24) :, rng.integers(0, 32) :] = rng.integers(14, 60)
    return image


def test_outputs_that_stay_the_same_while_the_picture_moves(files) -> None:
    """The model before says one class of all of it too, with scores that move."""

    line = Line(load(files["good"], labels=str(files["right"])), night)
    try:
        frozen = np.array([[1, 1, 1, 200]], np.uint8)
        candidate = load(files["good"], labels=str(files["right"]))
        with_outputs(candidate, lambda outputs: replace(outputs, arrays=[frozen]))
        assert tried(line, candidate, LONG) == "trial_frozen"
    finally:
        line.stop()


def test_an_empty_yard_at_night_rolls_nothing_back(files) -> None:
    line = Line(load(files["good"], labels=str(files["right"])), night)
    try:
        candidate = load(files["equal"], labels=str(files["right"]))
        assert tried(line, candidate, LONG) == "healthy"
        compared = line.stage.verdict("m")[1]["compared"]
        assert compared["scenes"] >= SCENES_NEEDED  # type: ignore[index]
        assert compared["disagreement"] == 0.0  # type: ignore[index]
    finally:
        line.stop()


def test_one_scene_for_hours_is_not_enough_to_judge(files) -> None:
    line = Line(load(files["good"]), lambda number: np.zeros((48, 64, 3), np.uint8))
    try:
        swapped = load(files["good"], labels=str(files["swapped"]))
        assert tried(line, swapped, replace(LIMITS, max_disagreement=0.0)) == "healthy"
        compared = line.stage.verdict("m")[1]["compared"]
        assert compared["verdict"] == "insufficient"  # type: ignore[index]
    finally:
        line.stop()


def test_memory_that_grows_with_every_frame(line: Line, files) -> None:
    """Of the process itself, as it is measured in the service."""
    kept: list[np.ndarray] = []
    measured = 0

    def leak(outputs: Outputs) -> Outputs:
        if len(kept) < 16 * measured:  # none but what is measured, however seldom that is
            kept.append(np.ones(250_000, np.uint8))
        return outputs

    limits = TrialLimits(frames=10**6, seconds=0.1, p95_ratio=1000.0)
    until(lambda: line.slot.invoke.count >= 60)
    candidate = with_outputs(load(files["equal"]), leak)
    line.stage.try_out("m", lambda: candidate, limits, alone=True)
    trial = line.slot.trial
    assert trial is not None
    while len(kept) < 400:
        if len(kept) >= 16 * measured:
            line.stage.measured("m", memory_bytes().resident_bytes)
            measured += 1
        time.sleep(0.001)
    trial._watch.limits = replace(limits, frames=10)
    assert line.stage.verdict("m")[0].reason == "trial_leak"


def test_the_shortest_usual_trial_has_the_samples_for_a_leak() -> None:
    seconds = UpdateConfig().trial_seconds
    assert seconds / (casework._MEASURED_S + updater._TICK_S) >= trial_module._MEMORY_NEEDED


def test_no_frame_at_all_ends_a_trial_without_a_verdict_on_the_model(files) -> None:
    slot = ModelSlot("m", Bell())
    slot.current = load(files["good"])
    stage = Stage({"m": slot})
    candidate = load(files["equal"])
    stage.try_out("m", lambda: candidate, replace(LIMITS, no_frames_s=0.3), alone=False)
    assert stage.verdict("m")[0].outcome == "wait"
    until(lambda: stage.verdict("m")[0].outcome != "wait")
    verdict, health = stage.verdict("m")
    assert (verdict.outcome, verdict.reason) == ("no_frames", "no_frames")
    assert judged(verdict, health).kind is Kind.FAILED  # type: ignore[union-attr]
    assert UpdateConfig().no_frames_s == 3600.0

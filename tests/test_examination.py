"""A candidate answers its golden set on the inference thread before it serves a frame."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sim import models, packages
from sim.golden import COLOURS, colour_inputs, golden_of, load
from test_live_trial import Line, colours, until

from edged.config import ModelConfig
from edged.errors import AcceleratorError, DeviceError, EdgedError, ValidationError, VerifyError
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.models.examination import Examination
from edged.models.golden import Golden
from edged.models.manifest import Manifest, parse_manifest
from edged.models.trial import TrialLimits

LIMITS = TrialLimits(frames=30, seconds=0.1)


def manifest(golden: Golden, top1: tuple[str, ...] | None = COLOURS) -> Manifest:
    said = {"samples": golden.samples, "made_with": "litert 2.3.0", "top1": top1}
    return parse_manifest(json.dumps(packages.facts(packages.contents(), golden=said)).encode())


class World:
    """A line on which one model runs, and a candidate with its golden set beside it."""

    def __init__(self, folder: Path, **settings: object) -> None:
        path = models.write(folder / "before.tflite", models.classifier())
        labels = models.write(folder / "labels.txt", "\n".join(COLOURS).encode())
        self.seen: list[str] = []
        # A camera with a rate of its own: one at the model's pace waits while nobody takes a frame.
        before = load(path, labels=str(labels))
        self.line = Line(before, colours, 0.005, fps=200, invoking=self.seen.append)
        after = models.write(folder / "after.tflite", models.classifier(head="logits"))
        config = ModelConfig(name="m", factory=str(after), labels=str(labels), **settings)  # type: ignore[arg-type]
        self.candidate = load_servable(config)
        self.golden = golden_of(self.candidate, colour_inputs(dtype="uint8"))
        self.order: list[str] = []
        self.takes_s = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self._watch(self.candidate)

    def _watch(self, candidate: Servable) -> None:
        run, infer, close = candidate.run, candidate.infer, candidate.close

        def running(inputs):
            assert self.gate.wait(30.0)
            time.sleep(self.takes_s)
            self.order.append("question")
            return run(inputs)

        def inferring(tensor, state=None):
            self.order.append("frame")
            return infer(tensor, state)

        def closing():
            self.order.append("closed")
            close()

        candidate.run, candidate.infer, candidate.close = running, inferring, closing  # type: ignore[method-assign]

    def examine(self, candidate: Servable) -> Examination:
        return Examination(candidate, self.golden, manifest(self.golden), named=True)

    def try_out(self, **changes: object) -> None:
        settings = {"alone": True, "examine": self.examine} | changes
        self.line.stage.try_out("m", lambda: self.candidate, LIMITS, **settings)  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**settings: object) -> World:
        worlds.append(World(tmp_path, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.line.stop()


def test_all_questions_come_before_the_first_frame(made) -> None:
    world = made()
    until(lambda: len(world.line.sent) > 5)
    world.try_out()
    until(lambda: world.line.stage.verdict("m")[0].outcome == "healthy")

    questions = len(COLOURS) + 2
    assert world.order[:questions] == ["question"] * questions
    assert set(world.order[questions:]) == {"frame"}
    health = world.line.stage.verdict("m")[1]
    assert health["golden"] == "4/4 agree"
    assert health["frames"] < world.order.count("frame") + 1
    assert health["compared"] == {"verdict": "insufficient", "reason": "no_room"}
    assert world.line.counters.errors == {}
    seqs = [seq for seq, _ in world.line.sent]
    assert seqs == list(range(1, len(seqs) + 1))


def test_frames_meanwhile_are_counted_and_the_crumb_names_the_candidate(made) -> None:
    world = made()
    until(lambda: len(world.line.sent) > 5)
    world.gate.clear()
    trying = threading.Thread(target=world.try_out)
    trying.start()
    until(lambda: world.seen[-1:] == [world.candidate.id.sha256])
    waiting, inferred = world.line.counters.no_model, world.line.counters.inferred
    until(lambda: world.line.counters.no_model > waiting + 2)

    assert world.line.counters.inferred == inferred, "paused"
    assert world.line.counters.errors == {}
    world.gate.set()
    trying.join(10.0)
    until(lambda: world.line.counters.inferred > inferred + 5)


def test_the_model_before_goes_on_where_there_is_room_for_both(made) -> None:
    """An Edge TPU that was taken out: the candidate has come to the CPU without being tried."""
    world = made()
    before, after = world.line.slot.current.id.sha256, world.candidate.id.sha256
    until(lambda: len(world.line.sent) > 5)
    world.takes_s = 0.05  # long enough for a frame to come
    world.try_out(alone=False)

    asked = [n for n, sha256 in enumerate(world.seen) if sha256 == after][: len(COLOURS) + 2]
    assert before in world.seen[asked[0] : asked[-1]], "between two questions there is a frame"
    assert world.line.counters.no_model == 0


def wrong(world: World) -> None:
    (array,) = world.golden.outputs
    world.golden = Golden(world.golden.inputs, (np.roll(array, 1, -1),))


def constant(world: World) -> None:
    answer = [array[0] for array in world.golden.outputs]
    world.golden = Golden(world.golden.inputs, tuple(np.stack([array] * 4) for array in answer))
    world.candidate.run = lambda inputs: answer  # type: ignore[method-assign]


def unfit(world: World) -> None:
    world.golden = Golden((world.golden.inputs[0][:, :, :16],), world.golden.outputs)


def unplugged(world: World) -> None:
    def fail(inputs):
        raise AcceleratorError("edgetpu_failed", "gone")

    world.candidate.run = fail  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (wrong, ValidationError, "golden_mismatch"),
        (constant, ValidationError, "golden_mismatch"),
        (unfit, VerifyError, "golden_invalid"),
        (unplugged, AcceleratorError, "edgetpu_failed"),
    ],
)
def test_a_candidate_that_fails_never_serves(made, spoil, kind, reason) -> None:
    world = made()
    spoil(world)
    with pytest.raises(EdgedError) as caught:
        world.try_out(alone=False)

    assert isinstance(caught.value, kind)
    assert caught.value.reason == reason
    assert "frame" not in world.order
    assert world.order[-1:] == ["closed"]
    assert world.line.slot.trial is None
    sent = len(world.line.sent)
    until(lambda: len(world.line.sent) > sent + 5)


def test_what_says_the_same_of_everything_is_refused(made) -> None:
    world = made()
    constant(world)
    said = manifest(world.golden, None)
    with pytest.raises(ValidationError) as caught:
        world.try_out(examine=lambda one: Examination(one, world.golden, said, named=True))
    assert caught.value.reason == "output_constant"


def test_what_its_owner_wants_to_be_told_is_of_no_account(made) -> None:
    world = made(min_score=0.999, top_k=1)
    world.try_out()
    assert world.line.slot.trial is not None


def test_it_is_given_up_when_nobody_waits_any_more(made) -> None:
    world = made()
    world.gate.clear()
    given_up, errors = threading.Event(), []

    def trying() -> None:
        try:
            world.try_out(alone=False, canceled=given_up.is_set)
        except DeviceError as error:
            errors.append(error.reason)

    thread = threading.Thread(target=trying)
    thread.start()
    until(lambda: world.candidate.id.sha256 in world.seen)
    given_up.set()
    thread.join(0.3)
    assert thread.is_alive(), "the question under way has the candidate"
    assert "closed" not in world.order
    world.gate.set()
    thread.join(10.0)

    assert errors == ["validation_canceled"]
    assert world.order == ["question", "closed"]

"""Models that change places, with real servables and nobody running them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sim import models
from sim.broker import wait_for
from sim.golden import load

from edged.config import ModelConfig
from edged.errors import AcceleratorError
from edged.inference.servable import Servable
from edged.models.trial import TrialLimits
from edged.pipeline.bell import Bell
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.recovery import ModelRecovery
from edged.pipeline.stage import Stage

LIMITS = TrialLimits(frames=10, seconds=1.0, max_disagreement=None)


class World:
    """One slot; remembers which servables were closed, and what ran while another was loaded."""

    def __init__(self, folder: Path) -> None:
        self.bell = Bell()
        self.slot = ModelSlot("m", self.bell)
        self.stage = Stage({"m": self.slot})
        self.closed: list[str] = []
        self.there: list[Servable | None] = []
        self._folder = folder
        self.slot.current = self.made("before")

    def made(self, sha256: str, labels: Sequence[str] = models.COLOURS) -> Servable:
        self.there.append(self.slot.current)
        path = models.write(self._folder / f"{sha256}.tflite", models.classifier())
        named = self._folder / f"{sha256}.txt"
        named.write_text("".join(f"{label}\n" for label in labels))
        servable = load(path, labels=str(named))
        servable.id = type(servable.id)("m", "1.0.0", sha256)
        close = servable.close

        def closing() -> None:
            self.closed.append(sha256)
            close()

        servable.close = closing  # type: ignore[method-assign]
        return servable

    @property
    def running(self) -> str:
        return "" if self.slot.current is None else self.slot.current.id.sha256


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    if made.slot.current is not None:
        made.slot.current.close()


@pytest.mark.parametrize("alone", [False, True])
def test_a_candidate_comes_and_stays(world: World, alone: bool) -> None:
    before = world.slot.current
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=alone)
    assert world.running == "after"
    assert world.there[-1] is (None if alone else before), "an Edge TPU is freed first"
    assert world.closed == (["before"] if alone else [])
    assert world.stage.verdict("m")[0].outcome == "wait"
    world.stage.commit("m")
    assert (world.running, world.closed) == ("after", ["before"])
    assert world.slot.trial is None


@pytest.mark.parametrize("alone", [False, True])
def test_a_candidate_goes_again(world: World, alone: bool) -> None:
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=alone)
    world.stage.restore("m", "before", lambda: world.made("before"), alone=alone)
    assert world.running == "before"
    assert world.closed == (["before", "after"] if alone else ["after"]), "at once where it can"
    assert world.slot.trial is None
    world.stage.restore("m", None, lambda: world.made("none"), alone=alone)
    assert world.running == ""


@pytest.mark.parametrize(
    ("labels", "limit"), [(models.COLOURS[::-1], 0.5), (("a", "b", "c", "d"), None)]
)
def test_swapped_labels_are_still_the_same_and_compared(world: World, labels, limit) -> None:
    world.stage.try_out("m", lambda: world.made("after", labels), LIMITS, alone=False)
    assert world.slot.trial is not None
    assert world.slot.trial._watch.limits.max_disagreement == limit


def test_a_candidate_that_does_not_load_changes_nothing(world: World) -> None:
    def fail() -> Servable:
        raise AcceleratorError("edgetpu_no_device", "gone")

    with pytest.raises(AcceleratorError):
        world.stage.try_out("m", fail, LIMITS, alone=False)
    assert (world.running, world.closed, world.slot.trial) == ("before", [], None)


def test_what_a_thread_is_inside_of_is_not_freed(world: World, monkeypatch) -> None:
    monkeypatch.setattr("edged.pipeline.stage._LET_GO_S", 0.05)
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=False)
    with world.bell.lock:
        world.slot.begin()  # the candidate, and the one before beside it
    world.stage.restore("m", "factory", lambda: world.made("factory"), alone=False)
    assert (world.running, world.closed) == ("factory", [])


def test_a_reload_takes_the_version_before(world: World) -> None:
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=False)
    world.stage.give_up("m")
    assert (world.running, world.closed, world.slot.trial) == ("before", ["after"], None)


def test_a_trial_says_why_it_cannot_go_on(world: World) -> None:
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=False)
    for _ in range(3):
        world.slot.did_not_run(AcceleratorError("edgetpu_failed", "it dropped off"))
    verdict, _ = world.stage.verdict("m")
    assert (verdict.outcome, verdict.reason) == ("no_frames", "edgetpu_failed")


def test_the_recovery_leaves_a_trial_alone(world: World) -> None:
    loads: list[str] = []

    def reload(_: ModelConfig) -> Servable:
        loads.append("again")
        return world.made("again")

    config = ModelConfig(name="m", factory="x.tflite")
    recovery = ModelRecovery({"m": world.slot}, {"m": config}, reload, lambda: False, lambda: None)
    world.stage.try_out("m", lambda: world.made("after"), LIMITS, alone=False)
    for _ in range(3):
        world.slot.did_not_run(AcceleratorError("edgetpu_failed", "it dropped off"))
    recovery.start()
    time.sleep(1.2)  # two of its ticks
    assert loads == []
    world.stage.commit("m")
    wait_for("the recovery", lambda: loads == ["again"])
    assert recovery.stop(5.0)

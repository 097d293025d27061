"""What is done for a deployment refuses whatever is not exactly what was asked for and signed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from sim import packages
from sim.journals import under_way
from sim.tuf import World, serving

from edged.config import CameraConfig, Config, ModelConfig
from edged.errors import VerifyError
from edged.models.acts import LiveActs
from edged.models.deployment import advance
from edged.models.files import Files
from edged.models.handover import Handover
from edged.models.journal import Journal
from edged.models.records import State
from edged.models.repository import Clock, Repository
from edged.models.store import Store
from edged.models.task import Task
from edged.models.transitions import Action, Event, Kind

TASK = Task("d1", cast("Action", None), lambda _: None, lambda: None)


def package(**changes: Any) -> bytes:
    files = packages.contents()
    facts = packages.facts(files, **{"name": "birds", **changes})
    return packages.archive(packages.parts(packages.encoded(facts), files))


class Desk:
    """A repository, and a device that follows it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World()
        config = Config(
            model=(ModelConfig(name="birds", factory="x"),),
            camera=(CameraConfig(name="front", source="synthetic", model="birds"),),
        )
        nobody = cast("Any", None)  # nothing is loaded
        self.acts = LiveActs(
            config,
            Store(folder),
            nobody,
            nobody,
            handover=Handover(folder / "staging", Files()),
            remote=lambda: self.remote,
            stick=nobody,
        )

    def follow(self, url: str) -> None:
        world = self.world
        self.remote = Repository(
            world.first_root, self.folder / "tuf/metadata", f"{url}/metadata",
            self.folder / "staging", f"{url}/targets",
            clock=lambda: Clock(world.now.timestamp(), synchronised=True),
        )  # fmt: skip

    def add(self, data: bytes, custom: dict[str, Any] | None = None) -> None:
        path = self.world.add("birds", "1.4.0", data)
        if custom is not None:
            self.world.targets.targets[path].unrecognized_fields["custom"] = custom
        self.world.publish()

    def go(self, act: Callable[[Journal, Task], Event], journal: Journal) -> Journal:
        return advance(journal, "d1", act(journal, TASK), 0)


@pytest.fixture
def desk(tmp_path: Path) -> Any:
    made = Desk(tmp_path)
    with serving(made.world.files) as server:
        made.follow(server.url)
        yield made


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(VerifyError) as caught:
        call()
    return caught.value.reason


def test_what_was_asked_for_is_found_fetched_and_installed(desk: Desk) -> None:
    desk.add(package())
    journal = desk.go(desk.acts.sync, under_way(State.SYNCING))
    journal = desk.go(desk.acts.download, journal)

    assert desk.acts.verify(journal, TASK).kind is Kind.VERIFIED
    assert (desk.folder / "models/birds/1.4.0/model.tflite").exists()


@pytest.mark.parametrize("custom", [{}, {"note": "of nothing"}])
def test_a_target_that_does_not_say_what_it_is(desk: Desk, custom: dict[str, Any]) -> None:
    desk.add(package(), custom)

    assert refused(lambda: desk.acts.sync(under_way(State.SYNCING), TASK)) == "target_invalid"


@pytest.mark.parametrize("changes", [{"name": "cats"}, {"version": "1.4.1"}])
def test_a_package_of_something_else_under_this_name(desk: Desk, changes: dict[str, Any]) -> None:
    """As a publisher's mistake, or a wrong turn of the operator's own tooling, would sign it."""
    desk.add(package(**changes))
    journal = desk.go(desk.acts.sync, under_way(State.SYNCING))
    journal = desk.go(desk.acts.download, journal)

    assert refused(lambda: desk.acts.verify(journal, TASK)) == "package_mismatch"
    assert not (desk.folder / "models/birds").exists()


def test_a_target_that_is_another_after_a_restart(desk: Desk) -> None:
    """The digest that the journal names is the one that is fetched, and no other."""
    desk.add(package())
    journal = desk.go(desk.acts.sync, under_way(State.SYNCING))
    desk.add(package(created="2026-11-21T12:00:00Z"))
    desk.acts._targets.clear()

    assert refused(lambda: desk.acts.download(journal, TASK)) == "target_changed"

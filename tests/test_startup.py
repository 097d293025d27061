"""What runs at the start when the disk does not take what is to be written."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sim import models
from sim.journals import ACTIVE, BOOT, NOW_MS, in_state, under_way

from edged.config import CameraConfig, Config, ModelConfig
from edged.errors import EdgedError, StoreError
from edged.loader import Loader
from edged.models.files import Files
from edged.models.journal import Journal
from edged.models.manifest import MODEL
from edged.models.records import Crashes, Release, State
from edged.models.recovery import BootFacts
from edged.models.seal import bare_digest
from edged.models.store import Store
from edged.startup import Started, start

POWER_CUT = BootFacts("another boot", clean_stop=False, blamed_sha256=None)


class Unwritable(Files):
    """A disk of which everything can be read, and nothing written."""

    def __init__(self, code: int) -> None:
        self._code = code

    def write(self, path: Path, data: bytes, mode: int | None = None) -> None:
        raise OSError(self._code, os.strerror(self._code), str(path))


class Exhausted(Files):
    """A system that has run out of something for the moment."""

    def __init__(self, code: int) -> None:
        self._code = code

    def names(self, directory: Path) -> list[str]:
        raise OSError(self._code, os.strerror(self._code), str(directory))


class Board:
    """A device with a factory model, after its first start."""

    def __init__(self, folder: Path) -> None:
        factory = models.write(folder / "factory.tflite", models.classifier("float32"))
        self.labels = folder / "labels.txt"
        self.labels.write_text("\n".join(models.COLOURS))
        self.state_dir = folder / "state"
        self.model = ModelConfig(name="birds", factory=str(factory))
        self.camera = CameraConfig(name="front", source="synthetic", model="birds")
        self.start(Files(), BootFacts(BOOT, clean_stop=True, blamed_sha256=None))

    @property
    def journal(self) -> Journal:
        loaded = Store(self.state_dir).journal("birds").load().journal
        assert loaded is not None
        return loaded

    def keep(self, journal: Journal) -> None:
        Store(self.state_dir).journal("birds").save(journal)

    def commit(self, version: str, model: bytes = models.classifier("int8")) -> Journal:
        """Install a version, and have it run from the next start on."""
        store, contents = Store(self.state_dir), {MODEL: model}
        sha256 = bare_digest(contents)

        def fill(folder: Path) -> None:
            (folder / MODEL).write_bytes(model)

        store.install("birds", version, sha256, len(model), fill)
        before = self.journal
        release = Release(version, sha256, NOW_MS)
        self.keep(replace(before, active=release, previous=before.active))
        return self.journal

    def start(self, files: Files, boot: BootFacts, known: Journal | None = None) -> Started:
        config = Config(state_dir=str(self.state_dir), model=(self.model,), camera=(self.camera,))
        store = Store(self.state_dir, files)
        loader = Loader(config, store, lambda _sha256: None)
        journals = None if known is None else {"birds": known}
        return start([self.model], store, loader, boot=boot, now_ms=NOW_MS, known=journals)


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EMFILE])
@pytest.mark.parametrize("state", [None, *list(State)[:6]])
def test_a_disk_that_takes_nothing_keeps_no_model_from_running(
    board: Board, state: State | None, code: int
) -> None:
    active = board.journal.active
    assert active is not None
    if state is None:
        before = replace(board.journal, crashes=Crashes(active.sha256, 1))
        boot = BootFacts(BOOT, clean_stop=False, blamed_sha256=active.sha256)
    else:
        before, boot = under_way(state, base=board.journal), POWER_CUT
    board.keep(before)

    started = board.start(Unwritable(code), boot)

    assert started.servables["birds"].id.sha256 == active.sha256
    assert started.wanted("birds") == active
    assert started.journals == {}, "no updates: nothing could be remembered"
    assert started.troubles["birds"].reason.startswith(("disk", "descriptors"))
    assert board.journal == before
    started.close()


def test_what_is_fallen_back_to_runs_though_it_cannot_be_written(board: Board) -> None:
    before = replace(board.journal, active=ACTIVE)
    board.keep(before)
    started = board.start(Unwritable(errno.ENOSPC), POWER_CUT)
    assert before.factory is not None
    assert started.servables["birds"].id.sha256 == before.factory.sha256
    assert started.wanted("birds") == before.factory
    assert board.journal == before
    started.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_cannot_be_looked_at_now_is_not_given_up(board: Board, code: int) -> None:
    board.keep(replace(board.journal, active=ACTIVE))
    before = board.journal

    started = board.start(Exhausted(code), POWER_CUT)

    assert started.journals["birds"] == before
    assert started.servables == {}, "it is loaded again, by the recovery"
    assert started.wanted("birds") == ACTIVE


@pytest.mark.parametrize("state", [State.TRIAL, State.ROLLING_BACK])
def test_a_trial_decides_though_nothing_else_is_left(board: Board, state: State) -> None:
    alone = replace(board.journal, active=ACTIVE, factory=None)
    board.keep(under_way(state, base=alone))
    started = board.start(Files(), POWER_CUT)
    assert started.servables == {}
    current = started.journals["birds"].current
    assert current is not None
    assert current.state is state


def test_the_state_directory_may_be_a_link(board: Board, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(board.state_dir)
    board.state_dir = link
    started = board.start(Files(), POWER_CUT)
    assert (list(started.journals), started.troubles) == (["birds"], {})
    started.close()


def test_without_its_factory_file_a_deployment_goes_on(board: Board) -> None:
    Path(board.model.factory).unlink()
    board.keep(under_way(State.SYNCING, base=replace(board.journal, active=None)))
    started = board.start(Files(), POWER_CUT)
    assert started.journals["birds"].current is not None


def test_with_no_model_left_and_a_disk_that_takes_nothing_none_runs(board: Board) -> None:
    journal = board.journal
    assert journal.active is not None
    bad = replace(
        in_state(under_way(State.ROLLING_BACK, base=journal), unusable=(journal.active.sha256,)),
        previous=None,
    )
    board.keep(bad)
    started = board.start(Unwritable(errno.EROFS), POWER_CUT)
    assert started.servables == {}
    assert started.wanted("birds") is None


def test_a_reload_leaves_writing_to_the_updater_of_what_still_runs(board: Board) -> None:
    known = board.journal
    said_since = under_way(State.SYNCING, base=known)
    board.keep(said_since)
    models.write(Path(board.model.factory), models.classifier("int8"))

    started = board.start(Files(), POWER_CUT, known)

    assert board.journal == said_since
    assert started.journals["birds"].current is not None, "the new factory model"
    assert started.servables["birds"].id.sha256 == known.active.sha256
    started.close()


def test_a_reload_is_refused_rather_than_falling_back(board: Board) -> None:
    known = replace(board.journal, active=ACTIVE)
    board.keep(known)

    with pytest.raises(StoreError, match="is not there"):
        board.start(Files(), POWER_CUT, known)
    assert board.journal == known


@pytest.mark.parametrize(
    "wrong", [{"labels": "gone.txt"}, {"mask": True}, {"accelerator": "edgetpu"}]
)
def test_a_mistake_in_the_configuration_costs_no_version(
    board: Board, wrong: dict[str, object]
) -> None:
    sound = board.model
    before = board.commit("1.0.0")
    board.model = replace(sound, **wrong)

    with pytest.raises(EdgedError, match=r"model 'birds' \(.*1\.0\.0"):
        board.start(Files(), POWER_CUT)
    assert board.journal == before

    board.model = replace(sound, labels=str(board.labels))
    started = board.start(Files(), POWER_CUT)
    assert started.servables["birds"].id.version == "1.0.0"
    started.close()


def test_a_version_that_no_configuration_could_load_is_left(board: Board) -> None:
    board.commit("1.0.0", b"TFL3 is not at the right place")
    started = board.start(Files(), POWER_CUT)
    current = started.journals["birds"].current
    assert current is not None
    assert current.state is State.ROLLING_BACK
    started.close()

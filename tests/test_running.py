"""Which version `edged snapshot` and `edged doctor` take: the one that runs, and say so."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.desk import Desk

from edged.cli import main
from edged.models.files import Files
from edged.models.journal import Journal
from edged.models.package import read_package, unpack
from edged.models.records import Release
from edged.models.store import Store


class Board:
    """A device whose journal says that 1.6.0 is active.

    Attributes:
        config: the configuration.
        factory: the configured factory file.
        state_dir: of the service.
        release: 1.6.0.
    """

    def __init__(self, folder: Path, package: Path) -> None:
        self.factory = models.write(folder / "factory.tflite", models.classifier("float32"))
        (folder / "labels.txt").write_text("\n".join(models.COLOURS))
        self.state_dir = folder / "state"
        self.config = folder / "edged.toml"
        self.config.write_text(
            f'state_dir = "{self.state_dir}"\nruntime_dir = "{folder}/run"\n'
            f'[[model]]\nname = "m"\nfactory = "{self.factory}"\n'
            '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\n'
        )
        sha256 = hashlib.sha256(package.read_bytes()).hexdigest()
        found = read_package(package)
        store = Store(self.state_dir)
        store.install("m", "1.6.0", sha256, 1, lambda place: unpack(found, place, Files()))
        self.release = Release("1.6.0", sha256, 1)
        store.journal("m").save(Journal("m", active=self.release))

    def files(self) -> dict[Path, int]:
        """Return all files of the service and when each was written, ns."""
        return {path: path.stat().st_mtime_ns for path in self.state_dir.rglob("*")}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    desk.close()
    return desk.pack("1.6.0")


@pytest.fixture
def board(tmp_path: Path, package: Path) -> Board:
    return Board(tmp_path, package)


def snapshot(capsys, board: Board, *arguments: str) -> str:
    """Take one, and return what it says of the model."""
    arguments = arguments or ("--config", str(board.config))
    out = str(board.config.with_name("out.png"))
    assert main(["snapshot", *arguments, "-o", out, "--json"]) == 0
    return str(orjson.loads(capsys.readouterr().out)["model"])


def doctor(capsys, board: Board) -> dict[str, dict[str, str]]:
    main(["doctor", "--config", str(board.config), "--json"])
    return {one["topic"]: one for one in orjson.loads(capsys.readouterr().out)}


def test_the_active_version_is_looked_through(capsys, board: Board) -> None:
    before = board.files()

    assert snapshot(capsys, board) == "m 1.6.0 on cpu"
    found = doctor(capsys, board)

    assert found["model m"]["level"] == "ok"
    assert found["model m"]["words"].startswith("1.6.0, classification")
    assert found["factory m"]["level"] == "ok"
    assert found["factory m"]["words"].startswith("0.0.0-factory-")
    assert board.files() == before


def test_the_active_version_needs_no_factory_file(capsys, board: Board) -> None:
    board.factory.unlink()

    assert snapshot(capsys, board) == "m 1.6.0 on cpu"
    found = doctor(capsys, board)

    assert found["model m"]["level"] == "ok"
    assert (found["factory m"]["level"], found["factory m"]["reason"]) == ("warn", "model_missing")


def test_without_a_journal_it_is_the_factory_file(capsys, board: Board) -> None:
    shutil.rmtree(board.state_dir)

    assert snapshot(capsys, board).startswith("m 0.0.0-factory-")
    found = doctor(capsys, board)

    assert found["model m"]["words"].startswith("0.0.0-factory-")
    assert "factory m" not in found
    assert not board.state_dir.exists()


def test_a_file_on_the_command_line_is_that_file(capsys, board: Board, monkeypatch) -> None:
    """Even where a journal of the same name is at the place of services without a file."""
    Store(board.state_dir).journal("factory").save(Journal("factory", active=board.release))
    shutil.copytree(board.state_dir, board.config.with_name("edged"))
    monkeypatch.setenv("XDG_STATE_HOME", str(board.config.parent))

    said = snapshot(capsys, board, "--model", str(board.factory), "--camera", "synthetic")

    assert said.startswith("factory 0.0.0-factory-")


def test_an_active_version_that_is_damaged_is_said(capsys, board: Board) -> None:
    model = board.state_dir / "models" / "m" / "1.6.0" / "model.tflite"
    model.write_bytes(model.read_bytes()[:-1])

    out = str(board.config.with_name("out.png"))
    assert main(["snapshot", "--config", str(board.config), "-o", out]) == 1
    assert "release_damaged" in capsys.readouterr().err
    assert doctor(capsys, board)["model m"]["reason"] == "release_damaged"


def test_whoever_may_not_read_the_journal_gets_the_factory_file(
    capsys, open_folder: Path, package: Path, stranger
) -> None:
    board = Board(open_folder, package)
    board.state_dir.chmod(0o750)
    out = open_folder / "out.png"
    out.touch()
    out.chmod(0o666)
    assert snapshot(capsys, board) == "m 1.6.0 on cpu"
    doctor(capsys, board)  # all modules are there before this process may not read them
    with stranger():
        said = snapshot(capsys, board)
        found = doctor(capsys, board)["model m"]

    assert said.startswith("m 0.0.0-factory-")
    assert "Permission denied" in said
    assert (found["level"], found["reason"]) == ("warn", "running_unknown")
    assert "Permission denied" in found["words"]

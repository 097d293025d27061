"""`edged doctor` beside a service that runs, or as a user who may not what the service may."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from sim.device import BELT

from edged.cli import main
from edged.control import ControlServer
from edged.lock import RuntimeLock, StateLock

NOBODY = 65534


@pytest.fixture
def config(open_folder: Path) -> Path:
    """A configuration that everybody may read, with the service's directories, which nobody may."""
    path = open_folder / "edged.toml"
    path.write_text(
        f'state_dir = "{open_folder}/state"\nruntime_dir = "{open_folder}/run"\n{BELT}[mqtt]\n'
    )
    for name in ("state", "run"):
        (open_folder / name).mkdir(mode=0o750)
        os.chown(open_folder / name, NOBODY - 1, -1)
    return path


@pytest.fixture
def doctor(config: Path, capsys) -> Callable[[], dict[str, dict[str, str]]]:
    def examined() -> dict[str, dict[str, str]]:
        main(["doctor", "--config", str(config), "--json"])
        return {one["topic"]: one for one in orjson.loads(capsys.readouterr().out)}

    examined()  # all modules are there before this process is a user who may not read them
    return examined


@pytest.fixture
def serve(open_folder: Path) -> Iterator[Callable[[dict[str, object]], None]]:
    """A service that says this of itself; the socket is for everybody."""
    running = []

    def start(status: dict[str, object]) -> None:
        lock = RuntimeLock(open_folder / "run")
        running.append((ControlServer(lock, {"status": lambda _: status}), lock))
        (open_folder / "run").chmod(0o755)
        (open_folder / "run" / "control.sock").chmod(0o666)

    yield start
    for server, lock in running:
        server.stop()
        lock.release()


# Directories


def levels(found: dict[str, dict[str, str]]) -> list[str]:
    return [found[name]["level"] for name in ("state_dir", "runtime_dir")]


def test_directories_of_a_service_that_answers(stranger, doctor, serve) -> None:
    serve({"state": "running"})
    with stranger():
        found = doctor()

    assert levels(found) == ["ok", "ok"]
    assert "used by the service" in found["state_dir"]["words"]


def test_directories_of_a_service_that_holds_its_lock(stranger, doctor, open_folder) -> None:
    lock = StateLock(open_folder / "state")
    (open_folder / "state").chmod(0o755)
    try:
        with stranger():
            found = doctor()
    finally:
        lock.release()

    assert levels(found) == ["ok", "ok"]


def test_directories_of_another_user_while_nothing_runs(stranger, doctor, open_folder) -> None:
    os.chown(open_folder / "run", 1, -1)
    with stranger():
        found = doctor()

    assert levels(found) == ["warn", "warn"]
    assert found["state_dir"]["words"].endswith(f"sudo -u '#{NOBODY - 1}' edged doctor")
    assert found["runtime_dir"]["words"].endswith("sudo -u daemon edged doctor")


def test_a_directory_that_cannot_be_made(stranger, doctor, open_folder) -> None:
    (open_folder / "state").rmdir()
    os.chown(open_folder / "run", 0, -1)
    with stranger():
        found = doctor()

    assert levels(found) == ["fail", "fail"]
    assert found["state_dir"]["words"].endswith("sudo -u edged edged doctor")


def test_ones_own_directory_that_may_not_be_written(stranger, doctor, open_folder) -> None:
    for name in ("state", "run"):
        os.chown(open_folder / name, NOBODY, -1)
        (open_folder / name).chmod(0o550)
    with stranger():
        assert levels(doctor()) == ["fail", "fail"]

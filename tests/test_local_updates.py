"""Installing at the device, through the control socket: real daemon, repository and files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, wait_for
from sim.desk import Desk
from sim.device import Device
from sim.journals import MOMENT, under_way

from edged.control_client import ask
from edged.control_wire import Request
from edged.errors import StoreError
from edged.models.acts import Supply
from edged.models.files import Files
from edged.models.journal import Journal
from edged.models.local import LocalUpdates
from edged.models.records import State

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "desk")
    yield made
    made.close()


@pytest.fixture
def device(make, broker, desk, tmp_path) -> Device:
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))
    return make(
        broker.port,
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\n'
        '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 60\n',
    )


def edged(device: Device, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "edged", *arguments, "--config", str(device.config)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def ended(device: Device, an_id: str) -> dict:
    told = ask(device.folder / "run", Request("deployments", {"model": "m"}))["deployments"]
    return next((one for one in told if one["deployment_id"] == an_id and "status" in one), {})


def test_install_mark_and_roll_back_at_the_device(device, desk, tmp_path) -> None:
    stick, bare = tmp_path / "stick.tar", desk.pack("3.0.0")
    desk.publish("2.0.0", models.classifier("float32", head="logits"))
    desk.repo.published.export("m/2.0.0.zip", stick, Files())
    device.start().wait_ready()

    code, out, err = edged(device, "models", "install", str(stick))
    assert (code, err) == (0, ""), device.log
    an_id = out.partition(":")[0]
    # One that is refused must not take away the file that the first one still reads.
    assert edged(device, "models", "install", __file__)[0] == 1
    stick.unlink()
    wait_for("an end", lambda: ended(device, an_id))
    assert ended(device, an_id)["status"] == "SUCCEEDED", device.log

    code, _, err = edged(device, "models", "install", str(bare))
    assert code == 1
    assert "not_an_export" in err
    code, out, _ = edged(device, "models", "install", str(bare), "--bare", "--model", "m")
    assert code == 0
    wait_for("an end", lambda: ended(device, out.partition(":")[0]))
    assert "active    3.0.0" in edged(device, "models", "list")[1]

    assert edged(device, "models", "mark", "m", "3.0.0", "--bad")[0] == 0
    code, out, _ = edged(device, "models", "rollback", "m")
    assert code == 0
    wait_for("an end", lambda: ended(device, out.partition(":")[0]))
    (model,) = orjson.loads(edged(device, "models", "list", "--json")[1])["models"]
    assert model["active"]["version"] == "2.0.0"
    assert "marked_by_hand" in edged(device, "models", "list")[1]
    assert "ROLLED_BACK" in edged(device, "deployments")[1]
    code, _, err = edged(device, "deployments", "cats")
    assert (code, "model_unknown" in err) == (1, True)


def opened(process_id: int, file: Path) -> bool:
    links = Path(f"/proc/{process_id}/fd").iterdir()
    return any(os.path.realpath(link) == str(file) for link in links)


def test_a_stick_can_be_taken_out_when_the_deployment_has_ended(device, desk, tmp_path) -> None:
    stick = desk.pack("3.0.0")
    device.start().wait_ready()
    for arguments in ([], ["and once more"]):
        code, out, err = edged(device, "models", "install", str(stick), "--bare")
        assert (code, err) == (0, "")
        assert arguments or opened(device.process.pid, stick)
        wait_for("an end", lambda an_id=out.partition(":")[0]: ended(device, an_id))
        wait_for("nobody reads it any more", lambda: not opened(device.process.pid, stick))


@pytest.mark.parametrize("why", ["trial", "disk"])
def test_an_installation_that_cannot_begin_leaves_the_one_before_its_file(
    desk, tmp_path, why
) -> None:
    package, held = desk.pack("3.0.0"), (tmp_path / "held").open("wb", buffering=0)
    journal = replace(under_way(State.TRIAL if why == "trial" else State.SYNCING), model="m")
    before = ("local-7", Supply(None, tmp_path / "held", "", held))
    disk_full = StoreError("disk_full", "no room")

    def write(journal: Journal) -> None:
        if why == "disk":
            raise disk_full
        case.journal = journal

    def ask(call):
        assert opened(os.getpid(), package)
        return call()

    case = SimpleNamespace(journal=journal, write=write)
    acts = SimpleNamespace(supplies={"m": before})
    updater = SimpleNamespace(cases={"m": case}, ask=ask)
    local = LocalUpdates(updater, acts, lambda: MOMENT, lambda _path: None)  # type: ignore[arg-type]
    if why == "disk":
        with pytest.raises(StoreError):
            local.install("m", str(package), bare=True)
    else:
        told = local.install("m", str(package), bare=True)["deployment"]
        assert told["reason"] == "trial_running"
    assert acts.supplies == {"m": before}
    assert not held.closed
    held.close()
    assert not opened(os.getpid(), package)


@pytest.mark.parametrize("version", ["banana", "1.0.0-" + "a" * 60, ".."])
def test_a_stick_with_a_version_that_is_none(device, tmp_path, version) -> None:
    with tarfile.open(tmp_path / "stick.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(f"targets/m/{version}.zip"))
    device.start().wait_ready()

    code, _, err = edged(device, "models", "install", str(tmp_path / "stick.tar"))

    assert (code, "not_an_export" in err) == (1, True), err
    assert edged(device, "models", "list")[0] == 0, device.log


def test_a_pipe_keeps_nobody_waiting(device, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    device.start().wait_ready()

    code, _, err = edged(device, "models", "install", str(tmp_path / "pipe"))

    assert code == 1
    assert "no ordinary file" in err

"""Installing at the device, through the control socket: real daemon, repository and files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import MOSQUITTO, wait_for
from sim.device import Device

from edged.control_client import ask
from edged.control_wire import Request
from edged.errors import StoreError
from edged.models.files import Files
from edged.models.handover import Handover

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


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


@pytest.mark.parametrize("version", ["banana", "1.0.0-" + "a" * 60, ".."])
def test_a_stick_with_a_version_that_is_none(device, tmp_path, version) -> None:
    with tarfile.open(tmp_path / "stick.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(f"targets/m/{version}.zip"))
    device.start().wait_ready()

    code, _, err = edged(device, "models", "install", str(tmp_path / "stick.tar"))

    assert (code, "not_an_export" in err) == (1, True), err
    assert "/proc/" not in err
    assert "--bare" in err
    assert edged(device, "models", "list")[0] == 0, device.log


def test_a_pipe_keeps_nobody_waiting(device, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    device.start().wait_ready()

    code, _, err = edged(device, "models", "install", str(tmp_path / "pipe"))

    assert code == 1
    assert "no ordinary file" in err


def descriptors(device: Device) -> int:
    return len(list(Path(f"/proc/{device.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("bare", [False, True])
def test_what_was_handed_over_survives_the_service(device, desk, tmp_path, bare) -> None:
    """The command has come back: the stick may be pulled, and the power go."""
    stick = desk.pack("2.0.0")
    if not bare:
        desk.repo.publish(stick, "m", "2.0.0")
        desk.repo.published.export("m/2.0.0.zip", tmp_path / "stick.tar", Files())
        stick = tmp_path / "stick.tar"
    device.start().wait_ready()
    words = ["models", "install", str(stick)] + (["--bare", "--model", "m"] if bare else [])
    code, out, err = edged(device, *words)
    device.kill()  # long before the package was read
    stick.unlink()
    device.start().wait_ready()

    assert (code, err) == (0, "")
    an_id = out.partition(":")[0]
    wait_for("an end", lambda: ended(device, an_id))
    assert ended(device, an_id)["status"] == "SUCCEEDED", device.log
    wait_for("tidied up", lambda: not list((device.state / "staging").iterdir()))


def test_a_reload_after_an_installation_holds_no_file_open(device, desk) -> None:
    bare = desk.pack("2.0.0")
    device.start().wait_ready()
    for number in range(1, 4):
        words = ["models", "install", str(bare), "--bare", "--model", "m"]
        code, out, _ = edged(device, *words)
        assert code == 0
        wait_for("an end", lambda an_id=out.partition(":")[0]: ended(device, an_id))
        device.signal(signal.SIGHUP)
        device.wait_ready(times=1 + number)
        if number == 1:
            before = descriptors(device)
    wait_for("files to be closed", lambda: descriptors(device) <= before)


def test_what_a_killed_copy_left_goes_with_the_next_start(device) -> None:
    left = device.state / "staging" / f".incoming-{'0' * 16}"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    other = left.with_name("m.local-9.zip")
    other.write_bytes(b"of no deployment")
    device.start().wait_ready()
    wait_for("tidied up", lambda: not left.exists() and not other.exists())


def test_one_of_which_the_file_went_is_told(tmp_path) -> None:
    handover = Handover(tmp_path / "staging", Files())
    (tmp_path / "package").write_bytes(b"a package")
    copy = handover.take(tmp_path / "package")
    handover.give(copy, "m", "local-1", bare=True)
    path, bare = handover.find("m", "local-1")
    assert (path.read_bytes(), bare) == (b"a package", True)
    path.unlink()

    with pytest.raises(StoreError) as caught:
        handover.find("m", "local-1")
    assert caught.value.reason == "source_gone"

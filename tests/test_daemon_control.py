"""The control socket of the real daemon, whatever else goes on."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import wait_for
from sim.delegate import MODE_VARIABLE, delegate_or_skip
from sim.device import BELT, Device

from edged.cli import main
from edged.control import SOCKET
from edged.control_client import ask
from edged.control_wire import Request
from edged.errors import ControlError

STATUS = Request("status", {})


def run_dir(device: Device) -> Path:
    return device.folder / "run"


def status(device: Device) -> dict:
    """What the daemon says; {} while nobody answers."""
    try:
        return ask(run_dir(device), STATUS)
    except ControlError:
        return {}


def edged(device: Device, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edged", *arguments, "--config", str(device.config)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def published(device: Device, camera: int = 0) -> int:
    cameras = status(device).get("cameras")
    return cameras[camera]["published"] if cameras else 0


def test_status_while_it_streams(broker, make) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: published(device) > 0)
    wait_for("rates", lambda: status(device)["cameras"][0]["published_per_s"])
    wait_for("a broker", lambda: status(device)["broker"]["state"] == "connected")

    told = status(device)
    assert (told["state"], told["healthy"], told["device_id"]) == ("running", True, "dut")
    assert told["pid"] == device.process.pid
    assert told["cameras"][0]["state"] == "streaming"
    assert told["cameras"][0]["invoke_ms"]["p50"] > 0
    assert told["models"][0]["version"].startswith("0.0.0-factory-")
    assert told["outbox"]["dropped"]["full"] == 0

    done = edged(device, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert "connected with MQTT 5" in done.stdout
    done = edged(device, "status", "--json")
    assert done.returncode == 0
    assert orjson.loads(done.stdout)["state"] == "running"


def test_status_with_the_broker_away_and_a_camera_dead(free_port, make) -> None:
    body = BELT + (
        '[[camera]]\nname = "yard"\nmodel = "belt"\n'
        f'source = "http://user:secret@127.0.0.1:{free_port}/s.mjpg"\n'
    )
    device = make(free_port, body).start().wait_ready()
    wait_for("both said", lambda: _reasons(device) == ("broker_unreachable", "camera_unreachable"))
    wait_for("the other camera", lambda: published(device) > 0)

    done = edged(device, "status")

    assert done.returncode == 0
    for words in ("broker_unreachable", "camera_unreachable", "front   streaming", "waiting, "):
        assert words in done.stdout
    assert "secret" not in done.stdout
    assert "secret" not in edged(device, "status", "--json").stdout


def _reasons(device: Device) -> tuple[str, str]:
    told = status(device)
    return (told["broker"]["reason"], told["cameras"][1]["reason"]) if told else ("", "")


def test_status_while_a_model_is_being_loaded(broker, make, tmp_path) -> None:
    library = delegate_or_skip(tmp_path)
    path = models.write(tmp_path / "m_edgetpu.tflite", models.edgetpu_custom_op())
    body = BELT.replace('"belt"\n\n', f'"{path}"\naccelerator = "edgetpu"\n\n')
    environment = {MODE_VARIABLE: "hang_after:1"}  # the warm-up
    top = f'edgetpu_library = "{library}"'
    device = make(broker.port, body, top=top, environment=environment).start()
    wait_for("an answer", lambda: status(device))

    assert status(device)["state"] == "starting"
    done = edged(device, "status")
    assert (done.returncode, done.stderr) == (1, "")
    assert "is starting" in done.stdout
    assert device.stop()[0] == 0


def test_a_reload_keeps_the_socket(broker, make) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: published(device) > 0)
    inode = (run_dir(device) / SOCKET).stat().st_ino
    device.write(BELT + '[[camera]]\nname = "back"\nsource = "synthetic"\nmodel = "belt"\n')
    asked: list[dict] = []
    over = threading.Event()

    def keep_asking() -> None:
        while not over.wait(0.01):
            asked.append(status(device))

    asking = threading.Thread(target=keep_asking)
    asking.start()
    device.signal(signal.SIGHUP)
    wait_for("the other camera", lambda: len(status(device).get("cameras", ())) == 2)
    over.set()
    asking.join(10.0)

    assert all(told["state"] == "running" for told in asked)
    assert (run_dir(device) / SOCKET).stat().st_ino == inode
    assert "Traceback" not in device.log


def test_killed_and_started_again(broker, make) -> None:
    device = make(broker.port).start().wait_ready()
    device.kill()
    assert (run_dir(device) / SOCKET).exists()  # nobody was there to remove it
    done = edged(device, "status")
    assert done.returncode == 1
    assert "the service does not run" in done.stderr

    device.start().wait_ready()

    assert status(device)["state"] == "running"
    assert device.stop()[0] == 0
    assert not (run_dir(device) / SOCKET).exists()


def test_two_daemons_in_one_runtime_directory(broker, make) -> None:
    first = make(broker.port).start().wait_ready()
    second = make(broker.port)
    second.config.write_text(
        second.config.read_text().replace(str(run_dir(second)), str(run_dir(first)))
    )
    second.start()

    assert second.wait_end() == 1
    assert "runtime_dir_taken" in second.log
    assert status(first)["pid"] == first.process.pid
    assert first.stop()[0] == 0
    assert first.start().wait_ready().process.poll() is None
    wait_for("an answer", lambda: status(first))


def test_a_file_in_the_way_is_said_at_the_start(broker, make) -> None:
    device = make(broker.port)
    run_dir(device).mkdir()
    (run_dir(device) / SOCKET).write_text("precious")

    assert device.start().wait_end() == 1

    assert "is no socket" in device.log
    assert "runtime_dir_unusable" in device.log
    assert (run_dir(device) / SOCKET).read_text() == "precious"


def test_whoever_storms_the_socket_the_service_goes_on(broker, make) -> None:
    """Garbage, ten megabytes, two hundred connections, readers that do not read: frames go on."""
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: published(device) > 0)
    path = str(run_dir(device) / SOCKET)
    before, pid = published(device), device.process.pid

    def storm(number: int) -> None:
        for turn in range(20):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(0.2)
                client.connect(path)
                kind = (number + turn) % 4
                if kind == 0:
                    client.sendall(b"garbage\n")
                elif kind == 1:
                    client.sendall(b"x" * 10_000_000)
                elif kind == 2:
                    client.sendall(b'{"operation":"status"}\n')  # and is gone
                else:
                    client.sendall(b'{"operation":"sta')
                    client.recv(100)

    threads = [threading.Thread(target=storm, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    wait_for("an answer", lambda: status(device))
    wait_for("frames", lambda: published(device) > before)

    told = status(device)
    assert told["pid"] == pid
    assert told["healthy"]
    assert told["outbox"]["dropped"]["full"] == 0
    assert sum(camera["replaced"] for camera in told["cameras"]) <= told["cameras"][0]["captured"]
    assert "Traceback" not in device.log


def test_sigterm_does_not_wait_for_a_client(broker, make) -> None:
    device = make(broker.port).start().wait_ready()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.connect(str(run_dir(device) / SOCKET))
        time.sleep(0.2)

        code, seconds = device.stop()

    assert (code, seconds < 2.0) == (0, True), device.log
    assert "Traceback" not in device.log


def test_without_a_file_the_daemon_of_this_user_is_asked(
    broker, make, monkeypatch, capsys, tmp_path
) -> None:
    arguments = ["--model", "belt", "--camera", "synthetic", "--broker", f"127.0.0.1:{broker.port}"]
    device = make(broker.port, arguments=arguments).start().wait_ready()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(device.folder / "xdg-run"))
    monkeypatch.delenv("EDGED_CONFIG", raising=False)
    monkeypatch.setattr("edged.arguments.DEFAULT_CONFIG", str(tmp_path / "none.toml"))

    assert main(["status"]) == 0
    assert "cam" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 200])
def test_on_a_terminal(broker, make, width) -> None:
    """As a person sees it: in a terminal of that width nothing runs over."""
    device = make(broker.port, BELT.replace("synthetic", "v4l2:/dev/video99"))
    device.start().wait_ready()
    keyboard, screen = os.openpty()
    termios.tcsetwinsize(screen, (24, width))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}

    done = subprocess.run(
        [sys.executable, "-m", "edged", "status", "--config", device.config],
        stdin=screen, stdout=screen, stderr=screen, env=environment, timeout=50, check=False,
    )  # fmt: skip

    os.close(screen)
    seen = os.read(keyboard, 65536).decode()
    os.close(keyboard)
    lines = seen.splitlines()
    assert done.returncode == 0
    assert 8 <= len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert "camera_not_found" in seen

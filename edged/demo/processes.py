"""The processes of the demo: a broker where there is none, the daemon, the operator's commands."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import edged
from edged.config import MqttConfig
from edged.mqtt.attempt import try_broker

EDGED = (sys.executable, "-m", "edged")
EDGECTL = (
    sys.executable,
    "-c",
    "import sys; from edged.operator.cli import main; sys.exit(main())",
)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@contextmanager
def broker(folder: Path, device_id: str) -> Iterator[int]:
    """Use the broker on localhost:1883, or start mosquitto, or an embedded amqtt; give its port.

    Args:
        folder: for its files.
        device_id: with which a broker that is there is tried.

    Raises:
        DemoError: there is none, or it does not start.
    """
    port = 1883
    if _listens(port):
        refused = try_broker(MqttConfig(), device_id, 3.0)
        if refused is None:
            print("Broker: the one on localhost:1883.")
            yield port
            return
        print(f"The broker on localhost:1883 is of no use here: {refused.detail}")
        port = _free_port()
    mosquitto = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if mosquitto is not None:
        config = folder / "mosquitto.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        print(f"Broker: mosquitto on localhost:{port}, started for the demo.")
        command = [mosquitto, "-c", str(config)]
    elif importlib.util.find_spec("amqtt") is not None:
        print(f"Broker: an embedded amqtt on localhost:{port}, started for the demo.")
        command = [sys.executable, "-c", _AMQTT, str(port)]
    else:
        raise DemoError(
            "there is no broker to use on localhost:1883, and neither mosquitto nor amqtt is"
            " installed (apt install mosquitto, or pip install amqtt)"
        )
    with running(command, folder / "broker.log") as process:
        _wait_for_listener(process, port, folder / "broker.log")
        yield port


_AMQTT = """
import asyncio
import sys
from amqtt.broker import Broker

async def serve():
    broker = Broker({
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
        "plugins": {
            "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
        },
    })
    await broker.start()
    await asyncio.Event().wait()

asyncio.run(serve())
"""


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the end of the block, all that it says in a log.

    Args:
        command: with its arguments.
        log: file for its output.
        folder: where it runs; here by default.
        environment: what is said beside the present one.
    """
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=surroundings() | dict(environment or {}),
            start_new_session=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def surroundings() -> dict[str, str]:
    """Return the environment in which a child finds this edged, wherever it is started."""
    return {**os.environ, "PYTHONPATH": str(Path(edged.__file__).parents[1])}


def text_of(log: Path) -> str:
    """Return what a log has so far."""
    return log.read_text(errors="replace") if log.exists() else ""


def check_alive(daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Raise DemoError where the daemon has ended."""
    if daemon.poll() is not None:
        raise DemoError(f"the daemon ended with {daemon.returncode}:\n{text_of(log)}")


def _wait_for_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + 10.0
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > end_s:
            raise DemoError(f"the broker did not start:\n{text_of(log)}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()

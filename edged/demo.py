"""The demo: a broker, the daemon on the sample scene, and what a subscriber receives.

Nothing here is special to the demo but the display: the daemon is `edged run` in a process of its
own, and everything shown has come over MQTT.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edged.config import MqttConfig
from edged.mqtt.attempt import try_broker

# So that two demos on one broker do not mix.
_DEVICE = f"demo-{secrets.token_hex(2)}"
_BAR = 24
_FIRST_PREDICTION_S = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return 0 when predictions arrived."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="stop by itself after N seconds"
    )
    args = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        return _run(args.seconds, stop)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def _run(seconds: float | None, stop: threading.Event) -> int:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edged-demo-")))
        port = stack.enter_context(_broker(folder))
        viewer = Viewer(port)
        stack.callback(viewer.close)
        daemon = stack.enter_context(_daemon(folder, port))
        print(f"Listening: mosquitto_sub -p {port} -v -t 'edged/{_DEVICE}/#'   (Ctrl-C ends)\n")
        began_s = time.monotonic()
        while not stop.wait(0.5 if sys.stdout.isatty() else 1.0):
            if daemon.poll() is not None:
                log = (folder / "edged.log").read_text(errors="replace")
                raise DemoError(f"the daemon ended with {daemon.returncode}:\n{log}")
            viewer.show(_last_line(folder / "edged.log"))
            elapsed_s = time.monotonic() - began_s
            if viewer.received == 0 and elapsed_s > _FIRST_PREDICTION_S:
                log = (folder / "edged.log").read_text(errors="replace")
                raise DemoError(f"no prediction in {_FIRST_PREDICTION_S:.0f} s:\n{log}")
            if seconds is not None and elapsed_s >= seconds:
                break
        viewer.summary(time.monotonic() - began_s)
        return 0 if viewer.received else 1


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else ""


@contextmanager
def _broker(folder: Path) -> Iterator[int]:
    """Use the broker on localhost:1883, or start mosquitto, or an embedded amqtt."""
    port = 1883
    if _listens(port):
        refused = try_broker(MqttConfig(), _DEVICE, 3.0)
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
    with (
        (folder / "broker.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            _wait_for_listener(process, port, folder / "broker.log")
            yield port
        finally:
            _end(process)


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


def _wait_for_listener(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end_s = time.monotonic() + 10.0
    while not _listens(port):
        if process.poll() is not None or time.monotonic() > end_s:
            raise DemoError(f"the broker did not start:\n{log.read_text(errors='replace')}")
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


@contextmanager
def _daemon(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "edged", "run", "--model", "belt", "--camera", "synthetic"]
    command += ["--broker", f"127.0.0.1:{port}", "--device-id", _DEVICE]
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }
    with (
        (folder / "edged.log").open("wb") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()


class Viewer:
    """A subscriber that draws what it receives.

    Args:
        port: of the broker on localhost.
    """

    def __init__(self, port: int) -> None:
        self.received = 0
        self.lost = 0
        self._available = "?"
        self._model = "?"
        self._last: dict[str, Any] = {}
        self._labels: set[str] = set()
        self._arrivals_s: deque[float] = deque(maxlen=2000)
        self._latencies_ms: deque[float] = deque(maxlen=2000)
        self._lock = threading.Lock()
        self._drawn = 0
        encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
        self._block = "█" if encoding.startswith("utf") else "#"
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311, client_id=""
        )
        self._client.on_connect = lambda client, *_: client.subscribe(f"edged/{_DEVICE}/#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        """Take the demo's retained messages off the broker and leave."""
        for topic in ("available", "info", "model/belt"):
            sent = self._client.publish(f"edged/{_DEVICE}/{topic}", b"", qos=1, retain=True)
            with suppress(RuntimeError, ValueError):  # the broker is gone, and all it held
                sent.wait_for_publish(2.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        kind = message.topic.split("/")[2]
        if not message.payload:
            return
        if kind == "available":
            self._available = message.payload.decode()
        elif kind == "model":
            active = orjson.loads(message.payload)["active"]
            self._model = active["version"] if active else "none"
        elif kind == "prediction" and not message.retain:
            self._count(orjson.loads(message.payload))

    def _count(self, prediction: dict[str, Any]) -> None:
        with self._lock:
            if self._last.get("boot") == prediction["boot"]:
                self.lost += max(0, prediction["seq"] - self._last["seq"] - 1)
            self._last = prediction
            self.received += 1
            self._arrivals_s.append(time.monotonic())
            self._latencies_ms.append((time.time() - prediction["t"]) * 1000.0)

    def show(self, log_line: str) -> None:
        """Draw the present state: in place on a terminal, one line each time elsewhere.

        Args:
            log_line: what the daemon said last, shown while there is no prediction.
        """
        with self._lock:
            lines = self._lines(log_line)
        if sys.stdout.isatty():
            up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
            width = shutil.get_terminal_size().columns - 1
            print(up + "\n".join(line[:width] for line in lines), flush=True)
            self._drawn = len(lines)
        elif self._last:
            best = self._last["classes"][0]
            figures = "   ".join(line.strip() for line in lines[-2:])
            print(f"{best['label']:<10} {best['score']:.2f}   {figures}", flush=True)

    def _lines(self, log_line: str) -> list[str]:
        head = f"edged/{_DEVICE}   {self._available}   model belt {self._model}"
        if not self._last:
            return [head, "  waiting for the first prediction ...", f"  {log_line}"]
        # Classes with a score of 0 are not on the wire; those seen before keep their line.
        scores = {line["label"]: line["score"] for line in self._last["classes"]}
        self._labels |= scores.keys()
        bars = [
            f"  {label:<10} {self._block * round(scores.get(label, 0) * _BAR):<{_BAR}}"
            f" {scores.get(label, 0):.2f}"
            for label in sorted(self._labels)
        ]
        return [head, *bars, *self._figures()]

    def _figures(self) -> tuple[str, str]:
        now_s = time.monotonic()
        rate = sum(1 for at in self._arrivals_s if now_s - at <= 2.0) / 2.0
        latency = sorted(self._latencies_ms)
        median, p95 = latency[len(latency) // 2], latency[int(len(latency) * 0.95)]
        seen = f"seq {self._last['seq']}, lost {self.lost}"
        return (
            f"  {rate:.1f} predictions/s   invoke {self._last['ms']:.2f} ms   {seen}",
            f"  capture to subscriber {median:.1f} ms median, {p95:.1f} ms p95",
        )

    def summary(self, elapsed_s: float) -> None:
        """Say in one line what was seen."""
        if not self.received:
            print(f"\nNo prediction in {elapsed_s:.0f} s.")
            return
        print(
            f"\n{self.received} predictions in {elapsed_s:.0f} s as a subscriber received them,"
            f" {self.lost} lost."
        )


if __name__ == "__main__":
    sys.exit(main())

"""What stands around edged while it is measured: broker, subscriber, data, other processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import orjson
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

V2 = "mobilenet_v2_1.0_224_quant"
V1 = "mobilenet_v1_0.25_128_quant"
PATIENCE_S = 20.0


class Data:
    """Models and images: real ones where `folder` has them, else the bundled model and noise."""

    def __init__(self, folder: Path) -> None:
        self.real = (folder / "models" / f"{V2}.tflite").exists()
        self.v2 = str(folder / "models" / f"{V2}.tflite") if self.real else "belt"
        self.v1 = str(folder / "models" / f"{V1}.tflite") if self.real else "belt"
        self.v2_name = "v2 224" if self.real else "belt 96"
        self.v1_name = "v1 0.25 128" if self.real else "belt 96"
        self.photographs = [
            path
            for path in sorted((folder / "images").glob("*"))
            if self.real and "mask" not in path.name
        ]
        if self.real:
            image = cv2.imread(str(folder / "images" / "cat_720p.jpg"))
        else:
            image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        self.image = np.ascontiguousarray(cv2.resize(image, (640, 480)))
        self._folder = folder

    def model(self, name: str) -> Path:
        """The file of a real model."""
        return self._folder / "models" / f"{name}.tflite"


def wait_for(what: str, done: Callable[[], object], limit_s: float = PATIENCE_S) -> None:
    """Poll until `done`; SystemExit with `what` after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > limit:
            raise SystemExit(f"waited {limit_s:g} s for {what}")
        time.sleep(0.005)


class Broker:
    """A mosquitto on loopback that remembers sessions, so that a restart loses nothing itself."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is not installed")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        folder.mkdir(exist_ok=True)
        config = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 1000000",
        ]
        if os.geteuid() == 0:
            lines.append("user root")
        config.write_text("\n".join([*lines, ""]))
        self._command = [program, "-c", str(config)]
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        """Start it and wait until it listens."""
        self._child = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for("mosquitto to listen", self._listens)
        return self

    def stop(self) -> None:
        """End it; its sessions are on disk then."""
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            self._child.wait(PATIENCE_S)
            self._child = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Subscriber:
    """Records the predictions of one device; the broker keeps them for it while it is away.

    Attributes:
        seqs: by (boot, camera) the sequence numbers in order of arrival.
    """

    def __init__(self, port: int, device: str) -> None:
        self.seqs: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self.first = threading.Event()
        self._subscribed = threading.Event()
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client = Client(CallbackAPIVersion.VERSION2, client_id=f"{device}-reader", protocol=5)
        client.reconnect_delay_set(1, 1)
        client.on_message = self._record
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.connect("127.0.0.1", port, 30, clean_start=False, properties=properties)
        client.loop_start()
        client.subscribe(f"edged/{device}/prediction/#", 1)
        wait_for("the subscription", self._subscribed.is_set)
        self._client = client

    @property
    def received(self) -> int:
        """How many messages came, repeated ones included."""
        return sum(map(len, self.seqs.values()))

    def distinct(self) -> int:
        """How many different predictions came."""
        return sum(len(set(seqs)) for seqs in self.seqs.values())

    def missing(self) -> int:
        """How many numbers are absent below the highest that came."""
        return sum(max(seqs) - len(set(seqs)) for seqs in self.seqs.values())

    def disorder(self) -> int:
        """How often a prediction came for the first time after a later one."""
        return sum(disorder(seqs) for seqs in self.seqs.values())

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _record(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        body = orjson.loads(message.payload)
        self.seqs[body["boot"], body["camera"]].append(body["seq"])
        self.first.set()


def disorder(seqs: list[int]) -> int:
    """How many numbers appear for the first time after a higher one."""
    highest, seen, late = 0, set(), 0
    for seq in seqs:
        late += seq < highest and seq not in seen
        seen.add(seq)
        highest = max(highest, seq)
    return late


def process_cpu_s(pid: int) -> float:
    """CPU seconds of all threads a process has had, to the nanosecond: its own CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED, as clock_getcpuclockid(3) does


def memory_mb(pid: int) -> dict[str, float]:
    """Memory of a process in MB: `rss`, `anonymous` (what cannot be read again from a file)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"rss": kb["Rss"] / 1024, "pss": kb["Pss"] / 1024, "anonymous": kb["Anonymous"] / 1024}


def load_average() -> float:
    """Runnable processes over the last minute."""
    return os.getloadavg()[0]

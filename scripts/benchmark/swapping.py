"""A daemon whose model is replaced again and again, seen by a subscriber and through /proc.

A **swap** is a whole deployment, as a person at the device asks for one: a package is copied into
`staging/`, hashed, unpacked and fsynced; a child loads it, runs its golden set and times it; the
daemon's task thread hashes and loads it beside what runs; it goes live between two frames, on
trial; the model before runs beside it on every tenth frame (a recurrent model is not compared); it
is committed, and the model before is freed. What is left out of a deployment over the air is the
refresh and the download, which touch no model. Trials are as short as one comparison needs.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from benchmark.process import start_daemon
from benchmark.world import memory_mb, wait_for
from edged.control_client import ask
from edged.control_wire import Request
from edged.inference.factory import factory_path
from edged.models.manifest import TrialTerms
from edged.operator.pack import Choices, pack

TRIAL_FRAMES = 15
FPS = 30.0
_DEPLOYMENT_S = 60.0


@dataclass(frozen=True)
class Seen:
    """A prediction: when its frame was captured (Unix), when it came (monotonic), what it says."""

    captured_s: float
    arrived_s: float
    frame: int
    seq: int
    version: str


@dataclass
class Ledger:
    """What the daemon said, parsed later: the subscriber must not take its processor.

    Attributes:
        ended: result by deployment id, with its arrival.
    """

    port: int
    device: str
    ended: dict[str, tuple[float, dict[str, object]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._raw: list[tuple[float, bytes]] = []
        self._subscribed = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2)
        client.on_message = self._take
        client.on_subscribe = lambda *_: self._subscribed.set()
        client.connect("127.0.0.1", self.port, 30)
        client.loop_start()
        topics = ("prediction/#", "update/+/result")
        client.subscribe([(f"edged/{self.device}/{topic}", 1) for topic in topics])
        wait_for("the subscription", self._subscribed.is_set)
        self._client = client

    @property
    def received(self) -> int:
        return len(self._raw)

    def seen(self) -> list[Seen]:
        """All predictions, in order of arrival."""
        rows = []
        for arrived_s, payload in list(self._raw):
            said = orjson.loads(payload)
            rows.append(Seen(said["t"], arrived_s, said["frame"], said["seq"], said["version"]))
        return rows

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _take(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        now_s = time.monotonic()
        if message.topic.endswith("/result"):
            said = orjson.loads(message.payload)
            self.ended[said["deployment_id"]] = (now_s, said)
        else:
            self._raw.append((now_s, message.payload))


@dataclass(frozen=True)
class Swap:
    """One deployment: when it was asked for and when its result came, monotonic."""

    version: str
    asked_s: float
    ended_s: float


class Swapper:
    """The daemon with one camera at 30 frames/s, and packages to put into it.

    Args:
        models: files, or `belt`; the first is the factory model, and all become packages.
        images: what the camera shows, which are also the golden set.
        port: of the broker.
        folder: for everything.
        name: of the device.
    """

    def __init__(
        self, models: Sequence[str], images: Path, port: int, folder: Path, name: str
    ) -> None:
        folder.mkdir()
        self._run, self._versions = folder / "run", []
        self._packages: list[Path] = []
        files = [factory_path(model) for model in models]
        for number, model in enumerate(files):
            version = f"1.0.{number}"
            package = folder / f"{version}.zip"
            # Nothing here shall depend on a trial's opinion of a noisy machine.
            choices = Choices(most_images=4, trial=TrialTerms(p95_ratio=100.0))
            pack(
                model,
                name="m",
                version=version,
                golden_dir=images,
                output=package,
                choices=choices,
            )
            self._versions.append(version)
            self._packages.append(package)
        self.model_mb = max(model.stat().st_size for model in files) / 2**20
        config = folder / "edged.toml"
        config.write_text(
            f'device_id = "{name}"\nstate_dir = "{folder}/state"\nruntime_dir = "{self._run}"\n'
            f"[mqtt]\nport = {port}\n"
            f"[update]\ntrial_frames = {TRIAL_FRAMES}\ntrial_seconds = 0\n"
            f'[[model]]\nname = "m"\nfactory = "{models[0]}"\naccelerator = "cpu"\n'
            f'[[camera]]\nname = "cam"\nsource = "images:{images}"\nmodel = "m"\nfps = {FPS}\n'
        )
        self._log = folder / "daemon.log"
        self.ledger = Ledger(port, name)
        self._child = start_daemon(folder, ["--config", str(config)])
        self._next = 0
        wait_for("predictions", lambda: self.ledger.received > FPS)

    @property
    def pid(self) -> int:
        return self._child.pid

    def swap(self) -> Swap:
        """Deploy the next version, and wait until it is committed.

        Raises:
            SystemExit: it was not.
        """
        turn = self._next % len(self._packages)
        self._next += 1
        asked_s = time.monotonic()
        descriptor = os.open(self._packages[turn], os.O_RDONLY | os.O_CLOEXEC)
        try:
            request = Request("install", {"model": "m", "bare": True})
            answer = ask(self._run, request, file=descriptor, answer_s=30.0)
        finally:
            os.close(descriptor)
        an_id = answer["deployment"]["deployment_id"]  # type: ignore[index]
        wait_for(f"the end of {an_id}", lambda: an_id in self.ledger.ended, _DEPLOYMENT_S)
        ended_s, result = self.ledger.ended[an_id]
        if result["status"] != "SUCCEEDED":
            raise SystemExit(f"{an_id}: {result}\n{self._log.read_text()[-4000:]}")
        return Swap(self._versions[turn], asked_s, ended_s)

    def memory_mb(self) -> float:
        """Resident memory of the daemon now, MB."""
        return memory_mb(self.pid)["rss"]

    def forget_peak(self) -> None:
        """Let the peak of the memory count from here."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", "ascii")

    def peak_mb(self) -> float:
        """Most that was resident since `forget_peak`, as the kernel counts it, MB."""
        for line in Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        raise SystemExit("no VmHWM in /proc")

    def close(self) -> None:
        """End the daemon, whatever it does."""
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)
        self._child.wait(20.0)
        self.ledger.close()

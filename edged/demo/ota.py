"""The second act: models over the air, one that is as good and five that are not.

The repository, its packages and its server are `edgectl`'s, the device is `edged run`, and what is
shown of it has come over MQTT. What comes out otherwise than announced makes the demo fail.
"""

from __future__ import annotations

import queue
import subprocess
import textwrap
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.demo.candidates import A_QUARTER, constant, crashing, pruned
from edged.demo.desk import Desk
from edged.demo.processes import EDGED, DemoError, broker, check_alive, running
from edged.demo.subscriber import Sequence, Subscriber, device_name
from edged.inference.factory import factory_path, read_model
from edged.scene import LABELS

_FPS, _TRIAL_FRAMES, _TRIAL_S = 60, 600, 10
_START_S, _DEPLOYMENT_S, _LAST_S = 30.0, 120.0, 5.0
_COLUMNS = 96

_CONFIG = f"""
device_id = "{{device_id}}"
state_dir = "{{folder}}/state"
runtime_dir = "{{folder}}/run"

[mqtt]
host = "127.0.0.1"
port = {{port}}

[[model]]
name = "belt"
factory = "belt"

[[camera]]
name = "cam"
source = "synthetic"
model = "belt"
width = 320
height = 240
fps = {_FPS}

[update]
trial_frames = {_TRIAL_FRAMES}
trial_seconds = {_TRIAL_S}
{{repository}}
"""


def show(folder: Path, stop: threading.Event) -> int:
    """Show it all.

    Args:
        folder: for the files of all processes.
        stop: set to give up.

    Returns:
        0 when all came out as announced, else 1.

    Raises:
        DemoError: something that is needed does not work, or `stop` was set.
    """
    device_id, log = device_name(), folder / "edged.log"
    with ExitStack() as stack:
        port = stack.enter_context(broker(folder, device_id))
        print(f"Listening: mosquitto_sub -p {port} -v -t 'edged/{device_id}/#'   (Ctrl-C ends)")
        print("\nThe operator's desk: keys, a repository of plain signed files, a web server.")
        desk = Desk(folder / "desk")
        desk.photograph()
        desk.edgectl("repo", "init", "repo", told=False)
        desk.edgectl("repo", "root", "repo", "-o", "root.json")
        repository = stack.enter_context(desk.serving())
        device = Device(port, device_id, stop)
        stack.callback(device.close)
        config = folder / "edged.toml"
        config.write_text(
            _CONFIG.format(device_id=device_id, folder=folder, port=port, repository=repository)
        )
        command = [*EDGED, "run", "--config", str(config)]
        # A proxy of this machine's owner has no business between the two.
        direct = {"no_proxy": "127.0.0.1"}
        device.process = stack.enter_context(running(command, log, environment=direct))
        device.log = log
        first = device.wait_for_prediction()
        print(
            f"\nThe device: {first}, the model that edged brings along, runs at {_FPS} frames/s in"
            f" process {device.process.pid}.\nA trial takes {_TRIAL_FRAMES} frames and"
            f" {_TRIAL_S} s here (usually 300 and 60 s)."
        )
        act = Act(desk, device)
        act.play()
        return act.summary()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a deployment ended.

    Attributes:
        version: what was wanted.
        what: what that was, in words.
        status: of the result.
        reason: of the result, or what held it up until it was canceled.
        took_s: from the message that wanted it to the result.
    """

    version: str
    what: str
    status: str
    reason: str
    took_s: float


class Device:
    """A device as its subscriber and its process.

    Attributes:
        process: the daemon's.
        log: what it says.
        sequence: of its predictions.

    Args:
        port: of the broker on localhost.
        device_id: of the device.
        stop: set to give up.
    """

    process: subprocess.Popen[bytes]
    log: Path

    def __init__(self, port: int, device_id: str, stop: threading.Event) -> None:
        self.sequence = Sequence()
        self.version = ""
        self._stop = stop
        self._said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self._subscriber = Subscriber(port, device_id, self._receive)
        self.close = self._subscriber.close
        self.send = self._subscriber.send

    def _receive(self, topic: str, message: Any) -> None:
        if topic.startswith("prediction/"):
            self.sequence.count(message)
            self.version = message["version"]
        elif topic in {"available", "update/belt/state", "update/belt/result"}:
            self._said.put((topic, message))

    def wait_for_prediction(self) -> str:
        """Wait until the device is there and has made one; return the version that did."""
        end_s = time.monotonic() + _START_S
        while self.hear(end_s, "no word from the device") != ("available", "online"):
            pass  # it has subscribed before it says so
        while not self.version:
            self._check(end_s, "no prediction")
            time.sleep(0.05)
        return self.version

    def wait_for(self, version: str) -> None:
        """Give predictions of this version a while to arrive."""
        end_s = time.monotonic() + _LAST_S
        while self.version != version and time.monotonic() < end_s:
            self._check(end_s + 1.0, "")
            time.sleep(0.05)
        self._check(end_s + 1.0, "")

    def hear(self, end_s: float, trouble: str) -> tuple[str, Any]:
        """Return the next message about updates or availability.

        Args:
            end_s: monotonic seconds when to give up.
            trouble: what that means.

        Raises:
            DemoError: it did not come, the daemon ended, or the demo is stopped.
        """
        while True:
            self._check(end_s, trouble)
            try:
                return self._said.get(timeout=0.2)
            except queue.Empty:
                continue

    def _check(self, end_s: float, trouble: str) -> None:
        if self._stop.is_set():
            raise DemoError("stopped")
        check_alive(self.process, self.log)
        if time.monotonic() > end_s:
            log = self.log.read_text(errors="replace")
            raise DemoError(f"{trouble}:\n{log}")


class Act:
    """What is done at the desk, what comes of it on the device, and what should have.

    Args:
        desk: with a repository that is served.
        device: that runs the bundled model.
    """

    def __init__(self, desk: Desk, device: Device) -> None:
        self._desk, self._device = desk, device
        self._outcomes: list[Outcome] = []
        self._held_up: dict[str, str] = {}
        self._otherwise: list[str] = []
        self._process_id = device.process.pid
        self._bundled = read_model(factory_path("belt"))
        self._reversed = desk.write(
            "reversed.txt", "".join(f"{label}\n" for label in reversed(LABELS)).encode()
        )

    def play(self) -> None:
        """Deploy one version after the other."""
        self._good()
        self._crashing()
        self._constant()
        self._swapped()
        self._stranger()
        self._swapped_unseen()

    def _good(self) -> None:
        model, share = pruned(self._bundled)
        path = self._desk.write("pruned.tflite", model)
        _title("2.0.0", f"the same network with its smallest weights set to 0, {share:.0%} of all.")
        self._pack("2.0.0", path.name, "photos")
        self._deploy("2.0.0", "as good", "SUCCEEDED", "")

    def _crashing(self) -> None:
        _title(
            "3.0.0",
            "a damaged file: one of its quantisation steps is 0, which crashes the runtime.",
        )
        path = self._desk.write("steps.tflite", crashing(self._bundled))
        self._desk.refused(*_packing("3.0.0", path.name, "photos"))
        self._by_hand("3.0.0", {"model.tflite": path.read_bytes()}, "this model in it")
        self._deploy("3.0.0", "crashes", "REJECTED", "validation_crashed")
        _say(f"That was the child that tries candidates. The daemon is {self._daemon()}.")

    def _constant(self) -> None:
        _title(
            "4.0.0", "a model that has collapsed: it gives every label a quarter, whatever it sees."
        )
        path = self._desk.write("collapsed.tflite", constant(self._bundled))
        self._desk.refused(*_packing("4.0.0", path.name, "unsorted"))
        changes = {"model.tflite": path.read_bytes()}
        self._by_hand("4.0.0", changes, "this model and its answers", A_QUARTER)
        self._deploy("4.0.0", "says the same of all", "REJECTED", "output_constant")

    def _swapped(self) -> None:
        _title("5.0.0", "version 2 with its labels in reverse: every bottle is called wrong.")
        labels = ("--labels", self._reversed.name)
        self._desk.refused(*_packing("5.0.0", "pruned.tflite", "photos", *labels))
        self._by_hand("5.0.0", {"labels.txt": self._reversed.read_bytes()}, "these labels")
        self._deploy("5.0.0", "labels swapped", "REJECTED", "golden_mismatch")

    def _stranger(self) -> None:
        _title("6.0.0", "a sound package, signed by a stranger, who has the web server as well.")
        self._pack_only("6.0.0", "pruned.tflite", "photos")
        self._desk.edgectl("repo", "init", "stranger", told=False)
        self._desk.edgectl("repo", "publish", "stranger", self._desk.package("6.0.0").name)
        asked = len(self._desk.asked)
        with self._desk.stranger_serves():
            self._deploy(
                "6.0.0", "signed by a stranger", "CANCELED", "canceled", "signature_invalid"
            )
        paths = list(dict.fromkeys(self._desk.asked[asked:]))
        packages = [path for path in paths if path.startswith("/targets/")]
        _say(f"The server was asked for {', '.join(paths)}: for {len(packages)} packages.")
        if packages or not paths:
            self._otherwise.append(
                f"6.0.0: the server was asked for {', '.join(paths) or 'nothing'}"
            )

    def _give_up(self, deployment_id: str, reason: str, announced: str) -> None:
        """Cancel what the device asks for again and again: a server may come to its senses."""
        print(f"\n    refused: {reason}; it asks again until its deadline, 24 h, or until told:")
        command = {"id": "give-up", "action": "cancel", "deployment_id": deployment_id}
        print(f"    -> {self._device.send('update/belt/command', command)}\n    ", end="")
        if reason != announced:
            self._otherwise.append(f"{deployment_id}: {reason} instead of {announced}")
        self._held_up[deployment_id] = reason

    def _swapped_unseen(self) -> None:
        _title(
            "7.0.0",
            "the labels in reverse again, packed with images that nobody has sorted: nothing at"
            " the desk or in the package contradicts them. The genuine server is back.",
        )
        self._pack("7.0.0", "pruned.tflite", "unsorted", "--labels", self._reversed.name)
        self._deploy("7.0.0", "labels swapped, unseen", "ROLLED_BACK", "trial_disagrees")

    def _pack(self, version: str, model: str, golden: str, *more: str) -> None:
        self._pack_only(version, model, golden, *more)
        self._desk.edgectl("repo", "publish", "repo", self._desk.package(version).name, told=False)

    def _pack_only(self, version: str, model: str, golden: str, *more: str) -> None:
        self._desk.edgectl(*_packing(version, model, golden, *more), told=False)

    def _by_hand(
        self,
        version: str,
        changes: dict[str, bytes],
        words: str,
        answer: int | None = None,
    ) -> None:
        self._desk.by_hand(version, changes, answer)
        name = self._desk.package(version).name
        _say(f"A careless operator makes {name} by hand: that of version 2 with {words}.", "  ")
        self._desk.edgectl("repo", "publish", "repo", name, told=False)

    def _deploy(
        self,
        version: str,
        what: str,
        status: str,
        reason: str,
        give_up_for: str = "",
    ) -> None:
        """Want a version and wait for what comes of it.

        Args:
            version: what to want.
            what: the same in words.
            status: that the result must have.
            reason: the same.
            give_up_for: what must hold it up; then it is canceled.
        """
        deployment_id, began_s = f"demo-{version}", time.monotonic()
        wanted = {"deployment_id": deployment_id, "version": version}
        print(f"    -> {self._device.send('update/belt/desired', wanted)}\n    ", end="")
        shown = ""
        while True:
            topic, message = self._device.hear(
                began_s + _DEPLOYMENT_S, f"no result of {version} in {_DEPLOYMENT_S:.0f} s"
            )
            if topic == "available" or message["deployment_id"] != deployment_id:
                continue
            if topic == "update/belt/result":
                break
            if message["state"] != shown:
                shown = message["state"]
                print(shown, end=" ", flush=True)
            if message["reason"] and give_up_for and shown == "SYNCING":
                self._give_up(deployment_id, message["reason"], give_up_for)
                give_up_for = ""
        took_s = time.monotonic() - began_s
        came = message["status"], message["reason"]
        why = self._held_up.get(deployment_id, message["reason"])
        self._outcomes.append(Outcome(version, what, message["status"], why, took_s))
        print(f"\n    {' '.join(came).rstrip()} after {took_s:.1f} s")
        _say(_why(message))
        if came != (status, reason):
            words = f"{' '.join(came).rstrip()} instead of {status} {reason}".rstrip()
            self._otherwise.append(f"{version}: {words}")

    def _daemon(self) -> str:
        return f"still process {self._process_id}"

    def summary(self) -> int:
        """Show what came of all and what the subscriber counted; return the exit code."""
        sequence, device = self._device.sequence, self._device
        device.wait_for("2.0.0")
        width = max((len(outcome.what) for outcome in self._outcomes), default=10)
        print(f"\n{'version':<9}{'what it is':<{width + 2}}{'result':<13}{'reason':<20}{'took':>7}")
        for outcome in self._outcomes:
            print(
                f"{outcome.version:<9}{outcome.what:<{width + 2}}{outcome.status:<13}"
                f"{outcome.reason or '-':<20}{outcome.took_s:>5.1f} s"
            )
        print(
            f"\npredictions  {sequence.received} received, {sequence.missing} missing,"
            f" {sequence.repeated} repeated, {len(sequence.boots)} start"
            f"\ndaemon       {self._daemon()}"
            f"\nswaps        {sequence.swaps}, the longest time between two frames"
            f" {1000 * sequence.swap_gap_s:.0f} ms; without a swap, while desk and"
            f"\n             candidates share these processors,"
            f" {1000 * sequence.largest_gap_s:.0f} ms; the camera's is {1000 / _FPS:.0f} ms"
            f"\nruns now     {device.version}"
        )
        self._otherwise += [
            words
            for wrong, words in (
                (sequence.missing, f"{sequence.missing} predictions are missing"),
                (sequence.repeated, f"{sequence.repeated} predictions came twice"),
                (len(sequence.boots) != 1, "the daemon has started anew"),
                (device.version != "2.0.0", f"{device.version} runs instead of 2.0.0"),
            )
            if wrong
        ]
        if not self._otherwise:
            print("\nAll as announced.")
            return 0
        print("\nOtherwise than announced:")
        for line in self._otherwise:
            print(f"  {line}")
        return 1


def _packing(version: str, model: str, golden: str, *more: str) -> tuple[str, ...]:
    named = ("--name", "belt", "--version", version, "--golden", golden)
    return ("model", "pack", model, *named, *more, "-o", f"belt-{version}.zip")


def _why(result: dict[str, Any]) -> str:
    if result["detail"]:
        return str(result["detail"])
    health = result["health"]
    compared = health["compared"]
    return (
        f"{health['frames']} frames without an error; compared with the model before in"
        f" {compared['scenes']} distinct scenes: {compared.get('disagreement', 0):.0%} differ"
    )


def _title(version: str, words: str) -> None:
    print()
    _say(f"{version}  {words}", "", "       ")


def _say(text: str, indent: str = "    ", after: str | None = None) -> None:
    print(
        textwrap.fill(
            text,
            _COLUMNS,
            initial_indent=indent,
            subsequent_indent=indent if after is None else after,
        ),
        flush=True,
    )

"""The second act: models over the air, one that is as good and five that are not.

The repository, its packages and its server are `edgectl`'s, the device is `edged run`, and what is
shown of it has come over MQTT. What comes out otherwise than announced makes the demo fail.
"""

from __future__ import annotations

import textwrap
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edged.demo.account import Account, Outcome
from edged.demo.candidates import A_QUARTER, constant, crashing, pruned
from edged.demo.desk import Desk
from edged.demo.device import Device
from edged.demo.processes import EDGED, broker, running
from edged.demo.subscriber import device_name
from edged.inference.factory import factory_path, read_model
from edged.scene import LABELS

_FPS, _TRIAL_FRAMES, _TRIAL_S = 60, 600, 10
_DEPLOYMENT_S = 120.0
_LEFT = "2.0.0"  # what runs at the end
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
        account = Account(device.process.pid, 1.0 / _FPS)
        Act(desk, device, account).play()
        device.wait_for(_LEFT)
        return account.close(device.sequence, device.version, _LEFT)


class Act:
    """What is done at the desk, what comes of it on the device, and what should have.

    Args:
        desk: with a repository that is served.
        device: that runs the bundled model.
        account: is told what came out, and what should have.
    """

    def __init__(self, desk: Desk, device: Device, account: Account) -> None:
        self._desk, self._device, self._account = desk, device, account
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
        process_id = self._device.process.pid
        _say(f"That was the child that tries candidates. The daemon is still process {process_id}.")

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
        _title(
            "6.0.0",
            "the sound package under another number, signed by a stranger, who has the web server"
            " as well.",
        )
        self._desk.by_hand("6.0.0", {})
        self._desk.edgectl("repo", "init", "stranger", told=False)
        self._desk.edgectl("repo", "publish", "stranger", "belt-6.0.0.zip", told=False)
        asked = len(self._desk.asked)
        with self._desk.stranger_serves():
            self._deploy(
                "6.0.0", "signed by a stranger", "CANCELED", "canceled", "signature_invalid"
            )
        paths = list(dict.fromkeys(self._desk.asked[asked:]))
        packages = [path for path in paths if path.startswith("/targets/")]
        _say(f"The server was asked for {', '.join(paths)}: for {len(packages)} packages.")
        if packages or not paths:
            self._account.otherwise.append(f"6.0.0: the server was asked for {paths}")

    def _give_up(self, deployment_id: str, reason: str, announced: str) -> None:
        """Cancel what the device asks for again and again: a server may come to its senses."""
        print(f"\n    refused: {reason}; it asks again until its deadline, 24 h, or until told:")
        command = {"id": "give-up", "action": "cancel", "deployment_id": deployment_id}
        print(f"    -> {self._device.send('update/belt/command', command)}\n   ", end="")
        if reason != announced:
            self._account.otherwise.append(f"{deployment_id}: {reason} instead of {announced}")

    def _swapped_unseen(self) -> None:
        _title(
            "7.0.0",
            "the labels in reverse again, packed with images that nobody has sorted: nothing at"
            " the desk or in the package contradicts them. The genuine server is back.",
        )
        self._pack("7.0.0", "pruned.tflite", "unsorted", "--labels", self._reversed.name)
        self._deploy("7.0.0", "labels swapped, unseen", "ROLLED_BACK", "trial_disagrees")

    def _pack(self, version: str, model: str, golden: str, *more: str) -> None:
        self._desk.edgectl(*_packing(version, model, golden, *more), told=False)
        self._desk.edgectl("repo", "publish", "repo", self._desk.package(version).name, told=False)

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
        print(f"    -> {self._device.send('update/belt/desired', wanted)}\n   ", end="")
        shown = held_up = ""
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
                print(f" {shown}", end="", flush=True)
            if message["reason"] and give_up_for and shown == "SYNCING":
                self._give_up(deployment_id, message["reason"], give_up_for)
                give_up_for, held_up = "", message["reason"]
        took_s = time.monotonic() - began_s
        came = f"{message['status']} {message['reason']}".rstrip()
        print(f"\n    {came} after {took_s:.1f} s")
        _say(_why(message))
        why = held_up or message["reason"]
        self._account.outcomes.append(Outcome(version, what, message["status"], why, took_s))
        announced = f"{status} {reason}".rstrip()
        if came != announced:
            self._account.otherwise.append(f"{version}: {came} instead of {announced}")


def _packing(version: str, model: str, golden: str, *more: str) -> tuple[str, ...]:
    named = ("--name", "belt", "--version", version, "--golden", golden)
    return ("model", "pack", model, *named, *more, "-o", f"belt-{version}.zip")


def _why(result: dict[str, Any]) -> str:
    if result["detail"]:
        return str(result["detail"])
    health = result["health"]
    if health is None:
        return ""
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

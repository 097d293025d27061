"""What a person at the device can ask for: installations from a stick and from a bare package."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sim import models
from sim.broker import wait_for
from sim.desk import Desk

from edged.config import CameraConfig, Config, ModelConfig, UpdateConfig
from edged.errors import EdgedError
from edged.loader import Loader
from edged.models.files import Files
from edged.models.inbox import Inbox
from edged.models.local import LocalUpdates
from edged.models.recovery import BootFacts
from edged.models.store import Store
from edged.mqtt.client import Session
from edged.mqtt.messages import Topics
from edged.pipeline.bell import Bell
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.stage import Stage
from edged.startup import start
from edged.updates import Updates

BOOT = "b0070001-0000-4000-8000-000000000001"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "desk")
    yield made
    made.close()


class Device:
    """A device without cameras and broker: a trial lasts until somebody ends it."""

    def __init__(self, folder: Path, desk: Desk) -> None:
        factory = models.write(folder / "factory.tflite", models.classifier("float32"))
        config = Config(
            model=(ModelConfig(name="m", factory=str(factory)),),
            camera=(CameraConfig(name="front", source="synthetic", model="m"),),
            state_dir=str(folder / "state"),
            device_id="dut",
            update=UpdateConfig(root=str(desk.root)),
        )
        store = Store(folder / "state")
        loader = Loader(config, store, lambda _sha256: None)
        boot = BootFacts(BOOT, clean_stop=True, blamed_sha256=None)
        started = start(config.model, store, loader, boot=boot, now_ms=time.time_ns() // 10**6)
        self.slot = ModelSlot("m", Bell())
        self.slot.current = started.servables["m"]
        self.updates = Updates(
            config,
            started,
            store=store,
            loader=loader,
            stage=Stage({"m": self.slot}),
            session=Session(config.mqtt, Topics("edged", "dut")),
            inbox=Inbox(),
            boot_id=BOOT,
        )
        self.updates.start()

    @property
    def ask(self) -> LocalUpdates:
        return self.updates.local

    def on_trial(self) -> bool:
        current = self.slot.current
        return self.slot.trial is not None and current is not None and current.id.version == "1.0.0"


@pytest.fixture
def device(tmp_path: Path, desk: Desk) -> Iterator[Device]:
    made = Device(tmp_path, desk)
    yield made
    assert made.updates.stop(5.0)
    if made.slot.current is not None:
        made.slot.current.close()


def reason(caught: pytest.ExceptionInfo[EdgedError]) -> str:
    return caught.value.reason


def ended(device: Device, deployment_id: str) -> dict[str, object]:
    def there() -> bool:
        return any(
            one["deployment_id"] == deployment_id and "status" in one
            for one in device.ask.deployments("m")
        )

    wait_for("the result", there)
    found = [one for one in device.ask.deployments() if one["deployment_id"] == deployment_id]
    orjson.dumps(found)
    return found[0]


@pytest.mark.parametrize("bare", [True, False])
def test_from_a_file_to_the_trial_and_back(device: Device, desk: Desk, bare: bool) -> None:
    path = desk.publish("1.0.0")
    if not bare:
        path = desk.folder / "stick.tar"
        desk.repo.published.export("m/1.0.0.zip", path, Files())
    begun = device.ask.install("m", str(path), bare)
    assert (begun["state"], begun["version"]) == ("SYNCING", "1.0.0")
    wait_for("the trial", device.on_trial)
    said = device.ask.models()[0]
    orjson.dumps(said)
    assert said["trial"]["version"] == "1.0.0"
    again = device.ask.install("m", str(path), bare)
    assert again["reason"] == "trial_running"

    device.ask.cancel("m", str(begun["deployment_id"]))
    assert ended(device, str(begun["deployment_id"]))["status"] == "ROLLED_BACK"
    assert device.slot.trial is None
    assert device.slot.current.id.version.startswith("0.0.0-factory-")


def test_marks_are_made_and_lifted(device: Device, desk: Desk) -> None:
    path = str(desk.pack("1.0.0"))
    first = device.ask.install("m", path, True)
    wait_for("the trial", device.on_trial)
    device.ask.cancel("m", str(first["deployment_id"]))
    ended(device, str(first["deployment_id"]))
    device.ask.mark("m", "1.0.0", True)
    second = device.ask.install("m", path, True)
    assert ended(device, str(second["deployment_id"]))["reason"] == "marked_bad"
    assert device.ask.mark("m", "1.0.0", None)["marks"] == ()
    third = device.ask.install("m", path, True)
    wait_for("the trial", device.on_trial)
    device.ask.cancel("m", str(third["deployment_id"]))
    ended(device, str(third["deployment_id"]))


def test_what_cannot_be_asked_for(device: Device, desk: Desk, tmp_path: Path) -> None:
    other = str(desk.pack("1.0.0", name="cats"))
    (tmp_path / "no.tar").write_bytes(b"no")
    for call, expected in (
        (lambda: device.ask.install("m", other, True), "package_mismatch"),
        (lambda: device.ask.install("m", str(tmp_path / "no.tar"), False), "not_an_export"),
        (lambda: device.ask.install("m", str(tmp_path / "none"), True), "package_unreadable"),
        (lambda: device.ask.install("dogs", other, True), "model_unknown"),
        (lambda: device.ask.deployments("dogs"), "model_unknown"),
        (lambda: device.ask.cancel("m", "nothing"), "deployment_unknown"),
        (lambda: device.ask.mark("m", "7.7.7", True), "version_unknown"),
        (lambda: device.ask.forget_order("m", "neighbour"), "source_unknown"),
    ):
        with pytest.raises(EdgedError) as caught:
            call()
        assert reason(caught) == expected
    assert device.ask.forget_order("m", "device")["desired"] == []
    assert device.ask.roll_back("m")["reason"] == "nothing_to_return_to"


def test_a_rejected_package_leaves_nothing_behind(device: Device, desk: Desk) -> None:
    path = desk.pack("1.0.0", labels=("red", "green"))
    begun = device.ask.install("m", str(path), True)
    result = ended(device, str(begun["deployment_id"]))
    assert (result["status"], result["reason"]) == ("REJECTED", "labels_mismatch")
    state = desk.folder.parent / "state"
    wait_for("tidy", lambda: not list((state / "staging").iterdir()))

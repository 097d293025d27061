"""The driver of deployments, with scripted actions and a clock that stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from sim.broker import wait_for
from sim.journals import ACTIVE, BOOT, DEVICE, FACTORY, NOW_MS, PREVIOUS, SETTLED, sha

from edged.errors import (
    AcceleratorError,
    EdgedError,
    FetchError,
    StoreError,
    ValidationError,
    VerifyError,
)
from edged.models.casework import Case, Surroundings
from edged.models.deployment import return_to, under_way
from edged.models.desired import addresses
from edged.models.findings import found, restored, validated
from edged.models.inbox import Inbox
from edged.models.journal import Journal, encode_journal, parse_journal
from edged.models.listener import SETTLE_S
from edged.models.overview import mark
from edged.models.pursuit import Clock
from edged.models.records import BEFORE_TRIAL, Mark, Moment, Result, State, Status
from edged.models.recovery import BootFacts, recover
from edged.models.task import Task, spawn
from edged.models.transitions import Event, Kind
from edged.models.trial import Verdict
from edged.models.updater import Duties, Updater
from edged.mqtt.inbound import Inbound
from edged.mqtt.updates import encode_result, encode_state

DESIRED = "edged/porch/update/{}/desired"
COMMAND = "edged/porch/update/{}/command"
HEALTHY = Verdict("healthy")
ACTIONS = ("sync", "download", "verify", "validate")


class Device:
    """What outlives a process: the disk, the clock, what the broker has; and the actions' script.

    Attributes:
        log: what was written and what was done, in order.
        faults: what actions raise, first come first served.
        on_stage: digest of what serves, by model.
    """

    def __init__(self, *journals: Journal) -> None:
        self.disk = {journal.model: encode_journal(journal) for journal in journals}
        self.now_s = 1000.0
        self.log: list[str] = []
        self.faults: dict[str, list[EdgedError]] = {}
        self.disk_full = False
        self.on_stage = {one.model: one.active.sha256 for one in journals if one.active}
        self.judgement = HEALTHY
        self.outbox: dict[str, bytes] = {}
        self.said: list[bytes] = []
        self.errors: list[tuple[str, str]] = []
        self.broker_writes = True
        self.outbox_small = False
        self.online = True
        self.synced, self.clock_ms = True, NOW_MS
        self.saves = 0
        self.crash_after: int | None = None
        self.delivered = 0
        self.acknowledged: list[int] = []
        self.start()

    def start(self, *, clean: bool = True, boot: str = BOOT, blamed: str | None = None) -> None:
        """Begin a process."""
        self.inbox = Inbox()
        self.tasks: list[Callable[[], None]] = []
        journals = {name: parse_journal(data) for name, data in self.disk.items()}
        world = Surroundings(
            acts=self,  # type: ignore[arg-type]  # plays them
            keep=self.keep,
            now_ms=lambda: NOW_MS,
            monotonic=lambda: self.now_s,
            boot_id=boot,
            device_id=DEVICE,
            deadline_s=3600.0,
            spawn=self.tasks.append,
            ring=lambda: None,
        )
        cases = {}
        for name, journal in journals.items():
            recovered = recover(journal, BootFacts(boot, clean, blamed), NOW_MS)
            self.disk[name] = encode_journal(recovered)
            cases[name] = Case(recovered, world)
        self.inbox.know(addresses("edged", DEVICE, (), cases))
        self.updater = Updater(
            cases,
            self.inbox,
            self,  # type: ignore[arg-type]  # plays the voice
            Duties(None, 3600.0, lambda name: self.log.append(f"tidy {name}")),
            clock=lambda: Clock(self.clock_ms, self.synced),
            moment=lambda: Moment(NOW_MS, boot),
            monotonic=lambda: self.now_s,
            spawn=self.tasks.append,
        )

    # The disk

    def keep(self, journal: Journal) -> None:
        if self.disk_full:
            raise StoreError("disk_full", "no room")
        self.disk[journal.model] = encode_journal(journal)
        self.saves += 1
        state = journal.current.state if journal.current else "IDLE"
        self.log.append(f"kept {state}")
        if self.saves == self.crash_after:
            raise PowerCutError

    # The actions

    def _do(self, name: str, task: Task) -> None:
        self.log.append(name)
        waiting = self.faults.get(name)
        if waiting:
            raise waiting.pop(0)

    def sync(self, journal: Journal, task: Task) -> Event:
        self._do("sync", task)
        return found(journal, sha(under_way(journal).version), downgrade_ok=False)

    def download(self, journal: Journal, task: Task) -> Event:
        task.advanced(50, 100)
        self._do("download", task)
        return Event(Kind.DOWNLOADED)

    def verify(self, journal: Journal, task: Task) -> Event:
        self._do("verify", task)
        return Event(Kind.VERIFIED)

    def validate(self, journal: Journal, task: Task) -> Event:
        self._do("validate", task)
        return validated(journal)

    def try_out(self, journal: Journal, task: Task) -> None:
        self._do("try_out", task)
        self.on_stage[journal.model] = under_way(journal).sha256

    def restore(self, journal: Journal, task: Task) -> Event:
        self._do("restore", task)
        target = return_to(journal)
        self.on_stage[journal.model] = "" if target is None else target.sha256
        return restored(journal)

    def settle(self, journal: Journal, task: Task) -> None:
        self._do("settle", task)

    def verdict(self, model: str) -> tuple[Verdict, dict[str, object]]:
        return self.judgement, {"frames": 300}

    def measure(self, model: str) -> None:
        pass

    # The voice

    def error(self, topic: str, reason: str, detail: str) -> bool:
        if self.online:
            self.errors.append((topic, reason))
        return self.online

    def journal(self, journal: Journal, latest: str | None) -> None:
        self.said.append(encode_state(journal))

    def progress(self, model: str, deployment_id: str, there_bytes: int, total_bytes: int) -> None:
        self.log.append(f"progress {there_bytes}/{total_bytes}")

    def result(self, model: str, result: Result) -> bool:
        if not self.broker_writes:
            return False
        if self.outbox_small:
            self.errors.append((result.deployment_id, "outbox_too_small"))
            raise StoreError("outbox_too_small", "no room")
        payload = encode_result(model, result)
        assert self.outbox.setdefault(f"{model}/{result.deployment_id}", payload) == payload
        return True

    # What happens to it

    def arrive(self, topic: str, payload: bytes, *, retained: bool = False, qos: int = 1) -> int:
        """Deliver a message; return its number, which `acknowledged` has when it is."""
        self.delivered += 1
        number = self.delivered
        done = (lambda: self.acknowledged.append(number)) if qos else None
        self.inbox.arrived(Inbound(topic, payload, retained, done))
        return number

    def want(self, an_id: str, version: str | None, model: str = "birds", order: int = 1) -> None:
        message = {"deployment_id": an_id, "version": version, "order": NOW_MS + order}
        self.arrive(DESIRED.format(model), orjson.dumps(message), retained=True)
        self.updater.turn()
        self.now_s += SETTLE_S
        self.updater.turn()

    def cancel(self, deployment_id: str, model: str = "birds") -> None:
        message = {"id": "c", "action": "cancel", "deployment_id": deployment_id}
        self.arrive(COMMAND.format(model), orjson.dumps(message))
        self.now_s += 1.0
        self.updater.turn()

    def work(self) -> None:
        """Let one task come to its end."""
        self.tasks.pop(0)()
        self.updater.turn()

    def until(self, state: State | None, model: str = "birds") -> None:
        for _ in range(100):
            if self.state(model) is state:
                return
            if self.tasks:
                self.work()
            else:
                self.now_s += 1.0
                self.updater.turn()
        raise AssertionError(f"it stays in {self.state(model)}: {self.log}")

    def settle_down(self) -> None:
        """Let all that can happen within a minute happen."""
        for _ in range(100):
            while self.tasks:
                self.work()
            self.now_s += 1.0
            self.updater.turn()

    def at(self, model: str = "birds") -> Journal:
        return self.updater.cases[model].journal

    def state(self, model: str = "birds") -> State | None:
        current = self.at(model).current
        return None if current is None else current.state

    def ended(self, an_id: str, model: str = "birds") -> dict[str, Any]:
        payload = self.outbox[f"{model}/{an_id}"]
        return orjson.loads(payload)


class PowerCutError(Exception):
    """The lights go out."""


@pytest.fixture
def device() -> Device:
    return Device(SETTLED)


def test_each_step_is_written_before_the_next_is_done(device: Device) -> None:
    device.want("d1", "1.4.0")
    device.settle_down()

    done = [line for line in device.log if not line.startswith(("progress", "tidy"))]
    assert done == [
        *("kept IDLE", "kept SYNCING", "sync", "kept DOWNLOADING", "download"),
        *("kept VERIFYING", "verify", "kept VALIDATING", "validate", "kept TRIAL", "try_out"),
        *("kept IDLE", "kept IDLE", "settle"),
    ]
    assert device.ended("d1")["status"] == "SUCCEEDED"
    assert device.ended("d1")["health"] == {"frames": 300}
    journal = device.at()
    assert (journal.active.version, journal.previous.version) == ("1.4.0", "1.3.0")
    assert device.on_stage["birds"] == sha("1.4.0")
    states = [orjson.loads(payload)["state"] for payload in device.said]
    assert list(dict.fromkeys(states))[1:] == [
        *("SYNCING", "DOWNLOADING", "VERIFYING", "VALIDATING", "TRIAL", "COMMITTED")
    ]
    seqs = [orjson.loads(payload)["seq"] for payload in device.said]
    assert seqs == sorted(seqs)


@pytest.mark.parametrize("state", list(State)[:5])
def test_cancel_is_answered_at_once_in_each_state(device: Device, state: State) -> None:
    device.judgement = Verdict("wait")
    device.want("d1", "1.4.0")
    device.until(state)
    assert device.tasks, "something is under way"
    device.cancel("d1")

    if state is State.TRIAL:
        assert device.state() is State.ROLLING_BACK
    else:
        assert device.ended("d1")["status"] == "CANCELED", "before the action came to its end"
    device.settle_down()
    expected = "ROLLED_BACK" if state is State.TRIAL else "CANCELED"
    assert (device.ended("d1")["status"], device.ended("d1")["reason"]) == (expected, "canceled")
    assert device.on_stage["birds"] == ACTIVE.sha256
    assert not device.at().marks
    assert device.state() is None


def test_a_newer_desired_supersedes_before_the_trial_and_waits_in_it(device: Device) -> None:
    device.want("d1", "1.4.0")
    device.until(State.VALIDATING)
    device.judgement = Verdict("wait")
    device.want("d2", "1.5.0", order=2)
    assert device.ended("d1")["reason"] == "superseded"
    device.until(State.TRIAL)
    device.want("d3", "1.6.0", order=3)
    device.settle_down()
    assert under_way(device.at()).deployment_id == "d2"

    device.judgement = HEALTHY
    device.settle_down()
    assert device.ended("d2")["status"] == "SUCCEEDED"
    assert device.ended("d3")["status"] == "SUCCEEDED"
    assert device.at().active.version == "1.6.0"


ENDS = {
    "error": "FAILED disk_low, FAILED disk_low, FAILED disk_low, FAILED disk_low,"
    " ROLLED_BACK disk_low, ROLLED_BACK trial_errors",
    "full disk": "SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, ROLLED_BACK trial_errors",
    "kill": "SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, ROLLED_BACK trial_errors",
    "kill twice": "SUCCEEDED, SUCCEEDED, FAILED interrupted, FAILED interrupted,"
    " SUCCEEDED, ROLLED_BACK trial_errors",
    "power cut": "SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, ROLLED_BACK trial_errors",
    "stop": "SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, SUCCEEDED, ROLLED_BACK trial_errors",
    "hang": "FAILED deadline_passed, FAILED deadline_passed, FAILED deadline_passed,"
    " FAILED deadline_passed, ROLLED_BACK trial_crashed, ROLLED_BACK trial_errors",
    "cancel": "CANCELED canceled, CANCELED canceled, CANCELED canceled, CANCELED canceled,"
    " ROLLED_BACK canceled, ROLLED_BACK trial_errors",
    "late cancel": "CANCELED canceled, CANCELED canceled, CANCELED canceled, CANCELED canceled,"
    " ROLLED_BACK canceled, ROLLED_BACK trial_errors",
}
EVERY = [
    (state, what, end.split())
    for what, line in ENDS.items()
    for state, end in zip(list(State)[:6], line.split(", "), strict=True)
]


def happens(device: Device, what: str, state: State) -> None:
    """Let it happen while the action of a state is under way."""
    name = device.at().model
    match what:
        case "error":
            action = {State.TRIAL: "try_out", State.ROLLING_BACK: "restore"}.get(state)
            action = action or dict(zip(list(State)[:4], ACTIONS, strict=True))[state]
            device.faults[action] = [StoreError("disk_low", "no room")]
        case "full disk":
            device.disk_full = True
            device.settle_down()
            device.disk_full = False
        case "kill" | "kill twice":
            for _ in range(2 if what == "kill twice" else 1):
                device.start(clean=False)
                device.updater.turn()
        case "power cut":
            device.start(clean=False, boot="the next boot")
        case "stop":
            device.start()
        case "hang":
            device.tasks.clear()
            if state in BEFORE_TRIAL:
                device.now_s += 3600.0
                device.updater.turn()
                device.updater.cases[name]._task = None  # its thread is given up
                return
            # The watchdog ends what loads for too long.
            for _ in range(2):
                device.start(clean=False, blamed=sha("1.4.0"))
                device.updater.turn()
        case "cancel":
            device.cancel("d1")
        case "late cancel":
            device.tasks.pop(0)()
            device.cancel("d1")


@pytest.mark.parametrize(
    ("state", "what", "end"), EVERY, ids=[f"{what} in {state}" for state, what, _ in EVERY]
)
def test_everything_in_every_state(device: Device, state: State, what: str, end: list[str]) -> None:
    if state is State.ROLLING_BACK:
        device.judgement = Verdict("unhealthy", "trial_errors", "many")
    device.want("d1", "1.4.0")
    device.until(state)
    assert device.tasks
    happens(device, what, state)
    device.settle_down()
    device.settle_down()

    result = device.ended("d1")
    assert [result["status"], *filter(None, [result["reason"]])] == end
    active = device.at().active
    assert active is not None
    left_aside = what == "error" and state is State.ROLLING_BACK
    stays = PREVIOUS if left_aside else ACTIVE
    assert active.version == ("1.4.0" if end[0] == "SUCCEEDED" else stays.version)
    assert device.on_stage["birds"] == active.sha256
    marked = what == "hang" and state is State.TRIAL
    assert device.at().is_bad(sha("1.4.0")) is marked
    assert len(device.outbox) == 1

    device.judgement = HEALTHY
    device.want("d2", "1.5.0", order=2)
    device.settle_down()
    assert device.ended("d2")["status"] == "SUCCEEDED"
    assert device.on_stage["birds"] == sha("1.5.0")


@pytest.mark.parametrize("state", list(State)[1:5])
def test_what_a_person_marks_bad_on_its_way_is_not_committed(device: Device, state: State) -> None:
    device.want("d1", "1.4.0")
    device.until(state)
    device.updater.cases["birds"].write(mark(device.at(), "1.4.0", bad=True))
    device.settle_down()
    result = device.ended("d1")
    status = "ROLLED_BACK" if state is State.TRIAL else "REJECTED"
    assert (result["status"], result["reason"]) == (status, "marked_bad")
    assert device.on_stage["birds"] == device.at().active.sha256 == ACTIVE.sha256
    assert device.at().marks == (Mark("1.4.0", sha("1.4.0"), bad=True, reason="marked_by_hand"),)


@pytest.mark.parametrize("how", ["cancel", "supersede", "deadline", "stop"])
def test_a_task_that_nobody_waits_for_is_told_so(device: Device, how: str) -> None:
    device.want("d1", "1.4.0")
    device.until(State.DOWNLOADING)
    task = device.updater.cases["birds"]._task
    assert task is not None
    assert not task.canceled()
    match how:
        case "cancel":
            device.cancel("d1")
        case "supersede":
            device.want("d2", "1.5.0", order=2)
        case "deadline":
            device.now_s += 3600.0
            device.updater.turn()
        case "stop":
            device.updater.start()
            assert not device.updater.stop(0.1), "it is still under way"
    assert task.canceled()


def test_what_a_canceled_task_says_later_is_ignored(device: Device) -> None:
    device.want("d1", "1.4.0")
    late = device.tasks.pop()
    device.want("d2", "1.5.0", order=2)
    assert not device.tasks, "the next begins only when the one before has let go"
    late()
    device.updater.turn()
    assert device.at().current.sha256 == "", "what was found was found for another"
    device.settle_down()
    assert device.at().active.version == "1.5.0"


@pytest.mark.parametrize(
    ("action", "error", "status", "marked"),
    [
        ("download", StoreError("disk_full", "no room"), "FAILED", False),
        ("verify", VerifyError("manifest_invalid", "no"), "REJECTED", False),
        ("verify", StoreError("disk_full", "no room"), "FAILED", False),
        ("validate", AcceleratorError("runtime_missing", "none"), "FAILED", False),
        ("validate", ValidationError("golden_mismatch", "no"), "REJECTED", True),
        ("validate", ValidationError("labels_mismatch", "no"), "REJECTED", False),
        ("try_out", AcceleratorError("edgetpu_no_device", "gone"), "ROLLED_BACK", False),
        ("try_out", ValidationError("output_not_finite", "nan"), "ROLLED_BACK", True),
    ],
)
def test_whose_fault_it_is(
    device: Device, action: str, error: EdgedError, status: str, marked: bool
) -> None:
    device.faults[action] = [error]
    device.want("d1", "1.4.0")
    device.settle_down()

    assert (device.ended("d1")["status"], device.ended("d1")["reason"]) == (status, error.reason)
    assert [mark.version for mark in device.at().marks] == (["1.4.0"] if marked else [])
    assert device.on_stage["birds"] == ACTIVE.sha256


@pytest.mark.parametrize(
    ("judged", "status", "reason", "marked"),
    [
        (Verdict("unhealthy", "trial_slow", "slow"), "ROLLED_BACK", "trial_slow", False),
        (Verdict("unhealthy", "trial_not_finite", "nan"), "ROLLED_BACK", "trial_not_finite", True),
        (Verdict("no_frames", "no_frames", "dark"), "ROLLED_BACK", "no_frames", False),
    ],
)
def test_verdicts(device: Device, judged: Verdict, status: str, reason: str, marked: bool) -> None:
    device.judgement = judged
    device.want("d1", "1.4.0")
    device.settle_down()
    assert (device.ended("d1")["status"], device.ended("d1")["reason"]) == (status, reason)
    assert bool(device.at().marks) is marked
    assert device.on_stage["birds"] == ACTIVE.sha256


def test_the_network_is_asked_again_with_patience_up_to_the_deadline(device: Device) -> None:
    busy = FetchError("server_busy", "later", retry_after_s=600.0)
    away = [FetchError("server_unreachable", "no route") for _ in range(1000)]
    device.faults["sync"] = [busy, *away]
    device.want("d1", "1.4.0")
    device.work()
    assert device.at().current.reason == "server_busy"
    device.now_s += 599.0
    device.updater.turn()
    assert not device.tasks, "it wants to be left alone"
    device.now_s += 1.0
    device.updater.turn()
    assert device.tasks

    asked = 0
    while device.state() is not None:
        while device.tasks:
            asked += 1
            device.work()
        device.now_s += 1.0
        device.updater.turn()
    assert (device.ended("d1")["status"], device.ended("d1")["reason"]) == (
        "FAILED",
        "server_unreachable",
    )
    assert 10 < asked < 25, "twice as long each time, up to five minutes"
    assert not device.at().marks


@pytest.mark.parametrize("trouble", ["server", "disk"])
def test_what_comes_next_does_not_inherit_the_patience(device: Device, trouble: str) -> None:
    asked = FetchError("server_busy", "later", retry_after_s=3000.0)
    device.faults["sync"] = [asked]
    device.want("d1", "1.4.0")
    device.work()
    device.disk_full = trouble == "disk"
    device.want("d2", "1.5.0", order=2)
    device.disk_full = False
    device.now_s += SETTLE_S
    device.updater.turn()
    device.now_s += SETTLE_S
    device.updater.turn()
    assert device.tasks, "another deployment has asked nobody yet"

    device.faults["sync"] = [asked]
    device.work()
    assert device.at().current.reason == "server_busy"
    command = {"id": "r1", "action": "rollback", "from_version": "1.3.0"}
    device.arrive(COMMAND.format("birds"), orjson.dumps(command))
    device.updater.turn()
    device.work()
    assert device.on_stage["birds"] == PREVIOUS.sha256


def test_one_trial_at_a_time_and_waiting_costs_no_time() -> None:
    other = replace(SETTLED, model="cats")
    device = Device(SETTLED, other)
    device.judgement = Verdict("wait")
    device.want("d1", "1.4.0")
    device.until(State.TRIAL)
    while device.tasks:
        device.work()
    device.want("e1", "1.4.0", "cats")
    device.settle_down()
    assert device.state("cats") is State.VALIDATING
    spent_s = device.at("cats").current.used_s
    device.now_s += 10_000.0
    device.updater.turn()
    assert device.at("cats").current.used_s == spent_s
    assert device.on_stage["cats"] == ACTIVE.sha256

    device.judgement = HEALTHY
    device.settle_down()
    assert device.ended("d1")["status"] == device.ended("e1", "cats")["status"] == "SUCCEEDED"


def test_what_cannot_be_written_has_not_happened(device: Device) -> None:
    device.disk_full = True
    device.want("d1", "1.4.0")
    device.settle_down()
    assert device.log == ["tidy birds"], "nothing was done"
    device.disk_full = False
    device.settle_down()
    assert device.ended("d1")["status"] == "SUCCEEDED"

    device.want("d2", "1.5.0", order=2)
    device.until(State.VALIDATING)
    device.disk_full = True
    device.settle_down()
    assert device.on_stage["birds"] == sha("1.4.0"), "no trial that the journal does not know"
    device.disk_full = False
    device.settle_down()
    device.settle_down()
    device.settle_down()
    assert device.ended("d2")["status"] == "SUCCEEDED"


def test_a_disk_that_fails_for_an_hour_is_told_once(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    device.disk_full = True
    device.broker_writes = False
    device.want("d1", "1.4.0")
    for _ in range(3600):
        device.now_s += 1.0
        device.updater.turn()
    assert [record.levelname for record in caplog.records].count("ERROR") <= 2

    device.disk_full = False
    device.settle_down()
    device.disk_full = True
    before = len(caplog.records)
    device.want("d2", "1.5.0", order=2)
    device.settle_down()
    assert len(caplog.records) > before, "it fails again"


def test_a_trial_that_cannot_be_settled_is_settled_later(device: Device) -> None:
    device.faults["settle"] = [AcceleratorError("model_busy", "does not come to rest")] * 2
    device.want("d1", "1.4.0")
    while "settle" not in device.log:
        device.work()
    for _ in range(5):
        device.updater.turn()
    assert not device.tasks, "not at once"
    device.settle_down()
    assert device.log.count("settle") == 3
    assert not device.updater.cases["birds"].tries


def test_what_still_has_to_leave_keeps_another_trial_waiting() -> None:
    device = Device(SETTLED, replace(SETTLED, model="cats"))
    device.judgement = Verdict("unhealthy", "trial_errors", "many")
    busy = AcceleratorError("model_busy", "does not come to rest")
    device.faults["restore"] = [busy] * 1000
    device.want("d1", "1.4.0")
    device.until(State.ROLLING_BACK)
    device.want("e1", "1.4.0", "cats")
    device.settle_down()
    assert device.on_stage["birds"] == sha("1.4.0")
    assert device.state("cats") is State.VALIDATING
    device.faults.clear()
    device.settle_down()
    device.settle_down()
    assert device.at("birds").current is device.at("cats").current is None


def test_what_is_marked_while_it_is_returned_to_does_not_become_active(device: Device) -> None:
    command = {"id": "r1", "action": "rollback", "from_version": "1.3.0"}
    device.arrive(COMMAND.format("birds"), orjson.dumps(command))
    device.updater.turn()
    device.tasks.pop(0)()
    assert device.on_stage["birds"] == PREVIOUS.sha256
    device.updater.cases["birds"].write(mark(device.at(), PREVIOUS.version, bad=True))
    device.settle_down()
    assert device.on_stage["birds"] == device.at().active.sha256 == FACTORY.sha256


@pytest.mark.parametrize("reason", ["descriptors_exhausted", "disk_unusable"])
def test_a_roll_back_gives_nothing_up_that_cannot_be_looked_at_now(
    device: Device, reason: str
) -> None:
    device.judgement = Verdict("unhealthy", "trial_errors", "many")
    device.faults["restore"] = [StoreError(reason, "not now")] * 3
    device.want("d1", "1.4.0")
    device.settle_down()
    assert device.ended("d1")["status"] == "ROLLED_BACK"
    assert device.log.count("restore") == 4
    assert device.on_stage["birds"] == device.at().active.sha256 == ACTIVE.sha256


def test_a_roll_back_goes_on_to_what_is_usable(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    device.judgement = Verdict("unhealthy", "trial_errors", "many")
    gone = StoreError("release_missing", "it is not there")
    device.faults["restore"] = [
        AcceleratorError("model_busy", "does not come to rest"),
        gone,
        StoreError("release_damaged", "not as it was"),
    ]
    device.want("d1", "1.4.0")
    device.settle_down()
    result = device.ended("d1")
    assert (result["status"], result["reason"]) == ("ROLLED_BACK", "trial_errors")
    assert result["detail"] == "many; it is not there; not as it was"
    assert "many; it is not there" in caplog.text
    assert device.on_stage["birds"] == FACTORY.sha256
    assert device.at().active.version == FACTORY.version


def test_a_command_rolls_back(device: Device) -> None:
    command = {"id": "r1", "action": "rollback", "from_version": "1.3.0"}
    device.arrive(COMMAND.format("birds"), orjson.dumps(command), retained=True)
    device.settle_down()
    assert not device.outbox, "a retained command is for somebody else's time"
    device.arrive(COMMAND.format("birds"), orjson.dumps(command))
    device.settle_down()
    assert device.ended("r1")["status"] == "ROLLED_BACK"
    assert device.on_stage["birds"] == PREVIOUS.sha256


def test_a_flood_replaces_and_never_queues(
    device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    for order in range(1, 2000):
        message = {"deployment_id": f"d{order}", "version": "9.9.9", "order": NOW_MS + order}
        device.arrive(DESIRED.format("birds"), orjson.dumps(message))
    device.faults["sync"] = [FetchError("not_published", "no") for _ in range(100)]
    for _ in range(5):
        device.now_s += 1.0
        device.updater.turn()
    assert [held.deployment_id for held in device.at().desired] == ["d1999"]
    assert device.saves <= 3

    for topic, payload in ((DESIRED, b"x" * 70_000), (COMMAND, b"[]")):
        device.arrive(topic.format("birds"), payload)
        device.now_s += 3.0
        device.updater.turn()
        device.now_s += 3.0
        device.updater.turn()
    reasons = {reason for _, reason in device.errors}
    assert reasons == {"message_too_large", "message_malformed"}
    for _ in range(100):
        device.arrive(COMMAND.format("birds"), b"[]")
        device.updater.turn()
    assert len(device.errors) <= 3, "at most one a second"
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) <= 10, "in the log too"


def test_a_message_is_acknowledged_after_the_journal_has_it(device: Device) -> None:
    message = {"deployment_id": "d1", "version": "1.4.0", "order": NOW_MS}
    number = device.arrive(DESIRED.format("birds"), orjson.dumps(message))
    device.updater.turn()
    device.disk_full = True
    device.now_s += SETTLE_S
    device.updater.turn()
    assert device.acknowledged == []
    device.disk_full = False
    device.now_s += 2 * SETTLE_S
    device.updater.turn()
    device.now_s += 2 * SETTLE_S
    device.updater.turn()
    assert device.acknowledged == [number]
    assert device.at().desired[0].deployment_id == "d1"

    cancel = {"id": "c", "action": "cancel", "deployment_id": "d1"}
    device.disk_full = True
    number = device.arrive(COMMAND.format("birds"), orjson.dumps(cancel))
    device.updater.turn()
    assert number not in device.acknowledged
    device.disk_full = False
    device.now_s += 1.0
    device.updater.turn()
    assert number in device.acknowledged
    assert device.ended("d1")["status"] == "CANCELED"


def test_what_is_refused_is_acknowledged_and_does_not_hold_up_the_rest(device: Device) -> None:
    numbers = [device.arrive(DESIRED.format("birds"), b"{") for _ in range(5)]
    numbers += [device.arrive(COMMAND.format("birds"), b"{") for _ in range(5)]
    numbers.append(device.arrive("edged/porch/update/cats/desired", b"{}"))
    device.online = False
    device.updater.turn()
    assert sorted(device.acknowledged) == numbers
    assert device.errors == []
    device.online = True
    for _ in range(3):
        device.updater.turn()
    assert len(device.errors) == 1, "one a second"
    device.settle_down()
    assert len(device.errors) == len(numbers)
    for _ in range(1000):
        device.arrive(DESIRED.format("birds"), b"{")
        device.updater.turn()
    device.settle_down()
    assert len(device.errors) < 2 * len(numbers) + 10, "of a flood, some"


def test_without_a_clock_it_is_heard_once_it_is_set_and_settles_then(device: Device) -> None:
    device.synced = False
    message = {"deployment_id": "d1", "version": "1.4.0", "order": NOW_MS + 2**50}
    number = device.arrive(DESIRED.format("birds"), orjson.dumps(message))
    device.settle_down()
    assert (device.acknowledged, device.errors, device.state()) == ([], [], None)
    device.clock_ms += 2**50
    device.synced = True
    device.settle_down()
    assert device.acknowledged == [number]
    assert device.ended("d1")["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("parser", "topic"),
    [("hearing.parse_desired", DESIRED), ("listener.parse_command", COMMAND)],
)
def test_a_bug_that_a_message_finds_is_not_found_at_every_start(
    device: Device, monkeypatch: pytest.MonkeyPatch, parser: str, topic: str
) -> None:
    def buggy(payload: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"edged.models.{parser}", buggy)
    number = device.arrive(topic.format("birds"), b"{}")
    with pytest.raises(ZeroDivisionError):
        device.updater.turn()
    assert device.acknowledged == [number]


def test_a_cancel_right_after_its_desired_finds_it(device: Device) -> None:
    message = {"deployment_id": "d1", "version": "1.4.0", "order": NOW_MS}
    device.arrive(DESIRED.format("birds"), orjson.dumps(message))
    device.cancel("d1")
    device.settle_down()
    assert device.ended("d1")["status"] == "CANCELED"
    assert device.errors == []
    assert len(device.acknowledged) == 2

    # What comes next settles for as long as ever.
    message |= {"deployment_id": "d2", "order": NOW_MS + 1}
    device.arrive(DESIRED.format("birds"), orjson.dumps(message))
    device.updater.turn()
    assert device.at().desired[0].deployment_id == "d1"


def test_commands_are_written_once_a_second(device: Device) -> None:
    device.settle_down()
    before = device.saves
    for number in range(50):
        command = {"id": f"r{number}", "action": "rollback", "from_version": "9.9.9"}
        device.arrive(COMMAND.format("birds"), orjson.dumps(command))
        device.updater.turn()
    assert len(device.outbox) == 1, "the first is heard at once"
    device.now_s += 1.0
    device.updater.turn()
    assert len(device.outbox) == 50
    assert device.saves - before - len(device.outbox) == 2, "beside one for each result"


def test_what_settles_when_the_updater_ends_is_not_lost(device: Device) -> None:
    """The connection outlives a reload: the broker would not deliver it again."""
    for disk_full in (False, True):
        device.disk_full = disk_full
        an_id = f"d{disk_full:d}"
        message = {"deployment_id": an_id, "version": "1.4.0", "order": NOW_MS + 1 + disk_full}
        number = device.arrive(DESIRED.format("birds"), orjson.dumps(message))
        device.updater.start()
        wait_for("it to be heard", lambda: device.updater._listener.waits)
        assert device.updater.stop(5.0)
        assert (number in device.acknowledged) is not disk_full
        assert [one.message.done is not None for one in device.inbox.desired()] == [
            True
        ] * disk_full
        device.disk_full = False
        held = parse_journal(device.disk["birds"]).desired
        assert [one.deployment_id for one in held] == ["d0"]
        device.start()


def test_a_result_is_said_until_it_is_safe_and_then_never_again(device: Device) -> None:
    device.broker_writes = False
    device.want("d1", "1.4.0")
    device.settle_down()
    assert not device.outbox
    assert not device.at().history[-1].reported
    device.start()
    device.broker_writes = True
    device.settle_down()
    assert device.at().history[-1].reported
    device.outbox.clear()
    device.start()
    device.settle_down()
    assert not device.outbox


def test_a_result_that_cannot_be_said_is_tried_once_a_start_and_holds_up_no_other(
    device: Device,
) -> None:
    device.outbox_small = True
    device.want("d1", "1.4.0")
    device.settle_down()
    device.settle_down()
    assert device.errors == [("d1", "outbox_too_small")]
    device.outbox_small = False
    device.want("d2", "1.5.0", order=2)
    device.settle_down()
    assert [one.reported for one in device.at().history] == [False, True]
    assert list(device.outbox) == ["birds/d2"]
    device.start()
    device.settle_down()
    assert list(device.outbox) == ["birds/d2", "birds/d1"]


def deployed(device: Device) -> Device:
    device.want("d1", "1.4.0")
    device.settle_down()
    return device


def test_the_power_goes_after_any_write() -> None:
    whole = deployed(Device(SETTLED))
    assert whole.saves == 8
    for after in range(1, whole.saves + 1):
        device = Device(SETTLED)
        device.crash_after = after
        with pytest.raises(PowerCutError):
            deployed(device)
        device.crash_after = None
        device.on_stage["birds"] = ""
        device.start(clean=False)
        device.settle_down()
        assert device.ended("d1")["status"] == "SUCCEEDED", after
        assert len(device.outbox) == 1
        assert device.at().active.version == "1.4.0"
        assert [one.status for one in device.at().history] == [Status.SUCCEEDED]
        assert device.at().history[0].reported


def test_calls_from_other_threads_are_done_by_its_own(device: Device) -> None:
    device.updater.start()
    try:
        name = device.updater.ask(lambda: threading.current_thread().name)
        assert name == "updater"

        def refused() -> None:
            raise StoreError("disk_full", "no room")

        with pytest.raises(StoreError, match="no room"):
            device.updater.ask(refused)
    finally:
        assert device.updater.stop(5.0)
    with pytest.raises(StoreError, match="busy"):
        device.updater.ask(lambda: None)


def test_a_call_that_nobody_waits_for_any_more_is_not_made(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edged.models.updater._ANSWER_S", 0.01)
    made: list[bool] = []
    with pytest.raises(StoreError, match="busy"):
        device.updater.ask(lambda: made.append(True))
    device.updater.turn()
    assert not made


def test_nothing_is_tidied_up_under_a_task(device: Device) -> None:
    device.want("d1", "1.4.0")
    device.until(State.DOWNLOADING)
    device.log.clear()
    device.cancel("d1")
    device.updater.turn()
    assert "tidy birds" not in device.log
    device.work()
    assert "tidy birds" in device.log


def test_who_asks_while_it_stops_is_told_at_once(device: Device) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def tidy(_name: str) -> None:
        entered.set()
        go_on.wait(20.0)

    told: list[str] = []

    def ask() -> None:
        try:
            device.updater.ask(lambda: None)
        except EdgedError as error:
            told.append(error.reason)

    device.updater._duties = Duties(None, 3600.0, tidy)
    device.updater.start()
    assert entered.wait(5.0)
    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    wait_for("a call", lambda: device.updater._calls)
    device.updater.ask_to_stop()
    go_on.set()
    assert device.updater.stop(5.0)
    asker.join(10.0)
    assert told == ["updater_busy"]


def test_a_poll_is_over_when_it_says_so(device: Device) -> None:
    canceled: list[bool] = []
    begun = threading.Event()

    def latest(stopping: Callable[[], bool]) -> dict[str, str]:
        begun.set()
        wait_for("the end", stopping)
        canceled.append(stopping())
        raise FetchError("canceled", "nobody waits")

    device.updater._duties = Duties(latest, 3600.0, lambda name: None)
    device.updater._poll_s = 0.0
    device.updater._spawn = spawn
    device.updater.start()
    assert begun.wait(5.0)
    assert device.updater.stop(5.0)
    assert canceled == [True]


def test_a_version_that_the_last_poll_did_not_find_is_asked_for(device: Device) -> None:
    asked: list[str] = []

    def latest(_stopping: object) -> dict[str, str]:
        asked.append("latest")
        return {"birds": "1.4.0" if len(asked) > 1 else ACTIVE.version}

    device.updater._duties = Duties(latest, 3600.0, lambda name: None)
    device.updater._poll_s = device.now_s
    device.settle_down()
    assert len(asked) == 1
    device.want("d1", "1.4.0")
    device.settle_down()
    assert device.ended("d1")["status"] == "SUCCEEDED"
    assert len(asked) == 2


def test_progress_is_told_once_a_second(device: Device) -> None:
    device.want("d1", "1.4.0")
    device.until(State.DOWNLOADING)
    download = device.tasks.pop()
    held = threading.Event()
    device._do = lambda *_: held.wait(5.0)  # type: ignore[method-assign]
    thread = threading.Thread(target=download)
    thread.start()
    wait_for("progress", lambda: device.updater.cases["birds"].progress)
    for _ in range(5):
        device.updater.turn()
    assert device.log.count("progress 50/100") == 1
    device.now_s += 1.0
    device.updater.turn()
    assert device.log.count("progress 50/100") == 2
    held.set()
    thread.join(5.0)


def test_why_the_newest_versions_are_not_known_is_kept_until_they_are() -> None:
    device = Device(SETTLED)
    answers: list[EdgedError | dict[str, str]] = [
        VerifyError("metadata_expired", "frozen"),
        {"m": "9.0.0"},
    ]

    def newest(_canceled: object) -> dict[str, str]:
        answer = answers.pop(0)
        if isinstance(answer, EdgedError):
            raise answer
        return answer

    device.updater._duties = Duties(newest, 3600.0, lambda name: None)
    for reason in ("metadata_expired", None):
        device.now_s += 7200.0
        device.updater.turn()
        device.tasks.pop()()
        said = device.updater.poll_trouble
        assert (said and said.reason) == reason

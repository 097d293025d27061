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
from edged.models.pursuit import Clock
from edged.models.records import Moment, Result, State, Status
from edged.models.recovery import BootFacts, recover
from edged.models.task import Task
from edged.models.transitions import Event, Kind
from edged.models.trial import Verdict
from edged.models.updater import SETTLE_S, Duties, Updater
from edged.mqtt.updates import encode_result, encode_state

DESIRED = "edged/porch/update/{}/desired"
COMMAND = "edged/porch/update/{}/command"
HEALTHY = Verdict("healthy")


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
        self.saves = 0
        self.crash_after: int | None = None
        self.start()

    def start(self, *, clean: bool = True) -> None:
        """Begin a process."""
        self.inbox = Inbox()
        self.tasks: list[Callable[[], None]] = []
        journals = {name: parse_journal(data) for name, data in self.disk.items()}
        world = Surroundings(
            acts=self,  # type: ignore[arg-type]  # plays them
            keep=self.keep,
            now_ms=lambda: NOW_MS,
            monotonic=lambda: self.now_s,
            boot_id=BOOT,
            device_id=DEVICE,
            deadline_s=3600.0,
            spawn=self.tasks.append,
            ring=lambda: None,
        )
        cases = {}
        for name, journal in journals.items():
            recovered = recover(journal, BootFacts(BOOT, clean, None), NOW_MS)
            self.disk[name] = encode_journal(recovered)
            cases[name] = Case(recovered, world)
        self.inbox.listen(addresses("edged", DEVICE, (), cases), lambda: None)
        self.updater = Updater(
            cases,
            self.inbox,
            self,  # type: ignore[arg-type]  # plays the voice
            Duties(None, 3600.0, lambda name: self.log.append(f"tidy {name}")),
            clock=lambda: Clock(NOW_MS, synced=True),
            moment=lambda: Moment(NOW_MS, BOOT),
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

    def error(self, topic: str, reason: str, detail: str) -> None:
        self.errors.append((topic, reason))

    def journal(self, journal: Journal, latest: str | None) -> None:
        self.said.append(encode_state(journal))

    def progress(self, model: str, deployment_id: str, there_bytes: int, total_bytes: int) -> None:
        self.log.append(f"progress {there_bytes}/{total_bytes}")

    def result(self, model: str, result: Result) -> bool:
        if not self.broker_writes:
            return False
        payload = encode_result(model, result)
        assert self.outbox.setdefault(f"{model}/{result.deployment_id}", payload) == payload
        return True

    # What happens to it

    def want(self, an_id: str, version: str | None, model: str = "birds", order: int = 1) -> None:
        message = {"deployment_id": an_id, "version": version, "order": NOW_MS + order}
        self.inbox.arrived(DESIRED.format(model), orjson.dumps(message), True)
        self.updater.turn()
        self.now_s += SETTLE_S
        self.updater.turn()

    def cancel(self, deployment_id: str, model: str = "birds") -> None:
        message = {"id": "c", "action": "cancel", "deployment_id": deployment_id}
        self.inbox.arrived(COMMAND.format(model), orjson.dumps(message), False)
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


def test_a_roll_back_goes_on_to_what_is_usable(device: Device) -> None:
    device.judgement = Verdict("unhealthy", "trial_errors", "many")
    gone = StoreError("release_missing", "it is not there")
    device.faults["restore"] = [
        AcceleratorError("model_busy", "does not come to rest"),
        gone,
        StoreError("release_damaged", "not as it was"),
    ]
    device.want("d1", "1.4.0")
    device.settle_down()
    assert device.ended("d1")["status"] == "ROLLED_BACK"
    assert device.on_stage["birds"] == FACTORY.sha256
    assert device.at().active.version == FACTORY.version


def test_a_command_rolls_back(device: Device) -> None:
    command = {"id": "r1", "action": "rollback", "from_version": "1.3.0"}
    device.inbox.arrived(COMMAND.format("birds"), orjson.dumps(command), True)
    device.settle_down()
    assert not device.outbox, "a retained command is for somebody else's time"
    device.inbox.arrived(COMMAND.format("birds"), orjson.dumps(command), False)
    device.settle_down()
    assert device.ended("r1")["status"] == "ROLLED_BACK"
    assert device.on_stage["birds"] == PREVIOUS.sha256


def test_a_flood_replaces_and_never_queues(device: Device) -> None:
    for order in range(1, 2000):
        message = {"deployment_id": f"d{order}", "version": "9.9.9", "order": NOW_MS + order}
        device.inbox.arrived(DESIRED.format("birds"), orjson.dumps(message), False)
    device.faults["sync"] = [FetchError("not_published", "no") for _ in range(100)]
    for _ in range(5):
        device.now_s += 1.0
        device.updater.turn()
    assert [held.deployment_id for held in device.at().desired] == ["d1999"]
    assert device.saves <= 3

    for topic, payload in ((DESIRED, b"x" * 70_000), (COMMAND, b"[]")):
        device.inbox.arrived(topic.format("birds"), payload, False)
        device.now_s += 3.0
        device.updater.turn()
        device.now_s += 3.0
        device.updater.turn()
    reasons = {reason for _, reason in device.errors}
    assert reasons == {"message_too_large", "message_malformed"}
    for _ in range(100):
        device.inbox.arrived(COMMAND.format("birds"), b"[]", False)
        device.updater.turn()
    assert len(device.errors) <= 3, "at most one a second"


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

    def newest() -> dict[str, str]:
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

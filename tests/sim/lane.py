"""Kills the whole daemon at random moments of its deployments, and says what became of it.

One lane is a broker, a repository, and a device that is told to run one new version after another.
In each round the daemon is killed, or its power cut, once or twice between the message that makes
it begin and the result. What is on the disk then, what it says afterwards and every prediction it
made are held against what may be: exactly the old version or exactly the new one, one result.
After each round a deployment without a kill has to succeed.
"""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson

from edged.models.journal import Journal, parse_journal
from edged.models.journalfile import COPY, STATE
from edged.models.records import Release, State
from edged.models.seal import SEAL
from edged.models.store import Store
from sim import badmodels, models
from sim.broker import Broker, Subscriber, wait_for
from sim.desk import COLOURS, Desk
from sim.device import Device, P
from sim.kernel import Kernel

Order = Literal["deploy", "cancel", "rollback"]

UNREAD, UNTOLD, TOLD = "not read yet", "ended, untold", "ended, told"
STATES = (UNREAD, *list(State)[:6], UNTOLD, TOLD)
# For how long after its beginning each is aimed at, seconds; about as long as it takes.
_BACK_S = {State.ROLLING_BACK: 0.05, UNTOLD: 0.02}
_ON_TRIAL_S = {UNREAD: 2.2, State.TRIAL: 0.9}
_AIMED_S: dict[Order, dict[str, float]] = {
    "deploy": {
        **_ON_TRIAL_S,
        State.SYNCING: 0.05,
        State.DOWNLOADING: 0.5,
        State.VERIFYING: 0.02,
        State.VALIDATING: 0.35,
        UNTOLD: 0.02,
    },
    "cancel": {**_ON_TRIAL_S, **_BACK_S},
    "rollback": {UNREAD: 0.2, **_BACK_S},
}
_WHOLE_S = 4.5
_RESULT_S = 60.0
_FORGOTTEN_S = 8.0
_BALLAST_BYTES = 200_000
_BYTES_PER_S = 400_000.0
_ORDERS: tuple[Order, ...] = ("deploy",) * 6 + ("cancel", "rollback") * 2


@dataclass(frozen=True)
class Round:
    """What was done to one deployment, and what became of it.

    Attributes:
        order: what the device was told.
        kills: how, and the state that was on the disk.
        outcome: status and reason of the result.
        said: how often the result came.
        repeated: whether the order had to be given twice, as the device had forgotten it.
        wrong: what must not be.
    """

    order: Order
    kills: tuple[tuple[str, str], ...]
    outcome: str
    said: int
    repeated: bool
    wrong: tuple[str, ...]


@dataclass
class _Tally:
    """What a round has seen so far."""

    allowed: dict[str, str]  # version to digest
    kills: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    repeated: bool = False


class Lane:
    """A device and its world.

    Args:
        folder: for everything.
        seed: of all that is random.
        power_cuts: whether some kills take the power with them; the machine must be able to.
    """

    def __init__(self, folder: Path, seed: str, *, power_cuts: bool) -> None:
        folder.mkdir()
        self._random = random.Random(seed)
        self._power_cuts = power_cuts
        self._desk = Desk(folder / "desk")
        self._desk.bytes_per_s = _BYTES_PER_S
        (folder / "broker").mkdir()
        self._broker = Broker(folder / "broker").start()
        self._subscriber = Subscriber(self._broker.port, f"{P}/#").connect()
        # A millisecond each: on a busy machine a hiccup is no 1000 times more.
        self._model = badmodels.slow(3_000)
        factory = models.write(folder / "factory.tflite", self._model)
        body = (
            f"{self._desk.update}\n"
            f'[[model]]\nname = "m"\nfactory = "{factory}"\n\n'
            '[[camera]]\nname = "front"\nsource = "synthetic"\nmodel = "m"\nfps = 30\n'
        )
        kernel = Kernel(folder / "kernel") if power_cuts else None
        self._folder = folder
        self.device = Device(folder / "device", self._broker.port, body, kernel=kernel)
        self._home = self.device.state / "models" / "m"
        self._store = Store(self.device.state)
        self._number = 0
        self._read = (0, 0, Journal("m"))
        self.device.start()
        self._online(0)
        journal = self._journal()
        assert journal.active is not None
        self._packages = {journal.active.version: journal.active.sha256}

    def close(self) -> None:
        """End everything; no process is left."""
        self.device.close()
        self._subscriber.close()
        self._broker.stop()
        self._desk.close()

    def round(self) -> Round:
        """Begin something, kill the daemon meanwhile, and see how it ends."""
        before = self._journal()
        order = self._random.choice(_ORDERS)
        if before.previous is None:
            order = "deploy"
        old = _release(before)
        new = before.previous if order == "rollback" else self._publish()
        assert new is not None
        tally = _Tally({one.version: one.sha256 for one in (old, new)})
        since, began = len(self._subscriber.messages), len(self._said())
        deployment_id = f"{order}-{self._number}"
        self._order(order, deployment_id, old.version, new.version)
        for again in range(1 + (self._random.random() < 0.5)):
            self._wait_for_the_moment(deployment_id, order, again=bool(again))
            self._kill(deployment_id, tally, before)
            self.device.start()
        payload = self._result(deployment_id, tally, order, (old.version, new.version))
        result = orjson.loads(payload) if payload else {"status": "none", "reason": "no result"}
        outcome = f"{result['status']} {result['reason']}".strip()
        self._settled(deployment_id, tally, outcome, (old, new))
        said = self._said()[began:]
        mine = [one for one in said if orjson.loads(one)["deployment_id"] == deployment_id]
        if len(set(mine)) > 1:
            tally.wrong.append(f"{len(set(mine))} different results")
        self._look_at_predictions(since, tally)
        self._clean(tally)
        return Round(
            order, tuple(tally.kills), outcome, len(mine), tally.repeated, tuple(tally.wrong)
        )

    # What the operator does.

    def _publish(self) -> Release:
        """Publish a version that never was, with labels that are its own."""
        self._number += 1
        version = f"1.{self._number}.0"
        labels = tuple(f"{colour} {version}" for colour in COLOURS)
        path = self._desk.publish(
            version,
            self._model,
            labels=labels,
            ballast=self._random.randbytes(_BALLAST_BYTES),
            trial={"p95_ratio": 1000},
        )
        sha256 = self._store._files.sha256(path)
        path.unlink()
        self._packages[version] = sha256
        return Release(version, sha256, 0)

    def _order(self, order: Order, deployment_id: str, old: str, new: str) -> None:
        if order == "rollback":
            command = {"id": deployment_id, "action": "rollback", "from_version": old}
            self._say("command", command, retain=False)
            return
        wanted = {"deployment_id": deployment_id, "version": new, "order": time.time_ns() // 10**6}
        self._say("desired", wanted, retain=self._random.random() < 0.5)

    def _cancel(self, deployment_id: str) -> None:
        command = {"id": "c", "action": "cancel", "deployment_id": deployment_id}
        self._say("command", command, retain=False)

    def _say(self, topic: str, message: dict[str, object], *, retain: bool) -> None:
        self._subscriber.publish(f"{P}/update/m/{topic}", orjson.dumps(message), retain=retain)

    # What happens to the device.

    def _wait_for_the_moment(self, deployment_id: str, order: Order, *, again: bool) -> None:
        """Wait for a moment: any at all, or one in a state, each as often as another.

        Where a deployment is to be canceled that is done meanwhile, in its trial.
        """
        chance = self._random
        aims = _AIMED_S[order]
        aim = chance.choice([None, *aims])
        delay_s = chance.uniform(0, _WHOLE_S if aim is None else aims[aim])
        if again and chance.random() < 0.5:
            aim, delay_s = None, chance.uniform(0, 1.0)  # while it starts
        cancel_s: float | None = chance.uniform(0, 0.5) if order == "cancel" else None
        began_s = time.monotonic()
        aimed_s = began_s if aim is None else None
        tried_s: float | None = None
        until_s = began_s + 2 * _WHOLE_S
        while (now_s := time.monotonic()) < until_s:
            state = self._state(deployment_id, self._journal(), told=False)
            if aimed_s is None and state in {aim, UNTOLD}:
                aimed_s = now_s
            if aimed_s is not None and now_s >= aimed_s + delay_s:
                return
            if state == State.TRIAL and tried_s is None:
                tried_s = now_s
            if cancel_s is not None and tried_s is not None and now_s >= tried_s + cancel_s:
                cancel_s = None
                self._cancel(deployment_id)
            time.sleep(0.001)

    def _kill(self, deployment_id: str, tally: _Tally, before: Journal) -> None:
        power = self._power_cuts and self._random.random() < 0.3
        if power:
            self.device.cut_power()
        else:
            self.device.kill()
        try:
            journal = self._journal(strictly=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            tally.wrong.append(f"the journal after a kill: {error}")
            journal = before
        state = self._state(deployment_id, journal, told=True)
        tally.kills.append(("power cut" if power else "kill -9", state))
        active = _release(journal)
        if tally.allowed.get(active.version) != active.sha256:
            tally.wrong.append(f"active is {active.version} after a kill in {state}")
        for release in (active, journal.previous, journal.factory):
            if release is not None:
                self._check(release, f"after a kill in {state}", tally)

    # What is held against it.

    def _result(
        self, deployment_id: str, tally: _Tally, order: Order, versions: tuple[str, str]
    ) -> bytes | None:
        """Wait for the result; an order that the device has forgotten is given again, once."""
        began_s = online_s = time.monotonic()
        while (now_s := time.monotonic()) < began_s + _RESULT_S:
            for payload in self._said():
                if orjson.loads(payload)["deployment_id"] == deployment_id:
                    return payload
            if self.device.process.poll() is not None:
                tally.wrong.append(f"the daemon ended by itself: {self.device.process.poll()}")
                return None
            unread = self._state(deployment_id, self._journal(), told=False) == UNREAD
            if self._subscriber.of(f"{P}/available")[-1] != b"online":
                online_s = now_s
            if unread and not tally.repeated and now_s > online_s + _FORGOTTEN_S:
                tally.repeated = True
                tally.wrong.append("the order was forgotten")
                self._order(order, deployment_id, *versions)
            time.sleep(0.005)
        tally.wrong.append(f"no result within {_RESULT_S:g} s")
        return None

    def _settled(
        self, deployment_id: str, tally: _Tally, outcome: str, versions: tuple[Release, Release]
    ) -> None:
        """Hold the end against the result."""
        old, new = versions
        journal = self._journal()
        rolls_back = deployment_id.startswith("rollback")
        goes = outcome.startswith("SUCCEEDED") or (rolls_back and outcome.startswith("ROLLED_BACK"))
        due = new if goes else old
        active = _release(journal)
        if (active.version, active.sha256) != (due.version, due.sha256):
            tally.wrong.append(f"{outcome}, and active is {active.version}")
        if not _may_be(deployment_id, outcome, tally.kills):
            tally.wrong.append(f"ended {outcome} after {tally.kills}")
        if any(mark.bad for mark in journal.marks):
            twice = len(tally.kills) > 1 and outcome == "ROLLED_BACK trial_crashed"
            if not twice:
                tally.wrong.append(f"marked: {journal.marks}")
        self._serves(due, tally)

    def _serves(self, due: Release, tally: _Tally) -> None:
        """Wait until predictions are those of a version, and of nothing else any more."""
        topic = f"{P}/prediction/front"
        try:
            wait_for("it", lambda: _made_by(self._subscriber.of(topic)[-3:]) == {due.sha256[:8]})
        except AssertionError:
            tally.wrong.append(f"no predictions of {due.version}")

    def _look_at_predictions(self, since: int, tally: _Tally) -> None:
        """Each was made by the old or by the new, and says labels of that."""
        for message in self._subscriber.messages[since:]:
            if message.topic != f"{P}/prediction/front":
                continue
            said = orjson.loads(message.payload)
            version = said["version"]
            labels = {f"{colour} {version}" for colour in COLOURS}
            if version.startswith("0.0.0-factory-"):
                labels = {f"class {number}" for number in range(len(COLOURS))}
            allowed = tally.allowed.get(version, "")[:8] == said["sha256"]
            if not allowed or not {one["label"] for one in said["classes"]} <= labels:
                tally.wrong.append(f"a prediction of {said}")
                return

    def _clean(self, tally: _Tally) -> None:
        """Deploy without a kill: it succeeds, and nothing is left of what was before."""
        new = self._publish()
        deployment_id = f"clean-{self._number}"
        self._order("deploy", deployment_id, "", new.version)
        again = _Tally({})
        payload = self._result(deployment_id, again, "deploy", ("", new.version))
        result = orjson.loads(payload or b'{"status": "none"}')
        if result["status"] != "SUCCEEDED":
            tally.wrong.append(f"the next clean deployment: {result} {again.wrong}")
            return
        self._serves(new, tally)
        with suppress(AssertionError):
            wait_for("a tidy store", lambda: not self._leftovers(), 10.0)
        tally.wrong.extend(self._leftovers())
        journal = self._journal()
        for version, sha256 in journal.kept():
            self._check(Release(version, sha256, 0), "at rest", tally)
        if journal.unreported():
            tally.wrong.append("a result was never told")

    def _check(self, release: Release, when: str, tally: _Tally) -> None:
        try:
            place = self._store.check("m", release.version, release.sha256)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            tally.wrong.append(f"{release.version} {when}: {error}")
            return
        if not (place / SEAL).exists():
            tally.wrong.append(f"{release.version} {when} has no seal")

    def _leftovers(self) -> list[str]:
        """Return what is on the disk and named by no journal."""
        kept = {STATE, COPY}
        try:
            for name in (STATE, COPY):
                data = (self._home / name).read_bytes()
                kept |= {version for version, _ in parse_journal(data).kept()}
        except FileNotFoundError:
            return ["a journal that is being written"]
        found = [f"left: {name}" for name in sorted(_names(self._home) - kept)]
        staging = self.device.state / "staging"
        found += [f"left in staging: {name}" for name in _names(staging)]
        expected = {"models", "staging", "tuf", "lock", "drift"}
        expected |= {"outbox.sqlite3", "outbox.sqlite3-wal"}
        return found + [f"left: {n}" for n in _names(self.device.state) - expected]

    def orphans(self) -> list[int]:
        """Return the processes that a killed daemon has left."""
        found = []
        for process in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                if b"edged.models.probe" in command and str(self._folder).encode() in command:
                    found.append(int(process.name))
        return found

    # What is seen of it.

    def _online(self, since: int) -> None:
        wait_for("online", lambda: b"online" in self._subscriber.of(f"{P}/available")[since:])

    def _said(self) -> list[bytes]:
        return self._subscriber.of(f"{P}/update/m/result")

    def _journal(self, *, strictly: bool = False) -> Journal:
        """Return the journal on the disk; while the daemon runs, the last one that was seen.

        Between the two renames of a write the copy is the only one there is.
        """
        for name in (STATE, COPY):
            path = self._home / name
            try:
                stat = path.stat()
                if not strictly and (stat.st_ino, stat.st_mtime_ns) == self._read[:2]:
                    return self._read[2]
                journal = parse_journal(path.read_bytes())
            except FileNotFoundError:
                continue
            self._read = (stat.st_ino, stat.st_mtime_ns, journal)
            return journal
        raise FileNotFoundError(self._home / STATE)

    def _state(self, deployment_id: str, journal: Journal, *, told: bool) -> str:
        """Return where a deployment stands; `told`: whether a result that is out is told apart."""
        current = journal.current
        if current is not None and current.deployment_id == deployment_id:
            return current.state
        result = journal.result(deployment_id)
        if result is None:
            return UNREAD
        return TOLD if told and result.reported else UNTOLD


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _release(journal: Journal) -> Release:
    assert journal.active is not None
    return journal.active


def _made_by(payloads: list[bytes]) -> set[str]:
    return {orjson.loads(payload)["sha256"] for payload in payloads}


def _may_be(deployment_id: str, outcome: str, kills: list[tuple[str, str]]) -> bool:
    """Say whether the recovery table lets a deployment end so after these kills."""
    if deployment_id.startswith("rollback"):
        return outcome == "ROLLED_BACK commanded"
    allowed = {"SUCCEEDED"}
    if deployment_id.startswith("cancel"):
        allowed |= {"ROLLED_BACK canceled", "CANCELED canceled"}
    hit = [state for _, state in kills]
    if len(hit) > 1:
        # Twice in a row where once more is all there is; and each time within an invoke.
        if hit[0] == hit[1] and hit[0] in {State.VERIFYING, State.VALIDATING}:
            allowed.add("FAILED interrupted")
        if hit[0] == hit[1] == State.TRIAL:
            allowed.add("ROLLED_BACK trial_crashed")
    return outcome in allowed

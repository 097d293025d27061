"""Whole stories of updates: what goes wrong where, which states are visited, how it ends.

The letters: S SYNCING, D DOWNLOADING, V VERIFYING, L VALIDATING, T TRIAL, R ROLLING_BACK; the ends
C COMMITTED, B ROLLED_BACK, X REJECTED, F FAILED, N CANCELED. `crash` is a death of the process
that its breadcrumb blames on what was running, `kill` one that it does not, `stop` a clean stop,
`power` a power cut, `torn` one that also lost the write of the next state.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim.journals import ACTIVE, CLOCK, FACTORY, MOMENT, NOW_MS, PREVIOUS, SETTLED, sha
from sim.otadevice import OtaDevice

from edged.models.desired import Desired, RollBack, Source
from edged.models.journal import Journal
from edged.models.pursuit import Clock, install, receive, roll_back, use_factory

# name, what goes wrong, states visited, status, reason, active afterwards, marked bad?
STORIES = """
all goes well               | -                              | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
error in SYNCING            | S:error                        | SF         | FAILED      | disk_low             | 1.3.0 | -
error in DOWNLOADING        | D:error                        | SDF        | FAILED      | disk_low             | 1.3.0 | -
error in VERIFYING          | V:error                        | SDVF       | FAILED      | disk_low             | 1.3.0 | -
error in VALIDATING         | L:error                        | SDVLF      | FAILED      | disk_low             | 1.3.0 | -
error in TRIAL              | T:error                        | SDVLTRB    | ROLLED_BACK | disk_low             | 1.3.0 | -
error in ROLLING_BACK       | T:refuse R:error               | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.2.0 | -
kill in SYNCING             | S:kill                         | SSDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
kill in DOWNLOADING         | D:kill                         | SDDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
kill in VERIFYING           | V:kill                         | SDVVLTC    | SUCCEEDED   |                      | 1.4.0 | -
kill in VALIDATING          | L:kill                         | SDVLLTC    | SUCCEEDED   |                      | 1.4.0 | -
kill in TRIAL               | T:kill                         | SDVLTTC    | SUCCEEDED   |                      | 1.4.0 | -
kill in ROLLING_BACK        | T:refuse R:kill                | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
hang in SYNCING             | S:hang                         | SF         | FAILED      | deadline_passed      | 1.3.0 | -
hang in DOWNLOADING         | D:hang                         | SDF        | FAILED      | deadline_passed      | 1.3.0 | -
hang in VERIFYING           | V:hang,hang                    | SDVVF      | FAILED      | interrupted          | 1.3.0 | -
hang in VALIDATING          | L:hang                         | SDVLX      | REJECTED    | golden_failed        | 1.3.0 | bad
hang in TRIAL               | T:hang,hang                    | SDVLTTRB   | ROLLED_BACK | trial_crashed        | 1.3.0 | bad
hang in ROLLING_BACK        | T:refuse R:hang,hang           | SDVLTRRRB  | ROLLED_BACK | trial_slow           | 1.3.0 | -
cancel in SYNCING           | S:cancel                       | SN         | CANCELED    | canceled             | 1.3.0 | -
cancel in DOWNLOADING       | D:cancel                       | SDN        | CANCELED    | canceled             | 1.3.0 | -
cancel in VERIFYING         | V:cancel                       | SDVN       | CANCELED    | canceled             | 1.3.0 | -
cancel in VALIDATING        | L:cancel                       | SDVLN      | CANCELED    | canceled             | 1.3.0 | -
cancel in TRIAL             | T:cancel                       | SDVLTRB    | ROLLED_BACK | canceled             | 1.3.0 | -
cancel in ROLLING_BACK      | T:refuse R:cancel              | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
power cut in SYNCING        | S:power                        | SSDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
power cut in DOWNLOADING    | D:power                        | SDDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
power cut in VERIFYING      | V:power                        | SDVVLTC    | SUCCEEDED   |                      | 1.4.0 | -
power cut in VALIDATING     | L:power                        | SDVLLTC    | SUCCEEDED   |                      | 1.4.0 | -
power cut in TRIAL          | T:power                        | SDVLTTC    | SUCCEEDED   |                      | 1.4.0 | -
power cut in ROLLING_BACK   | T:refuse R:power               | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
stop in SYNCING             | S:stop                         | SSDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
stop in DOWNLOADING         | D:stop,stop,stop               | SDDDDVLTC  | SUCCEEDED   |                      | 1.4.0 | -
stop in VERIFYING           | V:stop,stop,stop               | SDVVVVLTC  | SUCCEEDED   |                      | 1.4.0 | -
stop in VALIDATING          | L:stop,stop,stop               | SDVLLLLTC  | SUCCEEDED   |                      | 1.4.0 | -
restart in TRIAL            | T:stop,stop,stop,stop,stop,stop| SDVLTTTTTTTC | SUCCEEDED |                      | 1.4.0 | -
stop in ROLLING_BACK        | T:refuse R:stop                | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
torn write after SYNCING    | S:torn                         | SSDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
torn write after DOWNLOADING| D:torn                         | SDDVLTC    | SUCCEEDED   |                      | 1.4.0 | -
torn write after VERIFYING  | V:torn                         | SDVVLTC    | SUCCEEDED   |                      | 1.4.0 | -
torn write after VALIDATING | L:torn                         | SDVLLTC    | SUCCEEDED   |                      | 1.4.0 | -
torn commit                 | T:torn                         | SDVLTTC    | SUCCEEDED   |                      | 1.4.0 | -
torn commit, then unhealthy | T:torn,refuse                  | SDVLTTRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
torn write after the roll-back | T:refuse R:torn             | SDVLTRRB   | ROLLED_BACK | trial_slow           | 1.3.0 | -
server away for a while     | S:trouble,trouble D:trouble    | SSSDDVLTC  | SUCCEEDED   |                      | 1.4.0 | -
server away for good        | D:trouble,trouble,deadline     | SDDDF      | FAILED      | server_error         | 1.3.0 | -
trouble, then power         | S:trouble,power D:power        | SSSDDVLTC  | SUCCEEDED   |                      | 1.4.0 | -
refused in VERIFYING        | V:refuse                       | SDVX       | REJECTED    | too_large            | 1.3.0 | -
refused in VALIDATING       | L:refuse                       | SDVLX      | REJECTED    | too_large            | 1.3.0 | -
child crashes               | L:bad                          | SDVLX      | REJECTED    | golden_failed        | 1.3.0 | bad
no numbers on trial         | T:bad                          | SDVLTRB    | ROLLED_BACK | golden_failed        | 1.3.0 | bad
slow on trial               | T:refuse                       | SDVLTRB    | ROLLED_BACK | trial_slow           | 1.3.0 | -
one crash on trial          | T:crash                        | SDVLTTC    | SUCCEEDED   |                      | 1.4.0 | -
two crashes on trial        | T:crash,crash                  | SDVLTTRB   | ROLLED_BACK | trial_crashed        | 1.3.0 | bad
crash, power cut, crash     | T:crash,power,crash            | SDVLTTTRB  | ROLLED_BACK | trial_crashed        | 1.3.0 | bad
crash, stop, healthy        | T:crash,stop                   | SDVLTTTC   | SUCCEEDED   |                      | 1.4.0 | -
four power cuts on trial    | T:power,power,power,power      | SDVLTTTTTC | SUCCEEDED   |                      | 1.4.0 | -
five power cuts on trial    | T:power,power,power,power,power| SDVLTTTTTRB | ROLLED_BACK | interrupted         | 1.3.0 | -
five ends on trial          | T:kill,power,kill,power,kill   | SDVLTTTTTRB | ROLLED_BACK | interrupted         | 1.3.0 | -
two kills in VERIFYING      | V:kill,power                   | SDVVF      | FAILED      | interrupted          | 1.3.0 | -
two power cuts in VALIDATING| L:power,kill                   | SDVLLF     | FAILED      | interrupted          | 1.3.0 | -
one kill in each            | S:kill D:kill V:kill L:kill T:kill | SSDDVVLLTTC | SUCCEEDED |                     | 1.4.0 | -
one power cut in each       | S:power D:power V:power L:power T:power | SSDDVVLLTTC | SUCCEEDED |                | 1.4.0 | -
crash in DOWNLOADING        | D:crash,crash                  | SDDDVLTC   | SUCCEEDED   |                      | 1.4.0 | -
killed in recovery          | T:crash boot:ok,kill,kill      | SDVLTTC    | SUCCEEDED   |                      | 1.4.0 | -
killed in recovery, rolling back | T:crash,crash boot:ok,ok,kill,power | SDVLTTTC | SUCCEEDED |                 | 1.4.0 | -
power cut in recovery       | L:power boot:ok,power,power    | SDVLLTC    | SUCCEEDED   |                      | 1.4.0 | -
killed again and again while rolling back | T:bad R:kill,power,kill,power,stop,kill | SDVLTRRRRRRRB | ROLLED_BACK | golden_failed | 1.3.0 | bad
what is returned to crashes | T:bad R:crash,crash,crash      | SDVLTRRRRB | ROLLED_BACK | golden_failed        | 1.2.0 | bad
nothing returned to works   | T:bad R:error,error,error      | SDVLTRRRRB | ROLLED_BACK | golden_failed        | none  | bad
returned to factory         | T:bad R:error,error            | SDVLTRRRB  | ROLLED_BACK | golden_failed        | factory | bad
kill before the outbox      | outbox:kill                    | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
power cut before the outbox | outbox:power,power,power       | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
kill after the outbox       | flag:kill                      | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
power cut after the outbox  | flag:power,power               | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
kill before PUBACK          | puback:kill                    | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
power cuts before PUBACK    | puback:power,power,power       | SDVLTC     | SUCCEEDED   |                      | 1.4.0 | -
all of them                 | outbox:kill flag:power puback:kill,power | SDVLTC | SUCCEEDED |                | 1.4.0 | -
all of them, rolled back    | T:bad outbox:kill flag:power puback:kill | SDVLTRB | ROLLED_BACK | golden_failed | 1.3.0 | bad
"""  # noqa: E501
TABLE = [[cell.strip() for cell in line.split("|")] for line in STORIES.strip().splitlines()]
VERSIONS = {"factory": FACTORY.version, "none": None}


def wanting(journal: Journal, name: str, version: str, order_ms: int) -> Journal:
    journal, _ = receive(journal, Source.DEVICE, Desired(name, version, order_ms), CLOCK)
    return journal


def told(device: OtaDevice) -> dict[str, bytes]:
    """What the broker heard, after checking that all it heard of an id is the same."""
    heard: dict[str, bytes] = {}
    for name, payload in device.delivered:
        assert heard.setdefault(name, payload) == payload
    assert device.outbox == {}
    assert device.journal.unreported() == ()
    return heard


def version_of(device: OtaDevice) -> str | None:
    """What is active; what runs is the same."""
    active = device.journal.active
    assert device.running == (active.sha256 if active is not None else None)
    return active.version if active is not None else None


def then_a_clean_one_succeeds(device: OtaDevice) -> None:
    after = OtaDevice(wanting(device.journal, "d2", "1.5.0", NOW_MS + 9_000_000), "")
    after.live()
    assert version_of(after) == "1.5.0"
    assert b'"status":"SUCCEEDED"' in told(after)["d2"]


def test_there_are_enough_of_them():
    assert len({row[0] for row in TABLE}) == len(TABLE) >= 60


@pytest.mark.parametrize("row", TABLE, ids=[row[0] for row in TABLE])
def test_story(row):
    _, script, visited, status, reason, active, bad = row
    device = OtaDevice(wanting(SETTLED, "d1", "1.4.0", NOW_MS), "" if script == "-" else script)
    device.live()

    assert device.visited == visited
    assert device.unused() == {}
    result = device.journal.result("d1")
    assert result is not None
    assert (result.status, result.reason) == (status, reason)
    assert version_of(device) == VERSIONS.get(active, active)
    assert device.journal.is_bad(sha("1.4.0")) is (bad == "bad")
    assert list(told(device)) == ["d1"]
    then_a_clean_one_succeeds(device)


def lives(journal: Journal, script: str) -> OtaDevice:
    device = OtaDevice(journal, script)
    device.live()
    assert device.unused() == {}
    then_a_clean_one_succeeds(device)
    return device


@pytest.mark.parametrize(
    ("script", "visited", "status", "active"),
    [
        ("", "RB", "ROLLED_BACK", "1.2.0"),
        ("R:kill", "RRB", "ROLLED_BACK", "1.2.0"),
        ("R:power,stop,torn", "RRRRB", "ROLLED_BACK", "1.2.0"),
        ("R:cancel", "RRB", "ROLLED_BACK", "1.2.0"),
        ("R:crash,crash,crash", "RRRRB", "ROLLED_BACK", FACTORY.version),
        ("R:error", "RRB", "ROLLED_BACK", FACTORY.version),
        ("R:error,error", "RRRF", "FAILED", "1.3.0"),
        ("outbox:kill flag:power puback:kill", "RB", "ROLLED_BACK", "1.2.0"),
    ],
)
def test_roll_back_by_command(script, visited, status, active):
    journal = roll_back(SETTLED, RollBack("c1", "1.3.0"), MOMENT)
    device = lives(journal, script)
    assert device.visited == visited
    assert device.journal.result("c1").status == status
    assert version_of(device) == active
    assert list(told(device)) == ["c1"]
    if status == "ROLLED_BACK":
        previous = device.journal.previous
        assert previous is not None
        assert previous.version == ACTIVE.version


@pytest.mark.parametrize(
    ("script", "visited", "active"),
    [
        ("puback:crash,crash,crash", "RB", "1.2.0"),
        ("puback:crash,crash,crash R:power", "RRB", "1.2.0"),
        ("puback:crash,crash,crash R:crash,crash,crash", "RRRRB", FACTORY.version),
        ("puback:crash,crash,crash R:error,error", "RRRB", None),
        ("puback:crash,stop,crash,power,kill", "", "1.3.0"),
    ],
)
def test_falling_back_after_a_commit(script, visited, active):
    """The crashes come while an old result waits for its PUBACK, so the device is at rest."""
    journal = install(SETTLED, "0.9.0", MOMENT)[0]
    device = OtaDevice(journal, "S:cancel " + script)
    device.live()
    assert device.unused() == {}
    assert device.visited.removeprefix("SN") == visited
    assert version_of(device) == active
    assert device.journal.is_bad(ACTIVE.sha256) is (active != "1.3.0")
    assert ("auto-2" in told(device)) is bool(visited)


@pytest.mark.parametrize(
    ("base", "script", "visited", "active", "factory"),
    [
        ("factory", "", "LTC", "new", "new"),
        ("factory", "L:power T:kill", "LLTTC", "new", "new"),
        ("factory", "L:bad", "LX", "old", "old"),
        ("factory", "T:crash,crash", "LTTRB", "old", "old"),
        ("factory", "T:power,power,power,power,power", "LTTTTTRB", "old", "old"),
        ("other", "", "LC", "1.3.0", "new"),
        ("other", "L:torn", "LLC", "1.3.0", "new"),
        ("other", "L:refuse", "LX", "1.3.0", "old"),
        ("other", "L:cancel", "LN", "1.3.0", "old"),
    ],
)
def test_a_new_factory_file(base, script, visited, active, factory):
    journal = SETTLED if base == "other" else replace(SETTLED, active=FACTORY, previous=None)
    new = "f2" * 32
    device = lives(use_factory(journal, new, MOMENT), script)
    names = {"old": FACTORY.version, "new": "0.0.0-factory-f2f2f2f2"}
    assert device.visited == visited
    assert version_of(device) == names.get(active, active)
    assert device.journal.factory.version == names[factory]
    assert list(told(device)) == ["factory-f2f2f2f2"]


@pytest.mark.parametrize(
    ("script", "visited", "active"),
    [
        ("", "SDVLTC", "0.9.0"),
        ("V:kill T:power", "SDVVLTTC", "0.9.0"),
        ("T:bad", "SDVLTRB", "1.3.0"),
    ],
)
def test_a_person_installs_an_older_one(script, visited, active):
    device = lives(install(SETTLED, "0.9.0", MOMENT)[0], script)
    assert device.visited == visited
    assert version_of(device) == active


def test_a_version_that_is_older_or_bad_is_refused_after_syncing():
    for version, marks, reason in (("1.0.0", (), "downgrade"), ("1.4.0", "bad", "marked_bad")):
        journal = SETTLED
        if marks:
            first = OtaDevice(wanting(SETTLED, "d1", "1.4.0", NOW_MS), "T:bad")
            first.live()
            journal = first.journal
        device = OtaDevice(wanting(journal, "d9", version, NOW_MS + 1), "")
        device.live()
        assert device.visited == "SX"
        assert device.journal.result("d9").reason == reason
        assert version_of(device) == ACTIVE.version


def test_what_waits_for_a_trial_begins_when_it_has_ended():
    for script, active in (("", "1.5.0"), ("T:refuse", "1.5.0"), ("T:power,ok,refuse", "1.4.0")):
        device = OtaDevice(wanting(SETTLED, "d1", "1.4.0", NOW_MS), "T:kill")
        with pytest.raises(AssertionError):
            device.live(most_starts=1)
        assert device.journal.current is not None
        journal = wanting(device.journal, "d2", "1.5.0", NOW_MS + 1)
        second = OtaDevice(journal, script)
        second.live()
        assert version_of(second) == active
        assert list(told(second)) == ["d1", "d2"]


def test_forty_restarts_end_it():
    device = OtaDevice(wanting(SETTLED, "d1", "1.4.0", NOW_MS), "D:" + ",".join(["stop"] * 40))
    device.live()
    assert device.journal.result("d1").reason == "too_many_transitions"
    device = OtaDevice(wanting(SETTLED, "d1", "1.4.0", NOW_MS), "T:" + ",".join(["stop"] * 40))
    device.live()
    assert device.journal.result("d1").status == "ROLLED_BACK"
    assert version_of(device) == ACTIVE.version
    assert device.starts < 45


def test_three_hundred_updates_do_not_grow_the_journal():
    journal = replace(SETTLED, previous=PREVIOUS)
    for number in range(300):
        name, version = f"d{number}", f"2.{number}.0"
        desired = Desired(name, version, NOW_MS + number)
        journal, _ = receive(journal, Source.DEVICE, desired, Clock(NOW_MS + number, True))
        device = OtaDevice(journal, "T:bad" if number % 3 == 0 else "")
        device.live()
        journal = device.journal
    assert version_of(device) in {"2.299.0", "2.298.0"}
    assert len(device.disk) < 48 * 1024
    assert (len(journal.history), len(journal.marks)) == (64, 128)
    assert len(journal.digests()) <= 3

"""What drift remembers of cameras: over restarts, damage, full and failing disks, power cuts."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from sim.drift import MONDAY_MS, SUBJECT, hour, tally
from sim.files import PowerCutError, WatchedFiles, aftermath, each_sync_forgotten, write_tree

from edged.drift.detector import Terms
from edged.drift.keeper import Keeper
from edged.drift.keeping import digest_of, encode_reference
from edged.drift.recorder import Minute
from edged.drift.reference import Reference, WarmUp
from edged.drift.shelf import MOST_REFERENCES, Shelf
from edged.drift.window import Subject, Window
from edged.errors import DriftError, StoreError
from edged.models.files import Files

WARM = WarmUp(hours=8, days=2)
PATIENT = Terms(limit=10.0)  # eight hours know little of how much hours differ
RNG = np.random.default_rng(4)
# Four hours of each day, so that two days are soon there.
HOURS = [hour(6 * n, tally(RNG, 200)) for n in range(40)]
BAD = [hour(6 * n, tally(RNG, 200, {"luma": (230.0, 5.0)})) for n in range(40)]
OTHER = replace(SUBJECT, version="2.0.0", sha256="1" * 64)
LATE_MS = MONDAY_MS + 402 * 3_600_000


@pytest.fixture(autouse=True)
def _all_is_heard(caplog) -> None:
    caplog.set_level(logging.INFO)


def keeper(
    state: Path, files: Files | None = None, cameras: tuple[str, ...] = ("front",)
) -> Keeper:
    return Keeper(state, files or Files(), cameras, PATIENT, WARM)


def fed(state: Path, windows: Iterable[Window], files: Files | None = None) -> Keeper:
    one = keeper(state, files)
    for window in windows:
        one.window(window)
    return one


def state_of(one: Keeper) -> str:
    return str(one.standing("front")["state"])


def hours_of(state: Path, subject: Subject = SUBJECT) -> list[Window]:
    return list(Shelf(state, Files()).reference("front", digest_of(subject)).hours)


def began(windows: Iterable[Window]) -> list[int]:
    return [window.began_ms for window in windows]


def named(state: Path, ending: str) -> list[str]:
    return sorted(path.name for path in (state / "drift").iterdir() if path.name.endswith(ending))


def page_path(state: Path) -> Path:
    return state / "drift" / "front.standing"


def reference_path(state: Path, subject: Subject = SUBJECT) -> Path:
    return state / "drift" / f"front-{digest_of(subject)}.reference"


def of(window: Window, subject: Subject) -> Window:
    return replace(window, subject=subject)


# Restarts


def alarmed() -> list[Window]:
    return [*HOURS[:8], *BAD[8:12]]


STORIES = {
    "warming": HOURS[:5],
    "warn": [*HOURS[:8], *BAD[8:10]],
    "insufficient": [*HOURS[:8], replace(HOURS[8], tau=None)],
    "ok": HOURS[:10],
    "drift": alarmed(),
}


@pytest.mark.parametrize("state", STORIES)
def test_a_restart_in_every_state_changes_nothing(tmp_path: Path, state: str) -> None:
    whole = fed(tmp_path / "whole", [*STORIES[state], *HOURS[12:16]])
    before = fed(tmp_path / "cut", STORIES[state])
    assert state_of(before) == state
    told = before.standing("front")

    after = keeper(tmp_path / "cut")
    said = after.standing("front")
    assert (said["state"], said["since"], said["reasons"]) == (
        told["state"],
        told["since"],
        told["reasons"],
    )
    for window in HOURS[12:16]:
        after.window(window)
    assert after.standing("front") == whole.standing("front")


def test_an_alarm_is_acknowledged_over_restarts(tmp_path: Path) -> None:
    fed(tmp_path, alarmed())
    fed(tmp_path, HOURS[12:14])  # good hours do not end it
    after = keeper(tmp_path)
    assert state_of(after) == "drift"

    after.obey("front", "acknowledge", LATE_MS)  # nothing seen since the start: a dead camera

    assert state_of(after) == "ok"
    assert after.standing("front")["version"] == SUBJECT.version
    again = fed(tmp_path, HOURS[14:16])
    assert state_of(again) == "ok"
    assert again.standing("front")["reference"]["complete"]


def test_a_reset_holds_over_restarts(tmp_path: Path) -> None:
    fed(tmp_path, alarmed())
    keeper(tmp_path).obey("front", "reset_reference", LATE_MS)

    after = keeper(tmp_path)

    assert state_of(after) == "warming"
    after.window(HOURS[15])
    assert after.standing("front")["reference"]["hours"] == 1


def test_a_camera_that_has_never_shown_anything_obeys_nothing(tmp_path: Path) -> None:
    with pytest.raises(DriftError) as caught:
        keeper(tmp_path).obey("front", "acknowledge", LATE_MS)
    assert caught.value.reason == "nothing_recorded"


# The clock

DARK = {"luma": (3.0, 1.0), "contrast": (1.5, 0.5), "sharpness": (0.0, 0.5)}


def unknown(windows: Iterable[Window]) -> list[Window]:
    return [replace(window, synchronised=False) for window in windows]


def black_minutes(one: Keeper, *, synchronised: bool) -> str:
    for n in range(3):
        one.minute(Minute(SUBJECT, tally(RNG, 30, DARK), LATE_MS + n * 60_000, synchronised))
    return state_of(one)


def test_a_clock_that_nothing_synchronises_decides_nothing_and_says_which_key_to_set(
    tmp_path: Path,
) -> None:
    fresh = fed(tmp_path / "fresh", unknown(HOURS[:12]))
    told = fresh.standing("front")
    assert (told["state"], told["reference"]["hours"]) == ("insufficient", 0)
    assert "trust_clock = true under [drift]" in told["reasons"][0]["detail"]
    assert state_of(keeper(tmp_path / "fresh")) == "insufficient"

    known = fed(tmp_path / "known", HOURS[:10])
    assert black_minutes(known, synchronised=False) == "ok"
    for window in unknown(BAD[12:16]):
        known.window(window)
    assert state_of(known) == "insufficient"
    assert black_minutes(known, synchronised=True) == "drift"


def test_a_clock_that_a_person_trusts_is_as_good_as_one_that_is_synchronised(
    tmp_path: Path,
) -> None:
    one = Keeper(tmp_path, Files(), ("front",), replace(PATIENT, trust_clock=True), WARM)
    for window in unknown(HOURS[:10]):
        one.window(window)
    assert state_of(one) == "ok"
    assert black_minutes(one, synchronised=False) == "drift"
    one.obey("front", "acknowledge", LATE_MS)
    for window in unknown(BAD[12:16]):
        one.window(window)
    assert state_of(one) == "drift"


# Who is watched


def test_a_model_that_comes_back_finds_its_own_reference(tmp_path: Path, caplog) -> None:
    one = fed(tmp_path, HOURS[:8])
    for window in HOURS[8:11]:
        one.window(of(window, OTHER))
    assert one.standing("front")["version"] == "2.0.0"
    assert one.standing("front")["reference"] == {
        "hours": 3,
        "complete": False,
        "sha256": Reference(tuple(of(w, OTHER) for w in HOURS[8:11])).digest,
    }
    one = keeper(tmp_path)  # and over a restart

    one.window(HOURS[11])

    assert one.standing("front")["reference"]["hours"] == 8
    assert state_of(one) == "ok"
    assert "its reference has 8 hours" in caplog.text
    assert began(hours_of(tmp_path, OTHER)) == began(HOURS[8:11])


def test_a_camera_changed_under_the_same_name_is_another(tmp_path: Path) -> None:
    one = fed(tmp_path, alarmed())
    one.window(of(HOURS[12], replace(SUBJECT, view="ab12")))
    assert state_of(one) == "warming"
    assert one.standing("front")["reference"]["hours"] == 1


def test_a_model_on_trial_says_nothing_of_the_camera(tmp_path: Path) -> None:
    one = fed(tmp_path, HOURS[:8])
    for window in BAD[8:14]:
        one.window(replace(of(window, OTHER), trial=True))
    assert (state_of(one), one.standing("front")["version"]) == ("ok", SUBJECT.version)


def test_the_ninth_subject_drives_out_the_first(tmp_path: Path) -> None:
    subjects = [replace(SUBJECT, version=f"{n}.0.0") for n in range(MOST_REFERENCES + 2)]
    one = keeper(tmp_path)
    for n, subject in enumerate(subjects):
        one.window(of(HOURS[n], subject))
        if n == 4:
            one = keeper(tmp_path)
            one.window(of(HOURS[n], subjects[0]))  # came back: not the oldest any more
    kept = {digest_of(subject) for subject in [subjects[0], *subjects[3:]]}
    assert named(tmp_path, ".reference") == sorted(f"front-{digest}.reference" for digest in kept)


def test_a_camera_whose_name_begins_the_same_loses_nothing(tmp_path: Path) -> None:
    names = ("front", "front-0123456789ab", "front-2")
    one = keeper(tmp_path, None, names)
    for name in names:
        for n in range(MOST_REFERENCES):
            one.window(of(HOURS[n], replace(SUBJECT, camera=name, version=f"{n}.0.0")))
    (tmp_path / "drift" / "front.standing").unlink()
    one = keeper(tmp_path, None, names)
    one.window(HOURS[20])
    for name in names[1:]:
        for n in range(MOST_REFERENCES):
            assert (
                Shelf(tmp_path, Files())
                .reference(name, digest_of(replace(SUBJECT, camera=name, version=f"{n}.0.0")))
                .hours
            )


def test_a_camera_that_is_removed_and_comes_back_is_known(tmp_path: Path) -> None:
    fed(tmp_path, alarmed())
    Keeper(tmp_path, Files(), ("back",)).window(of(HOURS[0], replace(SUBJECT, camera="back")))

    after = keeper(tmp_path)

    assert state_of(after) == "drift"
    after.window(HOURS[12])
    assert after.standing("front")["reference"]["hours"] == 8


# Damage

PAGES = {
    "nothing": lambda _data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "another schema": lambda data: data.replace(b'"schema":1', b'"schema":2'),
    "a state nobody knows": lambda data: data.replace(b'"ok"', b'"so"'),
    "no JSON": lambda _data: b"\xff\xfe{",
    "a list": lambda _data: b"[]",
    "no subjects": lambda data: orjson.dumps(orjson.loads(data) | {"subjects": 3}),
    "reasons of another kind": lambda data: orjson.dumps(
        orjson.loads(data) | {"standing": {"state": "ok", "since_ms": 1, "reasons": ["dark"]}}
    ),
    "not a number": lambda data: data.replace(b'"cusum":{', b'"cusum":{"luma":"x",'),
}


@pytest.mark.parametrize("how", PAGES)
def test_a_damaged_page_costs_the_standing_and_no_reference(
    tmp_path: Path, how: str, caplog
) -> None:
    one = fed(tmp_path, HOURS[:10])
    one.window(of(HOURS[10], OTHER))
    one.window(HOURS[11])
    path = page_path(tmp_path)
    damaged = PAGES[how](path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)

    after = fed(tmp_path, HOURS[12:14])

    assert caplog.text.count("begins anew") == 1
    assert path.with_name("front.standing.damaged").read_bytes() == damaged
    assert state_of(after) == "ok"
    assert after.trouble is not None
    assert after.trouble.reason == "drift_state_damaged"
    assert after.standing("front")["reference"]["hours"] == 8
    assert began(hours_of(tmp_path, OTHER)) == [HOURS[10].began_ms]
    caplog.clear()
    assert state_of(keeper(tmp_path)) == "ok"
    assert caplog.text == ""


def broken(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 3, 40))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed[: chance.choice((len(changed), chance.randrange(len(changed))))])


def test_any_byte_of_a_reference_may_be_wrong(tmp_path: Path) -> None:
    path, shelf = reference_path(tmp_path), Shelf(tmp_path, Files())
    digest, all_of_it = digest_of(SUBJECT), began(HOURS[:30])
    shelf.put_reference("front", digest, Reference(tuple(HOURS[:30])))
    whole, chance, lost = path.read_bytes(), random.Random(8), 0
    aside = path.with_name(f"{path.name}.damaged")
    for _ in range(80):
        damaged = broken(whole, chance)
        path.write_bytes(damaged)
        aside.unlink(missing_ok=True)

        found = shelf.reference("front", digest)

        assert set(began(found.hours)) <= set(all_of_it)
        if damaged != encode_reference(found):  # one that ends between two hours tells nothing
            lost += 1
            assert aside.read_bytes() == damaged
        assert path.read_bytes() == encode_reference(found)  # mended
    assert lost > 60


def test_an_empty_file_is_damage_and_no_empty_reference(tmp_path: Path, caplog) -> None:
    fed(tmp_path, HOURS[:5])
    reference_path(tmp_path).write_bytes(b"")
    after = fed(tmp_path, HOURS[5:6])
    assert "0 hours of it are kept" in caplog.text
    assert after.trouble is not None
    assert after.standing("front")["reference"]["hours"] == 1


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_reference_keeps_what_can_be_read_and_goes_on(
    tmp_path: Path, damage: str, caplog
) -> None:
    fed(tmp_path, HOURS[:10])
    path = reference_path(tmp_path)
    data = path.read_bytes()
    at = len(data) * 3 // 4
    damaged = data[:at] if damage == "cut" else data[:at] + b"\xff\xff\xff" + data[at + 3 :]
    path.write_bytes(damaged)

    after = keeper(tmp_path)
    after.window(HOURS[10])

    assert caplog.text.count("is damaged") == 1
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    hours = after.standing("front")["reference"]["hours"]
    assert 3 < hours < 9
    assert state_of(after) == "warming"  # and not ok, which it was
    assert len(hours_of(tmp_path)) == hours
    caplog.clear()
    assert keeper(tmp_path).trouble is None
    assert "damaged" not in caplog.text


def test_a_reference_that_has_lost_hours_is_not_ok_before_the_next_hour(tmp_path: Path) -> None:
    fed(tmp_path, HOURS[:10])
    path = reference_path(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    after = keeper(tmp_path)
    after.minute(Minute(SUBJECT, tally(RNG, 5), LATE_MS, synchronised=True))
    assert state_of(after) == "warming"


@pytest.mark.parametrize("whose", ["another", "several"])
def test_a_reference_of_somebody_else_is_set_aside(tmp_path: Path, whose: str, caplog) -> None:
    fed(tmp_path, HOURS[:10])
    path = reference_path(tmp_path)
    foreign = [of(window, OTHER) for window in HOURS[:20]]
    # A `Reference` of several subjects cannot be made; a file of them can.
    both = [*foreign, *(HOURS[20:] if whose == "several" else ())]
    head = encode_reference(Reference(tuple(both[:20])))
    tail = encode_reference(Reference(tuple(both[20:])))
    path.write_bytes(head + tail[len(b"edged drift 1\n") :])
    data = path.read_bytes()

    after = fed(tmp_path, HOURS[10:12])

    assert caplog.text.count("is damaged") == 1
    assert path.with_name(f"{path.name}.damaged").read_bytes() == data
    assert began(hours_of(tmp_path)) == began(HOURS[10:12])
    assert state_of(after) == "warming"


def test_hours_that_completed_it_before_the_power_went_are_told(tmp_path: Path) -> None:
    fed(tmp_path, HOURS[:7])
    page = page_path(tmp_path).read_bytes()
    fed(tmp_path, HOURS[7:8])
    page_path(tmp_path).write_bytes(page)  # the reference was written, the page was not
    after = keeper(tmp_path)
    after.minute(Minute(SUBJECT, tally(RNG, 5), LATE_MS, synchronised=True))
    assert state_of(after) == "ok"


# The disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_a_disk_that_fails_at_any_call_loses_nothing(tmp_path: Path, code: int, caplog) -> None:
    reached = 0
    for call in range(60):
        state = tmp_path / f"{call}"
        state.mkdir()
        files = WatchedFiles().fail_at(call, code)
        caplog.clear()
        one = fed(state, HOURS[:6], files)
        one.window(of(HOURS[6], OTHER))
        for window in HOURS[7:8]:
            one.window(window)
        reached += files.calls > call
        assert one.trouble is None, "it goes on by itself"
        said = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert len(said) <= 1, caplog.text
        assert bool(said) <= ("the disk is in order again" in caplog.text)
        found = began(hours_of(state))
        missing = set(began([*HOURS[:6], *HOURS[7:8]])) - set(found)
        # An hour is not judged while what is known cannot be read, nor kept when the model changes
        # before it could be written.
        assert len(missing) <= 1
        assert found == sorted(found)
        after = keeper(state)
        assert (state_of(after), after.trouble) == ("warming", None)
    assert reached == 60


class Unreadable(Files):
    """Files of some kind give an error until it is over."""

    def __init__(self, ending: str, code: int = errno.EIO) -> None:
        self.ending: str | None = ending
        self._code = code

    def read(self, path: Path) -> bytes:
        if self.ending is not None and path.name.endswith(self.ending):
            raise OSError(self._code, os.strerror(self._code), str(path))
        return super().read(path)


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EACCES])
@pytest.mark.parametrize("ending", [".standing", ".reference"])
def test_what_cannot_be_read_is_not_written_over(
    tmp_path: Path, ending: str, code: int, caplog
) -> None:
    fed(tmp_path, HOURS[:10])
    before = {path: path.read_bytes() for path in (tmp_path / "drift").iterdir()}
    files = Unreadable(ending, code)
    caplog.clear()

    one = fed(tmp_path, HOURS[10:15], files)

    assert {path: path.read_bytes() for path in (tmp_path / "drift").iterdir()} == before
    assert one.trouble is not None
    told = one.standing("front")
    assert told["state"] == "insufficient"
    assert "cannot be read" in told["reasons"][0]["detail"]
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
    files.ending = None
    one.window(HOURS[15])
    assert (state_of(one), one.trouble) == ("ok", None)
    assert one.standing("front")["reference"]["hours"] == 8


def test_an_alarm_stays_told_while_nothing_can_be_read(tmp_path: Path) -> None:
    fed(tmp_path, alarmed())
    one = fed(tmp_path, HOURS[12:14], Unreadable(".reference"))
    assert state_of(one) == "drift"


@pytest.mark.parametrize("ending", [".standing", ".reference"])
def test_a_person_may_give_up_what_cannot_be_read(tmp_path: Path, ending: str) -> None:
    fed(tmp_path, HOURS[:10])
    one = fed(tmp_path, HOURS[10:11], Unreadable(ending))
    with pytest.raises(StoreError):
        one.obey("front", "acknowledge", LATE_MS)

    one.obey("front", "reset_reference", LATE_MS)
    one.window(HOURS[11])

    assert (state_of(one), one.trouble) == ("warming", None)
    assert began(hours_of(tmp_path)) == [HOURS[11].began_ms]


def test_a_full_disk_stops_no_judging_and_is_said_once(small_disk, caplog) -> None:
    one = fed(small_disk.folder, HOURS[:8])
    small_disk.fill()
    caplog.clear()
    for window in BAD[8:16]:
        one.window(window)

    assert state_of(one) == "drift"
    assert one.trouble is not None
    assert one.trouble.reason == "disk_full"
    assert caplog.text.count("disk_full") == 1
    assert caplog.text.count("drift state drift") == 1
    with pytest.raises(StoreError) as caught:
        one.obey("front", "acknowledge", LATE_MS)
    assert "it is done, but a restart forgets it" in str(caught.value)
    assert state_of(one) == "ok"
    assert state_of(keeper(small_disk.folder)) == "ok"  # as it was before the disk was full
    assert len(hours_of(small_disk.folder)) == 8

    small_disk.empty()
    for window in BAD[16:19]:
        one.window(window)
    assert one.trouble is None
    assert "in order again" in caplog.text
    assert state_of(keeper(small_disk.folder)) == state_of(one) == "drift"


def test_cameras_with_one_disk_say_its_trouble_once(small_disk, caplog) -> None:
    names = ("front", "back", "yard")
    one = keeper(small_disk.folder, None, names)
    small_disk.fill()
    for window in HOURS[:5]:
        for name in names:
            one.window(of(window, replace(SUBJECT, camera=name)))
    assert caplog.text.count("disk_full") == 1
    small_disk.empty()
    for name in names:
        one.window(of(HOURS[5], replace(SUBJECT, camera=name)))
    assert caplog.text.count("in order again") == 1
    for name in names:
        subject = replace(SUBJECT, camera=name)
        hours = Shelf(small_disk.folder, Files()).reference(name, digest_of(subject)).hours
        assert len(hours) == 6  # those of the time without room are there too


# Power cuts

Promise = tuple[int, bytes]  # hours of SUBJECT, and the page


class Life:
    """Three runs: warming up, another model, the first again; and what was safe when."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.files = folder, WatchedFiles()
        self.promises: list[tuple[int, Promise]] = [(0, (0, b""))]
        for windows in (HOURS[:2], [of(HOURS[3], OTHER)], HOURS[5:6]):
            one = keeper(folder, self.files)
            for window in windows:
                one.window(window)
                safe = len(hours_of(folder)), page_path(folder).read_bytes()
                self.promises.append((len(self.files.steps), safe))

    def promised(self, moment: int) -> int:
        """The number of the promise that holds after so many steps."""
        return max(n for n, (after, _) in enumerate(self.promises) if after <= moment)

    def wrong(self, folder: Path, moment: int, caplog) -> str:
        """Say what is wrong with what a power cut left, or ""."""
        caplog.clear()
        hours, _ = self.promises[self.promised(moment)][1]
        pages = [page for _, (_, page) in self.promises]
        page = page_path(folder).read_bytes() if page_path(folder).exists() else b""
        if page not in pages[self.promised(moment) :]:
            return "an older page, or none"
        hours_of(folder, OTHER)
        if len(hours_of(folder)) < hours:
            return f"{hours} hours were safe: {len(hours_of(folder))}"
        one = keeper(folder)
        one.window(HOURS[7])
        if any(word in caplog.text for word in ("damaged", "anew")):
            return "taken for damaged"
        if one.trouble is not None or len(hours_of(folder)) <= hours:
            return "it does not go on"
        return ""


def test_a_power_cut_at_any_moment_loses_no_hour_that_was_safe(tmp_path: Path, caplog) -> None:
    life, count = Life(tmp_path / "home"), 0
    wrecks = aftermath(life.folder, {}, life.files.steps, promised=life.promised, subsets=10)
    for count, wreck in enumerate(wrecks, 1):
        place = tmp_path / f"wreck{count}"
        write_tree(wreck.tree, place)
        assert life.wrong(place, wreck.done, caplog) == "", wreck.story
    assert count > 30


@pytest.mark.slow
def test_every_fsync_is_needed(tmp_path: Path, caplog) -> None:
    life, number, tried = Life(tmp_path / "home"), 0, 0
    for step, steps in each_sync_forgotten(life.files.steps):
        before = steps[steps.index(replace(step, kind="forgotten")) - 1]
        if before.target is not None and before.target.suffix == ".reference":
            continue  # that name is safe with the page's, which follows in the same directory
        found = ""
        for wreck in aftermath(life.folder, {}, steps, promised=life.promised, subsets=0):
            number += 1
            place = tmp_path / f"wreck{number}"
            write_tree(wreck.tree, place)
            found = life.wrong(place, wreck.done, caplog)
            if found:
                break
        assert found, f"nobody misses {step}"
        tried += 1
    assert tried > 12


def test_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    deaths = 0
    for step in range(60):
        state = tmp_path / f"{step}"
        state.mkdir()
        files = WatchedFiles().die_at(step, torn=True)
        kept = 0
        try:
            one = keeper(state, files)
            for window in HOURS[:6]:
                one.window(window)
                kept += 1
        except PowerCutError:
            deaths += 1
        after = keeper(state)
        after.window(HOURS[10])
        assert after.trouble is None
        assert began(hours_of(state))[:kept] == began(HOURS[:kept])
        assert hours_of(state)[-1].began_ms == HOURS[10].began_ms
    assert deaths > 40


def test_references_that_a_cut_left_behind_go_with_the_next_subject(tmp_path: Path) -> None:
    one = keeper(tmp_path)
    for n in range(MOST_REFERENCES):
        one.window(of(HOURS[n], replace(SUBJECT, version=f"{n}.0.0")))
    stray = tmp_path / "drift" / "front-0123456789ab.reference"
    stray.write_bytes(b"left")
    one.window(of(HOURS[20], OTHER))
    assert not stray.exists()
    assert len(named(tmp_path, ".reference")) == MOST_REFERENCES

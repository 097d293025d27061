"""The ring of windows: whatever the power, the disk or time does, what was recorded stays."""

from __future__ import annotations

import errno
import random
from dataclasses import replace
from pathlib import Path

import pytest
from sim.files import PowerCutError, WatchedFiles, aftermath, each_sync_forgotten, write_tree

from edged.drift.folding import Folding
from edged.drift.records import encode_window
from edged.drift.ring import DIRECTORY, Ring, numbers, read_windows
from edged.drift.segment import MAGIC, Packer, pack, unpack
from edged.drift.window import Subject, Window
from edged.errors import StoreError
from edged.models.files import Files

SUBJECT = Subject("front", "birds", "1.4.0", "9f" * 32, "litert 2.3.0", "cpu", "ab")


def window(seq: int, subject: Subject = SUBJECT, seconds: float = 300.0, **changes) -> Window:
    folding, chance = Folding(), random.Random(seq)
    for _ in range(40):
        folding.inferred_one(chance.lognormvariate(2, 0.2), chance.randrange(20))
    fields = {"began_ms": 1_763_683_200_000 + seq * 300_000, "trial": False, "tau": 5.5}
    return Window(
        device="porch",
        boot="4f1c09ab",
        seq=seq,
        seconds=seconds,
        synchronised=True,
        subject=subject,
        tally=folding.tally(frames=9000, dropped=4500, failed=0),
        **(fields | changes),
    )


def seqs(state: Path) -> list[int]:
    return [one.seq for one in read_windows(state, Files())]


def filled(state: Path, count: int, **limits) -> Ring:
    ring = Ring(state, Files(), **limits)
    for seq in range(1, count + 1):
        ring.append(window(seq))
    return ring


def files_of(state: Path) -> list[str]:
    return sorted(path.name for path in (state / DIRECTORY).iterdir())


def test_windows_come_back_over_restarts(tmp_path: Path) -> None:
    filled(tmp_path, 60)
    second = Ring(tmp_path, Files())
    second.append(window(61))

    found = list(read_windows(tmp_path, Files()))

    assert [one.seq for one in found] == list(range(1, 62))
    assert encode_window(found[30]) == encode_window(window(31))
    assert files_of(tmp_path) == ["00000001.windows"]


def test_one_fsync_a_window(tmp_path: Path) -> None:
    files = WatchedFiles()
    ring = Ring(tmp_path, files)
    ring.append(window(1))
    before = len(files.steps)
    for seq in range(2, 12):
        ring.append(window(seq))

    kinds = [step.kind for step in files.steps[before:]]

    assert kinds == ["write_at", "fsync"] * 10


def test_the_oldest_go_when_there_are_too_many_bytes(tmp_path: Path) -> None:
    filled(tmp_path, 400, kept_bytes=20_000, segment_bytes=4_000)

    kept = seqs(tmp_path)

    size_bytes = sum(path.stat().st_size for path in (tmp_path / DIRECTORY).iterdir())
    assert kept == list(range(kept[0], 401))
    assert 50 < len(kept) < 400
    assert size_bytes <= 24_500


def test_days_are_counted_in_what_was_recorded_whatever_the_clock_says(tmp_path: Path) -> None:
    """A clock that jumps ten years ahead, and one at 1970, delete nothing."""
    ring = Ring(tmp_path, Files(), kept_s=20 * 300, segment_bytes=2_000)
    for seq in range(1, 11):
        ring.append(window(seq))
    ring.append(window(11, began_ms=2_079_043_200_000))
    ring.append(window(12, began_ms=0))
    assert seqs(tmp_path) == list(range(1, 13))

    for seq in range(13, 60):
        ring.append(window(seq))

    kept = seqs(tmp_path)
    assert kept == list(range(kept[0], 60))
    assert 20 <= len(kept) <= 40  # whole files go


def test_a_camera_that_says_little_is_not_driven_out_by_one_that_says_much(tmp_path: Path) -> None:
    ring = Ring(tmp_path, Files(), kept_s=20 * 300, segment_bytes=2_000)
    rare = replace(SUBJECT, camera="rare")
    ring.append(window(1, rare))
    for seq in range(2, 100):
        ring.append(window(seq))

    kept = [one.subject.camera for one in read_windows(tmp_path, Files())]

    assert "rare" in kept


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_end_is_cut_and_said(tmp_path: Path, cut: int, caplog) -> None:
    filled(tmp_path, 10)
    path = tmp_path / DIRECTORY / "00000001.windows"
    path.write_bytes(path.read_bytes()[:-cut])
    assert seqs(tmp_path) == list(range(1, 10))  # a reader changes nothing, and needs no mending

    ring = Ring(tmp_path, Files())
    ring.append(window(11))

    assert "cut off" in caplog.text
    assert seqs(tmp_path) == [*range(1, 10), 11]
    assert files_of(tmp_path) == ["00000001.windows"]


@pytest.mark.parametrize("junk", [b"\0" * 5000, b"\xed\x57\x02\x00\x00", b"\xed\x57" * 40, MAGIC])
def test_junk_behind_the_end_is_cut(tmp_path: Path, junk: bytes) -> None:
    filled(tmp_path, 10)
    path = tmp_path / DIRECTORY / "00000001.windows"
    path.write_bytes(path.read_bytes() + junk)

    Ring(tmp_path, Files()).append(window(11))

    assert seqs(tmp_path) == list(range(1, 12))


def test_a_damaged_file_is_set_aside_and_what_can_be_read_is_kept(tmp_path: Path, caplog) -> None:
    filled(tmp_path, 200)
    path = tmp_path / DIRECTORY / "00000001.windows"
    whole = path.read_bytes()
    at = len(whole) // 2
    damaged = whole[:at] + b"\xff\xff\xff" + whole[at + 3 :]
    path.write_bytes(damaged)

    ring = Ring(tmp_path, Files())
    ring.append(window(201))

    assert "is damaged" in caplog.text
    assert (tmp_path / DIRECTORY / "00000001.windows.damaged").read_bytes() == damaged
    kept = seqs(tmp_path)
    assert kept[-1] == 201
    assert kept == sorted(kept)
    assert len(kept) >= 201 - 48  # what lies between two beginnings of the compression
    assert not unpack(path.read_bytes()).damaged


def test_any_byte_may_be_wrong(tmp_path: Path) -> None:
    lines = [encode_window(window(seq)) for seq in range(1, 8)]
    data = pack(lines)
    chance = random.Random(3)
    for _ in range(1500):
        broken = bytearray(data)
        for _ in range(chance.choice((1, 1, 3, 40))):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        del broken[chance.randrange(len(broken)) :: chance.choice((10**6, 7))]
        contents = unpack(bytes(broken))
        assert set(contents.lines) <= set(lines)
        assert contents.good_bytes <= len(broken)
        assert unpack(bytes(broken[: contents.good_bytes])).damaged is False


def test_a_file_of_nothing_but_zeros_is_gone(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    (tmp_path / DIRECTORY / "00000001.windows").write_bytes(b"\0" * 3000)
    ring = Ring(tmp_path, Files())
    ring.append(window(4))
    assert seqs(tmp_path) == [4]


def lived(folder: Path, files: WatchedFiles, promises: list[tuple[int, int]]) -> None:
    """Two runs with small files: growing, beginning, dropping."""
    seq = 0
    for _ in range(2):
        ring = Ring(folder, files, kept_bytes=4_000, segment_bytes=2_200)
        for _ in range(9):
            seq += 1
            ring.append(window(seq))
            promises.append((len(files.steps), seq))


def allowed(promises: list[tuple[int, int]], moment: int) -> int:
    return max((seq for after, seq in promises if after <= moment), default=0)


def wrong(folder: Path, promised: int, caplog) -> str:
    """Say what is wrong with what a power cut left, or ""."""
    caplog.clear()
    before = seqs(folder)
    ring = Ring(folder, Files(), kept_bytes=4_000, segment_bytes=2_200)
    ring.append(window(99))
    after = seqs(folder)
    if "damaged" in caplog.text:
        return "taken for damaged"
    if promised and (not before or before[-1] < promised):
        return f"{promised} was safe: {before}"
    if before != list(range(before[0], before[-1] + 1)) if before else False:
        return f"a gap: {before}"
    if after[-1] != 99 or (before and before[-1] not in after):
        return f"mending lost something: {before} {after}"
    return ""


def test_a_power_cut_at_any_moment_loses_no_window_that_was_safe(tmp_path: Path, caplog) -> None:
    home, files, promises = tmp_path / "home", WatchedFiles(), []
    home.mkdir()
    lived(home, files, promises)
    count = 0
    wrecks = aftermath(home, {}, files.steps, promised=lambda m: allowed(promises, m), subsets=10)
    for count, wreck in enumerate(wrecks, 1):
        place = tmp_path / f"wreck{count}"
        write_tree(wreck.tree, place)
        assert wrong(place, allowed(promises, wreck.done), caplog) == "", wreck.story
    assert count > 50


def test_every_fsync_is_needed(tmp_path: Path, caplog) -> None:
    home, files, promises = tmp_path / "home", WatchedFiles(), []
    home.mkdir()
    lived(home, files, promises)
    number = 0
    syncs = list(each_sync_forgotten(files.steps))
    assert len(syncs) > 18
    for step, steps in syncs:
        found = ""
        for wreck in aftermath(home, {}, steps, promised=lambda m: allowed(promises, m), subsets=0):
            number += 1
            place = tmp_path / f"wreck{number}"
            write_tree(wreck.tree, place)
            found = wrong(place, allowed(promises, wreck.done), caplog)
            if found:
                break
        assert found, f"nobody misses {step}"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_a_disk_that_fails_at_any_call_loses_that_window_only(tmp_path: Path, code: int) -> None:
    for call in range(40):
        state = tmp_path / f"{call}"
        state.mkdir()
        files = WatchedFiles()
        ring = Ring(state, files, segment_bytes=2_200)
        files.fail_at(call, code)
        kept = []
        for seq in range(1, 15):
            try:
                ring.append(window(seq))
            except StoreError as error:
                assert error.reason.startswith(("disk", "descriptors"))
            else:
                kept.append(seq)
        assert len(kept) >= 13
        assert set(kept) <= set(seqs(state)), call


def test_a_full_disk_is_said_and_nothing_kept_is_lost(small_disk) -> None:
    ring = Ring(small_disk.folder, Files())
    ring.append(window(1))
    small_disk.fill()
    lost = 0
    for seq in range(2, 200):
        try:
            ring.append(window(seq))
        except StoreError as error:
            assert error.reason == "disk_full"
            lost += 1
    assert lost
    before = seqs(small_disk.folder)
    assert before[0] == 1
    small_disk.empty()
    ring.append(window(200))
    assert seqs(small_disk.folder) == [*before, 200]


class Bad(Files):
    """A file system on which one file is on a bad block."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, path: Path) -> bytes:
        if path.name == self._name:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return super().read(path)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_bad_block_does_not_end_the_recording(tmp_path: Path, which: int, caplog) -> None:
    filled(tmp_path, 30, segment_bytes=2_200)
    name = files_of(tmp_path)[which]
    data = (tmp_path / DIRECTORY / name).read_bytes()
    files = Bad(name)

    ring = Ring(tmp_path, files, segment_bytes=2_200, kept_s=5 * 300)
    for seq in range(31, 40):
        ring.append(window(seq))

    assert ring.damage is not None
    assert ring.damage.reason == "disk_failed"
    assert caplog.text.count("disk_failed") == 1
    assert (tmp_path / DIRECTORY / name).read_bytes() == data
    found = [one.seq for one in read_windows(tmp_path, files)]
    assert found[-9:] == list(range(31, 40))
    assert len(list(read_windows(tmp_path, Files()))) > len(found)


def test_killed_in_the_middle_of_a_write(tmp_path: Path) -> None:
    for step in range(12):
        state = tmp_path / f"{step}"
        state.mkdir()
        files = WatchedFiles()
        ring = Ring(state, files)
        files.die_at(step, torn=True)
        kept = 0
        try:
            for seq in range(1, 20):
                ring.append(window(seq))
                kept = seq
        except PowerCutError:
            pass
        assert kept < 19
        Ring(state, Files()).append(window(50))
        found = seqs(state)
        assert found[:kept] == list(range(1, kept + 1))
        assert found[-1] == 50


def test_a_line_of_the_run_before_is_not_needed(tmp_path: Path) -> None:
    """After an append that failed the next begins anew: the reader never saw that line."""
    packer = Packer()
    first = packer.frame(b"one")
    packer.frame(b"lost")
    packer.begin_anew()
    assert unpack(MAGIC + first + packer.frame(b"three")).lines == [b"one", b"three"]


def test_numbers_of_files() -> None:
    assert numbers(["00000010.windows", "00000002.windows", "x", "00000001.windows.damaged"]) == [
        2,
        10,
    ]

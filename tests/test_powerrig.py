"""The parts of the power rig that decide: what may be lost, what was promised, what is harm."""

from __future__ import annotations

import json
import random
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sim.powerdisk import MODEL, Promised, harm
from sim.story import FACTORY, FACTORY_FILES
from sim.writelog import SECTOR, Player, WriteLog

from edged.models.files import Files
from edged.models.journal import Journal
from edged.models.store import Store

FS_BYTES = 64 * 1024
FLUSH = 1
BLOCK = 4096


def record(path: Path, *entries: tuple[int, bytes, int]) -> WriteLog:
    """Write a record of entries (byte on the disk, content, flags) as QEMU does, and read it."""
    head = struct.pack("<QQQI", 0x6A736677736872, 1, 0, SECTOR)
    parts = [head.ljust(SECTOR, b"\0")]
    for at, data, flags in entries:
        entry = struct.pack("<QQQQ", at // SECTOR, len(data) // SECTOR, flags, 0)
        parts += [entry.ljust(SECTOR, b"\0"), data]
    path.write_bytes(b"".join(parts))
    return WriteLog(path, FS_BYTES)


def mark(number: int) -> tuple[int, bytes, int]:
    return FS_BYTES + number * SECTOR, json.dumps({"what": number}).encode().ljust(SECTOR), 0


def test_only_what_no_flush_followed_can_be_lost(tmp_path: Path) -> None:
    safe, unsafe = b"s" * SECTOR, b"u" * 4 * SECTOR
    log = record(
        tmp_path / "log",
        (0, safe, 0), mark(0), (0, b"", FLUSH), mark(1), (BLOCK, unsafe, 0), mark(2),
    )  # fmt: skip
    assert [log.marks_before(n) for n in range(4)] == [
        [], [{"what": 0}], [{"what": 0}, {"what": 1}], [{"what": 0}, {"what": 1}, {"what": 2}],
    ]  # fmt: skip

    seen: Counter[str] = Counter()
    for seed in range(200):
        image = tmp_path / "image"
        Player(log, bytes(FS_BYTES)).cut(3, random.Random(seed), image)
        disk = image.read_bytes()
        assert len(disk) == FS_BYTES
        assert disk[:SECTOR] == safe
        kept = [disk[BLOCK + n * SECTOR] for n in range(4)]
        seen["all" if kept == [ord("u")] * 4 else "torn" if any(kept) else "none"] += 1
    assert seen["all"] > 20
    assert seen["none"] > 20
    assert seen["torn"] > 0


def test_the_superblock_is_not_torn(tmp_path: Path) -> None:
    log = record(tmp_path / "log", (1024, b"u" * 2 * SECTOR, 0))
    image, seen = tmp_path / "image", set()
    for seed in range(200):
        Player(log, bytes(FS_BYTES)).cut(1, random.Random(seed), image)
        seen.add(image.read_bytes()[1024:2048])
    assert seen == {bytes(2 * SECTOR), b"u" * 2 * SECTOR}


def test_cuts_follow_each_other(tmp_path: Path) -> None:
    log = record(tmp_path / "log", (0, b"1" * SECTOR, 0), (0, b"", FLUSH), (0, b"2" * SECTOR, 0))
    player, image = Player(log, bytes(FS_BYTES)), tmp_path / "image"
    found = set()
    for moment in (1, 2, 3, 3, 3, 3, 3, 3, 3, 3):
        player.cut(moment, random.Random(moment + len(found)), image)
        found.add((moment, image.read_bytes()[:1]))
    assert (2, b"1") in found
    assert {content for moment, content in found if moment == 3} <= {b"1", b"2"}


BEGUN = {"what": "begun", "id": "d1", "version": "1.0.0"}
ENDED = {"what": "result", "id": "d1", "digest": "", "version": "1.0.0"}


@pytest.mark.parametrize(
    ("marks", "versions"),
    [
        ([], {"factory"}),
        ([BEGUN], {"factory", "1.0.0"}),
        ([BEGUN, ENDED | {"status": "SUCCEEDED"}], {"1.0.0"}),
        ([BEGUN, ENDED | {"status": "ROLLED_BACK"}], {"factory"}),
        ([BEGUN, ENDED | {"status": "REJECTED"}], {"factory"}),
        ([BEGUN | {"version": None}], {"factory"}),
        ([BEGUN, ENDED | {"status": "ROLLED_BACK", "version": "0.9.0"}], {"1.0.0"}),
    ],
)
def test_exactly_old_or_exactly_new_may_be_active(
    marks: list[dict[str, Any]], versions: set[str]
) -> None:
    assert Promised.of(marks).versions == versions


def device(tmp_path: Path) -> Path:
    """Make a state directory with a factory model."""
    store = Store(tmp_path, Files(), spare_bytes=0)
    store.import_factory(MODEL, FACTORY_FILES)
    store.journal(MODEL).save(Journal(MODEL, seq=3, active=FACTORY, factory=FACTORY))
    return tmp_path


def test_a_disk_that_kept_everything_has_no_harm(tmp_path: Path) -> None:
    assert harm(device(tmp_path), Promised(ready=True, seq=3)) == []


@pytest.mark.parametrize(
    ("promised", "words"),
    [
        (Promised(versions={"1.0.0"}), "factory is active"),
        (Promised(seq=4), "state 3, and 4 was told"),
        (Promised(heard={"d1"}), "the order of d1 was acknowledged"),
        (Promised(results={"d1": ""}), "the result of d1 was told"),
        (Promised(windows={("12345678", 1)}), "window 1 of 12345678 was told"),
    ],
)
def test_what_was_told_and_is_gone_is_harm(tmp_path: Path, promised: Promised, words: str) -> None:
    found = harm(device(tmp_path), promised)

    assert len(found) == 1
    assert found[0].startswith(words)


def test_half_a_model_is_harm(tmp_path: Path) -> None:
    place = device(tmp_path) / "models" / MODEL / FACTORY.version
    (place / "labels.txt").write_bytes(b"")

    assert any("is not as it was installed" in words for words in harm(tmp_path, Promised()))


def test_a_journal_that_is_gone_is_harm_once_the_service_was_up(tmp_path: Path) -> None:
    assert harm(tmp_path, Promised()) == []
    assert harm(tmp_path, Promised(ready=True)) == ["the journal is gone"]

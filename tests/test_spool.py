"""The outbox on disk: real SQLite files, real damage, a real full disk."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sim.broker import PATIENCE_S, wait_for

from edged.mqtt.moment import Moment
from edged.mqtt.outbox import Entry, Kind, Outbox
from edged.mqtt.spool import Spool, now
from edged.mqtt.traffic import Traffic


class Line:
    """A broker that takes everything and acknowledges on demand."""

    def __init__(self, window: int = 200) -> None:
        self.window = window
        self.acks: deque[tuple[int, int]] = deque()
        self.calls_on_ack = False
        self.sent: list[bytes] = []
        self.acknowledged = 0

    def fits(self, topic: str, payload: bytes) -> bool:
        return True

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        self.sent.append(payload)
        return len(self.sent)

    def acknowledge(self, most: int = 10**6) -> None:
        while self.acknowledged < min(len(self.sent), most):
            self.acknowledged += 1
            self.acks.append((self.acknowledged, 0))


@dataclass
class Clock:
    """Clocks that are what one says: those of the real kernel, shifted."""

    boot: str = "boot 1"
    unix_shift_s: float = 0.0
    boottime_shift_s: float = 0.0
    mono_shift_s: float = 0.0

    def moment(self) -> Moment:
        real = now()
        return Moment(
            real.unix_s + self.unix_shift_s, self.boot, real.boottime_s + self.boottime_shift_s
        )

    def monotonic(self) -> float:
        return time.monotonic() + self.mono_shift_s


@dataclass
class Run:
    """One life of a daemon, as far as its messages go."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    size_bytes: int = 2**24

    def __post_init__(self) -> None:
        self.path = self.folder / "outbox.sqlite3"
        self.spool = Spool(self.path, moment=self.clock.moment, monotonic=self.clock.monotonic)
        outbox = Outbox(10_000, self.size_bytes)
        outbox.restore(self.spool.restore())
        self.traffic = Traffic("available", outbox, self.clock.monotonic)
        self.spool.follow(self.traffic)
        self.spool.start()

    def publish(self, *payloads: bytes, kind: Kind = "prediction", key: str = "") -> None:
        for payload in payloads:
            created = self.clock.monotonic()
            self.traffic.publish(Entry("t/ü", payload, 1, False, created, kind, key))

    def tick(self) -> bool:
        """Have the spool do what is due; return whether all is well."""
        return self.spool.settle(PATIENCE_S)

    def connect(self, window: int = 200) -> Line:
        line = Line(window)
        self.traffic.open(line)
        self.send(line)
        return line

    def send(self, line: Line) -> None:
        self.traffic.collect(line)
        while self.traffic.send_next():
            pass

    def waiting(self) -> list[bytes]:
        """What a broker would get; sends it."""
        return self.connect(10**6).sent[1:]

    @property
    def reason(self) -> str:
        return self.spool.trouble.reason if self.spool.trouble else ""

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def killed(self, folder: Path) -> Path:
        """Return a folder as a kill at this moment would leave it."""
        shutil.copytree(self.folder, folder)
        return folder

    def stop(self) -> None:
        assert self.spool.stop(PATIENCE_S)


StartRun = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[StartRun]:
    made: list[Run] = []

    def start(folder: Path = tmp_path / "state", **settings: object) -> Run:
        folder.mkdir(exist_ok=True)
        made.append(Run(folder, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield start
    for one in made:
        one.stop()


def numbered(count: int, size: int = 0) -> list[bytes]:
    return [(b"%d " % number).ljust(size, b"x") for number in range(count)]


def rows(path: Path) -> list[bytes]:
    """The payloads in a copy of the file, in order."""
    with closing(sqlite3.connect(path)) as connection:
        return [p for (p,) in connection.execute("SELECT payload FROM message ORDER BY number")]


# What is written, and when.


def test_while_the_broker_is_away_all_is_written_and_survives_a_kill(run, tmp_path) -> None:
    first = run()
    first.publish(b"\x00\xff \n", b"", "ü".encode())
    first.publish(*numbered(2500), kind="other")
    wait_for("the rows", lambda: first.spool.stored == 2503)

    second = run(first.killed(tmp_path / "killed"))
    second.publish(b"new")
    assert second.waiting() == [b"\x00\xff \n", b"", "ü".encode(), *numbered(2500), b"new"]
    assert not second.reason


def test_a_broker_that_answers_keeps_the_disk_quiet(run) -> None:
    one = run()
    line = one.connect()
    for payload in numbered(500):
        one.publish(payload)
        line.acknowledge()
    assert one.tick()

    assert one.files() == set()
    assert one.traffic.counts().in_flight == 0


def test_what_goes_unacknowledged_too_long_is_written_though_connected(run, tmp_path) -> None:
    one = run()
    line = one.connect()
    one.publish(*numbered(299))  # 199 fill the window, with `online`
    assert one.tick()
    assert one.files() == set()
    one.clock.mono_shift_s = 5.5
    one.publish(b"young")
    assert one.tick()

    assert rows(one.killed(tmp_path / "killed") / "outbox.sqlite3") == numbered(299)
    line.acknowledge()
    assert one.tick()
    assert one.spool.stored == 100, "those acknowledged are deleted, those in the queue not"
    one.send(line)
    line.acknowledge()
    assert one.tick()
    assert one.files() == set(), "with the last row the file goes"


def test_a_result_is_written_though_connected(run, tmp_path) -> None:
    one = run()
    line = one.connect()
    one.publish(b"prediction")
    one.publish(b"result", kind="result")
    assert one.tick()

    assert rows(one.killed(tmp_path / "killed") / "outbox.sqlite3") == [b"result"]
    line.acknowledge()
    assert one.tick()
    assert one.files() == set()


def test_what_was_acknowledged_is_not_said_again(run, tmp_path) -> None:
    one = run()
    one.publish(*numbered(10))
    assert one.tick()
    line = one.connect()
    line.acks.extend((number, 0) for number in (1, 2, 3, 4, 6))  # `online` and 0, 1, 2, 4
    assert one.tick()

    two = run(one.killed(tmp_path / "killed"))
    assert two.waiting() == [numbered(10)[n] for n in (3, 5, 6, 7, 8, 9)]


def test_a_clean_stop_writes_all_at_once(run) -> None:
    one = run()
    line = one.connect()
    one.publish(*numbered(250))
    line.acks.append((2, 0))
    one.stop()

    two = run()
    assert two.waiting()[:3] == numbered(250)[1:4]
    assert two.traffic.counts().queued + two.traffic.counts().in_flight == 250  # with `online`


def test_a_second_run_adds_to_the_first_in_order(run) -> None:
    for part in range(3):
        one = run()
        one.publish(*numbered(30)[part * 10 : part * 10 + 10])
        one.stop()

    assert run().waiting() == numbered(30)


def test_the_bounds_hold_for_what_is_on_disk(run, tmp_path) -> None:
    one = run(size_bytes=100_000)
    for _ in range(20):
        one.publish(*numbered(100, 400))
        assert one.tick()
    assert one.spool.stored <= 250
    size = sum(path.stat().st_size for path in one.folder.iterdir())
    assert size < 6_000_000, "4 MiB of it the log"

    smaller = run(one.killed(tmp_path / "killed"), size_bytes=10_000)
    assert 20 < len(smaller.waiting()) < 26


def test_what_was_dropped_leaves_the_disk_many_at_once(run, tmp_path) -> None:
    """Each deleted with a write of its own would double what the disk takes."""
    held = [b"x" * 400] * 10
    one = run(size_bytes=4_040)  # those, with their topics
    one.publish(*held)
    assert one.tick()
    for _ in range(255):
        one.publish(held[0])
        assert one.tick()
        assert one.spool.stored == len(held)
    left = one.killed(tmp_path / "killed")
    assert rows(left / one.path.name) == [*held, *[held[0]] * 255]
    assert run(left, size_bytes=4_040).waiting() == held, "the next process drops them as well"

    one.publish(held[0])
    assert one.tick()
    assert rows(one.killed(tmp_path / "after") / one.path.name) == held


def test_a_clean_stop_deletes_what_was_dropped(run) -> None:
    one = run(size_bytes=4_040)
    for _ in range(15):
        one.publish(b"x" * 400)
        assert one.tick()
    one.stop()
    assert rows(one.path) == [b"x" * 400] * 10


def test_what_was_dropped_does_not_keep_the_file(run) -> None:
    one = run()
    one.publish(*numbered(5))
    assert one.tick()
    one.clock.mono_shift_s += 301.0
    line = one.connect()
    assert one.tick()

    assert line.sent[1:] == []
    assert one.files() == set()


def test_what_is_on_disk_is_as_the_spool_says(run, tmp_path) -> None:
    """Publishing, acknowledging, connecting and losing, at random; then a kill."""
    rng = random.Random(5)
    one, line, names = run(), None, iter(range(10**6))
    for _ in range(300):
        act = rng.random()
        if act < 0.5:
            one.publish(*(b"%d" % next(names) for _ in range(rng.randrange(20))))
        elif act < 0.6:
            one.publish(b"%d" % next(names), kind="result")
        elif act < 0.7 and line is None:
            line = one.connect()
        elif act < 0.8 and line is not None:
            one.traffic.shut()
            one.traffic.put_back(hung_up=False)
            line = None
        elif act < 0.95 and line is not None:
            line.acknowledge(rng.randrange(len(line.sent) + 1))
            one.send(line)
        else:
            assert one.tick()
    if line is not None:
        one.traffic.shut()
        one.traffic.put_back(hung_up=False)
    assert one.tick()

    left = run(one.killed(tmp_path / "killed")).waiting()
    assert left == one.waiting()
    assert left == sorted(left, key=int)


# Results that must not be lost.


def test_a_result_is_on_disk_when_publishing_it_returns(run, tmp_path) -> None:
    one = run()
    one.connect()
    for number in range(3):
        one.publish(b"done %d" % number, kind="result", key=f"deployment {number}")
        assert one.tick()
        killed = one.killed(tmp_path / f"killed{number}") / "outbox.sqlite3"
        assert len(rows(killed)) == number + 1


def test_one_row_for_one_key_over_restarts_too(run, tmp_path) -> None:
    one = run()
    for _ in range(2):
        one.publish(b"done", kind="result", key="deployment 1")
        assert one.tick()
    two = run(one.killed(tmp_path / "killed"))
    two.publish(b"done", kind="result", key="deployment 1")
    two.publish(b"done", kind="result", key="deployment 2")
    assert two.tick()

    assert two.waiting() == [b"done", b"done"]


# Age.

YEARS_S = 20 * 365 * 86400.0


@pytest.mark.parametrize("jump_s", [YEARS_S, -YEARS_S, 600.0, -600.0])
def test_a_wall_clock_that_jumps_changes_nothing(run, tmp_path, jump_s) -> None:
    one = run()
    one.publish(b"before")
    assert one.tick()
    one.clock.unix_shift_s += jump_s
    one.publish(b"after")
    assert one.tick()
    assert one.traffic.counts().dropped.stale == 0
    two = run(one.killed(tmp_path / "killed"), clock=one.clock)

    assert two.waiting() == [b"before", b"after"]


@pytest.mark.parametrize(
    ("later", "arrives"),
    [
        (Clock("boot 1", boottime_shift_s=290.0), True),
        (Clock("boot 1", boottime_shift_s=310.0), False),
        (Clock("boot 1", boottime_shift_s=290.0, unix_shift_s=YEARS_S), True),
        (Clock("boot 1", boottime_shift_s=310.0, unix_shift_s=-YEARS_S), False),
        (Clock("boot 2", unix_shift_s=290.0), True),
        (Clock("boot 2", unix_shift_s=310.0), False),
        (Clock("boot 2", unix_shift_s=-3600.0), True),  # no battery: a boot begins in the past
    ],
)
def test_predictions_age_over_restarts_and_reboots(run, tmp_path, later, arrives) -> None:
    one = run()
    one.publish(b"prediction")
    one.publish(b"result", kind="result")
    assert one.tick()
    two = run(one.killed(tmp_path / "killed"), clock=later)

    assert two.waiting() == ([b"prediction"] if arrives else []) + [b"result"]
    assert two.traffic.counts().dropped.stale == (0 if arrives else 1)


def test_age_adds_up_over_many_short_lives(run, tmp_path) -> None:
    clock = Clock()
    one = run(clock=clock)
    one.publish(b"old")
    one.stop()
    for life in range(3):
        clock = replace(clock, boottime_shift_s=clock.boottime_shift_s + 99.0)
        one = run(clock=clock)
        one.publish(b"%d" % life)
        one.stop()
    clock = replace(clock, boottime_shift_s=clock.boottime_shift_s + 99.0)

    assert run(clock=clock).waiting() == [b"0", b"1", b"2"]


# A disk that is in trouble.


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_is_told_and_all_is_written_once_there_is_room(
    run, small_disk, tmp_path, when
) -> None:
    one = run(small_disk.folder)
    if when == "while":
        one.publish(*numbered(100, 400))
        assert one.tick()
    small_disk.fill()
    one.publish(*numbered(5000, 400)[100 if when == "while" else 0 : 1000])
    assert not one.tick()
    assert one.reason == "outbox_disk_full"
    one.publish(b"meanwhile")
    assert not one.tick()
    assert one.traffic.counts().queued == 1001
    small_disk.empty()

    wait_for("the recovery, by itself", lambda: not one.reason)
    expected = [*numbered(1000, 400), b"meanwhile"]
    assert run(one.killed(tmp_path / "killed")).waiting() == expected
    assert one.waiting() == expected


def test_with_a_full_disk_messages_come_and_go_as_ever(run, small_disk) -> None:
    one = run(small_disk.folder)
    one.publish(*numbered(100, 400))
    assert one.tick()
    small_disk.fill()
    one.publish(*numbered(300, 400)[100:])
    assert not one.tick()
    line = one.connect()
    assert line.sent[1:200] == numbered(199, 400)
    line.acknowledge()
    one.send(line)
    line.acknowledge()
    assert one.tick()

    assert one.files() == {"ballast"}
    assert not one.reason


def test_a_full_disk_at_a_clean_stop_and_at_the_next_start(run, small_disk) -> None:
    one = run(small_disk.folder)
    one.publish(*numbered(100, 400))
    assert one.tick()
    small_disk.fill()
    one.publish(b"in memory only")
    one.stop()

    two = run(small_disk.folder)
    assert two.waiting() == numbered(100, 400)


def test_a_state_directory_that_went_away_is_told_and_used_once_it_is_back(run, tmp_path) -> None:
    one = run()
    one.folder.rmdir()
    one.publish(*numbered(10))
    assert not one.tick()
    assert one.reason == "outbox_unwritable"
    one.folder.mkdir()
    wait_for("the recovery, by itself", lambda: not one.reason)

    assert run(one.killed(tmp_path / "killed")).waiting() == numbered(10)


def test_a_file_that_somebody_holds_is_left_to_them(run, tmp_path) -> None:
    one = run()
    one.publish(*numbered(10))
    one.stop()
    with closing(sqlite3.connect(one.path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        two = run()
        assert two.reason == "outbox_unwritable"
        two.publish(b"new")
        assert two.tick()

        assert two.files() >= {"outbox.sqlite3", "outbox.sqlite3.damaged"}
        assert run(two.killed(tmp_path / "killed")).waiting() == [b"new"]


# Damage.


@pytest.fixture
def left(run, tmp_path) -> Path:
    """A folder with a file of 1000 messages, no log beside it."""
    one = run()
    one.publish(*numbered(1000, 400))
    one.stop()
    return one.folder


def go_on(run: StartRun, folder: Path, tmp_path: Path) -> list[bytes]:
    """Start with what `folder` holds and see that new messages are safe; return what came back."""
    one = run(folder)
    came_back = [e.payload for e in one.spool._rows.values() or one.spool._wanted.values()]
    one.publish(b"new")
    assert one.tick()
    assert run(one.killed(tmp_path / f"killed-{folder.name}")).waiting() == [*came_back, b"new"]
    assert one.waiting() == [*came_back, b"new"]
    return came_back


@pytest.mark.parametrize(
    "damage", ["garbage", "text", "first page", "empty", "half", "cut in a page", "a directory"]
)
def test_a_damaged_file_is_set_aside_and_told(run, left, tmp_path, damage) -> None:
    path = left / "outbox.sqlite3"
    data = path.read_bytes()
    path.unlink()
    match damage:
        case "garbage":
            path.write_bytes(random.Random(1).randbytes(len(data)))
        case "text":
            path.write_text("hello\n" * 1000)
        case "first page":
            path.write_bytes(bytes(4096) + data[4096:])
        case "empty":
            path.write_bytes(b"")
        case "half":
            path.write_bytes(data[: len(data) // 8192 * 4096])
        case "cut in a page":
            path.write_bytes(data[: len(data) // 2 - 1000])
        case "a directory":
            path.mkdir()
            (path / "file").touch()
    (left / "outbox.sqlite3.damaged").write_text("an earlier one")
    if damage == "a directory":
        (left / "outbox.sqlite3.damaged").unlink()
    before = path.read_bytes() if path.is_file() else b""
    came_back = go_on(run, left, tmp_path)
    again = run(tmp_path / f"killed-{left.name}")

    expected = numbered(1000, 400)
    if damage in ("half", "cut in a page"):
        assert 300 < len(came_back) < 600, "all that the file still has"
    else:
        assert came_back == []
    assert came_back == expected[: len(came_back)]
    aside = left / "outbox.sqlite3.damaged"
    if damage == "empty":
        assert aside.read_text() == "an earlier one", "an empty file is no damage"
    else:
        assert aside.is_dir() if damage == "a directory" else aside.read_bytes() == before
    assert again.reason == "", "said by the run that found it, and no more"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [("garbage", "outbox_damaged"), ("a directory", "outbox_unwritable")],
)
def test_damage_found_at_the_start_stays_told(run, left, damage, reason) -> None:
    path = left / "outbox.sqlite3"
    path.unlink()
    path.write_bytes(b"garbage" * 1000) if damage == "garbage" else path.mkdir()
    one = run(left)
    one.publish(b"new")
    assert one.tick()

    assert one.reason == reason
    assert one.spool.trouble is not None
    assert "kept as outbox.sqlite3.damaged" in one.spool.trouble.detail


def test_a_file_of_a_newer_edged_is_kept_for_it(run, left, tmp_path) -> None:
    path = left / "outbox.sqlite3"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=2")
    one = run(left)
    assert one.reason == "outbox_newer"
    one.publish(b"new")
    assert one.tick()
    one.stop()

    assert rows(left / "outbox.sqlite3.newer") == numbered(1000, 400)
    assert rows(path) == [b"new"]


def test_a_file_that_lost_its_version_keeps_its_rows(run, left, tmp_path) -> None:
    with closing(sqlite3.connect(left / "outbox.sqlite3")) as connection:
        connection.execute("PRAGMA user_version=0")

    assert go_on(run, left, tmp_path) == numbered(1000, 400)


def test_what_cannot_be_set_aside_harms_nothing(run, left) -> None:
    path = left / "outbox.sqlite3"
    path.write_bytes(b"garbage" * 1000)
    (left / "outbox.sqlite3.damaged").mkdir()
    one = run(left)
    one.publish(*numbered(3))
    assert not one.tick()
    assert one.reason == "outbox_unwritable"
    (left / "outbox.sqlite3.damaged").rmdir()

    wait_for("the recovery, by itself", one.tick)
    assert one.waiting() == numbered(3)


def test_a_damaged_row_does_not_take_the_others_with_it(run, left, tmp_path) -> None:
    path = left / "outbox.sqlite3"
    expected = numbered(1000, 400)
    data = bytearray(path.read_bytes())
    for number in (0, 17, 500, 999):
        data[data.index(expected[number]) + 200] ^= 1
    path.write_bytes(data)
    came_back = go_on(run, left, tmp_path)

    assert came_back == [expected[n] for n in range(1000) if n not in (0, 17, 500, 999)]


def test_a_damaged_page_does_not_take_the_others_with_it(run, left, tmp_path) -> None:
    path = left / "outbox.sqlite3"
    expected = numbered(1000, 400)
    data = bytearray(path.read_bytes())
    page = data.index(expected[500]) // 4096 * 4096
    data[page : page + 4096] = random.Random(3).randbytes(4096)
    path.write_bytes(data)
    came_back = go_on(run, left, tmp_path)

    assert 980 < len(came_back) < 1000
    assert came_back == [payload for payload in expected if payload in set(came_back)]
    assert expected[500] not in came_back


@pytest.mark.parametrize("seed", range(40))
def test_bits_that_flip_never_bring_a_wrong_message(run, left, tmp_path, seed) -> None:
    rng = random.Random(seed)
    path = left / "outbox.sqlite3"
    data = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 30, 1000])):
        # Half of them where SQLite keeps its own books.
        place = rng.randrange(len(data))
        place = place if rng.random() < 0.5 else place // 4096 * 4096 + rng.randrange(24)
        data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    expected = numbered(1000, 400)
    came_back = go_on(run, left, tmp_path)

    assert came_back == [payload for payload in expected if payload in set(came_back)]


@pytest.mark.parametrize("tail", ["", "-wal"])
@pytest.mark.parametrize("damage", ["garbage", "cut"])
def test_damage_that_goes_unnoticed_loses_nothing_that_is_in_memory(
    run, tmp_path, tail, damage
) -> None:
    one = run()
    one.publish(*numbered(3000, 400))
    assert one.tick()
    spoil(one.path.with_name(one.path.name + tail), damage)
    one.publish(*(b"more %d" % number for number in range(1000)))
    one.tick()
    wait_for("peace with the file", one.tick)

    expected = [*numbered(3000, 400), *(b"more %d" % number for number in range(1000))]
    left = run(one.killed(tmp_path / "killed")).waiting()
    assert left == [payload for payload in expected if payload in set(left)], "no wrong ones"
    assert one.waiting() == expected


@pytest.mark.parametrize("damage", ["garbage", "cut"])
def test_damage_noticed_while_running_begins_a_new_file_from_memory(run, tmp_path, damage) -> None:
    one = run()
    one.publish(*numbered(9000, 400))  # more than SQLite keeps in memory
    assert one.tick()
    line = one.connect()
    for tail in ("", "-wal"):
        spoil(one.path.with_name(one.path.name + tail), damage)
    line.acknowledge(100)  # `online` and 99 rows to delete, which SQLite has to read first
    assert not one.tick()
    assert one.reason == "outbox_damaged"
    wait_for("a new file", one.tick)
    assert one.reason == "outbox_damaged", "told until the next start"

    assert run(one.killed(tmp_path / "killed")).waiting() == numbered(9000, 400)[99:]
    assert "outbox.sqlite3.damaged" in one.files()


def spoil(path: Path, damage: str) -> None:
    with path.open("r+b") as file:
        if damage == "cut":
            file.truncate(5000)
        else:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write(random.Random(2).randbytes(size))

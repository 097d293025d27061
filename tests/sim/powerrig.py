"""The power goes: the daemon updates itself in a machine whose disk is recorded, or that is killed.

A record is played back on this machine: to any write, with any loss of what was not flushed, the
file system is mounted and looked at. A killed machine begins again and has to come up.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sim import vm
from sim.powerdisk import Promised, harm, versions_on
from sim.powerworld import FS_BYTES, World
from sim.writelog import Player, WriteLog

_LIFE = ("deploy", "refused", "away", "deploy", "kill", "rollback", "restart", "away")
_SHORT_LIFE = ("deploy", "away")
_FORGETFUL_POINTS = 100
_LIFE_S = 1800.0
_CLONE_NEWNS = 0x00020000
_UP_S = 300.0
# From then on until the power goes: one or two deployments.
_MOST_S = 25.0
# So many are killed while they are still on their way up, perhaps.
_EARLY = 0.25


@dataclass(frozen=True)
class Recording:
    """A life, written down.

    Attributes:
        log: what was written, a file.
        before: the disk's content before.
        seconds: how long it took.
    """

    log: Path
    before: bytes
    seconds: float


def record(world: World, steps: Sequence[str], *words: str) -> Recording:
    """Let the device live on a recorded disk.

    Args:
        world: of it.
        steps: of its life.
        words: more for the kernel's command line.
    """
    data, log = world.folder / "recorded.img", world.folder / "recorded.log"
    shutil.copyfile(world.empty, data)
    log.write_bytes(b"")
    began_s = time.monotonic()
    with world.machine(vm.Disk(data, log=log), steps, *words) as machine:
        machine.wait_off(_LIFE_S)
    assert "rig: done" in machine.lines, machine.tail()
    with world.empty.open("rb") as file:
        before = file.read(FS_BYTES)
    return Recording(log, before, time.monotonic() - began_s)


@dataclass
class Verdict:
    """What became of crash points.

    Attributes:
        points: how many.
        wrong: of those that were bad the moment in the record, and what was wrong.
        seconds: how long it took.
    """

    points: int = 0
    wrong: list[tuple[int, list[str]]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        said = f"{self.points} crash points in {self.seconds:.0f} s, {len(self.wrong)} bad"
        kinds = [f"{count} x {words}" for words, count in self.kinds().most_common(8)]
        return "; ".join([said, *kinds])

    def kinds(self) -> Counter[str]:
        """Return how often each kind of fault was seen, by its first words."""
        plain = (re.sub(r"\S*[0-9]\S*", "#", words) for _, found in self.wrong for words in found)
        return Counter(" ".join(words.split()[:8]) for words in plain)


def replay(recording: Recording, points: int, seed: int, folder: Path, jobs: int = 2) -> Verdict:
    """Cut the power at moments of a record, and look at what is left.

    Args:
        recording: of a life.
        points: how many.
        seed: of the moments, and of what is lost.
        folder: for images; in memory it is faster.
        jobs: so many at a time.
    """
    began_s = time.monotonic()
    chance = random.Random(seed)
    last = len(WriteLog(recording.log, FS_BYTES).entries)
    moments = sorted(chance.randrange(1, last + 1) for _ in range(points))
    cuts = [(moment, chance.randrange(2**32)) for moment in moments]
    with multiprocessing.Pool(jobs, _apart) as pool:
        parts = [
            pool.apply_async(_look, (recording, cuts[n::jobs], folder / str(n)))
            for n in range(jobs)
        ]
        wrong = [each for part in parts for each in part.get()]
    return Verdict(points, sorted(wrong), time.monotonic() - began_s)


def _apart() -> None:
    """Give this process mounts of its own: nobody else holds on to them, and they go with it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "cannot have mounts of its own")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _look(
    recording: Recording, cuts: Sequence[tuple[int, int]], folder: Path
) -> list[tuple[int, list[str]]]:
    """Look at the disk after cuts at these moments, with these seeds."""
    log = WriteLog(recording.log, FS_BYTES)
    player = Player(log, recording.before)
    found: list[tuple[int, list[str]]] = []
    image = folder / "disk.img"
    folder.mkdir()
    for moment, seed in cuts:
        player.cut(moment, random.Random(seed), image)
        promised = Promised.of(log.marks_before(moment))
        if wrong := looked_at(image, promised):
            found.append((moment, wrong))
    return found


def looked_at(image: Path, promised: Promised) -> list[str]:
    """Return what is wrong with a disk that lost its power; the image is changed by it."""
    mount = image.with_suffix(".mnt")
    mount.mkdir(exist_ok=True)
    with mounted(image, mount) as trouble:
        wrong = [trouble] if trouble else harm(mount, promised)
    done = subprocess.run(
        ["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False
    )
    return [*wrong, f"e2fsck: {done.stdout[-500:]}"] if done.returncode else wrong


def _look_once(data: Path, promised: Promised) -> tuple[list[str], set[str]]:
    """Look at a disk, which is not changed; return what is wrong, and which versions are on it."""
    copy = data.with_suffix(".copy")
    shutil.copyfile(data, copy)
    wrong = looked_at(copy, promised)
    with mounted(copy, copy.with_suffix(".mnt")) as trouble:
        versions = set() if trouble else versions_on(copy.with_suffix(".mnt"))
    copy.unlink()
    return wrong, versions


@contextmanager
def mounted(image: Path, mount: Path) -> Iterator[str]:
    """Have an image mounted meanwhile; "" or why it cannot be."""
    command = ["mount", "-o", "loop", str(image), str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        yield f"mount: {done.stderr}"
        return
    try:
        yield ""
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@dataclass
class Boots:
    """What became of a machine that was killed again and again.

    Attributes:
        kills: how often.
        under_way: how often with a deployment begun and not ended.
        up_s: seconds from power on to predictions, where that was waited for.
        wrong: all that must not be.
    """

    kills: int = 0
    under_way: int = 0
    up_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def kill(world: World, times: int, seed: int, told: Callable[[str], None]) -> Boots:
    """Kill the machine at random moments, look at its disk, begin it again.

    Args:
        world: of it.
        times: how often.
        seed: of the moments.
        told: takes a line for people after each.
    """
    chance, boots = random.Random(seed), Boots()
    data = world.folder / "killed.img"
    shutil.copyfile(world.empty, data)
    promised = Promised()
    for turn in range(times + 1):
        machine = world.machine(vm.Disk(data), ["forever"], f"rig.turn={turn}")
        began_s = time.monotonic()
        early = turn < times and chance.random() < _EARLY
        with machine:
            if early:
                time.sleep(chance.uniform(0.0, _MOST_S))
            else:
                machine.wait("^rig: up", _UP_S)
                boots.up_s.append(time.monotonic() - began_s)
            if turn == times:
                break
            time.sleep(chance.uniform(0.0, _MOST_S))
        boots.kills += 1
        for mark in _marks(machine.lines):
            promised.take(mark)
        boots.under_way += promised.under_way
        with multiprocessing.Pool(1, _apart) as pool:
            wrong, versions = pool.apply(_look_once, (data, promised))
        up = "not waited for" if early else f"up after {boots.up_s[-1]:.0f} s"
        told(f"kill {boots.kills}: {up}; {'; '.join(wrong) or 'well'}")
        boots.wrong += wrong
        if wrong:
            break
        promised = promised.next_boot(versions)
    return boots


def _marks(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the marks on a console; a last line that was cut short is none."""
    for line in lines:
        found = re.search(r"rig: mark (\{.*\})$", line)
        if found is not None:
            yield json.loads(found[1])


def prove(
    world: World,
    say: Callable[[str], None],
    *,
    lives: int = 1,
    points: int = 1000,
    kills: int = 2,
    seed: int = 1,
    short: bool = False,
    forgotten: Sequence[str] = ("all",),
) -> list[str]:
    """Record lives and cut their power, see that forgotten fsyncs show, and kill the machine.

    Args:
        world: of the device.
        say: takes a line for people.
        lives: how many are recorded.
        points: at which power is cut, in all.
        kills: of the machine itself.
        seed: of all that is random.
        short: a life with less in it.
        forgotten: which fsyncs a device forgets that must be found out: see `sim/nosync.c`.

    Returns:
        all that was not as it must be.
    """
    wrong: list[str] = []
    for life in range(lives):
        recording = record(world, _SHORT_LIFE if short else _LIFE)
        say(_told(recording))
        verdict = _replayed(recording, -(-points // lives), seed + life)
        say(f"{verdict}")
        wrong += [f"after {moment} writes: {words}" for moment, words in verdict.wrong[:20]]
    for kind in forgotten:
        forgetful = record(world, _SHORT_LIFE, f"rig.nosync={kind}")
        say(f"fsync forgotten ({kind}): {_told(forgetful)}")
        verdict = _replayed(forgetful, _FORGETFUL_POINTS, seed)
        say(f"fsync forgotten ({kind}): {verdict}")
        if not verdict.wrong:
            wrong.append(f"forgotten fsyncs were not noticed: {kind}")
    boots = kill(world, kills, seed, say)
    if boots.up_s:
        say(
            f"{boots.kills} kills, {boots.under_way} of them in a deployment; "
            f"{len(boots.up_s)} times up and predicting, after {min(boots.up_s):.0f} to "
            f"{max(boots.up_s):.0f} s"
        )
    return wrong + boots.wrong


def _told(recording: Recording) -> str:
    log = WriteLog(recording.log, FS_BYTES)
    flushes = sum(entry.flush for entry in log.entries)
    return (
        f"recorded {recording.seconds:.0f} s: {len(log.entries)} entries, {flushes} of them "
        f"flushes, {len(log.marks)} promises"
    )


def _replayed(recording: Recording, points: int, seed: int) -> Verdict:
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() else recording.log.parent
    with tempfile.TemporaryDirectory(prefix="power-", dir=place) as folder:
        return replay(recording, points, seed, Path(folder))

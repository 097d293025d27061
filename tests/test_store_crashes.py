"""Killed, unplugged or out of order at any moment: the store has the old or the new, as a whole.

What a life of a device promises along its way (tests/sim/story.py) is held against what is on the
disk after it has ended anywhere. The suite has samples of the longest sweeps, --slow all of them.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from sim.files import (
    PowerCutError,
    Step,
    Tree,
    WatchedFiles,
    aftermath,
    each_sync_forgotten,
    read_tree,
    write_tree,
)
from sim.story import Promise, Updates, digest, harm, live, live_shortly, mended, package

from edged.errors import StoreError
from edged.models.store import Store

CODES = {
    errno.ENOSPC: "disk_full",
    errno.EIO: "disk_failed",
    errno.EROFS: "disk_read_only",
    errno.EMFILE: "descriptors_exhausted",
}
NOTHING = Promise(None)
SWEEP = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Record:
    """What a life did to the disk, and what it promised after how many steps."""

    def __init__(self, home: Path, files: WatchedFiles | None = None) -> None:
        self.home = home
        self.files = files or WatchedFiles()
        self.promises: list[tuple[int, Promise]] = [(0, NOTHING)]

    def told(self, promise: Promise) -> None:
        self.promises.append((len(self.files.steps), promise))

    def updates(self) -> Updates:
        return Updates(self.home, self.files, self.told)

    @property
    def steps(self) -> list[Step]:
        return self.files.steps

    def number(self, moment: int) -> int:
        """Which promise holds after so many steps; the next one may be kept already."""
        return sum(after <= moment for after, _ in self.promises) - 1

    def allowed(self, moment: int) -> list[Promise]:
        number = self.number(moment)
        return [promise for _, promise in self.promises[number : number + 2]]

    def trees(self, steps: Sequence[Step], subsets: int) -> Iterator[tuple[Tree, int, str]]:
        for wreck in aftermath(self.home, {}, steps, promised=self.number, subsets=subsets):
            yield wreck.tree, wreck.done, wreck.story


class Judge:
    """Lays trees out, one at a time, and says what is wrong with them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._known: dict[tuple[frozenset[tuple[str, bytes | None]], tuple[Promise, ...]], str] = {}

    @property
    def count(self) -> int:
        """How many different states were judged."""
        return len(self._known)

    def lay_out(self, tree: Tree) -> Path:
        shutil.rmtree(self._place, ignore_errors=True)
        write_tree(tree, self._place)
        return self._place

    def harm(self, tree: Tree, *allowed: Promise) -> str:
        case = (frozenset(tree.items()), allowed)
        if case not in self._known:
            self._known[case] = harm(self.lay_out(tree), *allowed)
        return self._known[case]


@pytest.fixture
def ram(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a thing: there are many trees to lay out."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def judge(ram: Path) -> Judge:
    return Judge(ram / "laid-out")


def recorded(ram: Path, life: Callable[[Updates], None] = live) -> Record:
    home = ram / "home"
    home.mkdir()
    record = Record(home)
    life(record.updates())
    return record


def in_steps(every: int) -> object:
    """All cases with --slow, every so many in the suite."""
    return pytest.mark.parametrize("every", [every, pytest.param(1, marks=SWEEP)])


# Killed


def test_killed_before_each_change(ram: Path) -> None:
    record = recorded(ram)
    folder = ram / "killed"
    folder.mkdir()
    run_story("--each", folder)
    ended = sorted(folder.iterdir(), key=lambda path: int(path.name))
    assert len(ended) == len(record.steps) + 1 > 150
    for number, home in enumerate(ended):
        assert harm(home, *record.allowed(number)) == "", number
        assert mended(home) == "", number


def test_killed_in_the_middle_of_each_write(ram: Path) -> None:
    record = recorded(ram)
    writes = [number for number, step in enumerate(record.steps) if step.kind == "write"]
    assert len(writes) > 30
    for number in writes:
        home = ram / str(number)
        home.mkdir()
        with pytest.raises(PowerCutError):
            live(Updates(home, WatchedFiles().die_at(number, torn=True)))
        assert harm(home, *record.allowed(number)) == "", number
        assert mended(home) == "", number


@in_steps(50)
def test_killed_by_the_kernel_before_each_system_call(ram: Path, every: int) -> None:
    """As strace does it: also between the calls that one primitive is made of."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    record = recorded(ram)
    traced = ram / "traced"
    traced.mkdir()
    calls = "mkdir,openat,pwrite64,fsync,rename,unlink,rmdir,close,write"
    log = ram / "log"
    try:
        run_story(traced, strace=["-o", str(log), "-e", f"trace={calls}"])
    except subprocess.CalledProcessError as error:
        pytest.skip(f"strace may not trace here: {error.stderr[-200:]!r}")
    lines = [line for line in log.read_text().splitlines() if re.match(r"[a-z0-9]+\(", line)]
    # Before the story begins, Python opens and closes a lot of files; reading harms nothing.
    first = next(n for n, line in enumerate(lines) if f'mkdir("{traced}/models"' in line)
    points = []
    for call in calls.split(","):
        mine = [n for n, line in enumerate(lines) if line.startswith(f"{call}(")]
        points += [(call, at + 1) for at, n in enumerate(mine) if n >= first]
    print(f"{len(points)} system calls, every {every}")
    assert len(points) > 300
    for number, (call, when) in enumerate(points[::every]):
        home = ram / f"strace{number}"
        home.mkdir()
        inject = f"inject={call}:signal=KILL:when={when}"
        done = run_story(home, strace=["-o", os.devnull, "-e", f"trace={call}", "-e", inject])
        assert done.returncode == -signal.SIGKILL, (call, when, done.stderr)
        kept = 1 + done.stdout.count(b"safe")
        # It may be killed after it has promised and before it has said so.
        allowed = [promise for _, promise in record.promises[kept - 1 : kept + 2]]
        assert harm(home, *allowed) == "", (call, when)
        assert mended(home) == "", (call, when)


def run_story(*arguments: object, strace: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    tests = Path(__file__).parent
    command = [sys.executable, "-B", "-m", "sim.story", *map(str, arguments)]
    if strace:
        command = ["strace", "-qq", *strace, *command]
    path = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, check=False
    )
    if done.returncode not in (0, -signal.SIGKILL):
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done


# The power goes


def test_the_power_goes_at_each_moment(ram: Path, judge: Judge) -> None:
    record = recorded(ram)
    count = 0
    for tree, done, story in record.trees(record.steps, 50):
        assert judge.harm(tree, *record.allowed(done)) == "", story
        if count % 2 == 0:
            assert mended(judge.lay_out(tree)) == "", story
        count += 1
    print(f"{len(record.steps)} steps, {judge.count} states")
    assert count > 250


@pytest.mark.parametrize("life", [live_shortly, pytest.param(live, marks=SWEEP)])
def test_no_fsync_is_for_nothing(ram: Path, judge: Judge, life: Callable[[Updates], None]) -> None:
    """Without any one of them some power cut does harm: the test above would notice."""
    record = recorded(ram, life)
    first, *_ = record.steps  # of loading where nothing is yet; the next test knows what for
    needless = []
    for forgotten, steps in each_sync_forgotten(record.steps):
        if not any(
            judge.harm(tree, *record.allowed(done)) for tree, done, _ in record.trees(steps, 0)
        ):
            needless.append(str(forgotten))
    print(f"{len(record.steps)} steps, {judge.count} states")
    assert needless == [str(first)]


@in_steps(8)
def test_what_is_read_after_a_kill_is_safe_before_it_counts(
    ram: Path, judge: Judge, every: int
) -> None:
    """Killed at any moment, started again, and then the power goes."""
    total = len(recorded(ram).steps)
    for number in range(0, total, every):
        record, _ = killed_and_started(ram / str(number), number)
        for tree, done, story in record.trees(record.steps, 5):
            if done >= number:
                assert judge.harm(tree, *record.allowed(done)) == "", (number, story)
    print(f"{total} points, every {every}: {judge.count} states")


def test_no_fsync_of_loading_is_for_nothing(ram: Path, judge: Judge) -> None:
    """Each of the three does harm where it is forgotten, after a kill at the right moment."""
    needed = set()
    for number in range(30):
        record, began = killed_and_started(ram / str(number), number)
        loading = itertools.takewhile(lambda step: step.kind == "fsync_dir", record.steps[began:])
        for offset, step in enumerate(loading):
            steps = list(record.steps)
            steps[began + offset] = Step("forgotten", step.path)
            if any(
                judge.harm(tree, *record.allowed(done)) for tree, done, _ in record.trees(steps, 0)
            ):
                needed.add(step.path.relative_to(record.home))
    assert {str(path) for path in needed} == {".", "models", "models/birds"}


def killed_and_started(home: Path, number: int) -> tuple[Record, int]:
    """The record of a life that was killed after so many steps and of the start after it."""
    home.mkdir()
    killed = Record(home, WatchedFiles().die_at(number))
    with pytest.raises(PowerCutError):
        live(killed.updates())
    began = len(killed.steps)
    second = Record(home)
    second.updates().start()
    both = Record(home)
    both.files.steps = [*killed.steps, *second.steps]
    both.promises = [
        *killed.promises,
        *((began + after, promise) for after, promise in second.promises[1:]),
    ]
    return both, began


@in_steps(25)
def test_a_crash_and_then_a_crash_at_each_point_of_the_recovery(
    ram: Path, judge: Judge, every: int
) -> None:
    record = recorded(ram)
    states = 0
    for number in range(0, len(record.steps), every):
        home = ram / str(number)
        home.mkdir()
        with pytest.raises(PowerCutError):
            live(Updates(home, WatchedFiles().die_at(number)))
        wreck = read_tree(home)
        smooth = Record(judge.lay_out(wreck))
        smooth.updates().start()
        assert smooth.promises[1][1].journal in [one.journal for one in record.allowed(number)]
        for again in range(len(smooth.steps)):
            dying = WatchedFiles().die_at(again, torn=again % 2 == 1)
            with pytest.raises(PowerCutError):
                Updates(judge.lay_out(wreck), dying).start()
            at = max(1, smooth.number(again))
            allowed = [promise for _, promise in smooth.promises[at : at + 2]]
            assert harm(smooth.home, *allowed) == "", (number, again)
            assert mended(smooth.home) == "", (number, again)
            states += 1
    print(f"{len(record.steps)} points, every {every}: {states} double faults")
    assert states > 50


# The disk fails


@pytest.mark.parametrize("all_codes", [False, pytest.param(True, marks=SWEEP)])
def test_the_disk_fails_at_each_call(ram: Path, all_codes: bool) -> None:
    """The device is at fault, and says how; the next start mends it."""
    calls = recorded(ram).files.calls
    for call in range(calls):
        for code in CODES if all_codes else [list(CODES)[call % 4]]:
            home = ram / f"{call}-{code}"
            home.mkdir()
            record = Record(home, WatchedFiles().fail_at(call, code))
            updates = record.updates()
            try:
                live(updates)
            except StoreError as error:
                assert error.reason == CODES[code]
            allowed = [*record.allowed(len(record.steps)), updates.trying]
            assert harm(home, *allowed) == "", (call, code)
            if all_codes or call % 3 == 0:
                assert mended(home) == "", (call, code)
    print(f"{calls} calls, {len(CODES) if all_codes else 1} code each")


def install(home: Path, files: WatchedFiles) -> None:
    def fill(directory: Path) -> None:
        for name, data in package("1.0.0").items():
            files.write(directory / name, data)

    Store(home, files, spare_bytes=0).install("birds", "1.0.0", digest("1.0.0"), 100, fill)


def test_a_damaged_version_is_replaced_or_still_told(ram: Path, judge: Judge) -> None:
    """Neither a kill nor a power cut on the way makes anything in between pass for sound."""
    home = ram / "home"
    home.mkdir()
    install(home, WatchedFiles())
    (home / "models/birds/1.0.0/model.tflite").write_bytes(b"damaged")
    before = read_tree(home)
    files = WatchedFiles()
    install(home, files)
    seen = set()
    for wreck in aftermath(home, before, files.steps):
        place = judge.lay_out(wreck.tree)
        try:
            Store(place).check("birds", "1.0.0", digest("1.0.0"))
            seen.add("sound")
        except StoreError as error:
            assert wreck.done < len(files.steps), wreck.story
            seen.add(error.reason)
        install(place, WatchedFiles())
        Store(place).check("birds", "1.0.0", digest("1.0.0"))
        Store(place).collect("birds")
        assert [path.name for path in (place / "models/birds").iterdir()] == ["1.0.0"]
    assert seen == {"sound", "release_damaged", "release_missing"}


def test_an_installation_that_could_not_be_made_safe_is_made_so(ram: Path, judge: Judge) -> None:
    """The version is there already, and nothing had said that it stays."""
    home = ram / "home"
    home.mkdir()
    trial = WatchedFiles()
    install(home, trial)
    last = trial.steps[-1]
    assert last.kind == "fsync_dir"
    shutil.rmtree(home / "models")
    files = WatchedFiles()
    for call in itertools.count(trial.calls - 10):
        files = WatchedFiles().fail_at(call, errno.EIO)
        try:
            install(home, files)
        except StoreError:
            if (home / "models/birds/1.0.0").exists():
                break
        shutil.rmtree(home / "models")
    install(home, files)
    promise = Promise(None, ("1.0.0", digest("1.0.0")))
    for wreck in aftermath(home, {}, files.steps):
        if wreck.done == len(files.steps):
            assert judge.harm(wreck.tree, promise) == "", wreck.story

"""What an SD card is asked to take: a disk of its own for the state, and its counter of sectors."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.device import BELT, Device, P

_DISK_BYTES = 256 * 1024 * 1024
_SECTOR_BYTES = 512
_PER_SECOND = 5
# Megabytes an hour, several times what was measured over half an hour: docs/operations.md.
_LIMITS = {"connected": 5.0, "away": 600.0, "crumb": 8.0}
# In RAM: only the disk that is watched is a disk.
_RAM = Path("/dev/shm")
_BODY = f"""{BELT}publish = {{ mode = "rate", per_second = {_PER_SECOND} }}
"""


def missing() -> str | None:
    """Return why nothing can be measured here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for a disk of its own"
    for tool in ("mke2fs", "losetup"):
        if shutil.which(tool, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            return f"{tool} is not installed"
    if MOSQUITTO is None:
        return "mosquitto is not installed"
    if not _RAM.is_dir():
        return f"there is no {_RAM}"
    return None


@contextmanager
def disk(folder: Path) -> Iterator[tuple[Path, Callable[[], int]]]:
    """Mount an empty ext4 with its defaults.

    Yields:
        where, and what tells the bytes written to its device so far, with what waits in memory.
    """
    image, place = folder / "disk.img", folder / "disk"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    # What a new file system does lazily would be counted.
    lazy = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", lazy, str(image)], check=True)
    command = ["losetup", "--find", "--show", str(image)]
    loop = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        subprocess.run(["mount", loop, str(place)], check=True)
        try:

            def written() -> int:
                subprocess.run(["sync", "--file-system", str(place)], check=True)
                fields = Path(f"/sys/block/{Path(loop).name}/stat").read_text().split()
                return int(fields[6]) * _SECTOR_BYTES

            yield place, written
        finally:
            subprocess.run(["umount", str(place)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)


@dataclass
class _Watched:
    """One daemon and its disk."""

    words: str
    device: Device
    broker: Broker
    written: Callable[[], int]
    subscriber: Subscriber | None = None
    before: tuple[int, int, int] = (0, 0, 0)

    def counts(self) -> tuple[int, int, int]:
        """Return bytes that reached the disk, bytes that the process wrote, and bytes logged."""
        return self.written(), self.device.disk_writes(), len(self.device.log)


class WearRig:
    """Lets daemons run side by side for a while: the broker there, away, the crumb on the disk.

    Args:
        folder: for the disks' images; on a disk.
        seconds: how long is measured.
        say: takes a line for people.
    """

    def __init__(self, folder: Path, seconds: float, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._seconds = seconds
        self._say = say

    def run(self) -> dict[str, float]:
        """Measure.

        Returns:
            megabytes an hour that reach the disk, by case.

        Raises:
            AssertionError: they are beyond what a card should have to take.
        """
        with contextlib.ExitStack() as stack:
            ram = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_RAM)))
            cases = [
                self._begin(stack, ram, "connected", "broker connected"),
                self._begin(stack, ram, "away", "broker away"),
                self._begin(stack, ram, "crumb", "broker connected, runtime_dir on the disk"),
            ]
            for case in cases:
                case.before = case.counts()
            time.sleep(self._seconds)
            return {case.device.folder.name: self._ended(case) for case in cases}

    def _begin(self, stack: contextlib.ExitStack, ram: Path, name: str, words: str) -> _Watched:
        folder = self._folder / name
        folder.mkdir()
        (ram / name).mkdir()
        place, written = stack.enter_context(disk(folder))
        (ram / name / "broker").mkdir()
        broker = Broker(ram / name / "broker").start()
        stack.callback(broker.stop)
        device = Device(ram / name, broker.port, _BODY, mqtt="", environment={"NOTIFY_SOCKET": ""})
        for used in ["state", "run"] if name == "crumb" else ["state"]:
            (place / used).mkdir()
            (ram / name / used).symlink_to(place / used)
        stack.callback(device.close)
        case = _Watched(words, device, broker, written)
        case.subscriber = Subscriber(broker.port, f"{P}/prediction/#", qos=0).connect()
        stack.callback(case.subscriber.close)
        device.start()
        heard = case.subscriber.of(f"{P}/prediction/front")
        wait_for("predictions", lambda: len(heard) > 2 * _PER_SECOND)
        if name == "away":
            broker.stop()
        # The first writes, of the journal and a new file system, are no steady state.
        time.sleep(30.0)
        return case

    def _ended(self, case: _Watched) -> float:
        disk_bytes, own_bytes, logged = (
            (after - before) * 3600.0 / self._seconds
            for before, after in zip(case.before, case.counts(), strict=True)
        )
        megabytes = disk_bytes / 1e6
        self._say(
            f"{case.words}: {megabytes:.2f} MB an hour reach the disk, {own_bytes / 1e6:.2f} MB"
            f" written by the process, {logged / 1e3:.1f} kB logged"
        )
        assert case.device.process.poll() is None, case.device.log
        assert megabytes <= _LIMITS[case.device.folder.name], case.words
        return megabytes

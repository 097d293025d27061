"""The machine whose power is cut: kernel, root disk with a device and its world, data disk."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim import models, powerguest, vm
from sim.desk import Desk
from sim.nspawn import overlay_missing, tree
from sim.powerdisk import CAMERA, MODEL

FS_BYTES = 32 << 20
_MARK_BYTES = 8 << 20
_VERSIONS = ("1.0.1", "1.0.2", "1.0.3", "1.0.4")
_BALLAST_BYTES = 300_000
_CONFIG = f"""
device_id = "dut"
[mqtt]
port = {powerguest.DEVICE_PORT}
stats_s = 10
[update]
metadata_url = "http://127.0.0.1:{powerguest.WEB_PORT}/metadata"
targets_url = "http://127.0.0.1:{powerguest.WEB_PORT}/targets"
root = "{powerguest.RIG}/root.json"
trial_frames = 10
trial_seconds = 2
[drift]
window_s = 2
sample_period_s = 0.2
[[model]]
name = "{MODEL}"
factory = "{powerguest.RIG}/factory.tflite"
[[camera]]
name = "{CAMERA}"
source = "synthetic"
width = 96
height = 72
model = "{MODEL}"
fps = 5
"""
_BROKER = f"""
listener {powerguest.BROKER_PORT} 127.0.0.1
allow_anonymous true
persistence false
user root
"""


def missing() -> str | None:
    """Return why the rig cannot be used here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, to mount what a power cut leaves"
    for tool, package in (("cc", "gcc"), ("debootstrap", "debootstrap"), ("e2fsck", "e2fsprogs")):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            return f"{tool} is not installed (apt install {package})"
    if not Path("/dev/loop-control").exists():
        return "this machine has no loop devices"
    return overlay_missing() or vm.missing()


class World:
    """What it takes to start the machine: kernel, root disk, an empty data disk.

    Args:
        cache: of trees and kernels.
        folder: for everything else.
        package: edged's.
        suite: of Debian.
    """

    def __init__(self, cache: Path, folder: Path, package: Path, suite: str = "bookworm") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._kernel = vm.kernel(cache, suite)
        self._initrd = vm.initramfs(self._kernel, folder / "initrd")
        self._root = self._made_root(tree(cache, suite), package)
        self.empty = folder / "empty.img"
        _empty(self.empty)

    def machine(self, data: vm.Disk, steps: Sequence[str], *words: str) -> vm.Machine:
        """Return the machine, off.

        Args:
            data: its disk beside root.
            steps: of `powerguest.Life`.
            words: more for the command line.
        """
        words = (f"rig.fs_bytes={FS_BYTES}", f"rig.steps={','.join(steps)}", *words)
        disks = (vm.Disk(self._root, read_only=True), data)
        init = str(powerguest.RIG / "begin")
        return vm.Machine(self._kernel, self._initrd, disks, init=init, words=words)

    def _made_root(self, base: Path, package: Path) -> Path:
        """Write the root disk: a Debian, the package, and the rig with a repository."""
        target = self.folder / "root.img"
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            upper, work, merged = (Path(name) / each for each in ("upper", "work", "merged"))
            for each in (upper, work, merged):
                each.mkdir()
            subprocess.run(["dpkg-deb", "--extract", str(package), str(upper)], check=True)
            self._furnish(upper)
            layers = f"lowerdir={base},upperdir={upper},workdir={work}"
            command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(merged)]
            subprocess.run(command, check=True)
            try:
                return vm.image(merged, target, 1400)
            finally:
                subprocess.run(["umount", str(merged)], check=True)

    def _furnish(self, root: Path) -> None:
        rig = root / str(powerguest.RIG)[1:]
        rig.mkdir()
        shutil.copyfile(powerguest.__file__, rig / "guest.py")
        (rig / "begin").write_text("#!/bin/sh\nexec /usr/bin/python3 -u /rig/guest.py\n")
        (rig / "begin").chmod(0o755)
        (rig / "versions.json").write_text(json.dumps(_VERSIONS))
        (rig / "edged.toml").write_text(_CONFIG)
        (rig / "mosquitto.conf").write_text(_BROKER)
        models.write(rig / "factory.tflite", models.classifier("float32"))
        stub = ["cc", "-shared", "-fPIC", "-o", str(rig / "nosync.so")]
        subprocess.run([*stub, str(Path(__file__).with_name("nosync.c"))], check=True)
        desk = Desk(self.folder / "desk")
        try:
            chance = random.Random(1)
            answers = np.tile(np.array([1, 0, 0, 0], np.float32), (4, 1))
            for version in (*_VERSIONS, powerguest.REFUSED):
                wrong = {"expected": answers} if version == powerguest.REFUSED else {}
                path = desk.pack(
                    version,
                    ballast=chance.randbytes(_BALLAST_BYTES),
                    trial={"p95_ratio": 1000},
                    **wrong,
                )
                desk.repo.publish(path, MODEL, version, custom={"downgrade_ok": True})
            shutil.copytree(self.folder / "desk" / "repo", rig / "repo")
            shutil.copyfile(desk.root, rig / "root.json")
        finally:
            desk.close()


def _empty(path: Path) -> None:
    """Write a data disk: ext4 with its defaults, and room for marks behind it."""
    path.write_bytes(b"")
    os.truncate(path, FS_BYTES + _MARK_BYTES)
    command = ["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-F", str(path), f"{FS_BYTES >> 20}M"]
    subprocess.run(command, check=True)

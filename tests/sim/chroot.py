"""A Debian that does not boot: a cached tree under an overlay, of this or another architecture.

Everything here is for a process in namespaces of its own (`ALONE`): mounts, processes and a network
of nothing but the loopback end with it, however it ends.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim.armboard import Board
from sim.machine import PATH, Machine

ALONE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
"""What starts a program that shares nothing but files with the rest of the machine."""

_NODES = ("null", "zero", "full", "random", "urandom")


def loopback() -> None:
    """Bring up the only network there is."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


class Chroot(Machine):
    """One tree.

    Args:
        base: the tree, which is not changed.
        folder: for what changes, made here.
        shared: a directory that has the same path inside and outside.
        sysfs: whether /sys is this machine's; else there is none.
    """

    def __init__(self, base: Path, folder: Path, shared: Path, *, sysfs: bool) -> None:
        self.root = folder / "root"
        self._folder = folder
        self._environment = [f"PATH={PATH}", "LC_ALL=C.UTF-8", "HOME=/root"]
        upper, work = folder / "upper", folder / "work"
        for place in (upper, work, self.root):
            place.mkdir(parents=True)
        layers = f"lowerdir={base},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "overlay", "-o", layers, str(self.root))
        _mount("-t", "proc", "proc", str(self.root / "proc"))
        _mount("-t", "tmpfs", "tmpfs", str(self.root / "dev"))
        for name in _NODES:
            (self.root / "dev" / name).touch()
            _mount("--bind", f"/dev/{name}", str(self.root / "dev" / name))
        (self.root / "dev/shm").mkdir()
        (self.root / "dev/fd").symlink_to("/proc/self/fd")
        inside = self.root / shared.relative_to("/")
        inside.mkdir(parents=True)
        _mount("--bind", str(shared), str(inside))
        if sysfs:
            _mount("--bind", "/sys", str(self.root / "sys"))

    @contextmanager
    def being(self, board: Board) -> Iterator[None]:
        """Be that board until the end of the block, for commands that begin in it.

        What they start is told of the same board by its files, but has another core where it is
        given an environment without QEMU_CPU.
        """
        described = self._folder / board.qemu_cpu
        board.write(described)
        places = {described / "sys": "sys", described / "cpuinfo": "proc/cpuinfo"}
        for source, place in places.items():
            _mount("--bind", str(source), str(self.root / place))
        self._environment.append(f"QEMU_CPU={board.qemu_cpu}")
        try:
            yield
        finally:
            self._environment.pop()
            for place in places.values():
                subprocess.run(["umount", str(self.root / place)], check=True)

    def command(self, *words: str) -> list[str]:
        """Return what runs a command inside, as root."""
        return ["chroot", str(self.root), "env", "-i", *self._environment, *words]

    def as_user(self, user: str, *words: str) -> list[str]:
        """Return what runs a command inside as somebody else, with the environment it is given."""
        whose = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups")
        within = ("env", "--unset=PYTHONPATH", *self._environment)
        return ["chroot", str(self.root), *within, *whose, *words]


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)

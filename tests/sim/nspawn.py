"""A Debian that boots in a container: a cached tree under an overlay, systemd as its process 1."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sim.broker import wait_for
from sim.machine import PATH, Machine

# What the package depends on, a broker to listen with, and another time.
_PACKAGES = "systemd,systemd-sysv,dbus,udev,procps,python3,mosquitto,mosquitto-clients,libfaketime"
_CLONE_NEWNET = 0x40000000
_GROUPS = Path("/sys/fs/cgroup")
# Enters control groups of its own and becomes what is named after "--".
_APART = 'until [ "$1" = -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'
_TOOLS = (
    ("systemd-nspawn", "systemd-container"),
    ("debootstrap", "debootstrap"),
    ("nsenter", "util-linux"),
    ("pgrep", "procps"),
)


def missing(tools: Iterable[tuple[str, str]] = _TOOLS) -> str | None:
    """Return why nothing can be booted here, or mounted and run; None where it can.

    Args:
        tools: programs that it takes, each with its Debian package.
    """
    if os.geteuid() != 0:
        return "needs root, for a container"
    for tool, package in tools:
        if shutil.which(tool, path=PATH) is None:
            return f"{tool} is not installed (apt install {package})"
    return overlay_missing()


def overlay_missing() -> str | None:
    """Return why no tree can be changed without being copied; None where it can."""
    if "overlay" not in Path("/proc/filesystems").read_text().split():
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["modprobe", "-q", "overlay"], check=False)
        if "overlay" not in Path("/proc/filesystems").read_text().split():
            return "the kernel has no overlay file system"
    return None


def tree(
    cache: Path, suite: str, architecture: str | None = None, packages: str = _PACKAGES
) -> Path:
    """Return the directory of a release, made by debootstrap where the cache has none.

    Args:
        architecture: None for this machine's; another one needs binfmt_misc.
        packages: beside Debian's smallest set; separated by commas.
    """
    name = suite if architecture is None else f"{suite}-{architecture}"
    made = cache / name
    if not made.exists():
        part = cache / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={packages}"]
        if architecture is not None:
            command.append(f"--arch={architecture}")
        environment = {**os.environ, "PATH": PATH}
        command += [suite, str(part), *mirror()]
        subprocess.run(command, check=True, env=environment, capture_output=True)
        part.rename(made)
    return made


def mirror() -> list[str]:
    """Return where this machine's packages come from; else debootstrap has its own place."""
    places = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian*")]
    for place in filter(Path.is_file, places):
        if found := re.search(
            r"^(?:URIs:|deb(?: \[.*?\])?) +(\S+)", place.read_text(), re.MULTILINE
        ):
            return [found[1]]
    return []


def _own_groups() -> list[Path]:
    """Return this process's control groups in the hierarchies that systemd keeps services in."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        places = {"name=systemd": ("systemd",), "": ("unified", ".")}.get(controllers, ())
        there = [_GROUPS / place for place in places if (_GROUPS / place / "cgroup.procs").exists()]
        found += [place / path.lstrip("/") for place in there[:1]]
    return [place for place in found if place.is_dir()]


class Container(Machine):
    """One boot; a context manager that leaves neither process, mount nor file behind.

    Args:
        base: the tree, which is not changed.
        folder: an empty directory for what changes; it is removed.
    """

    def __init__(self, base: Path, folder: Path) -> None:
        self.root = folder / "root"
        self.boot_s = 0.0
        self._base = base
        self._folder = folder
        self._log = folder / "console"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._name = f"edged-rig-{os.getpid()}"
        self._groups = [group / self._name for group in _own_groups()]

    def __enter__(self) -> Container:
        upper, work = self._folder / "upper", self._folder / "work"
        for place in (upper, work, self.root):
            place.mkdir(parents=True)
        layers = f"lowerdir={self._base},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(self.root)]
        subprocess.run(command, check=True)
        try:
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._halt()
        subprocess.run(["umount", "--lazy", str(self.root)], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def restart(self) -> None:
        """Shut it down and boot it again; its disk stays."""
        self._halt()
        self._init = 0
        self._boot()

    def _halt(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            if self._init:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._init, signal.SIGRTMIN + 3)  # systemd: halt
            else:
                self._nspawn.terminate()
            try:
                self._nspawn.wait(60.0)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        for group in self._groups:
            for place, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # one that something still ends in
                    Path(place).rmdir()

    def _boot(self) -> None:
        began_s = time.monotonic()
        # No network but the loopback: what needs another machine fails.
        # Two containers in one control group would take their services for each other's.
        for group in self._groups:
            group.mkdir(exist_ok=True)
        command = ["sh", "-c", _APART, "sh", *map(str, self._groups), "--"]
        command += ["systemd-nspawn", "-q", f"--directory={self.root}", f"--machine={self._name}"]
        command += ["--boot", "--register=no", "--keep-unit", "--console=pipe", "--private-network"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for("process 1 of the container", self._found)
        wait_for("systemd", self._runs, 300.0)
        self.boot_s = time.monotonic() - began_s

    def _runs(self) -> bool:
        return "running" in self.run("systemctl", "is-system-running").stdout

    def _found(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn: {self._log.read_text(errors='replace')}")
        command = ["pgrep", "--parent", str(self._nspawn.pid)]
        found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        # nspawn has a child in between for a moment: wait for the one that is process 1 inside.
        for child in found:
            status = Path(f"/proc/{child}/status")
            if status.exists() and re.search(r"^NSpid:.*\t1$", status.read_text(), re.MULTILINE):
                self._init = int(child)
        return bool(self._init)

    @contextlib.contextmanager
    def network(self) -> Iterator[None]:
        """Have this thread open its sockets in the container's network; they stay there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with (
            Path("/proc/self/ns/net").open() as outside,
            Path(f"/proc/{self._init}/ns/net").open() as inside,
        ):
            if libc.setns(inside.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                libc.setns(outside.fileno(), _CLONE_NEWNET)

    def command(self, *words: str) -> list[str]:
        """Return what runs a command inside."""
        inside = ["env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "HOME=/root"]
        return ["nsenter", "--target", str(self._init), "--all", *inside, *words]

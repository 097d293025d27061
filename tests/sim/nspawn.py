"""A Debian that boots in a container: a cached tree under an overlay, systemd as its process 1."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from sim.broker import wait_for

# What the package depends on, and a broker to listen with.
_PACKAGES = "systemd,systemd-sysv,dbus,udev,procps,python3,mosquitto,mosquitto-clients"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str | None:
    """Return why nothing can be booted here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for a container that boots"
    for tool, package in (
        ("systemd-nspawn", "systemd-container"),
        ("debootstrap", "debootstrap"),
        ("nsenter", "util-linux"),
        ("pgrep", "procps"),
    ):
        if shutil.which(tool, path=_PATH) is None:
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


def tree(cache: Path, suite: str) -> Path:
    """Return the directory of a release, made by debootstrap where the cache has none."""
    made = cache / suite
    if not made.exists():
        part = cache / f"{suite}.part"
        shutil.rmtree(part, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, str(part)]
        environment = {**os.environ, "PATH": _PATH}
        subprocess.run([*command, *mirror()], check=True, env=environment, capture_output=True)
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


class Container:
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
        subprocess.run(["umount", "--lazy", str(self.root)], check=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _boot(self) -> None:
        began_s = time.monotonic()
        # No network but the loopback: what needs another machine fails.
        command = ["systemd-nspawn", "-q", f"--directory={self.root}", "--machine=edged-rig"]
        command += ["--boot", "--register=no", "--keep-unit", "--console=pipe", "--private-network"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_for("process 1 of the container", self._found)
        wait_for("systemd", self._runs, 120.0)
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

    def command(self, *words: str) -> list[str]:
        """Return what runs a command inside."""
        inside = ["env", "-i", f"PATH={_PATH}", "LC_ALL=C.UTF-8", "HOME=/root"]
        return ["nsenter", "--target", str(self._init), "--all", *inside, *words]

    def run(self, *words: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and return how it ended."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=limit_s
        )

    def done(self, *words: str, limit_s: float = 120.0) -> str:
        """Run a command inside that must succeed; its output."""
        ended = self.run(*words, limit_s=limit_s)
        if ended.returncode:
            raise AssertionError(
                f"{' '.join(words)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
            )
        return ended.stdout

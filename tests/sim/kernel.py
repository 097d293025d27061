"""The kernel as a device sees it: a boot id that is another one after a power cut, its memory."""

from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_MEMORY = "/proc/meminfo"
# Mounts files, each over another one, up to "--"; what follows is started.
_MOUNTED = (
    'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@"'
)


class Kernel:
    """One that can be booted any number of times, in a namespace of mounts.

    Args:
        folder: for its files.
        memory_bytes: how much is available; None for what this machine has.
    """

    def __init__(self, folder: Path, *, memory_bytes: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self._file = folder / "boot_id"
        self._mounts = [str(self._file), _BOOT_ID]
        if memory_bytes is not None:
            memory = folder / "meminfo"
            memory.write_text(f"MemAvailable: {memory_bytes // 1024} kB\n")
            self._mounts += [str(memory), _MEMORY]
        self.boot()

    @property
    def boot_id(self) -> str:
        return self._file.read_text().strip()

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to put before a command, so that it and its children run on this kernel.

        The process that is started is the command itself in the end, by `exec`.
        """
        whose = "-m" if os.geteuid() == 0 else "-rm"
        return ("unshare", whose, "sh", "-c", _MOUNTED, "sh", *self._mounts, "--")

    def boot(self) -> None:
        """Start it anew: what it had in memory is gone."""
        self._file.write_text(f"{uuid.uuid4()}\n")

    def why_not(self) -> str:
        """Return why this machine cannot have such a kernel, "" where it can."""
        try:
            done = subprocess.run(
                [*self.prefix, "cat", _BOOT_ID], capture_output=True, text=True, check=False
            )
        except FileNotFoundError as error:
            return str(error)
        return "" if done.stdout.strip() == self.boot_id else done.stderr.strip() or "no effect"


def kernel_or_skip(folder: Path, *, memory_bytes: int | None = None) -> Kernel:
    """Return a kernel; skip the test, saying why, where no mount can be made."""
    kernel = Kernel(folder, memory_bytes=memory_bytes)
    why_not = kernel.why_not()
    if why_not:
        pytest.skip(f"no kernel of its own for a device: {why_not}")
    return kernel

"""A system beside this one, in which commands run: a container that has booted, or a chroot."""

from __future__ import annotations

import abc
import subprocess
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
EVERY_MODULE = """
import importlib, pkgutil, edged
for module in pkgutil.walk_packages(edged.__path__, 'edged.'):
    if '__main__' not in module.name and '.demo' not in module.name:
        importlib.import_module(module.name)
import rich.live, rich.table, rich.console
"""
"""A program that fails where a wheel is missing that edged imports."""


class Machine(abc.ABC):
    """Where commands run as root.

    Attributes:
        root: its root directory, as seen from here.
    """

    root: Path

    @abc.abstractmethod
    def command(self, *words: str) -> list[str]:
        """Return what runs a command inside."""

    def run(self, *words: str, limit_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and return how it ended."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=limit_s
        )

    def done(self, *words: str, limit_s: float = 300.0) -> str:
        """Run a command inside that must succeed; its output."""
        ended = self.run(*words, limit_s=limit_s)
        if ended.returncode:
            raise AssertionError(
                f"{' '.join(words)}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
            )
        return ended.stdout

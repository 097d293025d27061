"""What the package is built for."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "packaging" / "debian"
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


class BuildError(Exception):
    """The package cannot be built; the message says what to do."""


@dataclass(frozen=True)
class Suite:
    """A release of Debian and of Raspberry Pi OS.

    Attributes:
        python: minor version of its /usr/bin/python3.
        revision: end of the package's version: sorts with the releases, so that moving from one
            to the next is an upgrade.
        glibc: minor version of glibc 2; wheels may ask for as much.
        extras: of pyproject.toml, bundled beside the requirements.
    """

    name: str
    python: int
    revision: str
    glibc: int
    extras: tuple[str, ...]

    @property
    def next_python(self) -> int:
        """The minor version that the bundled extensions are not for any more."""
        return self.python + 1

    def platforms(self, architecture: str) -> list[str]:
        """Return the tags of wheels that run there, in pip's words."""
        machine = ARCHITECTURES[architecture]
        numbered = [f"manylinux_2_{minor}_{machine}" for minor in range(self.glibc, 4, -1)]
        return [*numbered, f"manylinux2014_{machine}", f"linux_{machine}"]

    def requirements(self, architecture: str) -> Path:
        """Return the file of pinned wheels with their hashes."""
        return SOURCE / "requirements" / f"{self.name}-{architecture}.txt"

    def interpreter(self) -> str:
        """Return a Python of the suite's minor version on this machine.

        Compiled modules are good for one minor version, and pip judges `python_version` by the
        Python that it runs in.

        Raises:
            BuildError: there is none.
        """
        name = f"python3.{self.python}"
        for command in (f"/usr/bin/{name}", name, *_pyenv(name)):
            try:
                subprocess.run([command, "-c", ""], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError):
                continue
            return command
        raise BuildError(f"{self.name} needs {name} on this machine, to compile what is packed.")


def _pyenv(name: str) -> list[str]:
    versions = Path("~/.pyenv/versions").expanduser()
    return sorted(str(path) for path in versions.glob(f"3.*/bin/{name}"))


SUITES = {
    suite.name: suite
    for suite in (
        # tflite-runtime, the runtime that libedgetpu was built for, ends with Python 3.11.
        Suite("bookworm", 11, "deb12", 36, ("operator", "tflite")),
        Suite("trixie", 13, "deb13", 41, ("operator",)),
    )
}

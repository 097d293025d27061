"""The operator's desk of the demo: photographs, packages, two repositories, a web server.

What a careful operator does is done by `edgectl`, and shown; what a careless one does by hand.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from edged.demo.candidates import rebuilt
from edged.demo.processes import EDGECTL, DemoError, running, surroundings, text_of
from edged.scene import LABELS, draw_sample

_COMMAND_S = 120.0
_SERVING_S = 20.0
_PHOTOS, _PHOTOS_SEED = 16, 5
# What the runtime says of itself whenever it is loaded.
_CHATTER = re.compile(r"^(INFO|WARNING): .*\n?", re.MULTILINE)


class Desk:
    """A directory in which the operator works.

    Args:
        folder: made here.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._log = folder / "serve.log"

    def edgectl(self, *words: str, told: bool = True) -> str:
        """Run a command that must succeed; show it and what it says.

        Args:
            words: behind `edgectl`.
            told: whether what it says is shown too.

        Returns:
            What it said.

        Raises:
            DemoError: it failed.
        """
        done = self._run(words)
        said = done.stdout.strip()
        if done.returncode != 0:
            raise DemoError(f"edgectl {words[0]} {words[1]} failed:\n{done.stderr}")
        if told and said:
            _show(said)
        return said

    def refused(self, *words: str) -> str:
        """Run a command that must not succeed; show it and why it does not; return that.

        Raises:
            DemoError: it succeeded.
        """
        done = self._run(words)
        if done.returncode == 0:
            raise DemoError(f"edgectl {words[0]} {words[1]} has not refused")
        if done.returncode < 0:
            said = f"killed by {signal.Signals(-done.returncode).name}"
        else:
            said = _CHATTER.sub("", done.stderr).strip()
        first, *others = said.splitlines()
        _show("\n".join([first, *others[:2], *(["..."] if len(others) > 2 else [])]))
        return said

    def _run(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        print(f"  $ edgectl {shlex.join(words)}", flush=True)
        try:
            return subprocess.run(
                [*EDGECTL, *words],
                cwd=self.folder,
                env=surroundings(),
                capture_output=True,
                text=True,
                timeout=_COMMAND_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"edgectl {words[0]} {words[1]} takes too long") from error

    def photograph(self) -> None:
        """Put pictures into `photos`, in a folder for each label, and the same into `unsorted`."""
        (self.folder / "unsorted").mkdir()
        rng = np.random.default_rng(_PHOTOS_SEED)
        for number in range(_PHOTOS):
            label = LABELS[number % len(LABELS)]
            image = draw_sample(rng, label, 640, 480, float(rng.uniform(0.7, 1.0)))
            (self.folder / "photos" / label).mkdir(parents=True, exist_ok=True)
            for name in (f"photos/{label}/{number}.png", f"unsorted/{number}.png"):
                cv2.imwrite(str(self.folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def write(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def package(self, version: str) -> Path:
        """Return where the package of a version is, or would be."""
        return self.folder / f"belt-{version}.zip"

    def by_hand(
        self, version: str, changes: Mapping[str, bytes], answer: int | None = None
    ) -> None:
        """Make a package of that of version 2.0.0 without asking `pack`; see `rebuilt`."""
        rebuilt(self.package("2.0.0"), self.package(version), version, changes, answer)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve `repo` until the end of the block; give what devices need of `[update]`.

        Raises:
            DemoError: it does not start.
        """
        words = ("repo", "serve", "repo", "--port", "0")
        print(f"  $ edgectl {shlex.join(words)}", flush=True)
        with running([*EDGECTL, *words], self._log, folder=self.folder) as process:
            end_s = time.monotonic() + _SERVING_S
            while "targets_url" not in text_of(self._log):
                if process.poll() is not None or time.monotonic() > end_s:
                    raise DemoError(f"the repository is not served:\n{text_of(self._log)}")
                time.sleep(0.05)
            urls = re.findall(r"^(?:metadata|targets)_url = .*$", text_of(self._log), re.MULTILINE)
            yield "\n".join([*urls, f'root = "{self.folder / "root.json"}"'])

    @property
    def asked(self) -> list[str]:
        """Paths that devices have asked the server for."""
        return re.findall(r'"GET (\S+) HTTP/[\d.]+" \d+', text_of(self._log))

    @contextmanager
    def stranger_serves(self) -> Iterator[None]:
        """Let the server give out `stranger` in the place of `repo` until the end of the block."""
        repo, aside, stranger = (self.folder / name for name in ("repo", "aside", "stranger"))
        repo.rename(aside)
        stranger.rename(repo)
        yield
        repo.rename(stranger)
        aside.rename(repo)


def _show(text: str) -> None:
    for line in text.splitlines():
        print(f"    {line}" if line else "")

"""The service as a package installs it on a device that is a container, and what it says."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sim.broker import wait_for
from sim.nspawn import Container

# A rig on a busy machine: what comes in time costs nothing.
PATIENCE_S = 300.0
FPS = 50
INVOKE_LIMIT_S = 1
CONFIG = f"""
[mqtt]
host = "127.0.0.1"

[[model]]
name = "belt"
factory = "belt"
invoke_limit_s = {INVOKE_LIMIT_S}

[[camera]]
name = "front"
source = "synthetic"
model = "belt"
fps = {FPS}
"""


@dataclass(frozen=True)
class Heard:
    """One prediction.

    Attributes:
        at_s: when it came, monotonic.
        version: that made it.
        boot: the start of the daemon.
        captured_s: when its frame was captured, as the device's clock has it.
    """

    at_s: float
    version: str
    boot: str
    captured_s: float

    @property
    def by_factory(self) -> bool:
        """Whether the factory model made it."""
        return self.version.startswith("0.0.0-factory")


class Predictions:
    """What a subscriber beside the broker hears."""

    def __init__(self, machine: Container) -> None:
        self.heard: list[Heard] = []
        command = machine.command("mosquitto_sub", "-h", "127.0.0.1", "-t", "edged/+/prediction/#")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            one = Heard(time.monotonic(), said["version"], said["boot"], said["t"])
            self.heard.append(one)

    def close(self) -> None:
        """Listen no more; what runs inside ends with the container."""
        self._process.terminate()
        self._process.wait()

    def next(self, what: str, wanted: Callable[[Heard], bool] = lambda one: True) -> Heard:
        """Wait for the next prediction that is wanted, from now on."""
        since = len(self.heard)
        wait_for(what, lambda: any(map(wanted, self.heard[since:])), PATIENCE_S)
        return next(filter(wanted, self.heard[since:]))

    def starts(self, since_s: float) -> list[tuple[Heard, Heard]]:
        """Return the first and the last prediction of each start of the daemon since then."""
        late = [one for one in list(self.heard) if one.at_s >= since_s]
        groups = [list(group) for _, group in itertools.groupby(late, lambda one: one.boot)]
        return [(group[0], group[-1]) for group in groups]


class Installed:
    """The service on a machine.

    Args:
        machine: booted.
        say: takes a line for people.

    Attributes:
        figures: by name; `_s` are seconds.
        predictions: what a subscriber hears.
    """

    def __init__(self, machine: Container, say: Callable[[str], None]) -> None:
        self.machine = machine
        self.say = say
        self.figures: dict[str, float] = {}
        self.predictions = Predictions(machine)

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.machine.root / "etc/edged/edged.toml"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.machine.root / "var/lib/edged"

    def configure(self, more: str = "", **instead: str) -> None:
        """Write the configuration: tables before all others, keys with other values."""
        text = CONFIG
        for key, value in instead.items():
            text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
            assert count == 1, key
        self.config.write_text(more + text)

    def active(self) -> str:
        """Return what `systemctl is-active` says."""
        return self.machine.run("systemctl", "is-active", "edged").stdout.strip()

    def shown(self, name: str) -> str:
        """Return a property of the unit."""
        return self.machine.done("systemctl", "show", "-P", name, "edged").strip()

    def pid(self) -> int:
        return int(self.shown("MainPID"))

    def restarts(self) -> int:
        """Return how often systemd has started it again by itself."""
        return int(self.shown("NRestarts"))

    def start(self) -> None:
        self.machine.done("systemctl", "start", "edged")

    def stop(self) -> None:
        self.machine.done("systemctl", "stop", "edged")

    def mark(self) -> str:
        """Return a place in the journal, for `said`."""
        end = self.machine.done("journalctl", "--lines=0", "--show-cursor", "--quiet")
        return end.partition("cursor: ")[2].strip()

    def said(self, mark: str) -> list[str]:
        """Return the lines of the unit since a place in the journal; "" for since the boot."""
        # A journal that was just written to may not be on its way to the file yet.
        self.machine.done("journalctl", "--sync")
        since = f"--after-cursor={mark}" if mark else "--boot"
        words = ("--unit=edged", "--no-pager", "--output=cat", since)
        return self.machine.done("journalctl", *words).splitlines()

    def figure(
        self, name: str, value: float, words: str, unit: str = " s", goal: float | None = None
    ) -> None:
        """Note a figure and say it, beside the goal where there is one."""
        self.figures[name] = value
        against = ""
        if goal is not None:
            against = f" (goal {goal:.1f}{'' if value <= goal else ', MISSED'})"
        self.say(f"{words}: {value:.1f}{unit}{against}")

    def timed(
        self, name: str, words: str, act: Callable[[], object], goal: float | None = None
    ) -> None:
        """Do something and note how long it took."""
        began_s = time.monotonic()
        act()
        self.figure(name, time.monotonic() - began_s, words, goal=goal)

"""The package on a device that is a container: installed, configured, run, hurt, purged."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sim import badmodels
from sim.broker import wait_for
from sim.desk import Desk
from sim.machine import EVERY_MODULE
from sim.nspawn import Container

WATCHDOG_S = 10
INVOKE_LIMIT_S = 1
_FPS = 50
_CONFIG = f"""
[mqtt]
host = "127.0.0.1"
[update]
{{update}}
[[model]]
name = "belt"
factory = "belt"
invoke_limit_s = {INVOKE_LIMIT_S}
[[camera]]
name = "front"
source = "synthetic"
model = "belt"
fps = {_FPS}
"""
_TRIAL = "trial_frames = 10\ntrial_seconds = 1"
# Written by every run of dpkg, apt or systemd, whatever is installed.
_ANYWAY = re.compile(
    r"/(var/(log|cache|lib/(dpkg|apt|systemd)|tmp)|run|proc|sys|dev|tmp)/|/etc/\S+-$"
)


@dataclass(frozen=True)
class Heard:
    """One prediction: when it came, in monotonic seconds, and which version made it."""

    at_s: float
    version: str


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
            self.heard.append(Heard(time.monotonic(), json.loads(line)["version"]))

    def close(self) -> None:
        """Listen no more; what runs inside ends with the container."""
        self._process.terminate()
        self._process.wait()

    def next(self, what: str, wanted: Callable[[Heard], bool], limit_s: float = 60.0) -> Heard:
        """Wait for the next prediction that is wanted, from now on."""
        since = len(self.heard)
        wait_for(what, lambda: any(map(wanted, self.heard[since:])), limit_s)
        return next(filter(wanted, self.heard[since:]))

    def silence_s(self, since_s: float) -> list[float]:
        """Return the gaps of more than two seconds since then."""
        times = [one.at_s for one in list(self.heard) if one.at_s >= since_s]
        return [b - a for a, b in itertools.pairwise(times) if b - a > 2.0]


class SystemdRig:
    """Runs the steps, each of which raises AssertionError where something is not as it must be.

    Args:
        machine: booted.
        package: the .deb, of the machine's suite and architecture.
        say: takes a line for people, once for each figure.
    """

    def __init__(self, machine: Container, package: Path, say: Callable[[str], None]) -> None:
        self.machine = machine
        self.figures: dict[str, float] = {"boot_s": machine.boot_s}
        self._package = package
        self._say = say
        (machine.root / "root" / package.name).write_bytes(package.read_bytes())
        self._inside = f"/root/{package.name}"

    def run(self) -> dict[str, float]:
        """Run all steps.

        Returns:
            the figures by name; `_s` are seconds.
        """
        self._say(f"boot {self.figures['boot_s']:.1f} s")
        before = self._files()
        accounts = (self.machine.root / "etc/passwd").read_text()
        self._install()
        predictions = Predictions(self.machine)
        try:
            self._starts(predictions)
            self._sandbox()
            self._reload_restart_stop(predictions)
            self._hang(predictions)
            self._crash_loop(predictions)
            self._upgrade(predictions)
        finally:
            predictions.close()
        self._purge(before, accounts)
        return self.figures

    def _install(self) -> None:
        apt = ("apt-get", "install", "--yes", "--no-install-recommends", self._inside)
        self._timed("install_s", "installed without network", lambda: self.machine.done(*apt))
        assert self.machine.done("systemctl", "is-enabled", "edged").strip() == "enabled"
        assert self._active() == "inactive", "it must not run before it is configured"
        assert self.machine.done("dpkg", "--verify", "edged") == ""
        self.machine.done("/opt/edged/bin/python3", "-sPc", EVERY_MODULE)
        self.machine.done("edgectl", "repo", "init", "/root/repo")
        groups = self.machine.done("id", "-nG", "edged").split()
        assert {"apex", "plugdev", "render", "video"} <= set(groups), groups

    def _starts(self, predictions: Predictions) -> None:
        self._configure("")
        self.machine.done("edged", "check-config")
        began_s = time.monotonic()
        self.machine.done("systemctl", "start", "edged")
        first = predictions.next("the first prediction", lambda one: True)
        self._figure("first_prediction_s", first.at_s - began_s, "start to first prediction")
        assert "INFO: running" not in self.machine.run("systemctl", "--failed").stdout
        compiled = self.machine.root / "opt/edged"
        assert not list(compiled.rglob("*.pyc.*")), "something was compiled anew"
        smaps = self.machine.done("sh", "-c", f"grep ^Pss: /proc/{self._pid()}/smaps_rollup")
        self._figure(
            "memory_mb", int(smaps.split()[1]) / 1e3, "memory of the process (Pss), MB", ""
        )

    def _sandbox(self) -> None:
        said = self.machine.done("systemd-analyze", "security", "--no-pager", "edged")
        found = re.search(r"Overall exposure level.*: ([0-9.]+)", said)
        assert found is not None, said
        self._figure("exposure", float(found[1]), "systemd-analyze security, exposure", "")
        assert self.figures["exposure"] <= 2.0

    def _reload_restart_stop(self, predictions: Predictions) -> None:
        pid = self._pid()
        self._configure("deadline_s = 3600")
        self.machine.done("systemctl", "reload", "edged")
        predictions.next("predictions after a reload", lambda one: True)
        assert self._pid() == pid
        good = self._config.read_text()
        self._config.write_text(good + "nonsense = 1\n")
        assert self.machine.run("systemctl", "reload", "edged").returncode != 0
        predictions.next("predictions after a reload that was refused", lambda one: True)
        assert self._pid() == pid
        self._config.write_text(good)
        self._timed(
            "restart_s", "restart", lambda: self.machine.done("systemctl", "restart", "edged")
        )
        predictions.next("predictions after a restart", lambda one: True)
        self._timed("stop_s", "stop", lambda: self.machine.done("systemctl", "stop", "edged"))
        assert self._active() == "inactive"
        result = self.machine.done("systemctl", "show", "-P", "Result", "edged").strip()
        assert result == "success", result

    def _hang(self, predictions: Predictions) -> None:
        """A candidate that hangs in its trial: retried once, then the previous model is back."""
        drop_in = self.machine.root / "etc/systemd/system/edged.service.d"
        drop_in.mkdir()
        (drop_in / "rig.conf").write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
        self.machine.done("systemctl", "daemon-reload")
        self.machine.done("systemctl", "start", "edged")
        predictions.next("predictions", lambda one: True)
        began_s = time.monotonic()
        version = self._candidate("1.0.0", badmodels.harm_at_frame(400, "endless"))
        predictions.next("the candidate", lambda one: one.version == version)
        wait_for("two hangs", lambda: self._restarts() >= 2, 4 * WATCHDOG_S + 60.0)
        predictions.next("the previous model", _is_factory)
        first, second = predictions.silence_s(began_s)
        self._figure("hang_s", first, f"hang to predictions, WatchdogSec={WATCHDOG_S}")
        self._figure("second_hang_s", second, "second hang to the previous model")
        said = self._journal()
        assert said.count("Watchdog timeout") == 2, said
        self._ended("ROLLED_BACK", "trial_crashed")

    def _crash_loop(self, predictions: Predictions) -> None:
        """A model that was committed and then crashes at every start: no start limit is reached."""
        self._configure(_TRIAL)
        self.machine.done("systemctl", "restart", "edged")
        predictions.next("predictions", _is_factory)
        before = self._restarts()
        version = self._candidate("2.0.0", badmodels.harm_at_frame(400))
        predictions.next("the candidate", lambda one: one.version == version)
        began_s = time.monotonic()
        wait_for("three crashes", lambda: self._restarts() - before >= 3, 120.0)
        back = predictions.next("the factory model", _is_factory)
        self._figure("crash_loop_s", back.at_s - began_s, "three crashes to the factory model")
        assert self._active() == "active"
        assert self.machine.run("systemctl", "is-failed", "edged").stdout.strip() != "failed"

    def _upgrade(self, predictions: Predictions) -> None:
        """The same package again, as an upgrade is: what ran runs, the configuration stays."""
        config = self._config.read_text()
        pid = self._pid()
        apt = ("dpkg", "--install", self._inside)
        self._timed("upgrade_s", "upgrade of a running service", lambda: self.machine.done(*apt))
        predictions.next("predictions after an upgrade", _is_factory)
        assert self._pid() != pid
        assert self._config.read_text() == config
        self.machine.done("systemctl", "stop", "edged")
        self.machine.done("dpkg", "--install", self._inside)
        assert self._active() == "inactive", "an upgrade starts what was stopped"

    def _purge(self, before: set[str], accounts: str) -> None:
        self.machine.done("systemctl", "start", "edged")
        self.machine.done(
            "rm", "-rf", "/root/repo", "/root/repo-keys", "/etc/systemd/system/edged.service.d"
        )
        purge = ("apt-get", "purge", "--yes", "edged")
        self._timed("purge_s", "purge of a running service", lambda: self.machine.done(*purge))
        left = sorted(self._files() - before)
        assert left == [], f"left behind: {left}"
        gone = sorted(before - self._files())
        assert gone == [], f"taken along: {gone}"
        assert (self.machine.root / "etc/passwd").read_text() == accounts
        for path in (
            "/run/edged",
            "/var/lib/systemd/deb-systemd-helper-enabled/edged.service.dsh-also",
        ):
            assert self.machine.run("test", "-e", path).returncode == 1, f"left behind: {path}"
        self.machine.done("dpkg", "--audit")

    def _candidate(self, version: str, content: bytes) -> str:
        """Begin to install a package by hand and return its version."""
        file = self.machine.root / "root" / f"{version}.zip"
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(Path(folder))
            try:
                file.write_bytes(desk.pack(version, content, name="belt").read_bytes())
            finally:
                desk.close()
        words = ("edged", "models", "install", "--bare", "--json", "--model", "belt")
        # /root itself is closed to the service; the open file is passed.
        self.machine.done(*words, f"/root/{file.name}")
        file.unlink()
        return version

    def _ended(self, status: str, reason: str) -> None:
        said = self.machine.done("edged", "deployments", "belt", "--json")
        assert f'"{status}"' in said, said
        assert f'"{reason}"' in said, said

    @property
    def _config(self) -> Path:
        return self.machine.root / "etc/edged/edged.toml"

    def _configure(self, update: str) -> None:
        self._config.write_text(_CONFIG.format(update=update))

    def _active(self) -> str:
        return self.machine.run("systemctl", "is-active", "edged").stdout.strip()

    def _pid(self) -> int:
        return int(self.machine.done("systemctl", "show", "-P", "MainPID", "edged"))

    def _restarts(self) -> int:
        return int(self.machine.done("systemctl", "show", "-P", "NRestarts", "edged"))

    def _journal(self) -> str:
        return self.machine.done("journalctl", "--unit=edged", "--no-pager", "--output=cat")

    def _files(self) -> set[str]:
        found = self.machine.done("find", "/", "-xdev", "-not", "-path", "/root/*", "-print")
        return {line for line in found.splitlines() if not _ANYWAY.search(line)}

    def _figure(self, name: str, value: float, words: str, unit: str = " s") -> None:
        self.figures[name] = value
        self._say(f"{words}: {value:.1f}{unit}")

    def _timed(self, name: str, words: str, act: Callable[[], object]) -> None:
        began_s = time.monotonic()
        act()
        self._figure(name, time.monotonic() - began_s, words)


def _is_factory(one: Heard) -> bool:
    return one.version.startswith("0.0.0-factory")

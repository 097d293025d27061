"""The package on a device that is a container: installed, configured, run, hurt, purged."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edged.models.records import Release
from edged.models.seal import bare_digest
from edged.models.store import Store
from sim import badmodels
from sim.broker import wait_for
from sim.desk import Desk
from sim.devicepackage import Changes
from sim.devicetroubles import Troubles
from sim.installed import PATIENCE_S, Installed
from sim.machine import EVERY_MODULE
from sim.nspawn import Container

WATCHDOG_S = 10
_TRIAL = "[update]\ntrial_frames = 10\ntrial_seconds = 1\n"
_HARM_AT = 400  # frames
_SETTLED_S = 30.0  # caches are full, what the start took is given back
_ROOT = "/etc/edged/tuf/root.json"


class SystemdRig:
    """Runs the steps, each of which raises AssertionError where something is not as it must be.

    Args:
        machine: booted.
        package: the .deb, of the machine's suite and architecture.
        say: takes a line for people, once for each figure.
    """

    def __init__(self, machine: Container, package: Path, say: Callable[[str], None]) -> None:
        self.machine = machine
        self.service = Installed(machine, say)
        self._package = package
        self._changes = Changes(self.service, package)

    def run(self) -> dict[str, float]:
        """Run all steps.

        Returns:
            the figures by name; `_s` are seconds.
        """
        service, troubles = self.service, Troubles(self.service)
        service.figure("boot_s", self.machine.boot_s, "boot")
        troubles.prepare()
        self._changes.before()
        try:
            self._install()
            self._starts()
            self._sandbox()
            self._reload_restart_stop()
            self._hang()
            self._crash_loop()
            self._crash_at_start()
            troubles.run()
            self._changes.run()
        finally:
            service.predictions.close()
        self._changes.purge()
        return service.figures

    def _install(self) -> None:
        machine, service = self.machine, self.service
        service.timed("install_s", "installed without network", self._changes.install, goal=15.0)
        assert machine.done("systemctl", "is-enabled", "edged").strip() == "enabled"
        assert service.active() == "inactive", "it must not run before it is configured"
        assert machine.done("dpkg", "--verify", "edged") == ""
        machine.done("/opt/edged/bin/python3", "-sPc", EVERY_MODULE)
        groups = machine.done("id", "-nG", "edged").split()
        assert {"apex", "plugdev", "render", "video"} <= set(groups), groups

    def _starts(self) -> None:
        machine, service = self.machine, self.service
        service.configure()
        machine.done("edged", "check-config")
        began_s = time.monotonic()
        service.start()
        first = service.predictions.next("the first prediction")
        service.figure("first_prediction_s", first.at_s - began_s, "start to first prediction")
        compiled = machine.root / "opt/edged"
        assert list(compiled.rglob("edged/__pycache__/daemon.*.pyc")), "nothing is compiled"
        assert not list(compiled.rglob("*.pyc.*")), "something was compiled anew"
        time.sleep(_SETTLED_S)
        smaps = machine.done("sh", "-c", f"grep ^Pss: /proc/{service.pid()}/smaps_rollup")
        megabytes = int(smaps.split()[1]) / 1e3
        service.figure("memory_mb", megabytes, "memory of the process (Pss), MB", "", 120.0)

    def _sandbox(self) -> None:
        said = self.machine.done("systemd-analyze", "security", "--no-pager", "edged")
        found = re.search(r"Overall exposure level.*: ([0-9.]+)", said)
        assert found is not None, said
        exposure = float(found[1])
        self.service.figure("exposure", exposure, "systemd-analyze security, exposure", "", 2.0)
        assert exposure <= 2.0

    def _reload_restart_stop(self) -> None:
        machine, service = self.machine, self.service
        pid = service.pid()
        service.configure("[update]\ndeadline_s = 3600\n")
        machine.done("systemctl", "reload", "edged")
        service.predictions.next("predictions after a reload")
        assert service.pid() == pid
        good = service.config.read_text()
        service.config.write_text(good + "nonsense = 1\n")
        assert machine.run("systemctl", "reload", "edged").returncode != 0
        service.predictions.next("predictions after a reload that was refused")
        assert service.pid() == pid
        service.config.write_text(good)
        service.timed("restart_s", "restart", lambda: machine.done("systemctl", "restart", "edged"))
        service.predictions.next("predictions after a restart")
        service.timed("stop_s", "stop", service.stop)
        assert service.active() == "inactive"
        assert service.shown("Result") == "success"

    def _hang(self) -> None:
        """A signed candidate that hangs on trial: tried twice, then the previous model is back."""
        machine, service = self.machine, self.service
        drop_in = machine.root / "etc/systemd/system/edged.service.d"
        drop_in.mkdir()
        (drop_in / "rig.conf").write_text(f"[Service]\nWatchdogSec={WATCHDOG_S}\n")
        machine.done("systemctl", "daemon-reload")
        # The operator is on this side; the two share the container's loopback and nothing else.
        with tempfile.TemporaryDirectory() as folder, machine.network():
            desk = Desk(Path(folder))
            try:
                mark = self._pushed(desk)
            finally:
                desk.close()
        said = service.said(mark)
        assert sum("Watchdog request" in line for line in said) == 2, "\n".join(said)
        assert not any("Watchdog timeout" in line for line in said), "\n".join(said)
        assert sum("an invoke or a load is stuck" in line for line in said) == 2, "\n".join(said)
        shutil.rmtree(drop_in)
        machine.done("systemctl", "daemon-reload")

    def _pushed(self, desk: Desk) -> str:
        machine, service = self.machine, self.service
        root = machine.root / _ROOT[1:]
        root.parent.mkdir()
        shutil.copy(desk.root, root)
        model = badmodels.harm_at_frame(_HARM_AT, "endless")
        desk.publish("1.0.0", model, name="belt", trial={"frames": 100_000})
        service.configure(desk.update.replace(str(desk.root), _ROOT))
        mark, began_s = service.mark(), time.monotonic()
        service.start()
        service.predictions.next("predictions")
        machine.done("edgectl", "fleet", "deploy", "belt", "1.0.0", "--all", "--yes")
        service.predictions.next("the candidate", lambda one: one.version == "1.0.0")
        wait_for("two hangs", lambda: service.restarts() >= 2, PATIENCE_S)
        service.predictions.next("the previous model", lambda one: one.by_factory)
        (_, hung), (again, hung_again), (back, _) = service.predictions.starts(began_s)
        assert (hung.version, hung_again.version) == ("1.0.0", "1.0.0")
        limit_s = WATCHDOG_S + 5.0
        words = f"hang to predictions, WatchdogSec={WATCHDOG_S}"
        service.figure("hang_s", again.at_s - hung.at_s, words, goal=limit_s)
        to_hang_s = hung_again.at_s - again.at_s
        words = f"first hang to the previous model, {to_hang_s:.1f} s of them before the second"
        total_s = back.at_s - hung.at_s
        service.figure("trial_hang_s", total_s, words, goal=2 * limit_s + to_hang_s)
        self._ended("ROLLED_BACK", "trial_crashed")
        return mark

    def _crash_loop(self) -> None:
        """A model that was committed and then crashes again and again."""
        machine, service = self.machine, self.service
        service.configure(_TRIAL)
        machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions", lambda one: one.by_factory)
        before = service.restarts()
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(Path(folder))
            model = badmodels.harm_at_frame(_HARM_AT)
            content = desk.pack("2.0.0", model, name="belt").read_bytes()
            desk.close()
        file = machine.root / "root/2.0.0.zip"
        file.write_bytes(content)
        # /root itself is closed to the service; the open file is passed.
        words = ("models", "install", "--bare", "--json", "--model", "belt", "/root/2.0.0.zip")
        machine.done("edged", *words)
        file.unlink()
        service.predictions.next("the candidate", lambda one: one.version == "2.0.0")
        self._crashes(before, "crash_loop_s", "three crashes of a committed model to the factory's")

    def _crash_at_start(self) -> None:
        """An active version that ends the process while it is loaded, before READY."""
        machine, service = self.machine, self.service
        service.stop()
        contents = {"model.tflite": badmodels.abort_at_load()}
        sha256 = bare_digest(contents)
        store = Store(service.state)

        def fill(place: Path) -> None:
            for name, data in contents.items():
                (place / name).write_bytes(data)

        store.install("belt", "3.0.0", sha256, sum(map(len, contents.values())), fill)
        home = store.journal("belt")
        journal = home.load().journal
        assert journal is not None
        bad = Release("3.0.0", sha256, time.time_ns() // 1_000_000)
        home.save(replace(journal, active=bad, previous=None, crashes=None))
        machine.done("chown", "--recursive", "edged:edged", "/var/lib/edged")
        machine.run("systemctl", "start", "edged")
        self._crashes(0, "crash_at_start_s", "three crashes at the start to the factory model")
        said = machine.done("edged", "deployments", "belt", "--json")
        assert "active_crashed" in said, said

    def _crashes(self, before: int, name: str, words: str) -> None:
        service, began_s = self.service, time.monotonic()
        wait_for("three crashes", lambda: service.restarts() - before >= 3, PATIENCE_S)
        back = service.predictions.next("the factory model", lambda one: one.by_factory)
        service.figure(name, back.at_s - began_s, words)
        assert service.active() == "active"

    def _ended(self, status: str, reason: str) -> None:
        """Wait until the only deployment so far has ended so."""

        def told() -> str:
            return self.machine.done("edged", "deployments", "belt", "--json")

        wait_for(
            lambda: f"{status} {reason}: {told()}",
            lambda: f'"{status}"' in told() and f'"{reason}"' in told(),
            PATIENCE_S,
        )

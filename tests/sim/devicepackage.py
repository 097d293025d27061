"""What is done to a package on a device: installed, upgraded, broken off, taken back, purged."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from sim.broker import wait_for
from sim.installed import PATIENCE_S, Installed

OLDER, NEWER = "0.0.9-1", "0.9.0-1"
# Written by every run of dpkg, apt or systemd, whatever is installed.
_ANYWAY = re.compile(
    r"/(var/(log|cache|lib/(dpkg|apt|systemd)|tmp)|run|proc|sys|dev|tmp)/|/etc/\S+-$"
)
_SCRIPTS = "/var/lib/dpkg/info/edged."
# Answers dpkg's question whether to take the package's configuration in place of the owner's.
_KEEP = ("-o", "Dpkg::Options::=--force-confold")


class Changes:
    """The steps, each of which raises AssertionError where something is not as it must be.

    Args:
        service: to be installed.
        package: the .deb.
    """

    def __init__(self, service: Installed, package: Path) -> None:
        self._service = service
        self._machine = service.machine
        self._package = package
        self._files: set[str] = set()
        self._accounts = ""

    def before(self) -> None:
        """Remember what is there without the package."""
        self._files = self._found()
        self._accounts = (self._machine.root / "etc/passwd").read_text()

    def install(self) -> None:
        """Install the package as the owner does."""
        self._apt("install", self._placed(self._package))
        assert self._access() == "640 root:edged", self._access()

    def run(self) -> None:
        """Run all steps but the purge; afterwards the package is installed and the service runs."""
        with tempfile.TemporaryDirectory(dir=self._machine.root.parent) as name:
            tree = Path(name) / "tree"
            subprocess.run(["dpkg-deb", "--raw-extract", self._package, tree], check=True)
            older, newer = self._variant(tree, OLDER), self._variant(tree, NEWER, _other_conffile)
            failing = self._variant(tree, "0.9.1-1", _failing)
        self._upgrade(newer)
        self._broken_off(failing)
        self._broken_configuration(newer)
        self._again_while_stopped(newer)
        self._service.start()
        self._apt("install", "--allow-downgrades", older)
        assert self._version() == OLDER
        self._service.predictions.next("predictions after a downgrade")
        self._removed()

    def _upgrade(self, newer: str) -> None:
        service, machine = self._service, self._machine
        service.configure()
        machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions")
        config, pid = service.config.read_text(), service.pid()
        service.timed(
            "upgrade_s",
            "upgrade of a running service",
            lambda: self._apt("install", newer),
        )
        service.predictions.next("predictions after an upgrade")
        assert self._version() == NEWER
        assert service.pid() != pid
        assert service.config.read_text() == config, "the owner's configuration was touched"
        assert self._access() == "640 root:edged", self._access()
        beside = service.config.with_name("edged.toml.dpkg-dist")
        assert beside.read_text().startswith("# newer"), "the package's is not beside it"
        pid = service.pid()
        for _ in range(2):
            self._script("postinst", "configure", NEWER)
        assert service.pid() == pid, "a second run of postinst starts the service anew"
        assert service.config.read_text() == config

    def _broken_off(self, failing: str) -> None:
        """An upgrade that fails before it unpacks: what ran runs again."""
        service, pid = self._service, self._service.pid()
        assert self._machine.run("dpkg", "--install", failing).returncode != 0
        assert self._version() == NEWER
        service.predictions.next("predictions after an upgrade that failed")
        assert service.pid() != pid
        self._machine.done("dpkg", "--audit")

    def _broken_configuration(self, newer: str) -> None:
        """One that no longer holds after an upgrade: said in one line, once, until it is mended."""
        service = self._service
        good, mark = service.config.read_text(), service.mark()
        service.config.write_text(good.replace("host =", "hots ="))
        self._machine.done("dpkg", "--install", newer, limit_s=PATIENCE_S)
        wait_for("the end", lambda: service.active() == "failed", PATIENCE_S)
        named = [line for line in service.said(mark) if "/etc/edged/edged.toml" in line]
        assert len(named) == 1, "\n".join(service.said(mark))
        assert all("hots" in line and "line 3" in line for line in named), named
        service.say(f"broken configuration after an upgrade: {named[0]}")
        service.config.write_text(good)
        self._machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions once the configuration is mended")

    def _again_while_stopped(self, newer: str) -> None:
        """The same package twice; what was stopped and disabled stays so."""
        service = self._service
        service.stop()
        self._machine.done("systemctl", "disable", "edged")
        self._machine.done("dpkg", "--install", newer, limit_s=PATIENCE_S)
        assert service.active() == "inactive", "an upgrade starts what was stopped"
        enabled = self._machine.run("systemctl", "is-enabled", "edged").stdout.strip()
        assert enabled == "disabled", "an upgrade enables what was disabled"
        self._machine.done("systemctl", "enable", "edged")

    def _removed(self) -> None:
        """Removed and installed again it goes on with configuration and models as they were."""
        service, machine = self._service, self._machine
        config, journal = service.config.read_text(), service.state / "models/belt/state.json"
        self._apt("remove", "edged")
        assert machine.run("pgrep", "--uid", "edged").returncode == 1, "something still runs"
        assert not (machine.root / "opt/edged").exists()
        assert service.config.read_text() == config
        assert journal.exists()
        for _ in range(2):
            self._script("postrm", "remove")
        self._apt("install", self._placed(self._package))
        assert machine.done("systemctl", "is-enabled", "edged").strip() == "enabled"
        assert service.config.read_text() == config
        service.start()
        service.predictions.next("predictions after it was removed and installed again")

    def purge(self) -> None:
        """Purge the package while the service runs, and find nothing left of it."""
        service, machine = self._service, self._machine
        for file in (machine.root / "root").glob("*.deb"):
            file.unlink()
        postrm = machine.root / "root/edged.postrm"
        shutil.copy(machine.root / f"{_SCRIPTS[1:]}postrm", postrm)
        service.timed("purge_s", "purge of a running service", lambda: self._apt("purge", "edged"))
        self._script("postrm", "purge", folder="/root/edged.")
        left = sorted(self._found() - self._files)
        assert left == [], f"left behind: {left}"
        gone = sorted(self._files - self._found())
        assert gone == [], f"taken along: {gone}"
        assert (machine.root / "etc/passwd").read_text() == self._accounts
        for path in (
            "/run/edged",
            "/run/edged-was-active",
            "/var/lib/systemd/deb-systemd-helper-enabled/edged.service.dsh-also",
        ):
            assert machine.run("test", "-e", path).returncode == 1, f"left behind: {path}"
        machine.done("dpkg", "--audit")

    def _variant(
        self, tree: Path, version: str, change: Callable[[Path], None] = lambda tree: None
    ) -> str:
        """Pack a copy with another version, not compressed; its path inside."""
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text()))
        change(tree)
        path = self._machine.root / "root" / f"{version}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return f"/root/{path.name}"

    def _placed(self, package: Path) -> str:
        shutil.copy(package, self._machine.root / "root")
        return f"/root/{package.name}"

    def _apt(self, *words: str) -> None:
        command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes")
        self._machine.done(*command, "--no-install-recommends", *_KEEP, *words, limit_s=PATIENCE_S)

    def _script(self, name: str, *words: str, folder: str = _SCRIPTS) -> None:
        """Run a maintainer script as dpkg would."""
        environment = ("env", "DPKG_MAINTSCRIPT_PACKAGE=edged", f"DPKG_MAINTSCRIPT_NAME={name}")
        self._machine.done(*environment, "sh", "-e", f"{folder}{name}", *words)

    def _access(self) -> str:
        """Return who may read the configuration."""
        file = "/etc/edged/edged.toml"
        return self._machine.done("stat", "--format=%a %U:%G", file).strip()

    def _version(self) -> str:
        return self._machine.done("dpkg-query", "--show", "--showformat=${Version}", "edged")

    def _found(self) -> set[str]:
        found = self._machine.done("find", "/", "-xdev", "-not", "-path", "/root/*", "-print")
        return {line for line in found.splitlines() if not _ANYWAY.search(line)}


def _other_conffile(tree: Path) -> None:
    file = tree / "etc/edged/edged.toml"
    file.write_text(f"# newer\n{file.read_text()}")


def _failing(tree: Path) -> None:
    script = tree / "DEBIAN/preinst"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)

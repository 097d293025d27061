"""The tree of the package, and the archive: the same bytes from the same sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from debian import papers
from debian.suites import ROOT, SOURCE, BuildError, Suite
from debian.trim import trim
from debian.wheels import unpack

PREFIX = "opt/edged"
# Files of this repository and where they go.
_INSTALLED = {
    ROOT / "config/edged.toml": "etc/edged/edged.toml",
    ROOT / "systemd/edged.service": "usr/lib/systemd/system/edged.service",
    ROOT
    / "systemd/edgectl-refresh.service": "usr/share/doc/edged/examples/edgectl-refresh.service",
    ROOT / "systemd/edgectl-refresh.timer": "usr/share/doc/edged/examples/edgectl-refresh.timer",
    SOURCE / "sysusers": "usr/lib/sysusers.d/edged.conf",
    SOURCE / "tmpfiles": "usr/lib/tmpfiles.d/edged.conf",
    SOURCE / "udev": "usr/lib/udev/rules.d/60-edged.rules",
    SOURCE / "lintian-overrides": "usr/share/lintian/overrides/edged",
}
_SCRIPTS = ("postinst", "prerm", "postrm")


class Package:
    """One package of one version, for one suite and architecture.

    Args:
        tree: an empty directory, filled with what is to be installed.
    """

    def __init__(self, suite: Suite, architecture: str, tree: Path) -> None:
        self.suite = suite
        self.architecture = architecture
        self.tree = tree
        self.changelog = (SOURCE / "changelog").read_text()
        self.epoch = int(_parsed("Timestamp"))
        self.upstream, _, _ = _parsed("Version").rpartition("-")
        self.version = f"{_parsed('Version')}~{suite.revision}"
        self.site = tree / PREFIX / f"lib/python3.{suite.python}/site-packages"

    @property
    def file_name(self) -> str:
        """As Debian names archives."""
        return f"edged_{self.version}_{self.architecture}.deb"

    def fill(self, wheels: list[Path]) -> None:
        """Lay everything out that is installed."""
        said = re.search(r'__version__ = "(.*)"', (ROOT / "edged/__init__.py").read_text())
        if said is None or said[1] != self.upstream:
            raise BuildError(f"packaging/debian/changelog is of {self.upstream}, edged is not.")
        self.environment(wheels)
        for source, place in _INSTALLED.items():
            target = self.tree / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        documents = self.tree / "usr/share/doc/edged"
        papers.compressed(documents / "changelog.gz", (ROOT / "CHANGELOG.md").read_bytes())
        suited = self.changelog.replace(f"({_parsed('Version')})", f"({self.version})", 1)
        papers.compressed(documents / "changelog.Debian.gz", suited.encode())
        papers.pages(documents)
        papers.copyright_file(self.site, documents / "copyright")
        papers.manuals(self.tree, self.upstream, self.epoch)
        papers.completions(self.tree)

    def archive(self, folder: Path) -> Path:
        """Write the .deb into a directory and return its path."""
        control = self.tree / "DEBIAN"
        control.mkdir()
        files = [path for path in sorted(self.tree.rglob("*")) if path.parent != control]
        kibibytes = sum(1 + path.lstat().st_size // 1024 for path in files)
        suite = self.suite
        (control / "control").write_text(
            (SOURCE / "control.in")
            .read_text()
            .format(
                version=self.version,
                architecture=self.architecture,
                python=f"3.{suite.python}",
                next_python=f"3.{suite.next_python}",
                installed_size=kibibytes,
            )
        )
        (control / "conffiles").write_text("/etc/edged/edged.toml\n")
        sums = [
            f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
            f"  {path.relative_to(self.tree)}\n"
            for path in files
            if path.is_file() and not path.is_symlink() and path.parts[-3:-1] != ("etc", "edged")
        ]
        (control / "md5sums").write_text("".join(sums))
        for script in _SCRIPTS:
            shutil.copyfile(SOURCE / script, control / script)
        self.same_modes_and_times()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        part = path.with_suffix(".part")
        # xz: what every dpkg and lintian reads; at 6 it is cut into blocks, which dpkg unpacks on
        # all cores of a board.
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z6", "--build"]
        subprocess.run(
            [*command, str(self.tree), str(part)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(self.epoch)},
        )
        return part.replace(path)

    def environment(self, wheels: list[Path]) -> None:
        """Lay out the Python environment, compiled, and the programs."""
        self.site.mkdir(parents=True)
        for wheel in wheels:
            unpack(wheel, self.site)
        trim(self.site)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "edged"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        for name in filter(None, listed.split("\0")):
            target = self.site / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        prefix = self.tree / PREFIX
        # picamera2, libcamera and systemd-python are the system's: its packages come after ours.
        (prefix / "pyvenv.cfg").write_text(
            "home = /usr/bin\ninclude-system-site-packages = true\n"
            f"version = 3.{self.suite.python}\n"
        )
        binaries = prefix / "bin"
        binaries.mkdir()
        (binaries / "python3").symlink_to("/usr/bin/python3")
        programs = self.tree / "usr/bin"
        programs.mkdir(parents=True)
        for program, module in (("edged", "edged.__main__"), ("edgectl", "edged.operator.cli")):
            (programs / program).write_text(
                # -s, -P: nothing from a home directory. Variables such as PYTHONFAULTHANDLER hold.
                f"#!/{PREFIX}/bin/python3 -sP\n"
                "import sys\n"
                f"from {module} import main\n"
                "sys.exit(main())\n"
            )
        self._compile()

    def _compile(self) -> None:
        """Compile for the suite's Python: the service may not write there, and starts at once.

        The compiled files are not compared with their sources, whose times dpkg may change.
        """
        program = (
            "import compileall, py_compile, sys\n"
            "sys.exit(not compileall.compile_dir(sys.argv[1], quiet=1, stripdir=sys.argv[2],\n"
            "  prependdir='/', invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH))\n"
        )
        command = [self.suite.interpreter(), "-c", program, str(self.site), str(self.tree)]
        # Whatever this shell tells Python, such as another place for what is compiled.
        plain = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        subprocess.run(command, check=True, env={**plain, "PYTHONHASHSEED": "0"})

    def same_modes_and_times(self) -> None:
        """Give every file the modes and times that it has in each build."""
        executable = {self.tree / "DEBIAN" / script for script in _SCRIPTS}
        executable |= set((self.tree / "usr/bin").iterdir())
        for path in [self.tree, *self.tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path in executable else 0o644)
            os.utime(path, (self.epoch, self.epoch), follow_symlinks=False)


def _parsed(field: str) -> str:
    command = ["dpkg-parsechangelog", f"--file={SOURCE / 'changelog'}", f"--show-field={field}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

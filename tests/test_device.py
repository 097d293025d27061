"""The Debian package: its parts, and with --device the rigs of scripts/device-test."""

from __future__ import annotations

import functools
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEBIAN = ROOT / "packaging" / "debian"
PINNED = sorted((DEBIAN / "requirements").glob("*.txt"))


@functools.cache
def package(suite: str, architecture: str) -> str:
    """Build a package, once for all rigs; its file."""
    command = [str(ROOT / "scripts/build-deb"), "--suite", suite, "--arch", architecture]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    release = {"bookworm": "deb12", "trixie": "deb13"}[suite]
    found = (ROOT / "dist").glob(f"edged_*~{release}_{architecture}.deb")
    return str(max(found, key=lambda path: path.stat().st_mtime))


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return {line.partition("==")[0]: line.partition("==")[2] for line in lines}


def test_four_packages_are_pinned() -> None:
    names = [path.stem for path in PINNED]
    assert names == ["bookworm-amd64", "bookworm-arm64", "trixie-amd64", "trixie-arm64"]


@pytest.mark.parametrize("path", PINNED, ids=lambda path: path.stem)
def test_every_requirement_is_pinned_with_a_hash(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    old = path.stem.startswith("bookworm")
    asked = [
        line.partition(";")[0].partition("[")[0].partition(">")[0]
        for line in project["dependencies"]
        if ";" not in line or ("<" in line.partition(";")[2]) == old
    ]
    pinned = pins(path)

    assert set(asked) <= set(pinned)
    assert all("--hash=sha256:" in pin for pin in pinned.values())
    # The system's picamera2 and simplejpeg on bookworm are built against numpy 1.
    assert pinned["numpy"].startswith("1." if old else "2.")
    if old:
        assert pinned["opencv-python-headless"].split(".")[:2] < ["4", "12"]


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_both_architectures_run_the_same_versions(suite: str) -> None:
    versions = [
        {name: pin.split()[0] for name, pin in pins(path).items()}
        for path in PINNED
        if path.stem.startswith(suite)
    ]
    assert versions[0] == versions[1]


@pytest.mark.parametrize("script", ["postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_posix_shell(script: str) -> None:
    done = subprocess.run(
        ["sh", "-n", str(DEBIAN / script)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.device
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("arguments", "packages"),
    [
        ("systemd --suite bookworm", ["bookworm amd64"]),
        ("systemd --suite trixie", ["trixie amd64"]),
        ("arm64", ["bookworm amd64", "bookworm arm64"]),
        ("image", []),
        ("wear --minutes 1", []),
        ("camera", ["trixie amd64"]),
        ("power --points 300 --kills 1 --short", ["bookworm amd64"]),
    ],
)
def test_rig(arguments: str, packages: list[str]) -> None:
    debs = [f"--deb={package(*one.split())}" for one in packages]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/device-test"), *arguments.split(), *debs],
        capture_output=True,
        text=True,
        check=False,
    )
    if "skipped: " in done.stdout:
        pytest.skip(done.stdout.partition("skipped: ")[2].strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all well" in done.stdout

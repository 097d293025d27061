"""The container image: its parts, and with --device the rigs of scripts/device-test."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sim import imagerig, wearrig

ROOT = Path(__file__).parents[1]
CONTAINERFILE = (ROOT / "packaging/oci/Containerfile").read_text()
UNIT = (ROOT / "systemd/edged.service").read_text()


def instruction(name: str) -> str:
    """What follows the last instruction of that name, its lines joined."""
    joined = CONTAINERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)[-1]


def test_the_container_has_the_environment_of_the_unit() -> None:
    wanted = {pair for line in re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)
              for pair in line.split()}  # fmt: skip

    assert set(instruction("ENV").split()) == wanted


def test_the_container_runs_as_a_user_by_number() -> None:
    user, group = instruction("USER").split(":")

    assert int(user) > 0
    assert f"--uid {user} " in CONTAINERFILE
    assert f"--gid {group} " in CONTAINERFILE


def test_directories_are_those_of_the_unit() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT)
    service = unit["Service"]

    assert instruction("VOLUME") == f"/var/lib/{service['StateDirectory']}"
    made = re.search(r"install -d -o edged -g edged -m (\d+) (.*)$", CONTAINERFILE, re.MULTILINE)
    assert made is not None
    assert made[1] == service["StateDirectoryMode"] == service["RuntimeDirectoryMode"]
    assert made[2].split() == ["/var/lib/edged", f"/run/{service['RuntimeDirectory']}"]


def test_loading_may_take_as_long_as_it_is_allowed_to() -> None:
    from edged.assembly import LOAD_LIMIT_S

    begun = re.search(r"--start-period=(\d+)s", instruction("HEALTHCHECK"))
    assert begun is not None
    assert int(begun[1]) > LOAD_LIMIT_S


def deb(folder: Path, architecture: str, library: str) -> Path:
    """A package with one library, as Coral's is."""
    root = folder / "root"
    target = root / "usr/lib/x86_64-linux-gnu" / library
    target.parent.mkdir(parents=True)
    target.write_bytes(b"\x7fELF")
    (target.parent / "libedgetpu.so.1").symlink_to(target.name)
    if library != "libedgetpu.so.1.0":
        (target.parent / "libedgetpu.so.1").unlink()
    (root / "usr/share/doc/libedgetpu1-std").mkdir(parents=True)
    (root / "usr/share/doc/libedgetpu1-std/copyright").write_text("Apache-2.0")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        f"Package: libedgetpu1-std\nVersion: 16.0\nArchitecture: {architecture}\n"
        "Maintainer: nobody <nobody@example.org>\nDescription: stand-in\n"
    )
    path = folder / "libedgetpu1-std.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


TAKE_IN = """
import sys
from pathlib import Path
from debian.image import _take_in
from debian.package import Package
from debian.suites import SUITES, BuildError
try:
    _take_in(Path(sys.argv[1]), Package(SUITES["bookworm"], "amd64", Path(sys.argv[2])))
except BuildError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("architecture", "library", "refused"),
    [
        ("amd64", "libedgetpu.so.1.0", ""),
        ("arm64", "libedgetpu.so.1.0", "is for arm64, the image for amd64"),
        ("amd64", "libsomething.so.1.0", "has no libedgetpu.so.1."),
    ],
)
def test_a_package_of_libedgetpu_is_taken_in(tmp_path, architecture, library, refused) -> None:
    python = ROOT / ".venv/bin/python"
    for module in ("shtab", "argparse_manpage"):
        try:
            subprocess.run([python, "-c", f"import {module}"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("scripts/setup deb has not been run")
    path = deb(tmp_path, architecture, library)

    done = subprocess.run(
        [python, "-B", "-c", TAKE_IN, str(path), str(tmp_path / "tree")],
        env={"PYTHONPATH": str(ROOT / "scripts"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused in done.stderr
    assert (done.returncode == 0) == (not refused), done.stderr
    taken = tmp_path / "tree/usr/lib/x86_64-linux-gnu"
    if not refused:
        assert (taken / "libedgetpu.so.1").resolve() == taken / "libedgetpu.so.1.0"
        assert (tmp_path / "tree/usr/share/doc/libedgetpu1-std/copyright").exists()


def test_the_health_check_is_a_command_there_is(capsys) -> None:
    from edged.cli import _parser

    words = shlex.split(instruction("HEALTHCHECK").partition("CMD ")[2].strip("[]"))
    command = [word.strip(",") for word in words]

    assert command[0] == "/usr/bin/edged"
    _parser().parse_args(command[1:])


@pytest.mark.device
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("rig", "missing"), [(["image"], imagerig.missing),
                                              (["wear", "--minutes", "1"], wearrig.missing)],
                         ids=["image", "wear"])  # fmt: skip
def test_rig(rig, missing) -> None:
    if reason := missing():
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/device-test"), *rig],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr

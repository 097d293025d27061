"""Wheels: which, pinned by hash; fetched for a machine that need not be this one; unpacked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from debian.suites import ROOT, BuildError, Suite

# Asked for by others' metadata, imported by nothing that edged runs: they serve compilers of
# models, coloured sources and progress bars. tests/sim/devicerig.py imports every module without.
LEFT_OUT = {
    "backports-strenum",
    "markdown-it-py",
    "mdurl",
    "ml-dtypes",
    "protobuf",
    "pycparser",
    "pygments",
    "tqdm",
}


def pin(suite: Suite, architecture: str) -> None:
    """Resolve the requirements for a suite anew and write them with the hashes of their wheels."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    asked = list(project["dependencies"])
    for extra in suite.extras:
        asked += project["optional-dependencies"][extra]
    # pip judges `python_version` by the Python it runs in, whatever it resolves for.
    command = [suite.interpreter(), "-m", "pip", "install", "--quiet", "--dry-run", "--report=-"]
    command += ["--ignore-installed", "--target=/nonexistent", *_target(suite, architecture)]
    report = json.loads(_pip(command + asked))
    lines = [
        f"# Made by scripts/build-deb --pin: what is bundled for {suite.name}, {architecture}.",
    ]
    for item in sorted(report["install"], key=lambda item: _name(item["metadata"]["name"])):
        name, version = _name(item["metadata"]["name"]), item["metadata"]["version"]
        if name not in LEFT_OUT:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={version} --hash=sha256:{digest}")
    path = suite.requirements(architecture)
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def fetch(suite: Suite, architecture: str, folder: Path) -> list[Path]:
    """Bring the pinned wheels here, where they are not; pip checks the hashes either way.

    Returns:
        their files, in order of name.
    """
    pinned = suite.requirements(architecture)
    shutil.rmtree(folder.with_suffix(".new"), ignore_errors=True)
    new = folder.with_suffix(".new")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    command += [f"--requirement={pinned}", f"--dest={new}", *_target(suite, architecture)]
    if folder.exists():
        command.append(f"--find-links={folder}")
    _pip(command)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return sorted(folder.glob("*.whl"), key=lambda path: path.name.lower())


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel as pip would, but for programs, headers and the list of its files.

    Raises:
        BuildError: an entry would leave the directory.
    """
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            parts = Path(entry).parts
            if entry.endswith("/") or parts[-1] in {"RECORD", "INSTALLER", "REQUESTED"}:
                continue
            if parts[0].endswith(".data"):
                if parts[1] not in {"purelib", "platlib"}:
                    continue
                parts = parts[2:]
            if ".." in parts or Path(entry).is_absolute():
                raise BuildError(f"{wheel.name}: {entry} is no place in a package.")
            place = site.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(entry))


def _target(suite: Suite, architecture: str) -> list[str]:
    python = f"3{suite.python}"
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version=3.{suite.python}"]
    options += [f"--abi={abi}" for abi in (f"cp{python}", "abi3", "none")]
    return options + [f"--platform={tag}" for tag in suite.platforms(architecture)]


def _name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def _pip(command: list[str]) -> str:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise BuildError(f"pip: {done.stderr.strip()[-2000:]}")
    return done.stdout

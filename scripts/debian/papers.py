"""What is written from what is there: manual pages, completions, documents, licences."""

from __future__ import annotations

import argparse
import email
import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import shtab

from debian.suites import ROOT, SOURCE
from edged.cli import _parser as edged_parser
from edged.operator.cli import _parser as edgectl_parser

PROGRAMS = {
    "edged": ("edged.cli", edged_parser, "vision on the device, from camera to MQTT"),
    "edgectl": ("edged.operator.cli", edgectl_parser, "models for a fleet of edged devices"),
}
_SHELLS = {
    "bash": "usr/share/bash-completion/completions/{}",
    "zsh": "usr/share/zsh/vendor-completions/_{}",
}
_FILES = {"FILE", "FILE.tar", "PACKAGE.zip", "PUBLIC.pem"}


def manuals(root: Path, version: str, epoch: int) -> None:
    """Write the manual pages of both programs."""
    folder = root / "usr/share/man/man1"
    folder.mkdir(parents=True)
    # The width of help texts is the terminal's, the date today's.
    environment = {**os.environ, "COLUMNS": "80", "SOURCE_DATE_EPOCH": str(epoch)}
    environment["PYTHONPATH"] = str(ROOT)
    for program, (module, _, words) in PROGRAMS.items():
        command = [str(Path(sys.executable).with_name("argparse-manpage")), "--module", module]
        command += ["--function", "_parser", "--prog", program, "--project-name", "edged"]
        command += ["--version", version, "--description", words, "--manual-title", "edged"]
        done = subprocess.run(command, check=True, capture_output=True, env=environment)
        # A line of text that begins with a dot would be a request.
        page = re.sub(rb"^(?=\.\.)", rb"\\&", done.stdout, flags=re.MULTILINE)
        page += (SOURCE / f"{program}.man").read_bytes()
        compressed(folder / f"{program}.1.gz", page)


def completions(root: Path) -> None:
    """Write the completions of both programs for bash and zsh."""
    for program, (_, parser, _) in PROGRAMS.items():
        for shell, place in _SHELLS.items():
            path = root / place.format(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(shtab.complete(_with_files(parser()), shell=shell))


def pages(documents: Path) -> None:
    """Copy the documents, as they stand in the sources: their links hold, and grep finds reasons.

    Pictures stay out.
    """
    command = ["git", "ls-files", "-z", "README.md", "docs/*.md", "docs/*.json"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        target = documents / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)


def copyright_file(site: Path, path: Path) -> None:
    """Write whose work is in the package and under which licences."""
    stanzas = [(SOURCE / "copyright").read_text().rstrip("\n")]
    for info in sorted(site.glob("*.dist-info"), key=lambda info: info.name.lower()):
        facts = email.message_from_string((info / "METADATA").read_text())
        licence = facts["License-Expression"] or facts["License"] or _classified(facts)
        texts = [text for text in sorted(info.rglob("*")) if _is_licence(text)]
        places = [f"/opt/edged/{text.relative_to(site.parents[2])}" for text in texts]
        # Wheels without a text name a licence that Debian has.
        places = places or ["/usr/share/common-licenses/Apache-2.0"]
        holder = facts["Author"] or facts["Author-email"] or facts["Maintainer-email"]
        stanzas.append(
            f"Files: /opt/edged/lib/python3*/site-packages/{info.name.split('-')[0]}*\n"
            f"Copyright: {' '.join((holder or facts['Name'] + ' authors').split())}\n"
            f"License: {facts['Name']}\n"
            f" {facts['Name']} {facts['Version']}: {licence.splitlines()[0]}\n"
            + "".join(f" .\n The text: {place}\n" for place in places).rstrip("\n")
        )
    path.write_text("\n\n".join(stanzas) + "\n")


def compressed(path: Path, content: bytes) -> None:
    """Write a file compressed with gzip, the same bytes each time."""
    path.write_bytes(gzip.compress(content, 9, mtime=0))


def _classified(facts: email.message.Message) -> str:
    classifiers = [str(line) for line in facts.get_all("Classifier", [])]
    found = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License")]
    return ", ".join(found) or "see its text"


def _is_licence(path: Path) -> bool:
    words = ("licen", "copying", "notice", "edl-", "epl-")
    return path.is_file() and any(word in path.name.lower() for word in words)


def _with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let the shell complete the names of files where a file is asked for."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _with_files(below)
        elif action.metavar in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar == "DIR":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return parser

"""`edged drift`: what was recorded, and what the service says of it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from edged.arguments import directories
from edged.command import OK
from edged.control_client import ask, reading_files
from edged.control_wire import Request
from edged.drift.keeping import digest_of
from edged.drift.picture import draw
from edged.drift.records import parse_validation
from edged.drift.reference import Reference
from edged.drift.report import CameraReport, report_lines, reports
from edged.drift.ring import read_windows
from edged.drift.shelf import Shelf
from edged.drift.window import Subject, Tally
from edged.errors import ControlError, DriftError, StoreError
from edged.models.files import Files
from edged.models.manifest import REFERENCE
from edged.models.store import Store

log = logging.getLogger(__name__)

Answer = dict[str, object]


def report(args: argparse.Namespace) -> int:
    """Show reference against now; with the service's judgement where it runs."""
    state_dir, runtime_dir = directories(args)
    standings = _standings(runtime_dir)
    with reading_files():
        found = reports(read_windows(state_dir, Files()), _OnDisk(state_dir))
    if args.camera is not None:
        found = [one for one in found if one.subject.camera == args.camera]
    if not found:
        whose = "of any camera" if args.camera is None else f"of a camera '{args.camera}'"
        raise DriftError(
            "nothing_recorded",
            f"no drift windows {whose} are in {state_dir}.",
            advice="The first comes after window_s of running: 300 s, unless [drift] says else.",
        )
    if args.png is not None:
        _draw(found, args.png)
    if args.json:
        cameras = [one.to_dict() | {"standing": standings.get(one.subject.camera)} for one in found]
        print(orjson.dumps({"cameras": cameras}).decode())
        return OK
    for one in found:
        print("\n".join(report_lines(one, standings.get(one.subject.camera))))
    if not standings:
        print("No service that records drift runs: this is from the disk.")
    return OK


def acknowledge(args: argparse.Namespace) -> int:
    """End a camera's alarm that a person has seen."""
    return _obeyed(args, "drift_acknowledge", "is acknowledged")


def reset(args: argparse.Namespace) -> int:
    """Begin a camera's reference anew: what comes now is normal."""
    return _obeyed(args, "drift_reset", "begins a new reference")


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "report": report,
    "acknowledge": acknowledge,
    "reset": reset,
}
"""By the word on the command line."""


class _OnDisk:
    """What is kept on the disk, read and not changed."""

    def __init__(self, state_dir: Path) -> None:
        self._shelf, self._store = Shelf(state_dir, Files()), Store(state_dir)

    def reference(self, subject: Subject) -> Reference:
        return self._shelf.read(subject.camera, digest_of(subject))

    def validation(self, subject: Subject) -> Tally | None:
        try:
            path = self._store.place(subject.model, subject.version) / REFERENCE
            return parse_validation(path.read_bytes())
        except (OSError, ValueError):
            return None  # no version of the store, or a package without
        except DriftError as error:
            log.warning("%s: %s (%s)", path, error, error.reason)
            return None


def _obeyed(args: argparse.Namespace, operation: str, words: str) -> int:
    _, runtime_dir = directories(args)
    answer = ask(runtime_dir, Request(operation, {"camera": args.camera}))
    if args.json:
        print(orjson.dumps(answer).decode())
        return OK
    standing = answer.get("camera")
    state = standing.get("state") if isinstance(standing, dict) else "?"
    print(f"{args.camera} {words}; its state is {state}.")
    return OK


def _standings(runtime_dir: Path) -> dict[str, Answer]:
    """Return what the service says of each camera; nothing where none runs or none records."""
    try:
        cameras = ask(runtime_dir, Request("drift", {})).get("cameras")
    except ControlError:
        return {}
    given = cameras if isinstance(cameras, list) else []
    return {str(one.get("camera")): one for one in given if isinstance(one, dict)}


def _draw(found: list[CameraReport], path: Path) -> None:
    if len(found) != 1:
        names = ", ".join(one.subject.camera for one in found)
        raise DriftError("camera_not_said", f"a picture is of one camera; say which: {names}.")
    try:
        path.write_bytes(draw(found[0]))
    except OSError as error:
        raise StoreError("file_unwritable", f"cannot write {path}: {error}.") from error

"""`edgectl fleet drift`: what the windows of a fleet say of a candidate."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from edged.command import FAILED, OK, UsageError
from edged.drift.cohorts import Cohorts, split
from edged.drift.merging import Sifted, merge, sift
from edged.drift.verdict import Terms, Verdict, decide
from edged.drift.window import Window
from edged.errors import OperatorError
from edged.operator import driftsaid, fleetoptions
from edged.operator.driftwindows import TOPIC, Inbox, Reading, Recording
from edged.operator.fleetdesk import Desk
from edged.operator.fleetoptions import broker_of
from edged.operator.fleetscreen import note, print_json, print_table

# Windows come every five minutes.
_LISTEN_S = 330.0
_LOOK_S = 1.0
_AGO = re.compile(r"([0-9]{1,6})([mhd])")
_UNIT_S = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def add_drift_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("model", nargs="?", type=fleetoptions.name, metavar="MODEL")
    parser.add_argument(
        "--candidate", metavar="VERSION", help="say promote, hold or roll back; 0 only for promote"
    )
    parser.add_argument(
        "--canary", type=fleetoptions.devices, action="extend", metavar="ID[,ID...]",
        help="devices that try it (default: all that ran it)",
    )  # fmt: skip
    parser.add_argument(
        "--control", type=fleetoptions.devices, action="extend", metavar="ID[,ID...]",
        help="devices that do not (default: all others)",
    )  # fmt: skip
    parser.add_argument(
        "--since", type=since, metavar="T", help="windows from then on: 36h, 7d, 2026-03-01T12:00"
    )
    parser.add_argument(
        "--budget", type=_budget, metavar="N",
        help="percent of paired inferences on which candidate and model before may disagree",
    )  # fmt: skip
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--files", type=Path, nargs="+", metavar="FILE",
        help="read windows there, one on a line, and do not ask the broker",
    )  # fmt: skip
    source.add_argument(
        "--record", type=Path, metavar="FILE",
        help="only write windows there as they come, until Ctrl-C or for --seconds",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=fleetoptions.seconds, metavar="S",
        help=f"listen so long (default: {_LISTEN_S:g})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def drift(args: argparse.Namespace) -> int:
    """Print what a fleet's windows come to, or record them."""
    reading = Reading()
    if args.record:
        return _record(args, reading)
    if args.model is None:
        raise UsageError("give MODEL, or --record FILE.")
    if args.candidate is None and (args.canary or args.control or args.budget):
        raise UsageError("--canary, --control and --budget go with --candidate.")
    windows: list[Window] = []

    def take(window: Window) -> None:
        placed = args.since is None or (window.synchronised and window.began_ms >= args.since)
        if window.subject.model == args.model and placed:
            windows.append(window)

    if args.files:
        for path in args.files:
            reading.file(path, take)
    else:
        for window in _listened(args, reading):
            take(window)
    sifted = sift(windows)
    if not sifted.windows:
        raise OperatorError(
            "windows_missing",
            f"no window of {args.model} was found, and {reading.refused.total()} were none.",
            advice="Devices send one every five minutes for each camera: --seconds, or --files.",
        )
    return _report(args, sifted, reading)


def since(text: str) -> int:
    """Return a point in time, as Unix time in ms."""
    if (ago := _AGO.fullmatch(text)) is not None:
        return round((time.time() - int(ago[1]) * _UNIT_S[ago[2]]) * 1000)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError("must be such as 36h, 7d or 2026-03-01T12:00") from None


def _budget(text: str) -> float:
    value = fleetoptions.percent(text) / 100.0
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 99")
    return value


def _listened(args: argparse.Namespace, reading: Reading) -> list[Window]:
    """Return what comes while it listens, with what came before Ctrl-C."""
    config = broker_of(args)
    inbox = Inbox(config.topic_prefix, reading)
    with Desk(config, [TOPIC], note, hear=inbox.hear) as desk:
        try:
            desk.listen(_LISTEN_S if args.seconds is None else args.seconds)
        except KeyboardInterrupt:
            note("no longer listened.")
    return inbox.windows()


def _record(args: argparse.Namespace, reading: Reading) -> int:
    """Write windows to a file as they come."""
    if args.candidate or args.json:
        raise UsageError("--record only writes; then read with --files.")
    config = broker_of(args)
    inbox = Inbox(config.topic_prefix, reading)
    limit_mono_s = math.inf if args.seconds is None else time.monotonic() + args.seconds
    recording, count = Recording(args.record), 0

    def write() -> int:
        found = [one for one in inbox.windows() if args.model in (None, one.subject.model)]
        recording.add(found)
        return len(found)

    try:
        with Desk(config, [TOPIC], note, hear=inbox.hear) as desk:
            while (left_s := limit_mono_s - time.monotonic()) > 0.0:
                desk.listen(min(_LOOK_S, left_s))
                count += write()
    except KeyboardInterrupt:
        count += write()
    finally:
        recording.close()
        note(f"{count} windows written to {args.record}.")
        _remark(driftsaid.remarks(sift(()), reading.refused, None))
    return OK


def _report(args: argparse.Namespace, sifted: Sifted, reading: Reading) -> int:
    cohorts: Cohorts | None = None
    verdict: Verdict | None = None
    if args.candidate is not None:
        cohorts = split(sifted.windows, args.candidate, args.canary, args.control)
        verdict = decide(cohorts, Terms(budget=args.budget))
    canaries = frozenset() if cohorts is None else cohorts.canaries

    def cohort_of(window: Window) -> str:
        if cohorts is None:
            return ""
        if window.device in canaries:
            return "canary"
        return "control" if not args.control or window.device in args.control else "other"

    groups = merge(sifted.windows, cohort_of)
    remarks = driftsaid.remarks(sifted, reading.refused, cohorts)
    if args.json:
        values = {"model": args.model, "groups": driftsaid.merged_values(groups)}
        values |= {"repeated": sifted.repeated, "remarks": remarks}
        if cohorts is not None and verdict is not None:
            values["verdict"] = driftsaid.verdict_values(cohorts, verdict)
        print_json(values)
    else:
        print_table(driftsaid.MERGED, driftsaid.merged_rows(groups))
        if cohorts is not None and verdict is not None:
            _print_verdict(cohorts, verdict)
        _remark(remarks)
    return OK if verdict is None or verdict.decision == "promote" else FAILED


def _print_verdict(cohorts: Cohorts, verdict: Verdict) -> None:
    if cohorts.units:
        print()
        print_table(driftsaid.CHANGES, driftsaid.change_rows(cohorts))
    if verdict.judged:
        print()
        print_table(driftsaid.JUDGED, driftsaid.judged_rows(verdict.judged))
    candidate, baseline = cohorts.candidate[0], cohorts.baseline[0]
    print(f"\n{verdict.decision}: {candidate} against {baseline}")
    for reason in verdict.reasons:
        print(f"  {reason}")


def _remark(lines: Sequence[str]) -> None:
    for line in lines:
        note(line)

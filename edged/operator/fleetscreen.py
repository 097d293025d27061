"""What people at the desk see of a fleet: tables and lines. Presentation only.

On a terminal with rich, in colour; elsewhere, and without rich, as plain lines. All texts have
lost their control characters in `edged.operator.fleetview`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from edged.operator.fleetplan import Row
from edged.operator.fleetsaid import Said
from edged.operator.fleetview import Fleet, SeenModel
from edged.views import columns

# ruff: noqa: PLC0415 - rich is there at the desk only, and takes its time

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = ("DEVICE", "ONLINE", "MODEL", "ACTIVE", "PREVIOUS", "TRIAL", "LATEST",
             "LAST DEPLOYMENT", "EDGED")  # fmt: skip
_BAD = frozenset({"worse", "FAILED", "REJECTED", "ROLLED_BACK", "REFUSED"})
_GOOD = frozenset({"harmless", "SUCCEEDED", "COMMITTED", "online", "yes"})
_PALE = frozenset({"offline", "no", "waiting", "-"})
_BAR = 20


def note(text: str) -> None:
    """Say something to the person at the desk."""
    print(f"edgectl: {text}", file=sys.stderr, flush=True)


def fleet_rows(fleet: Fleet, devices: Sequence[str], model: str | None) -> list[list[str]]:
    """Return one row for each model of each of the devices."""
    rows = []
    for name in devices:
        device = fleet.devices[name]
        online = {None: "?", True: "yes", False: "no"}[device.online]
        models = {key: seen for key, seen in sorted(device.models.items()) if model in (None, key)}
        for key, seen in models.items() or (("", SeenModel()),):
            versions = [seen.active, seen.previous, seen.trial, seen.latest]
            rows.append([name, online, key, *versions, _last(seen.last), device.edged])
    return [[cell or "-" for cell in row] for row in rows]


def fleet_values(fleet: Fleet, devices: Sequence[str], model: str | None) -> list[dict[str, Any]]:
    """Return the same for machines."""
    found = []
    for name in devices:
        device = fleet.devices[name]
        models = []
        for key, seen in sorted(device.models.items()):
            if model in (None, key):
                last = seen.last and {
                    "deployment_id": seen.last.deployment_id,
                    "version": seen.last.version,
                    "state": seen.last.word,
                    "reason": seen.last.reason,
                }
                versions = {
                    role: getattr(seen, role) or None
                    for role in ("active", "previous", "trial", "latest")
                }
                models.append({"model": key, **versions, "last": last})
        found.append(
            {
                "device": name,
                "online": device.online,
                "edged": device.edged or None,
                "groups": device.groups,
                "models": models,
            }
        )
    return found


def print_json(value: object) -> None:
    """Print one line of JSON."""
    print(orjson.dumps(value).decode(), flush=True)


def print_sent(topic: str, payload: bytes) -> None:
    """Print a message that was sent."""
    print(f"{topic} {payload.decode()}", flush=True)


def print_fleet(rows: Sequence[Sequence[str]]) -> None:
    """Print the table of `fleet_rows`."""
    print_table(_HEADINGS, rows)


def print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; on a terminal without columns that say nothing.

    Args:
        names: of the columns.
        rows: a cell for each; `-` says nothing.
    """
    if not sys.stdout.isatty():
        print("\n".join(columns([names, *rows], sys.maxsize)))
        return
    said = [at for at in range(len(names)) if any(row[at] != "-" for row in rows)]
    headings, cells = [names[at] for at in said], [[row[at] for at in said] for row in rows]
    if not _has_rich():
        print("\n".join(columns([headings, *cells], shutil.get_terminal_size().columns)))
        return
    from rich.console import Console

    Console(highlight=False, markup=False).print(_table(headings, cells))


def print_said(said: Said, now: datetime, *, json: bool) -> None:
    """Print what a device said, as one line."""
    if json:
        values = {key: value for key, value in asdict(said).items() if value not in ("", None)}
        print_json({"t": round(now.timestamp(), 3), **values})
        return
    which = " ".join(filter(None, (said.model, said.version)))
    words = [f"{now:%H:%M:%S}", said.device, which, said.deployment_id, said.word]
    if said.percent is not None:
        words.append(f"{said.percent} %")
    line = "  ".join(filter(None, words))
    print(line + _why(said.reason, said.detail or said.about), flush=True)


class Board:
    """How it stands with each device, while one waits: a table in place, or lines on change."""

    def __init__(self) -> None:
        self._live: Any = None
        self._shown: dict[str, Row] = {}

    def __enter__(self) -> Self:
        if sys.stdout.isatty() and _has_rich():
            from rich.console import Console
            from rich.live import Live

            console = Console(highlight=False, markup=False)
            self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")
            self._live.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.vertical_overflow = "visible"
            self._live.stop()

    def show(self, rows: Sequence[Row]) -> None:
        """Show how it stands now."""
        changed = [row for row in rows if self._shown.get(row.device) != row]
        self._shown = {row.device: row for row in rows}
        if self._live is None:
            for row in changed:
                print("  ".join(filter(None, (row.device, *_cells(row)))), flush=True)
        elif changed:
            # What goes on stands above what has ended, where there is no room for all.
            ordered = sorted(rows, key=lambda row: (row.done and row.good, row.device))
            cells = [[row.device, *_cells(row, bar=True)] for row in ordered]
            self._live.update(_table(["DEVICE", "STATE", "", "WHY"], cells), refresh=True)


def summary(rows: Sequence[Row]) -> str:
    """Return how many devices ended how, e.g. `2 SUCCEEDED, 1 ROLLED_BACK`."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.word] = counts.get(row.word, 0) + 1
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def _cells(row: Row, *, bar: bool = False) -> list[str]:
    percent = ""
    if row.percent is not None:
        full = row.percent * _BAR // 100
        percent = f"{'█' * full}{'░' * (_BAR - full)} " if bar else ""
        percent += f"{row.percent} %"
    return [row.word, percent, _why(row.reason, row.detail).removeprefix(": ")]


def _why(reason: str, detail: str) -> str:
    words = f"{detail} ({reason})" if reason and detail else reason or detail
    return f": {words}" if words else ""


def _last(said: Said | None) -> str:
    if said is None:
        return ""
    reason = f" ({said.reason})" if said.reason else ""
    return f"{said.word}{reason} {said.deployment_id}"


def _has_rich() -> bool:
    return importlib.util.find_spec("rich") is not None


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        steady = 12 if heading == "STATE" else None
        no_wrap = heading in ("DEVICE", "STATE")
        table.add_column(heading, overflow="fold", no_wrap=no_wrap, min_width=steady)
    for row in rows:
        table.add_row(*(Text(cell, _style(cell.partition(" ")[0])) for cell in row))
    return table


def _style(word: str) -> str:
    if word in _BAD:
        return "red"
    if word in _GOOD:
        return "green"
    return "dim" if word in _PALE else ""

"""Keeps a mirror on disk of messages that the broker does not take: its thread and its timing.

Memory holds every message; the mirror is only for the next process. A row is written while there
is no connection, or for a message that has gone unacknowledged for too long, and for every result;
all that came within a tick goes into one transaction. When the last row is gone the file goes too,
so a broker that answers keeps the disk quiet. Nobody but this thread waits for the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Protocol

from edged.errors import StoreError, Trouble
from edged.mqtt.moment import Moment
from edged.mqtt.outbox import Changes, Entry
from edged.mqtt.spoolfile import Row, SpoolFile

_LOG = logging.getLogger(__name__)

_TICK_S = 0.2
# A start with a healthy broker has connected by then, and needs no file.
_FIRST_TICK_S = 1.0
# A broker that has not acknowledged for so long is as good as away.
_OVERDUE_S = 5.0
_RETRY_FIRST_S = 1.0
_RETRY_MOST_S = 60.0
_ROWS_AT_ONCE = 1000
# While the broker is away a prediction expires for each that comes; to delete each with its own
# write would double what the disk takes.
_LAPSED_AT_ONCE = 256
# Once everything in it is in memory, a file that cannot be used is worth no more than its name.
_ASIDE = {"outbox_newer": ".newer"}
_ASIDE_ELSE = ".damaged"


class Source(Protocol):
    """Where messages are in memory."""

    def changes(self, before_mono_s: float) -> Changes:
        """Return what is new for the disk: see `Outbox.changes`."""
        ...


def now() -> Moment:
    """Return this moment."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return Moment(time.time(), boot, time.clock_gettime(time.CLOCK_BOOTTIME))


class Spool:
    """The mirror.

    Args:
        path: of the file.
        moment: this moment.
        monotonic: seconds, on the clock of the messages.
    """

    def __init__(
        self,
        path: Path,
        *,
        moment: Callable[[], Moment] = now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = SpoolFile(path)
        self._name = path.name
        self._moment = moment
        self._monotonic = monotonic
        self._source: Source | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._stopping = threading.Event()
        self._due = threading.Event()
        self._answer = threading.Condition()
        self._asked = self._answered = 0
        self._all_well = False
        # The rest belongs to `restore` and then to the thread alone; others read references.
        self._rows: dict[int, Entry] = {}  # on disk
        self._wanted: dict[int, Entry] = {}  # to be written
        self._unwanted: set[int] = set()  # on disk, to be deleted
        self._lapsed: set[int] = set()  # on disk, to be deleted some time
        self._aside = ""  # what the name of a file that is in the way gets appended
        self._failures = 0
        self._retry_mono_s = 0.0
        self._trouble: Trouble | None = None
        self._incident: Trouble | None = None

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong now; else what was found damaged since the start; else None."""
        return self._trouble or self._incident

    @property
    def stored(self) -> int:
        """How many messages are on disk as well as in memory."""
        return max(0, len(self._rows) - len(self._lapsed))

    def restore(self) -> list[Entry]:
        """Return what the last run left, in order. Before `start`; blocks for the disk."""
        rows, error = self._file.read()
        moment, mono_s = self._moment(), self._monotonic()
        entries = [_entry(row, moment, mono_s) for row in rows]
        self._rows = {entry.number: entry for entry in entries}
        if error is not None:
            _LOG.warning("the outbox on disk (%s): %s", error.reason, error.explain())
            self._begin_anew(error)
            self._incident = self._kept(error)
        if entries:
            _LOG.info("%d messages of an earlier run wait for the broker", len(entries))
        return entries

    def follow(self, source: Source) -> None:
        """Mirror this source from now on."""
        self._source = source

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, deadline_s: float) -> bool:
        """Write all that is held, safe from a power cut, and end; whether that came in time."""
        self._stopping.set()
        self._due.set()
        if self._thread.ident is None:
            return True
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def settle(self, limit_s: float) -> bool:
        """Wait until every result published so far is on disk, or needs to be no more.

        Returns:
            Whether it is, safe from a power cut. False: the disk is in trouble, or slow.
        """
        with self._answer:
            self._asked += 1
            mine = self._asked
            self._due.set()
            in_time = self._answer.wait_for(lambda: self._answered >= mine, limit_s)
            return in_time and self._all_well

    def _run(self) -> None:
        self._due.wait(_FIRST_TICK_S)
        while not self._stopping.is_set():
            self._due.clear()
            self._tick()
            if not self._stopping.is_set():
                self._due.wait(_TICK_S)
        self._tick(last=True)
        self._file.close()

    def _tick(self, *, last: bool = False) -> None:
        with self._answer:
            asked = self._asked
        self._learn(float("inf") if last else self._monotonic() - _OVERDUE_S)
        pausing = self._monotonic() < self._retry_mono_s
        if last or asked > self._answered or not pausing:
            try:
                self._write(sync=last)
            except StoreError as error:
                self._fail(error)
            else:
                self._recover()
        with self._answer:
            self._answered = asked
            self._all_well = self._trouble is None
            self._answer.notify_all()

    def _learn(self, before_mono_s: float) -> None:
        """Take in what has changed in memory."""
        if self._source is None:
            return
        changes = self._source.changes(before_mono_s)
        self._wanted.update((entry.number, entry) for entry in changes.rowless)
        for numbers, ended in ((changes.gone, self._unwanted), (changes.lapsed, self._lapsed)):
            ended.update(n for n in numbers if self._wanted.pop(n, None) is None)

    def _write(self, *, sync: bool) -> None:
        """Bring the file up to date.

        Raises:
            StoreError: what is left to do has not been done.
        """
        if self._aside:
            self._file.set_aside(self._aside)
            self._aside = ""
        held = len(self._rows) + len(self._wanted) - len(self._unwanted) - len(self._lapsed)
        if sync or not held or len(self._lapsed) >= _LAPSED_AT_ONCE:
            self._unwanted |= self._lapsed
            self._lapsed = set()
        while self._wanted or self._unwanted:
            if not self._wanted and len(self._unwanted) == len(self._rows):
                self._file.remove()
                entries: list[Entry] = []
            else:
                entries = list(islice(self._wanted.values(), _ROWS_AT_ONCE))
                safe = sync or any(entry.kind == "result" for entry in entries)
                moment, mono_s = self._moment(), self._monotonic()
                rows = (_row(entry, moment, mono_s) for entry in entries)
                self._file.write(rows, self._unwanted, sync=safe)
            for entry in entries:
                self._rows[entry.number] = self._wanted.pop(entry.number)
            for number in self._unwanted:
                del self._rows[number]
            self._unwanted.clear()

    def _fail(self, error: StoreError) -> None:
        if error.reason != "outbox_disk_full" and not self._aside:
            self._begin_anew(error)
            if error.reason == "outbox_damaged":
                self._incident = self._kept(error)
        before, self._trouble = self._trouble, Trouble.of(error)
        if before is None or before.reason != error.reason:
            _LOG.warning("the outbox on disk (%s): %s", error.reason, error.explain())
        pause_s = min(_RETRY_FIRST_S * 2.0**self._failures, _RETRY_MOST_S)
        self._failures = min(self._failures + 1, 16)
        self._retry_mono_s = self._monotonic() + pause_s

    def _recover(self) -> None:
        if self._trouble is not None:
            _LOG.info("the file of the outbox is in order again")
        self._trouble = None
        self._failures = 0

    def _begin_anew(self, error: StoreError) -> None:
        """Have the file set aside and everything held written to a new one."""
        self._aside = _ASIDE.get(error.reason, _ASIDE_ELSE)
        held = self._rows | self._wanted
        over = self._unwanted | self._lapsed
        self._wanted = {n: held[n] for n in sorted(held.keys() - over)}
        self._rows = {}
        self._unwanted, self._lapsed = set(), set()

    def _kept(self, error: StoreError) -> Trouble:
        words = f"{error.explain()} The file is kept as {self._name}{self._aside}."
        return Trouble(error.reason, words)


def _row(entry: Entry, moment: Moment, mono_s: float) -> Row:
    created = moment.earlier(mono_s - entry.created_mono_s)
    return Row(
        entry.number, entry.key, entry.topic, entry.payload, entry.retain, entry.kind, created
    )


def _entry(row: Row, moment: Moment, mono_s: float) -> Entry:
    created_mono_s = mono_s - moment.since(row.created)
    return Entry(
        row.topic, row.payload, 1, row.retain, created_mono_s, row.kind, row.key, row.number
    )

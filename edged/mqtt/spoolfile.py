"""The rows of the outbox on disk: one SQLite file and what may be wrong with it.

The write-ahead log makes every commit safe from a killed process; only `sync` makes one safe from
a power cut. An exclusive lock keeps SQLite's index of that log in the process's own memory: a
mapped file on a full disk would end the process with SIGBUS. Each row carries a checksum, as SQLite
notices damage to its structure only. One thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.errors import StoreError
from edged.mqtt.moment import Moment
from edged.mqtt.outbox import Kind

_SCHEMA = 1
_PRAGMAS = ("locking_mode=EXCLUSIVE", "mmap_size=0", "cell_size_check=ON")
_PRAGMAS_TO_WRITE = (
    *_PRAGMAS,
    "synchronous=NORMAL",
    "journal_mode=WAL",
    "wal_autocheckpoint=1000",
    "journal_size_limit=4194304",
)
_TABLE = """
CREATE TABLE IF NOT EXISTS message (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL, topic BLOB NOT NULL, payload BLOB NOT NULL,
    retain INTEGER NOT NULL, kind BLOB NOT NULL,
    unix_s REAL NOT NULL, boot BLOB NOT NULL, boottime_s REAL NOT NULL, crc INTEGER NOT NULL
)
"""
_INSERT = "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM message WHERE number = ?"
_SELECT = "SELECT * FROM message ORDER BY number "
_TAILS = ("", "-wal", "-journal")
_LOCK_WAIT_S = 0.1

# Primary result codes that say nothing about the content. The others mean that it is damaged.
_OF_THE_PLACE = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One message as it is on disk; all are of QoS 1. For the fields see `Entry`.

    Attributes:
        created: when it was published.
    """

    number: int
    key: str
    topic: str
    payload: bytes
    retain: bool
    kind: Kind
    created: Moment


class SpoolFile:
    """The file; opened, and made, by the first `write`.

    Args:
        path: of the file; SQLite puts its log beside it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def read(self) -> tuple[list[Row], StoreError | None]:
        """Read all rows, in order, and leave the file closed; a file that is missing has none.

        Returns:
            What could be read, and why that is not all: `outbox_damaged`, `outbox_newer`,
            `outbox_unwritable`. Such a file is to be set aside.
        """
        rows: dict[int, Row] = {}
        trouble: StoreError | None = None
        try:
            if not self._path.exists():
                return [], None
            with contextlib.closing(self._connect(_PRAGMAS)) as connection:
                # Lets a file that was cut short be read up to where it ends.
                connection.execute("PRAGMA writable_schema=ON")
                for order in ("ASC", "DESC") if self._has_table(connection) else ():
                    # What stands behind a damaged page is reached from the other end.
                    trouble = self._scan(connection, order, rows) or trouble
                    if trouble is None:
                        break
        except (sqlite3.Error, OSError) as error:
            trouble = self._explained(error)
        except StoreError as error:
            trouble = error
        return [rows[number] for number in sorted(rows)], trouble

    def write(self, rows: Iterable[Row], gone: Iterable[int], *, sync: bool) -> None:
        """Add rows and delete those numbered `gone` in one transaction.

        Args:
            rows: a number that is there already is replaced.
            gone: numbers of rows.
            sync: return only when it is safe from a power cut as well.

        Raises:
            StoreError: `outbox_disk_full`, `outbox_unwritable`, `outbox_damaged`; nothing is
                changed, and the next call opens the file anew.
        """
        with self._explaining():
            if self._connection is None:
                self._connection = self._create()
            connection = self._connection
            connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_INSERT, map(_fields, rows))
            connection.executemany(_DELETE, ((number,) for number in gone))
            connection.execute("COMMIT")

    def remove(self) -> None:
        """Delete the file.

        Raises:
            StoreError: `outbox_unwritable`.
        """
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA synchronous=OFF")  # closing it writes in vain
        self.close()
        with self._explaining():
            for tail in _TAILS:
                self._path.with_name(self._path.name + tail).unlink(missing_ok=True)

    def set_aside(self, suffix: str) -> None:
        """Rename the file, in the place of one set aside before, so that a new one can begin.

        Raises:
            StoreError: `outbox_unwritable`.
        """
        self.close()
        with self._explaining():
            for tail in _TAILS:
                path = self._path.with_name(self._path.name + tail)
                aside = self._path.with_name(self._path.name + suffix + tail)
                if path.exists():
                    path.replace(aside)
                elif tail:
                    aside.unlink(missing_ok=True)  # the log of another file

    def close(self) -> None:
        """Close the file; rows that were committed stay."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _connect(self, pragmas: Iterable[str]) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=_LOCK_WAIT_S, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes  # damaged text is no text
        try:
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _create(self) -> sqlite3.Connection:
        self._path.touch(mode=0o600)
        connection = self._connect(_PRAGMAS_TO_WRITE)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_TABLE)
            connection.execute(f"PRAGMA user_version={_SCHEMA}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _scan(
        self, connection: sqlite3.Connection, order: str, rows: dict[int, Row]
    ) -> StoreError | None:
        damaged = 0
        try:
            for fields in connection.execute(_SELECT + order):
                row = _row(fields)
                if row is None:
                    damaged += 1
                else:
                    rows[row.number] = row
        except sqlite3.Error as error:
            return self._explained(error)
        return self._damaged(f"{damaged} rows") if damaged else None

    def _has_table(self, connection: sqlite3.Connection) -> bool:
        if connection.execute("PRAGMA user_version").fetchone()[0] > _SCHEMA:
            raise StoreError(
                "outbox_newer",
                f"{self._path} was written by a newer edged; its messages wait for that one.",
            )
        return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self.close()
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error | OSError) -> StoreError:
        if isinstance(error, OSError):
            full, of_the_place = error.errno in (errno.ENOSPC, errno.EDQUOT), True
        else:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            full, of_the_place = code == sqlite3.SQLITE_FULL, code in _OF_THE_PLACE
        if full:
            return StoreError(
                "outbox_disk_full",
                f"No room for {self._path}: what waits is in memory only.",
                advice="Make room on that disk.",
            )
        return self._unwritable(error) if of_the_place else self._damaged(str(error))

    def _unwritable(self, error: Exception) -> StoreError:
        return StoreError(
            "outbox_unwritable",
            f"Cannot use {self._path}: {error}.",
            advice="Check the disk and the permissions of the state directory.",
        )

    def _damaged(self, words: str) -> StoreError:
        return StoreError(
            "outbox_damaged",
            f"{self._path} is damaged ({words}); messages of an earlier run may be lost.",
            advice="Check the disk.",
        )


def _fields(row: Row) -> tuple[object, ...]:
    created = row.created
    fields = (
        row.number,
        row.key.encode(),
        row.topic.encode(),
        row.payload,
        int(row.retain),
        row.kind.encode(),
        float(created.unix_s),
        created.boot.encode(),
        float(created.boottime_s),
    )
    return (*fields, zlib.crc32(repr(fields).encode()))


def _row(fields: tuple[Any, ...]) -> Row | None:
    """Return the row; None where it is not what was written."""
    *content, crc = fields
    if crc != zlib.crc32(repr(tuple(content)).encode()):
        return None
    number, key, topic, payload, retain, kind, unix_s, boot, boottime_s = content
    created = Moment(unix_s, boot.decode(), boottime_s)
    return Row(number, key.decode(), topic.decode(), payload, bool(retain), kind.decode(), created)

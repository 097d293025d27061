"""The service manager's side: readiness, watchdog, status, the journal.

Protocols: sd_notify(3), sd_watchdog_enabled(3), sd-daemon(3) for the priority prefix on stderr.
Without systemd all of it does nothing, but for the watchdog: then the kernel's timer is one.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}
_DEBUG = 7
# As WatchdogSec= of systemd/edged.service.
WATCHDOG_S = 30.0
_AT_ONCE_S = 0.001


class KernelWatchdog:
    """Ends this process when it is not fed in time, where no service manager does so.

    The kernel's timer sends SIGALRM. What answers it is C, so that a thread which holds the GIL in
    a stuck call does not prevent it: the stack of every thread goes to stderr, and the process ends
    with the signal's number, 14, as its status. The default action would not do: process 1 of a
    container is spared it. Once fed it watches to the end, a stop that hangs included.

    Args:
        limit_s: how long it may go unfed.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._armed = False

    def feed(self) -> None:
        """Begin to count anew; the first time, begin."""
        self._count(self._limit_s)

    def bite(self) -> None:
        """End the process now."""
        self._count(_AT_ONCE_S)

    def _count(self, seconds: float) -> None:
        if not self._armed:
            self._armed = True
            libc = ctypes.CDLL(None)
            libc.signal(signal.SIGALRM, libc._exit)  # noqa: SLF001 - its name in C
            faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
        signal.setitimer(signal.ITIMER_REAL, seconds)


class Notifier:
    """Tells the service manager how the service is doing.

    Args:
        environment: where NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are looked up.

    Attributes:
        watchdog_s: for how long silence is tolerated, by the manager or by the kernel's timer.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        pid = environment.get("WATCHDOG_PID", str(os.getpid()))
        microseconds = environment.get("WATCHDOG_USEC", "0") if pid == str(os.getpid()) else "0"
        asked = int(microseconds) / 1e6 if microseconds.isdigit() else 0.0
        self.watchdog_s = asked or WATCHDOG_S
        watched = bool(self._address and asked)
        self._watchdog = None if watched else KernelWatchdog(self.watchdog_s)
        self._status = ""
        self._stuck = False

    def ready(self) -> None:
        """Startup, or a reload, is done."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is going down."""
        self._send("STOPPING=1")

    def feed(self, *, alive: bool) -> None:
        """Feed the watchdog; of a process that is stuck ask for the end.

        A manager that takes the request (systemd from 243) ends the process at once, with its
        watchdog's signal; with another the watchdog starves. It is asked once: each request
        begins the wait for SIGKILL anew. Where none watches, the kernel's timer does.
        """
        asked, self._stuck = self._stuck, not alive
        if alive:
            if self._watchdog is None:
                self._send("WATCHDOG=1")
            else:
                self._watchdog.feed()
        elif not asked:
            log.critical("an invoke or a load is stuck; only another process gets over that")
            if self._watchdog is None:
                self._send("WATCHDOG=trigger")
            else:
                self._watchdog.bite()

    def status(self, text: str) -> None:
        """Say in one line what the service is doing; sent when it changes."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.split()))

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # "@" stands for the NUL byte of an abstract socket.
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)
            try:
                sender.sendto("\n".join(lines).encode(errors="backslashreplace"), address)
            except OSError as error:
                log.debug("the service manager does not listen: %s", error)


class _PriorityFormatter(logging.Formatter):
    """`<4>message`: the journal reads the priority from the prefix of each line."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITY.get(record.levelno, _DEBUG)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JournalHandler(logging.Handler):
    """Sends records with their fields (`extra={"fields": {...}}`) to the journal.

    Args:
        send: `systemd.journal.send`.
    """

    def __init__(self, send: Any) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        fields = {f"EDGED_{key.upper()}": value for key, value in fields_of(record).items()}
        try:
            self._send(
                self.format(record),
                PRIORITY=_PRIORITY.get(record.levelno, _DEBUG),
                SYSLOG_IDENTIFIER="edged",
                LOGGER=record.name,
                THREAD_NAME=record.threadName,
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **fields,
            )
        except (OSError, ValueError):
            self.handleError(record)  # a journal that hiccups must not end the thread that logs


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """Return the fields that a log call gave, e.g. camera, model, reason."""
    fields = getattr(record, "fields", {})
    return {str(key): str(value) for key, value in fields.items() if value}


def set_up_logging(*, verbose: bool) -> None:
    """Log to the journal where stderr is the journal, else to stderr for people.

    Args:
        verbose: debug messages as well.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if _stderr_is_journal():
        send = _journal_send()
        if send is not None:
            handler = JournalHandler(send)
            handler.setFormatter(logging.Formatter("%(message)s"))
        else:
            handler.setFormatter(_PriorityFormatter())
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
        )
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True
    )
    # What python-tuf says of a refusal at INFO, at every attempt, the reason says in words.
    logging.getLogger("tuf").setLevel(logging.DEBUG if verbose else logging.WARNING)


def error_lines(text: str) -> str:
    """Return a text for stderr: where stderr is the journal one line, as an error.

    Whoever asks the journal why a service does not start sees the latest lines only.
    """
    if not _stderr_is_journal():
        return text
    line = "; ".join(part.strip() for part in text.splitlines() if part.strip())
    return f"<{_PRIORITY[logging.ERROR]}>" + line.replace(":; ", ": ")


def _stderr_is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(stat.st_dev), str(stat.st_ino))


def _journal_send() -> Any | None:
    try:
        return importlib.import_module("systemd.journal").send
    except ImportError:
        return None

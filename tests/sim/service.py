"""The service manager for one device: starts it again as the shipped unit has systemd do."""

from __future__ import annotations

import signal
import threading
import time

from sim.device import Device

# systemd/edged.service: RestartPreventExitStatus; and what Restart=on-failure takes as a good end.
_NO_RESTART = {0, 2, 78, -signal.SIGHUP, -signal.SIGINT, -signal.SIGTERM, -signal.SIGPIPE}


class Service:
    """Restart=on-failure and WatchdogSec=, but faster.

    Args:
        device: not started. Its environment should say WATCHDOG_USEC.
        watchdog_s: silence after READY=1 for which it is ended with SIGABRT, as it is at once
            where it asks for that; None for never.

    Attributes:
        ends: exit statuses so far.
        hangs: how many of those ends the watchdog was.
    """

    def __init__(self, device: Device, watchdog_s: float | None = None) -> None:
        self.device = device
        self.ends: list[int] = []
        self.hangs = 0
        self._watchdog_s = watchdog_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service", daemon=True)

    def start(self) -> Service:
        self.device.start()
        self._thread.start()
        return self

    def close(self) -> None:
        """Start it no more; it may still run."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            code = self._watch()
            if code is None:
                return
            self.device.wait_end()
            self.ends.append(code)
            if code in _NO_RESTART:
                return
            self.device.start()

    def _watch(self) -> int | None:
        """Wait for the end of the process; None where nobody waits any more."""
        pings, since_s = 0, time.monotonic()
        while (code := self.device.process.poll()) is None:
            if self._stopping.wait(0.02):
                return None
            now_s = time.monotonic()
            if (said := self.device.pings()) != pings or not self.device.notices.count("READY=1"):
                pings, since_s = said, now_s
            asked = "WATCHDOG=trigger" in self.device.notices
            if self._watchdog_s is not None and (asked or now_s - since_s > self._watchdog_s):
                self.hangs += 1
                self.device.signal(signal.SIGABRT)
                return self.device.process.wait(15.0)
        return code

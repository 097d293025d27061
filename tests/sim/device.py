"""A device: the real daemon in a process of its own, with a service manager that listens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sim.broker import wait_for
from sim.kernel import Kernel

P = "edged/dut"

BELT = """
[[model]]
name = "belt"
factory = "belt"

[[camera]]
name = "front"
source = "synthetic"
model = "belt"
"""


class Device:
    """Runs `edged run`.

    Args:
        folder: for configuration, state and log.
        port: of the broker on loopback.
        body: models and cameras, TOML; None to start without a configuration file.
        arguments: for `edged run` instead of `--config`.
        program: what is `edged`, in words; None for the one of this checkout.
        top: keys for the top of the file; `mqtt`: keys for its table.
        verbose: log every prediction, for `published`.
        environment: added to the process's.
        kernel: what it runs on; None for this machine's, whose power stays.
        device_id: of the device.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        body: str = BELT,
        *,
        arguments: list[str] | None = None,
        program: Sequence[str] | None = None,
        top: str = "",
        mqtt: str = "stats_s = 1",
        verbose: bool = False,
        environment: Mapping[str, str] | None = None,
        kernel: Kernel | None = None,
        device_id: str = "dut",
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.config = folder / "edged.toml"
        self.notices: list[str] = []
        self._port, self._top, self._mqtt, self._id = port, top, mqtt, device_id
        self._arguments = arguments or ["--config", str(self.config)]
        self._arguments += ["-v"] if verbose else []
        self.environment = dict(environment or {})
        self._program = program or (sys.executable, "-m", "edged")
        self._kernel = kernel
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self.write(body)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def write(self, body: str, *, port: int | None = None) -> None:
        """Write the configuration file."""
        self._port = port or self._port
        self.config.write_text(
            f'device_id = "{self._id}"\nstate_dir = "{self.folder}/state"\n'
            f'runtime_dir = "{self.folder}/run"\n{self._top}\n'
            f'[mqtt]\nhost = "127.0.0.1"\nport = {self._port}\n{self._mqtt}\n{body}'
        )

    def start(self) -> Device:
        self.notices.clear()
        address = self.folder / "notify"
        address.unlink(missing_ok=True)
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(address))
        self._listener = threading.Thread(target=self._listen, args=(manager,), daemon=True)
        self._listener.start()
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(address),
            "XDG_STATE_HOME": str(self.folder / "xdg-state"),
            "XDG_RUNTIME_DIR": str(self.folder / "xdg-run"),
            **self.environment,
        }
        prefix = () if self._kernel is None else self._kernel.prefix
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *self._program, "run", *self._arguments],
                env=environment,
                stdout=log,
                stderr=log,
            )
        return self

    def _listen(self, manager: socket.socket) -> None:
        with manager:
            while True:
                notice = manager.recv(4096).decode()
                if notice == "END":
                    return
                self.notices.append(notice)

    @property
    def log_path(self) -> Path:
        return self.folder / "edged.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def published(self, camera: str = "front") -> list[bytes]:
        """Payloads of all predictions so far, over all starts, as the log has them."""
        mark = f" DEBUG   {P}/prediction/{camera} "
        lines = self.log.split("\n")[:-1]  # the last one may not be complete
        return [line.partition(mark)[2].encode() for line in lines if mark in line]

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    def wait_ready(self, times: int = 1) -> Device:
        wait_for(
            lambda: f"READY {times} time(s), not {self.notices}; log:\n{self.log}",
            lambda: self.notices.count("READY=1") >= times or self.process.poll() is not None,
        )
        assert self.process.poll() is None, self.log
        return self

    def pings(self) -> int:
        return self.notices.count("WATCHDOG=1")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait_end(self, limit_s: float = 15.0) -> int:
        """Wait until the process ends; return its exit status."""
        code = self.process.wait(limit_s)
        self._hush()
        return code

    def stop(self) -> tuple[int, float]:
        """SIGTERM; return exit status and seconds until the end."""
        began_s = time.monotonic()
        self.signal(signal.SIGTERM)
        code = self.wait_end()
        return code, time.monotonic() - began_s

    def disk_writes(self) -> int:
        """Bytes that the process had written to a disk so far, or had the kernel write later."""
        for line in Path(f"/proc/{self.process.pid}/io").read_text().splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
        raise AssertionError("no write_bytes in /proc")

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait_end()

    def cut_power(self) -> None:
        """Take what a power cut takes, but for what the disk had not written: see sim.files."""
        assert self._kernel is not None, "the power of this machine stays"
        self.kill()
        shutil.rmtree(self.folder / "run", ignore_errors=True)  # it may never have come so far
        self._kernel.boot()

    def close(self) -> None:
        """Whatever state it is in: no process is left."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._hush()

    def _hush(self) -> None:
        if self._listener is not None and self._listener.is_alive():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"END", str(self.folder / "notify"))
            self._listener.join(5.0)

"""The first act: the daemon on the sample scene, drawn as predictions arrive."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from edged.demo.processes import EDGED, DemoError, broker, check_alive, running, text_of
from edged.demo.subscriber import Sequence, Subscriber, device_name

_BAR = 24
_FIRST_PREDICTION_S = 30.0


def watch(folder: Path, seconds: float | None, stop: threading.Event) -> int:
    """Show predictions until the end.

    Args:
        folder: for the files of all processes.
        seconds: after which it ends by itself, once there was a prediction; None: never.
        stop: set to end it.

    Returns:
        0 when predictions arrived, else 1.

    Raises:
        DemoError: there is no broker, the daemon ended, or no prediction came.
    """
    device_id, log = device_name(), folder / "edged.log"
    with ExitStack() as stack:
        port = stack.enter_context(broker(folder, device_id))
        viewer = Viewer(port, device_id)
        stack.callback(viewer.close)
        daemon = stack.enter_context(_daemon(folder, port, device_id, log))
        print(f"Listening: mosquitto_sub -p {port} -v -t 'edged/{device_id}/#'   (Ctrl-C ends)\n")
        began_s = time.monotonic()
        while not stop.wait(0.5 if sys.stdout.isatty() else 1.0):
            check_alive(daemon, log)
            viewer.show(_last_line(log))
            elapsed_s = time.monotonic() - began_s
            if viewer.received == 0 and elapsed_s > _FIRST_PREDICTION_S:
                raise DemoError(f"no prediction in {_FIRST_PREDICTION_S:.0f} s:\n{text_of(log)}")
            # A slow machine may need longer than that for its first.
            if seconds is not None and elapsed_s >= seconds and viewer.received:
                break
        viewer.summary(time.monotonic() - began_s)
        return 0 if viewer.received else 1


def _last_line(log: Path) -> str:
    lines = text_of(log).splitlines()
    return lines[-1] if lines else ""


@contextmanager
def _daemon(
    folder: Path, port: int, device_id: str, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    command = [*EDGED, "run", "--model", "belt", "--camera", "synthetic"]
    command += ["--broker", f"127.0.0.1:{port}", "--device-id", device_id]
    places = {"XDG_STATE_HOME": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder / "run")}
    with running(command, log, environment=places) as process:
        yield process


class Viewer:
    """Draws what a subscriber receives.

    Args:
        port: of the broker on localhost.
        device_id: of the device.
    """

    def __init__(self, port: int, device_id: str) -> None:
        self._device_id = device_id
        self._available = "?"
        self._model = "?"
        self._last: dict[str, Any] = {}
        self._labels: set[str] = set()
        self._sequence = Sequence()
        self._arrivals_s: deque[float] = deque(maxlen=2000)
        self._latencies_ms: deque[float] = deque(maxlen=2000)
        self._lock = threading.Lock()
        self._drawn = 0
        encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
        self._block = "█" if encoding.startswith("utf") else "#"
        self._subscriber = Subscriber(port, device_id, self._receive)
        self.close = self._subscriber.close

    @property
    def received(self) -> int:
        """Predictions so far."""
        return self._sequence.received

    def _receive(self, topic: str, message: Any) -> None:
        if topic == "available":
            self._available = message
        elif topic.startswith("model/"):
            active = message["active"]
            self._model = active["version"] if active else "none"
        elif topic.startswith("prediction/"):
            with self._lock:
                self._sequence.count(message)
                self._last = message
                self._arrivals_s.append(time.monotonic())
                self._latencies_ms.append((time.time() - message["t"]) * 1000.0)

    def show(self, log_line: str) -> None:
        """Draw the present state: in place on a terminal, one line each time elsewhere.

        Args:
            log_line: what the daemon said last, shown while there is no prediction.
        """
        with self._lock:
            lines = self._lines(log_line)
        if sys.stdout.isatty():
            up = f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
            width = shutil.get_terminal_size().columns - 1
            print(up + "\n".join(line[:width] for line in lines), flush=True)
            self._drawn = len(lines)
        elif self._last:
            best = self._last["classes"][0]
            figures = "   ".join(line.strip() for line in lines[-2:])
            print(f"{best['label']:<10} {best['score']:.2f}   {figures}", flush=True)

    def _lines(self, log_line: str) -> list[str]:
        head = f"edged/{self._device_id}   {self._available}   model belt {self._model}"
        if not self._last:
            return [head, "  waiting for the first prediction ...", f"  {log_line}"]
        # Classes with a score of 0 are not on the wire; those seen before keep their line.
        scores = {line["label"]: line["score"] for line in self._last["classes"]}
        self._labels |= scores.keys()
        bars = [
            f"  {label:<10} {self._block * round(scores.get(label, 0) * _BAR):<{_BAR}}"
            f" {scores.get(label, 0):.2f}"
            for label in sorted(self._labels)
        ]
        return [head, *bars, *self._figures()]

    def _figures(self) -> tuple[str, str]:
        now_s = time.monotonic()
        rate = sum(1 for at in self._arrivals_s if now_s - at <= 2.0) / 2.0
        latency = sorted(self._latencies_ms)
        median, p95 = latency[len(latency) // 2], latency[int(len(latency) * 0.95)]
        seen = f"seq {self._last['seq']}, lost {self._sequence.missing}"
        return (
            f"  {rate:.1f} predictions/s   invoke {self._last['ms']:.2f} ms   {seen}",
            f"  capture to subscriber {median:.1f} ms median, {p95:.1f} ms p95",
        )

    def summary(self, elapsed_s: float) -> None:
        """Say in one line what was seen."""
        if not self.received:
            print(f"\nNo prediction in {elapsed_s:.0f} s.")
            return
        print(
            f"\n{self.received} predictions in {elapsed_s:.0f} s as a subscriber received them,"
            f" {self._sequence.missing} lost."
        )

"""What the daemon writes is what docs/operations.md says: frames and all else stay in memory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sim.broker import Broker, Subscriber, wait_for
from sim.device import BELT, Device, P

pytestmark = pytest.mark.broker

PAGE = Path(__file__).parents[1] / "docs/operations.md"
# Everything that makes or changes a file by its name.
CALLS = (
    "open,openat,openat2,creat,truncate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,"
    "mkdir,mkdirat,mknod,mknodat,unlink,unlinkat,memfd_create"
)
BODY = f"""
[drift]
window_s = 1
{BELT}"""


def documented() -> list[str]:
    """The files of the page's table, as patterns."""
    table = re.search(r"<!-- written -->\n(.*?)<!-- end -->", PAGE.read_text(), re.DOTALL)
    assert table is not None
    names = []
    for row in re.findall(r"^\| (`.*?) \|", table[1], re.MULTILINE):
        first, *endings = re.findall(r"`([^`]+)`", row)
        names += [first, *(first + ending for ending in endings)]
    return [re.sub(r"/\\\.\\\.\\\.$", "(/.*)?", re.escape(name)) for name in names]


def touched(trace: Path) -> Iterator[str]:
    """Names of files that were made, changed, moved or removed."""
    for line in trace.read_text(errors="replace").splitlines():
        call = re.search(r"\b(\w+)\((.*)\) += (-?\d+|\?)", line)
        if call is None or call[3] == "-1":
            continue
        if call[1].startswith("open") and not re.search(r"O_(WRONLY|RDWR|CREAT)", call[2]):
            continue
        names = re.findall(r'"((?:[^"\\]|\\.)*)"', call[2])
        assert names, line
        yield from names


def test_nothing_is_written_but_what_the_page_lists(
    broker: Broker, subscriber: Subscriber, make, tmp_path: Path
) -> None:
    """The daemon starts, predicts, records, loses its broker and stops."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    device: Device = make(broker.port, BODY)
    trace = tmp_path / "trace"
    command = [
        strace,
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    ]
    command += [sys.executable, "-B", "-m", "edged", "run", "--config", str(device.config)]
    with (tmp_path / "log").open("wb") as log:
        tracer = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        windows = device.state / "drift"
        wait_for("predictions", lambda: len(subscriber.of(f"{P}/prediction/front")) > 10)
        wait_for("a window", lambda: list(windows.glob("*.windows")))
        broker.stop()
        wait_for("the outbox", (device.state / "outbox.sqlite3").exists)
        children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert tracer.wait(30.0) == 0, (tmp_path / "log").read_text()
    finally:
        tracer.kill()
        tracer.wait()

    names = set(touched(trace))
    places = {str(device.state): "/var/lib/edged", f"{device.folder}/run": "/run/edged"}
    for real, place in places.items():
        names = {re.sub(rf"^{re.escape(real)}(?=/|$)", place, name) for name in names}
    allowed = [*documented(), "/dev/null", *map(re.escape, places.values())]
    surprises = sorted(name for name in names if not any(re.fullmatch(p, name) for p in allowed))
    assert surprises == []
    assert {"/var/lib/edged/outbox.sqlite3", "/run/edged/breadcrumb"} <= names

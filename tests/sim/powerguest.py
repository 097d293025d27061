"""What runs first in the machine whose power is cut: a device and its world, and what was promised.

Every promise that leaves the device is written, before it gets any further, to the end of the disk
that is recorded, behind the file system: so a promise and the writes that have to keep it stand in
one record, in their order. It goes past the page cache and asks for no flush, which would make safe
what the device forgot to. What passes between device and broker is read on its way, by a proxy.

Standard library only. Words of the kernel's command line:
`rig.fs_bytes=N` where the file system ends; `rig.steps=a,b` what happens, see `Life`; `rig.turn=N`
makes ids of deployments that were not used before; `rig.nosync=all` has the device forget every
fsync, `directories`, `files` or `database` those.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

DISK = "/dev/vdb"
STATE = Path("/var/lib/edged")
RIG = Path("/rig")
SECTOR = 512
REFUSED = "9.9.9"
BROKER_PORT, DEVICE_PORT, WEB_PORT = 1883, 1884, 8080
# Emulated, a start takes half a minute.
PATIENCE_S = 300.0
AWAY_S = 8.0
PUBLISH, PUBACK = 3, 4


class Marks:
    """The end of the disk.

    Args:
        begin_bytes: where it begins.
    """

    def __init__(self, begin_bytes: int) -> None:
        self._file = os.open(DISK, os.O_WRONLY | os.O_DIRECT)
        self._buffer = mmap.mmap(-1, SECTOR)  # O_DIRECT wants memory that is aligned
        self._at = begin_bytes
        self._lock = threading.Lock()

    def put(self, what: str, **facts: object) -> None:
        """Write a mark; on return it is in the record."""
        data = json.dumps({"what": what, **facts}).encode()
        if len(data) > SECTOR:
            raise ValueError(data)
        with self._lock:
            self._buffer[:] = data.ljust(SECTOR)
            os.pwrite(self._file, self._buffer, self._at)
            self._at += SECTOR
            say(f"mark {data.decode()}")


def say(line: str) -> None:
    """Say something on the console."""
    print(f"rig: {line}", flush=True)


class Wire:
    """A connection of the device, and what passes on it.

    Args:
        device: from the device.
        passed: called with each packet's type, flags and body before it goes on to the broker.
        came: the same towards the device.
    """

    def __init__(
        self,
        device: socket.socket,
        passed: Callable[[int, int, bytes], None],
        came: Callable[[int, int, bytes], None],
    ) -> None:
        try:
            broker = socket.create_connection(("127.0.0.1", BROKER_PORT))
        except OSError:
            device.close()
            return
        for source, target, look in ((device, broker, passed), (broker, device, came)):
            threading.Thread(target=self._pass, args=(source, target, look), daemon=True).start()

    @staticmethod
    def _pass(
        source: socket.socket, target: socket.socket, look: Callable[[int, int, bytes], None]
    ) -> None:
        with suppress(OSError):
            for head, body in packets(source.makefile("rb")):
                look(head[0] >> 4, head[0] & 15, body)
                target.sendall(head + body)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def packets(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield fixed header and body of each MQTT packet."""
    while head := file.read(1):
        length = shift = 0
        while True:
            byte = file.read(1)
            if not byte:
                return
            head += byte
            length |= (byte[0] & 127) << shift
            shift += 7
            if byte[0] < 128:
                break
        body = file.read(length)
        if len(body) < length:
            return
        yield head, body


def published(flags: int, body: bytes) -> tuple[str, int, bytes]:
    """Return topic, packet id and payload of a PUBLISH of MQTT 5."""
    end = 2 + int.from_bytes(body[:2], "big")
    topic, number = body[2:end].decode(), 0
    if flags & 6:
        number = int.from_bytes(body[end : end + 2], "big")
        end += 2
    length = shift = 0
    while True:  # of the properties
        byte = body[end]
        end += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return topic, number, body[end + length :]


class Life:
    """The device and its world.

    Args:
        words: of the command line.
    """

    def __init__(self, words: dict[str, str]) -> None:
        self._marks = Marks(int(words["rig.fs_bytes"]))
        self._steps = words["rig.steps"].split(",")
        self._turn = int(words.get("rig.turn", "0"))
        self._stub: dict[str, str] = {}
        if "rig.nosync" in words:
            self._stub = {"LD_PRELOAD": str(RIG / "nosync.so"), "NOSYNC": words["rig.nosync"]}
        self._versions = json.loads((RIG / "versions.json").read_text())
        self._told = threading.Condition()
        self._states: list[tuple[str, str]] = []
        self._results: dict[str, dict[str, object]] = {}
        self._predictions = self._readies = 0
        self._orders: dict[int, str] = {}
        self._active = self._previous = ""
        self._broker: subprocess.Popen[bytes] | None = None
        self._edged: subprocess.Popen[bytes] | None = None

    def live(self) -> None:
        """Take one step after the other."""
        for target in (self._notified, self._connected, self._web):
            threading.Thread(target=target, daemon=True).start()
        self._begin_broker()
        self._begin()
        for number, step in enumerate(self._steps):
            say(f"step {step} after {Path('/proc/uptime').read_text().split()[0]} s")
            getattr(self, f"step_{step}")(f"{step}-{self._turn}-{number}")
        say("done")

    # What happens.

    def step_deploy(self, name: str) -> None:
        """Deploy another version: it is committed."""
        self._order(name, self._next())
        self._ended(name, "SUCCEEDED")

    def step_refused(self, name: str) -> None:
        """Deploy one whose golden set is wrong: it is marked bad."""
        self._order(name, REFUSED, may_run=False)
        self._ended(name, "REJECTED")

    def step_away(self, name: str) -> None:
        """The broker leaves while a version is on trial, and stays away for a while."""
        self._order(name, self._next())
        self._wait(f"{name} on trial", lambda: (name, "TRIAL") in self._states)
        self._marks.put("broker", away=True)
        assert self._broker is not None
        self._broker.kill()
        self._broker.wait()
        time.sleep(AWAY_S)
        self._begin_broker()
        self._ended(name, "SUCCEEDED")

    def step_rollback(self, name: str) -> None:
        """Leave the active version by command."""
        target = self._previous
        self._marks.put("begun", id=name, version=target)
        command = {"id": name, "action": "rollback", "from_version": self._active}
        self._publish("command", command)
        self._ended(name, "ROLLED_BACK")
        self._active, self._previous = target, self._active

    def step_kill(self, name: str) -> None:
        """Kill the device in a trial; it is begun again."""
        self._order(name, self._next())
        self._wait(f"{name} on trial", lambda: (name, "TRIAL") in self._states)
        self._end(signal.SIGKILL)
        self._begin()
        self._ended(name, "SUCCEEDED")

    def step_restart(self, _name: str) -> None:
        """Stop the device cleanly, and begin it again."""
        self._end(signal.SIGTERM)
        self._begin()

    def step_forever(self, name: str) -> None:
        """Deploy until the power goes; some of it may be there already."""
        say("up")
        while True:
            for version in self._versions:
                each = f"{name}-{version}-{time.monotonic_ns()}"
                self._order(each, version)
                self._wait(f"the result of {each}", functools.partial(self._has_ended, each))

    # The device and the broker.

    def _begin(self) -> None:
        readies, predictions = self._readies, self._predictions
        environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": "/run/notify", **self._stub}
        command = ["/usr/bin/edged", "run", "--config", str(RIG / "edged.toml")]
        self._edged = subprocess.Popen(command, env=environment)  # the console is its log
        self._wait("READY", lambda: self._readies > readies)
        self._wait("predictions", lambda: self._predictions > predictions)

    def _end(self, how: signal.Signals) -> None:
        assert self._edged is not None
        self._edged.send_signal(how)
        self._edged.wait()

    def _begin_broker(self) -> None:
        self._marks.put("broker", away=False)
        self._broker = subprocess.Popen(
            ["/usr/sbin/mosquitto", "-c", str(RIG / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _next(self) -> str:
        versions: list[str] = self._versions
        place = versions.index(self._active) + 1 if self._active in versions else 0
        return versions[place % len(versions)]

    def _order(self, name: str, version: str, *, may_run: bool = True) -> None:
        self._marks.put("begun", id=name, version=version if may_run else None)
        order = time.time_ns() // 1_000_000
        self._publish("desired", {"deployment_id": name, "version": version, "order": order})

    def _publish(self, topic: str, message: dict[str, object]) -> None:
        command = ["/usr/bin/mosquitto_pub", "-h", "127.0.0.1", "-q", "1"]
        command += ["-t", f"edged/dut/update/m/{topic}"]
        subprocess.run([*command, "-m", json.dumps(message)], check=True)

    def _ended(self, name: str, status: str) -> None:
        self._wait(f"the result of {name}", lambda: self._has_ended(name))
        result = self._results[name]
        assert result["status"] == status, result
        if status == "SUCCEEDED":
            self._active, self._previous = str(result["version"]), self._active

    def _has_ended(self, name: str) -> bool:
        return name in self._results

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        limit_s = time.monotonic() + PATIENCE_S
        with self._told:
            while not done():
                assert not self._died(), f"the device ended before {what}"
                assert time.monotonic() < limit_s, f"waited {PATIENCE_S:g} s for {what}"
                self._told.wait(1.0)

    def _died(self) -> bool:
        return self._edged is not None and self._edged.poll() is not None

    # What is heard.

    def _notified(self) -> None:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind("/run/notify")
        while True:
            if manager.recv(4096) == b"READY=1":
                self._marks.put("ready")
                with self._told:
                    self._readies += 1
                    self._told.notify_all()

    def _connected(self) -> None:
        listener = socket.create_server(("127.0.0.1", DEVICE_PORT))
        while True:
            Wire(listener.accept()[0], self._passed, self._came)

    def _web(self) -> None:
        handler = functools.partial(Quiet, directory=str(RIG / "repo"))
        ThreadingHTTPServer(("127.0.0.1", WEB_PORT), handler).serve_forever()

    def _came(self, kind: int, flags: int, body: bytes) -> None:
        if kind != PUBLISH:
            return
        topic, number, payload = published(flags, body)
        if topic.endswith(("/desired", "/command")):
            message = json.loads(payload)
            self._orders[number] = message.get("deployment_id") or message["id"]

    def _passed(self, kind: int, flags: int, body: bytes) -> None:
        if kind == PUBACK:
            name = self._orders.pop(int.from_bytes(body[:2], "big"), None)
            if name is not None:
                self._marks.put("heard", id=name)
            return
        if kind != PUBLISH:
            return
        topic, _, payload = published(flags, body)
        end = topic.removeprefix("edged/dut/")
        with self._told:
            if end == "update/m/result":
                result = json.loads(payload)
                digest = hashlib.sha256(payload).hexdigest()
                ended = {key: result[key] for key in ("status", "version")}
                self._marks.put("result", id=result["deployment_id"], digest=digest, **ended)
                self._results[result["deployment_id"]] = result
            elif end == "update/m/state":
                state = json.loads(payload)
                self._marks.put("state", seq=state["seq"], state=state["state"])
                self._states.append((state["deployment_id"], state["state"]))
            elif end == "drift/front/window":
                window = json.loads(payload)
                self._marks.put("window", boot=window["boot"], seq=window["seq"])
            elif end == "prediction/front":
                self._predictions += 1
            self._told.notify_all()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Live, and switch the machine off."""
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text().split())
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        STATE.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "ext4", DISK, str(STATE)], check=True)
        Life(words).live()
    except Exception:  # noqa: BLE001 - whatever it is, the console has to say it
        traceback.print_exc(file=sys.stdout)
        say("failed")
    # At once: nothing is written that the device did not ask for.
    Path("/proc/sysrq-trigger").write_text("o")
    time.sleep(60.0)


if __name__ == "__main__":
    main()

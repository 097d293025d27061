"""A real mosquitto as a child process, certificates for it, and a subscriber that records."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
OPENSSL = shutil.which("openssl")

# Long, so that a machine that is busy elsewhere fails no test; what comes in time costs nothing.
PATIENCE_S = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(
    what: str | Callable[[], str], done: Callable[[], object], limit_s: float = PATIENCE_S
) -> None:
    """Poll `done` until it is true; fail with `what`, as it is then, after `limit_s`."""
    limit = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > limit:
            words = what if isinstance(what, str) else what()
            raise AssertionError(f"waited {limit_s:g} s for {words}")
        time.sleep(0.005)


@dataclass(frozen=True)
class Certificates:
    """Made by openssl in one folder: `ca`, `server`, `expired` (server), `client`, `other_ca`."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        made = cls(folder)
        made._authority("ca")
        made._authority("other_ca")
        made._leaf("server", "DNS:localhost,IP:127.0.0.1", days=30)
        made._leaf("expired", "DNS:localhost,IP:127.0.0.1", days=-1)
        made._leaf("elsewhere", "DNS:broker.example.org", days=30)
        made._leaf("client", "DNS:porch", days=30)
        return made

    def _authority(self, name: str) -> None:
        self._openssl("req", "-x509", *self._key(name), "-out", f"{name}.pem", "-days", "30")

    def _leaf(self, name: str, names: str, *, days: int) -> None:
        san = ("-addext", f"subjectAltName={names}")
        self._openssl("req", *self._key(name), "-out", f"{name}.csr", *san)
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", str(days))
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem"),
            *(*signing, "-copy_extensions", "copy"),
        )

    def _key(self, name: str) -> tuple[str, ...]:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        return (*curve, "-keyout", f"{name}.key", "-subj", f"/CN={name}")

    def _openssl(self, *arguments: str) -> None:
        assert OPENSSL is not None
        done = subprocess.run(
            [OPENSSL, *arguments], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


class Broker:
    """One mosquitto on a loopback port, the same over restarts.

    Args:
        folder: for its configuration, log and database.
        port: None for a free one.
        persistence: keeps sessions and retained messages over `stop` and `start`.
        users: name to password; without, anyone may connect.
        acl: text of an ACL file.
        certificates: speak TLS...
        server: ...with this certificate of them...
        ask_client: ...and demand one of the client.
        more: further lines of configuration.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        persistence: bool = False,
        users: dict[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        server: str = "server",
        ask_client: bool = False,
        more: str = "",
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._child: subprocess.Popen[bytes] | None = None
        lines = [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {'false' if users else 'true'}",
            f"persistence {'true' if persistence else 'false'}",
            f"persistence_location {folder}/",
            f"log_dest file {folder / 'mosquitto.log'}",
            "log_type all",
            "max_queued_messages 100000",  # else a slow subscriber loses what is beyond 1000
        ]
        if os.geteuid() == 0:
            lines.append("user root")
        if users:
            (folder / "users").write_text("".join(_user_line(*user) for user in users.items()))
            lines.append(f"password_file {folder / 'users'}")
        if acl is not None:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder / 'acl'}")
        if certificates is not None:
            lines += [
                f"certfile {certificates.path(server + '.pem')}",
                f"keyfile {certificates.path(server + '.key')}",
                f"cafile {certificates.path('ca.pem')}",
                f"require_certificate {'true' if ask_client else 'false'}",
            ]
        (folder / "mosquitto.conf").write_text("\n".join([*lines, more, ""]))

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> Broker:
        assert MOSQUITTO is not None
        self._child = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for("mosquitto to listen", self._listens)
        return self

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._child is not None
        self._child.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)
            self._child.send_signal(how)
            self._child.wait(PATIENCE_S)
            self._child = None

    def _listens(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, "mosquitto ended at once"
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@dataclass(frozen=True)
class Recorded:
    topic: str
    payload: bytes
    qos: int
    retain: bool


class Subscriber:
    """Records what a broker without TLS delivers, in order; kept over `connect` to a new one.

    With `qos` 1 mosquitto keeps all but 20 unacknowledged messages to itself, and takes them along
    when it dies; with 0 it passes on each before it acknowledges it to the publisher.
    """

    def __init__(self, port: int, *topics: str, qos: int = 1) -> None:
        self._port = port
        self._topics = topics or ("#",)
        self._qos = qos
        self._client: Client | None = None
        self._ended = threading.Event()
        self.messages: list[Recorded] = []
        self._payloads: defaultdict[str, list[bytes]] = defaultdict(list)

    def connect(self) -> Subscriber:
        """Subscribe; again, once the broker has ended and all that it sent has been read."""
        if self._client is not None:
            assert self._ended.wait(PATIENCE_S), "the last broker is still there"
            self.close()
        self._ended.clear()
        ready = threading.Event()
        client = Client(CallbackAPIVersion.VERSION2, reconnect_on_failure=False)
        client.on_message = self._record
        client.on_subscribe = lambda *_: ready.set()
        client.on_disconnect = lambda *_: self._ended.set()
        client.connect("127.0.0.1", self._port, 30)
        client.loop_start()
        client.subscribe([(topic, self._qos) for topic in self._topics])
        assert ready.wait(PATIENCE_S), "no SUBACK"
        self._client = client
        return self

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        self._client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE_S)

    def shout(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: nobody knows whether it arrives."""
        assert self._client is not None
        self._client.publish(topic, payload, 0)

    def of(self, topic: str) -> list[bytes]:
        return self._payloads[topic]

    def wait_for(self, topic: str, *payloads: bytes) -> None:
        """Wait until `topic` has delivered these payloads, in order, at its end."""
        wait_for(
            f"{payloads} on {topic}", lambda: self.of(topic)[-len(payloads) :] == list(payloads)
        )

    def _record(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        payload = bytes(message.payload)
        self.messages.append(Recorded(message.topic, payload, message.qos, message.retain))
        self._payloads[message.topic].append(payload)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        client.disconnect()
        client.loop_stop()
        client.on_message = client.on_subscribe = client.on_disconnect = None


def _user_line(name: str, password: str) -> str:
    # mosquitto's own format: $7$ is PBKDF2-SHA512.
    salt = b"twelve bytes"
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"{name}:$7$101${'$'.join(parts)}\n"

"""A TUF repository that signs in memory, and the web server in front of it, which misbehaves.

`World` holds the keys of everybody, so tests can play the operator and every thief. What it
publishes are bytes by path, which tests may also replace by hand.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

ROLES = ("root", "targets", "snapshot", "timestamp")
NOW = datetime(2026, 12, 1, tzinfo=UTC)


class World:
    """A repository with one key per role, version 1 of everything and no targets.

    Attributes:
        files: what the server serves: path to bytes.
        signers: role to those who sign for it; also more or fewer than the root says.
        root, targets, snapshot, timestamp: the metadata as they stand.
    """

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.files: dict[str, bytes] = {}
        self.signers: dict[str, list[CryptoSigner]] = {role: [] for role in ROLES}
        far = now + timedelta(days=365)
        self.root = Root(expires=far, consistent_snapshot=True)
        self.targets = Targets(expires=far)
        self.snapshot = Snapshot(expires=now + timedelta(days=30))
        self.timestamp = Timestamp(expires=now + timedelta(days=30))
        for role in ROLES:
            getattr(self, role).version = 0  # publishing counts up
            self.add_key(role)
        self.publish_root()
        self.publish()
        self.first_root = self.files["metadata/1.root.json"]

    def add_key(self, role: str) -> CryptoSigner:
        """Give a role one more key; `publish_root` makes it known."""
        signer = CryptoSigner.generate_ed25519()
        self.root.add_key(signer.public_key, role)
        self.signers[role].append(signer)
        return signer

    def rotate(self, *roles: str) -> None:
        """Replace all keys of roles and publish a root that says so, signed by old and new."""
        old = list(self.signers["root"])
        for role in roles:
            for signer in self.signers[role]:
                self.root.revoke_key(signer.public_key.keyid, role)
            self.signers[role] = []
            self.add_key(role)
        self.publish_root(old)

    def publish_root(self, old: list[CryptoSigner] | None = None) -> None:
        self.root.version += 1
        data = self.sign("root", self.root, [*(old or []), *self.signers["root"]])
        self.files[f"metadata/{self.root.version}.root.json"] = data

    def publish(self) -> None:
        """Publish targets as they stand now, and the rest of it."""
        self.targets.version += 1
        self.publish_targets()
        self.publish_snapshot()
        self.publish_timestamp()

    def publish_targets(self) -> None:
        data = self.sign("targets", self.targets)
        self.files[f"metadata/{self.targets.version}.targets.json"] = data

    def publish_snapshot(self) -> None:
        self.snapshot.version += 1
        self.snapshot.meta["targets.json"] = MetaFile(version=self.targets.version)
        data = self.sign("snapshot", self.snapshot)
        self.files[f"metadata/{self.snapshot.version}.snapshot.json"] = data

    def publish_timestamp(self) -> None:
        self.timestamp.version += 1
        data = self.files[f"metadata/{self.snapshot.version}.snapshot.json"]
        self.timestamp.snapshot_meta = MetaFile(
            version=self.snapshot.version,
            length=len(data),
            hashes={"sha256": hashlib.sha256(data).hexdigest()},
        )
        self.files["metadata/timestamp.json"] = self.sign("timestamp", self.timestamp)

    def sign(self, role: str, signed: Signed, signers: list[CryptoSigner] | None = None) -> bytes:
        """Return it signed by these, or by all who sign for the role."""
        metadata = Metadata(copy.deepcopy(signed))
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def add(
        self, name: str, version: str, data: bytes, custom: dict[str, Any] | None = None
    ) -> str:
        """Add a package; `publish` makes it known. Returns its path."""
        path = f"{name}/{version}.zip"
        target = TargetFile.from_data(path, data)
        target.unrecognized_fields["custom"] = custom or {"name": name, "version": version}
        self.targets.targets[path] = target
        self.files[f"targets/{name}/{target.hashes['sha256']}.{version}.zip"] = data
        return path

    def served(self, path: str) -> str:
        """Return where the server has the bytes of a target."""
        folder, _, name = path.rpartition("/")
        return f"targets/{folder}/{self.targets.targets[path].hashes['sha256']}.{name}"

    def age(self, days: float) -> None:
        """Let time pass: what is signed from now on expires later."""
        self.now += timedelta(days=days)
        self.snapshot.expires = self.timestamp.expires = self.now + timedelta(days=30)


@dataclass
class Trouble:
    """How the server answers for a path; what is not set is done well."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cut_after: int | None = None  # bytes of the body, then the connection is gone
    drip_s: float = 0.0  # one byte each so often
    drip_headers: bool = False
    silent: bool = False  # headers, then nothing
    endless: bool = False  # chunked zeros, for ever
    ignore_range: bool = False
    wrong_range: bool = False  # a part, but not the one asked for
    times: int = 10**9  # so often, then all is well


@dataclass
class Server:
    """The web server.

    Attributes:
        files: what it serves; shared with a `World`.
        troubles: path to what is wrong there; "" for all paths.
        asked: path, Range and If-Range of each request.
        etags: path to an ETag other than the content's digest.
    """

    files: dict[str, bytes]
    url: str = ""
    troubles: dict[str, Trouble] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    etags: dict[str, str] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)

    def trouble(self, path: str) -> Trouble:
        found = self.troubles.get(path) or self.troubles.get("")
        if found is None or found.times <= 0:
            return Trouble()
        found.times -= 1
        return found

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]


class _Handler(BaseHTTPRequestHandler):
    world: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        path = self.path.lstrip("/")
        if path.startswith("http:"):  # asked as a proxy
            path = path.split("/", 3)[3]
        wanted = self.headers.get("Range", "")
        self.world.asked.append((path, wanted, self.headers.get("If-Range", "")))
        self.world.agents.add(self.headers.get("User-Agent", ""))
        with contextlib.suppress(OSError):
            self._answer(path, wanted, self.world.trouble(path))

    def _answer(self, path: str, wanted: str, trouble: Trouble) -> None:
        body = self.world.files.get(path) if trouble.body is None else trouble.body
        status = trouble.status or (404 if body is None else 200)
        body = body if body is not None and status == 200 else trouble.body or b"no"
        etag = self.world.etags.get(path) or f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        headers = {"ETag": etag, "Content-Type": "application/octet-stream"}
        begins = self.headers.get("If-Range", etag) == etag and not trouble.ignore_range
        if status == 200 and begins and wanted.startswith("bytes="):
            start = int(wanted[6:].rstrip("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                said = start + 1 if trouble.wrong_range else start
                headers["Content-Range"] = f"bytes {said}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
        if trouble.endless:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body))
        self._head(status, {**headers, **trouble.headers}, trouble)
        self._body(body, trouble)

    def _head(self, status: int, headers: dict[str, str], trouble: Trouble) -> None:
        lines = [f"HTTP/1.1 {status} so", *(f"{name}: {value}" for name, value in headers.items())]
        head = ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()
        if trouble.drip_headers:
            self._drip(head, trouble.drip_s)
        else:
            self.wfile.write(head)

    def _body(self, body: bytes, trouble: Trouble) -> None:
        if trouble.silent:
            self.world.over.wait(30)
        elif trouble.endless:
            zeros = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
            while not self.world.over.is_set():
                self.wfile.write(zeros)
        elif trouble.drip_s:
            self._drip(body, trouble.drip_s)
        else:
            self.wfile.write(body[: trouble.cut_after])

    def _drip(self, data: bytes, each_s: float) -> None:
        for byte in data:
            self.wfile.write(bytes([byte]))
            if self.world.over.wait(each_s):
                return


@contextlib.contextmanager
def serving(files: dict[str, bytes], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve these on loopback; `url` ends without a slash and says http."""
    world = Server(files)
    handler = type("Handler", (_Handler,), {"world": world})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        # The handshake is each connection's own thread's.
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up
    server.daemon_threads = True
    server.block_on_close = False
    world.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield world
    finally:
        world.over.set()
        server.shutdown()
        thread.join()
        server.server_close()

"""Serves a repository to devices for a trial: plain files, with ranges. Not for the open net."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import socket
import sys
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

from edged.errors import OperatorError

_SERVED = ("metadata", "targets")
# Of documentation, RFC 5737 and RFC 3849: routed as anything far away is, and nobody's.
_FAR_AWAY = ((socket.AF_INET6, "2001:db8::1"), (socket.AF_INET, "192.0.2.1"))


class _Handler(SimpleHTTPRequestHandler):
    """`metadata/` and `targets/`, no lists, no links, no hidden files, the end of a file."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._left: int | None = None
        super().__init__(*args, **settings)

    def send_head(self) -> IO[bytes] | None:  # type: ignore[override]  # any file will do
        path = Path(self.translate_path(self.path)).resolve()
        places = [Path(self.directory, name).resolve() for name in _SERVED]
        inside = any(path.is_relative_to(place) for place in places)
        if not inside or not path.is_file() or path.name.startswith("."):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        file = path.open("rb")
        status = os.fstat(file.fileno())
        etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        start = self._start(etag)
        if start >= status.st_size > 0:
            file.close()
            self.send_error(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            return None
        file.seek(start)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        if start:
            said = f"bytes {start}-{status.st_size - 1}/{status.st_size}"
            self.send_header("Content-Range", said)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(status.st_size - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", etag)
        self.end_headers()
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        shutil.copyfileobj(source, outputfile, 256 * 1024)

    def _start(self, etag: str) -> int:
        found = re.fullmatch(r"bytes=([0-9]{1,15})-", self.headers.get("Range", ""))
        return int(found[1]) if found and self.headers.get("If-Range", etag) == etag else 0


class Server(ThreadingHTTPServer):
    """One thread per device.

    Args:
        directory: of the repository.
        address: to listen on.
        port: 0 for a free one.

    Raises:
        OperatorError: `address_unusable`.
    """

    daemon_threads = True

    def __init__(self, directory: Path, address: str, port: int) -> None:
        def handler(*args: Any) -> _Handler:
            return _Handler(*args, directory=str(directory))

        self._address = address
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, port), handler)
        except (OSError, OverflowError) as error:  # the latter: no such port
            raise OperatorError(
                "address_unusable", f"cannot listen on {address}:{port}: {error}"
            ) from error

    @property
    def bound(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address it listens on; `is_unspecified` means on all."""
        return ipaddress.ip_address(self.socket.getsockname()[0])

    @property
    def url(self) -> str:
        """What devices reach it by: never the address that stands for all."""
        host = _outward(self.bound.version) if self.bound.is_unspecified else self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say that a device hung up, without a traceback."""
        print(f"a connection ended early: {sys.exc_info()[1]}", file=sys.stderr)


def _outward(version: int) -> str:
    """Return the address that packets to the network leave from, without sending one.

    Where there is no way out, the host's name.

    Args:
        version: of the protocol that is listened with; IPv6 takes IPv4 along.
    """
    for family, far_away in _FAR_AWAY[0 if version == 6 else 1 :]:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far_away, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return socket.gethostname()

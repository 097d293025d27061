"""Connections of requests that can be cut at any moment, whatever they are busy with."""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from edged.errors import FetchError
from edged.models.source import Patience


class Leash:
    """Cuts the connections of a request that is too slow, too late or not wanted any more.

    Timeouts of sockets start anew with each byte, so a server that drips could hold a reader
    for days, in a body, in headers or in the middle of a TLS handshake. A thread watches.

    Attributes:
        cause: why it was cut, or None.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._bytes = 0
        self._lines: list[socket.socket] = []
        self._made: list[socket.socket] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.cause: FetchError | None = None
        self._thread = threading.Thread(target=self._watch, name="fetch-leash", daemon=True)

    def __enter__(self) -> Leash:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for line in self._lines:
            line.close()
        for sock in self._made:
            if sock.fileno() >= 0:  # urllib3 leaves it open where a header makes no sense
                os.close(sock.detach())

    def hold(self, sock: socket.socket) -> None:
        """Take a new connection: a second handle, as TLS takes the first one over."""
        with self._lock:
            self._lines.append(sock.dup())
            self._made.append(sock)

    def count(self, count: int) -> None:
        """Note bytes that arrived."""
        self._bytes += count

    def _watch(self) -> None:
        limits = self._patience.limits
        marked_bytes, mark_s = 0, time.monotonic()
        while not self._over.wait(limits.poll_s):
            now_s = time.monotonic()
            if self.cause is None:
                try:
                    self._patience.check()
                except FetchError as error:
                    self.cause = error
            if self.cause is None and now_s - mark_s >= limits.rate_window_s:
                if self._bytes - marked_bytes < limits.rate_bytes_s * (now_s - mark_s):
                    self.cause = FetchError("too_slow", "the server sends too slowly.")
                marked_bytes, mark_s = self._bytes, now_s
            if self.cause is not None:
                self._cut()  # each time round: a connection may have been made since

    def _cut(self) -> None:
        with self._lock:
            for line in self._lines:
                with suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)


class LeashedSession(requests.Session):
    """A session of requests on a leash.

    It leaves redirects to its user: requests would read the body of each to its end.
    """

    def __init__(self, leash: Leash) -> None:
        super().__init__()
        adapter = _Adapter(leash.hold)
        for scheme in ("http://", "https://"):
            self.mount(scheme, adapter)

    def get_redirect_target(self, _: requests.Response) -> None:
        """See the base class."""
        return


class _Adapter(HTTPAdapter):
    """Tells of each connection as soon as there is one, before TLS. Never tries again itself."""

    def __init__(self, hold: Callable[[socket.socket], None]) -> None:
        self._pools = _pools(hold)
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **settings: Any) -> None:
        super().init_poolmanager(*args, **settings)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **settings: Any) -> Any:
        manager = super().proxy_manager_for(*args, **settings)
        manager.pool_classes_by_scheme = self._pools
        return manager


def _pools(
    hold: Callable[[socket.socket], None],
) -> dict[str, Callable[..., HTTPConnectionPool]]:
    # Not classes made anew: each would be garbage that is collected long after.
    return {"http": functools.partial(_PlainPool, hold), "https": functools.partial(_TlsPool, hold)}


class _Plain(HTTPConnection):
    def __init__(self, hold: Callable[[socket.socket], None], *args: Any, **settings: Any) -> None:
        self._hold = hold
        super().__init__(*args, **settings)

    def _new_conn(self) -> socket.socket:
        sock = super()._new_conn()
        self._hold(sock)
        return sock


class _Tls(_Plain, HTTPSConnection):
    """The same with TLS."""


class _PlainPool(HTTPConnectionPool):
    def __init__(self, hold: Callable[[socket.socket], None], *args: Any, **settings: Any) -> None:
        self.ConnectionCls = functools.partial(_Plain, hold)  # type: ignore[assignment]
        super().__init__(*args, **settings)


class _TlsPool(HTTPSConnectionPool):
    def __init__(self, hold: Callable[[socket.socket], None], *args: Any, **settings: Any) -> None:
        self.ConnectionCls = functools.partial(_Tls, hold)  # type: ignore[assignment]
        super().__init__(*args, **settings)

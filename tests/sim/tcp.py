"""Bad networks: a proxy that cuts, a host that swallows, a broker that only speaks the old MQTT."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterable

# CONNACK of MQTT 3.1.1: unacceptable protocol version.
REFUSES_VERSION = b"\x20\x02\x00\x01"
_CONNECT_5 = b"\x00\x04MQTT\x05"


class Proxy:
    """Passes bytes between clients and `target_port`, one thread, and misbehaves on demand.

    Args:
        target_port: on loopback.
        port: where to listen; 0 for a free one.
        cut_after: for each connection in turn, how many bytes from the client pass before it is
            cut; later connections pass whole.
        answer_5: what a CONNECT of MQTT 5 gets instead of the broker: these bytes, then the end.
        suback: reason code that every SUBACK gets in the place of the broker's.
        mute_after: once a client has sent these bytes, it hears nothing any more: no PUBACK.

    Attributes:
        port: where it listens.
        refusing: connections are closed as soon as they are made.
        cuts: connections cut so far.
        mute: how many clients hear nothing any more.
        last_words: once set, what every client gets to read before its connection ends.
    """

    def __init__(
        self,
        target_port: int,
        *,
        port: int = 0,
        cut_after: Iterable[int] = (),
        answer_5: bytes | None = None,
        suback: int | None = None,
        mute_after: bytes | None = None,
    ) -> None:
        self._target_port = target_port
        self._cuts = list(cut_after)
        self._answer_5 = answer_5
        self._suback = suback
        self.mute_after = mute_after
        self._mute: set[socket.socket] = set()
        self._left: dict[socket.socket, int] = {}
        self._peer: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.refusing = False
        self.cuts = self.mute = 0
        self.last_words: bytes | None = None
        self._stop = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        while self._peer:
            self._drop(next(iter(self._peer)))
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.last_words is not None:
                self._end_all(self.last_words)
                self.last_words = None
            for key, _ in self._selector.select(0.02):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif sock in self._peer:
                    self._pass_on(sock)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        upstream = None
        if not self.refusing:
            with contextlib.suppress(OSError):
                upstream = socket.create_connection(("127.0.0.1", self._target_port))
        if upstream is None:
            client.close()
            return
        self._peer |= {client: upstream, upstream: client}
        self._clients.add(client)
        if self._cuts:
            self._left[client] = self._cuts.pop(0)
        for sock in (client, upstream):
            self._selector.register(sock, selectors.EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = sock.recv(65536)
        if sock in self._clients and self._answer_5 is not None and _CONNECT_5 in data:
            sock.sendall(self._answer_5)
            data = b""
        if sock not in self._clients and self._suback is not None and data[:1] == b"\x90":
            data = data[:-1] + bytes([self._suback])
        if sock in self._clients and self.mute_after is not None and self.mute_after in data:
            self._mute.add(sock)
            self.mute += 1
        if data and self._peer[sock] in self._mute:
            return
        left = self._left.get(sock)
        if left is not None:
            data, self._left[sock] = data[:left], left - len(data)
        try:
            self._peer[sock].sendall(data)
        except OSError:
            data = b""
        if left is not None and self._left[sock] <= 0:
            self.cuts += 1
            data = b""
        if not data:
            self._drop(sock)

    def _end_all(self, last_words: bytes) -> None:
        for client in list(self._clients):
            client.sendall(last_words)
            self._drop(client)

    def _drop(self, sock: socket.socket) -> None:
        for end in (sock, self._peer[sock]):
            self._selector.unregister(end)
            end.close()
            del self._peer[end]
            self._clients.discard(end)
            self._mute.discard(end)
            self._left.pop(end, None)


class DeafSubscriber:
    """Subscribes to everything at QoS 1, and then reads nothing any more.

    Args:
        port: of a broker on loopback.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._say(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x00\x00\x04deaf", b"\x20\x02\x00\x00")
        self._say(b"\x82\x06\x00\x01\x00\x01#\x01", b"\x90\x03\x00\x01\x01")

    def _say(self, packet: bytes, answer: bytes) -> None:
        self._socket.sendall(packet)
        assert self._socket.recv(len(answer), socket.MSG_WAITALL) == answer

    def close(self) -> None:
        self._socket.close()


class Silence:
    """A port that takes connections and never says a word; `swallow`: not even to the first SYN."""

    def __init__(self, *, swallow: bool = False) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0 if swallow else 16)
        self.port: int = self._listener.getsockname()[1]
        self._waiting: list[socket.socket] = []
        if swallow:
            # A full queue of connections: further attempts are ignored, as by a firewall.
            for _ in range(4):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", self.port))
                self._waiting.append(sock)

    def close(self) -> None:
        for sock in (*self._waiting, self._listener):
            sock.close()

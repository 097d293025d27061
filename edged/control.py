"""The control socket: how commands on this device talk to the one process that may write.

`runtime_dir/control.sock`, mode 0660: root, the daemon's user and its group may connect, and
whoever may connect may ask for everything that is offered. The lines are those of `control_wire`.
A client that sends nothing, or does not read, is cut off; one that asks for nonsense is told so.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

from edged import __version__
from edged.control_wire import (
    REQUEST_BYTES,
    encode_answer,
    encode_progress,
    encode_refusal,
    parse_request,
)
from edged.errors import ControlError, EdgedError
from edged.lock import RuntimeLock, unusable_runtime_dir

log = logging.getLogger(__name__)

SOCKET = "control.sock"
# The argument under which an operation finds the file that came with the request: a descriptor,
# which is closed when the operation has returned.
FILE = "file"

_MODE = 0o660
_CONNECTIONS = 8
_BACKLOG = 16
# For a whole request to arrive, and for a line of the answer to be taken.
_CLIENT_S = 5.0
_PIECE_BYTES = 16 * 1024
# After an accept that failed for want of descriptors: trying at once would only burn the CPU.
_PAUSE_S = 0.5
# sun_path of unix(7), without its final zero.
_LONGEST_ADDRESS = 107

Answer = dict[str, object]
# A generator yields progress and returns the answer.
Operation = Callable[[dict[str, object]], Answer | Generator[dict[str, object], None, Answer]]


class ControlServer:
    """Answers requests, each connection in a thread of its own.

    Args:
        lock: proves that nobody else listens in this directory.
        operations: by name. Called from several threads; raise `EdgedError` to refuse. What else
            they raise is a bug, which is logged and answered: a person's question must not take
            the service down.
        client_s: limit for a request to arrive, and for each line of the answer to be taken.

    Raises:
        StoreError: `runtime_dir_unusable`.
    """

    def __init__(
        self,
        lock: RuntimeLock,
        operations: Mapping[str, Operation],
        client_s: float = _CLIENT_S,
    ) -> None:
        self._path = lock.directory / SOCKET
        self._operations = operations
        self._client_s = client_s
        self._stopping = threading.Event()
        self._free = threading.Semaphore(_CONNECTIONS)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_socket(self._path)
            self._listener.bind(address(self._path, lock.descriptor))
            # Nobody can connect before `listen`, whatever the umask made of the mode.
            self._path.chmod(_MODE)
            self._listener.listen(_BACKLOG)
        except OSError as error:
            self._listener.close()
            raise unusable_runtime_dir(lock.directory, error) from error
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; one that is being answered is left to the end of the process."""
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept()
        self._thread.join(1.0)
        self._listener.close()
        with contextlib.suppress(OSError):
            _remove_socket(self._path)

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if not self._stopping.is_set():
                    log.warning("the control socket takes nobody: %s", error)
                self._stopping.wait(_PAUSE_S)
                continue
            client.settimeout(self._client_s)
            if not self._free.acquire(blocking=False):
                with client:
                    _tell(client, encode_refusal(_busy()))
                continue
            threading.Thread(
                target=self._serve, args=(client,), name="control-client", daemon=True
            ).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client:
                try:
                    with _received(client, self._client_s) as (line, descriptor):
                        self._answer(client, line, descriptor)
                except ControlError as late:
                    _tell(client, encode_refusal(late))
        finally:
            self._free.release()

    def _answer(self, client: socket.socket, line: bytes, descriptor: int | None) -> None:
        client.settimeout(self._client_s)
        with contextlib.closing(self._answers(line, descriptor)) as answers:
            for answer in answers:
                if not _tell(client, answer):
                    return

    def _operation(self, name: str) -> Operation:
        if name not in self._operations:
            raise ControlError(
                "operation_unknown", f"this edged, {__version__}, has no operation {name!r}."
            )
        return self._operations[name]

    def _answers(self, line: bytes, descriptor: int | None) -> Generator[bytes, None, None]:
        try:
            request = parse_request(line)
            operation = self._operation(request.operation)
            # Only what really came with the request: never a number that a client made up.
            arguments = {key: value for key, value in request.arguments.items() if key != FILE}
            if descriptor is not None:
                arguments[FILE] = descriptor
            answer = operation(arguments)
            if not isinstance(answer, dict):
                answer = yield from _progress(answer)
            yield encode_answer(answer)
        except EdgedError as error:
            yield encode_refusal(error)
        except Exception:  # a bug; see the class
            log.exception("a request over the control socket failed")
            yield encode_refusal(
                ControlError("operation_failed", "this is a bug in edged; its log says more.")
            )


def address(path: Path, directory: int) -> str:
    """Return what to bind or connect to for a socket file.

    Args:
        path: of the file.
        directory: a descriptor of the directory it is in: a path may be longer than an address.
    """
    if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
        return str(path)
    return f"/proc/self/fd/{directory}/{path.name}"


def _progress(
    steps: Generator[dict[str, object], None, Answer],
) -> Generator[bytes, None, Answer]:
    with contextlib.closing(steps):
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            yield encode_progress(step)


@contextlib.contextmanager
def _received(client: socket.socket, limit_s: float) -> Iterator[tuple[bytes, int | None]]:
    """Read one line, and at most one file that comes with it; the file is closed at the end.

    What is too long, or ends too soon, is left to the parser to refuse.

    Raises:
        ControlError: `request_late`.
    """
    line, files = b"", list[int]()
    until_s = time.monotonic() + limit_s
    try:
        while b"\n" not in line and len(line) <= REQUEST_BYTES:
            client.settimeout(max(until_s - time.monotonic(), 0.001))
            try:
                # The system closes what is beyond one file.
                piece, more, _, _ = socket.recv_fds(
                    client, _PIECE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise ControlError(
                    "request_late", f"no whole request came within {limit_s:g} s."
                ) from error
            for descriptor in more:
                if files:
                    os.close(descriptor)  # a client may send one with every byte
                else:
                    files.append(descriptor)
            if not piece:
                break
            line += piece
        yield line.partition(b"\n")[0], files[0] if files else None
    finally:
        for descriptor in files:
            os.close(descriptor)


def _tell(client: socket.socket, line: bytes) -> bool:
    """Send a line; say whether it was taken. The limit of time is the socket's, for all of it."""
    try:
        client.sendall(line)
    except OSError:
        return False
    return True


def _remove_socket(path: Path) -> None:
    """Remove a socket file, never a file of another kind.

    Raises:
        OSError: it cannot be removed, or is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, f"{path} is no socket")
    path.unlink()


def _busy() -> ControlError:
    return ControlError(
        "control_busy", f"{_CONNECTIONS} requests are being answered.", advice="Try again."
    )

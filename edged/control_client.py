"""The other end of the control socket: asks the daemon that runs, and waits for its answer."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edged.control import SOCKET, address
from edged.control_wire import (
    ANSWER_BYTES,
    Answer,
    Request,
    encode_request,
    parse_answer,
)
from edged.errors import ControlError, StoreError

ANSWER_S = 10.0
_CONNECT_S = 5.0
_AGAIN_S = 0.05
_PIECE_BYTES = 64 * 1024
_JOIN_GROUP = "Use sudo, or join the group of that file: sudo usermod -aG edged $USER."


def ask(
    runtime_dir: Path,
    request: Request,
    *,
    file: int | None = None,
    progress: Callable[[dict[str, object]], None] = lambda _: None,
    answer_s: float = ANSWER_S,
) -> dict[str, object]:
    """Ask the daemon that runs with a runtime directory.

    Args:
        runtime_dir: where its socket is.
        request: what to ask.
        file: a descriptor that the daemon gets with it.
        progress: called with each step that it reports.
        answer_s: limit for each line of the answer.

    Returns:
        The result.

    Raises:
        ControlError: what the daemon refused, with its reason; `service_not_running`,
            `control_no_permission`, `control_busy`, `control_no_answer`, `answer_malformed`,
            `request_malformed`, `request_too_large`.
    """
    line = encode_request(request)
    with _connected(runtime_dir) as daemon:
        daemon.settimeout(answer_s)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # One that hangs up early has said why. The first byte carries the file, and only a
            # single byte is never sent in part.
            socket.send_fds(daemon, [line[:1]], [] if file is None else [file])
            daemon.sendall(line[1:])
        for said in _lines(daemon, answer_s):
            step = parse_answer(said)
            if isinstance(step, Answer):
                return step.result
            progress(step.progress)
    raise ControlError(
        "control_no_answer", "the running edged hung up before it answered; its log may say why."
    )


@contextlib.contextmanager
def reading_files() -> Iterator[None]:
    """Say what a person can do who may not read the service's files beside it.

    Raises:
        StoreError: the same, with that.
    """
    try:
        yield
    except StoreError as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        raise StoreError(error.reason, str(error), advice=_JOIN_GROUP) from error


@contextlib.contextmanager
def _connected(runtime_dir: Path) -> Iterator[socket.socket]:
    path = runtime_dir / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.settimeout(_CONNECT_S)
        try:
            directory = os.open(runtime_dir, os.O_PATH | os.O_DIRECTORY)
            try:
                _connect(daemon, address(path, directory))
            finally:
                os.close(directory)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise ControlError(
                "service_not_running", f"no edged listens on {path}: the service does not run."
            ) from error
        except PermissionError as error:
            raise ControlError(
                "control_no_permission",
                f"this user may not connect to {path}.",
                advice=_JOIN_GROUP,
            ) from error
        except OSError as error:
            raise ControlError(
                "control_no_answer", f"cannot connect to {path}: {error}."
            ) from error
        yield daemon


def _connect(daemon: socket.socket, where: str) -> None:
    until_s = time.monotonic() + _CONNECT_S
    while True:
        try:
            daemon.connect(where)
        except BlockingIOError as error:  # its queue is full
            if time.monotonic() > until_s:
                raise ControlError(
                    "control_busy", "the running edged takes no more requests.", advice="Try again."
                ) from error
            time.sleep(_AGAIN_S)
        else:
            return


def _lines(daemon: socket.socket, answer_s: float) -> Iterator[bytes]:
    """Yield the lines that the daemon says, until it hangs up.

    Raises:
        ControlError: `control_no_answer`, `answer_malformed`.
    """
    rest = b""
    while len(rest) <= ANSWER_BYTES:
        try:
            piece = daemon.recv(_PIECE_BYTES)
        except TimeoutError as error:
            raise ControlError(
                "control_no_answer", f"the running edged said nothing for {answer_s:g} s."
            ) from error
        except ConnectionResetError:
            return
        if not piece:
            return
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    raise ControlError("answer_malformed", f"more than {ANSWER_BYTES} bytes on one line.")

"""The control socket: real sockets, clients that behave and clients that do not."""

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.broker import wait_for

from edged.control import SOCKET, ControlServer, Operation
from edged.control_client import ask
from edged.control_wire import (
    REQUEST_BYTES,
    Answer,
    Progress,
    Request,
    encode_progress,
    encode_request,
    parse_answer,
    parse_request,
)
from edged.errors import ControlError, FetchError, StoreError
from edged.lock import RuntimeLock

CLIENT_S = 0.5
STATUS = Request("status", {})
Serve = Callable[..., Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server that offers `status` and what the test adds; returns its directory."""
    running = []

    def start(directory: Path | None = None, **operations: Operation) -> Path:
        lock = RuntimeLock(directory or tmp_path / "run")
        offered = {"status": lambda _: {"up": True}, **operations}
        running.append((ControlServer(lock, offered, client_s=CLIENT_S), lock))
        return lock.directory

    yield start
    for server, lock in running:
        server.stop()
        lock.release()


@contextlib.contextmanager
def connected(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10.0)
        client.connect(str(directory / SOCKET))
        yield client


def send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(data)


def read_all(client: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            said += piece
    return said


def answers(directory: Path) -> bool:
    try:
        return ask(directory, STATUS) == {"up": True}
    except ControlError:
        return False


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((ControlError, StoreError)) as caught:
        call()
    return caught.value.reason


# What is asked and answered


def test_a_question_and_its_answer(serve) -> None:
    directory = serve(echo=lambda given: {"given": given})

    assert ask(directory, STATUS) == {"up": True}
    assert ask(directory, Request("echo", {"a": "ä", "b": [1, None]})) == {
        "given": {"a": "ä", "b": [1, None]}
    }


def test_a_refusal_keeps_its_reason_and_advice(serve) -> None:
    def refuse(_: dict[str, object]) -> dict[str, object]:
        raise FetchError("not_found", "not \udcff there.", advice="Look elsewhere.")

    directory = serve(refuse=refuse)

    with pytest.raises(ControlError, match=r"not .*udcff there\. Look elsewhere\.") as caught:
        ask(directory, Request("refuse", {}))
    assert caught.value.reason == "not_found"


def test_an_operation_of_another_version(serve) -> None:
    directory = serve()

    assert refused(lambda: ask(directory, Request("fly", {}))) == "operation_unknown"


@pytest.mark.parametrize("answer", [{"x": object()}, {"x": "\udcff"}, None, 7])
def test_a_bug_is_answered_and_logged_and_nobody_dies(serve, caplog, answer) -> None:
    directory = serve(bug=lambda given: given["nothing"], odd=lambda _: answer)

    assert refused(lambda: ask(directory, Request("bug", {}))) == "operation_failed"
    assert refused(lambda: ask(directory, Request("odd", {}))) == "operation_failed"

    assert "KeyError: 'nothing'" in caplog.text
    assert answers(directory)


def test_progress_comes_while_it_happens(serve) -> None:
    go_on = threading.Event()

    def install(_: dict[str, object]):
        yield {"state": "DOWNLOADING"}
        assert go_on.wait(10.0)
        yield {"state": "VERIFYING"}
        return {"done": True}

    directory = serve(install=install)
    steps: list[object] = []

    def step(progress: dict[str, object]) -> None:
        steps.append(progress["state"])
        go_on.set()

    assert ask(directory, Request("install", {}), progress=step) == {"done": True}
    assert steps == ["DOWNLOADING", "VERIFYING"]


def test_a_refusal_after_progress(serve) -> None:
    def install(_: dict[str, object]):
        yield {"state": "DOWNLOADING"}
        raise StoreError("disk_full", "no room.")

    directory = serve(install=install)

    assert refused(lambda: ask(directory, Request("install", {}))) == "disk_full"


def test_one_slow_operation_keeps_nobody_else_waiting(serve) -> None:
    go_on = threading.Event()
    directory = serve(slow=lambda _: {"went_on": go_on.wait(10.0)})
    said = []
    asking = threading.Thread(target=lambda: said.append(ask(directory, Request("slow", {}))))
    asking.start()

    assert answers(directory)
    go_on.set()
    asking.join(10.0)
    assert said == [{"went_on": True}]


# Files that come with a request


def test_a_file_comes_with_the_request_and_is_closed_after(serve, tmp_path) -> None:
    path = tmp_path / "birds.zip"
    path.write_bytes(b"content")
    directory = serve(install=lambda given: {"read": os.pread(given["file"], 99, 0).decode()})
    before = open_files()

    with path.open("rb") as file:
        path.unlink()  # no name is needed
        request = Request("install", {"file": 0})
        assert ask(directory, request, file=file.fileno()) == {"read": "content"}

    wait_for("all closed", lambda: open_files() == before)


def test_a_number_that_a_client_made_up_is_no_file(serve) -> None:
    directory = serve(install=lambda given: {"keys": sorted(given)})

    said = ask(directory, Request("install", {"file": 3, "bare": True}))

    assert said == {"keys": ["bare"]}


def test_files_beyond_the_first_are_closed(serve, tmp_path) -> None:
    directory = serve()
    files = [(tmp_path / str(n)).open("wb") for n in range(20)]
    before = open_files()

    for _ in range(5):
        with connected(directory) as client:
            line = encode_request(STATUS)
            numbers = [file.fileno() for file in files]
            socket.send_fds(client, [line[:5]], numbers)
            socket.send_fds(client, [line[5:]], numbers)
            assert b'"ok":true' in read_all(client)

    wait_for("all closed", lambda: open_files() == before)
    for file in files:
        file.close()


def test_files_with_every_byte_are_closed_as_they_come(serve, tmp_path) -> None:
    directory = serve(count=lambda given: {"open": open_files(), "file": given["file"]})
    line = encode_request(Request("count", {}))
    before = open_files()
    with (tmp_path / "file").open("wb") as file, connected(directory) as client:
        for n in range(len(line) - 1):
            socket.send_fds(client, [line[n : n + 1]], [file.fileno()])
        send(client, line[-1:])
        said = orjson.loads(read_all(client))["result"]
    assert said["open"] <= before + 4, "both ends, the file, and one of it"
    assert said["file"]


# Clients that misbehave


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\n", "request_malformed"),
        (b"garbage\n", "request_malformed"),
        (b"\xff\xfe\x00\n", "request_malformed"),
        (b"null\n", "request_malformed"),
        (b"[]\n", "request_malformed"),
        (b"{}\n", "request_malformed"),
        (b'{"operation":3}\n', "request_malformed"),
        (b'{"operation":""}\n', "request_malformed"),
        (b'{"operation":"../x"}\n', "request_malformed"),
        (b'{"operation":"status","arguments":[]}\n', "request_malformed"),
        (b'{"operation":"status","arguments":null}\n', "request_malformed"),
        (b'{"operation":"status","operation":"fly"}\n', "request_malformed"),
        (b'{"operation":"status","arguments":{"x":NaN}}\n', "request_malformed"),
        (b'{"operation":"status","arguments":{"x":1' + b"0" * 400 + b"}}\n", "request_malformed"),
        (b'{"operation":' * 4000 + b"\n", "request_malformed"),
        (b'{"operation":"sta', "request_malformed"),  # and no more: half a line
        (b'{"operation":"fly"}\n', "operation_unknown"),
        (b"x" * 10_000_000, "request_too_large"),
        (b"x" * 10_000_000 + b"\n", "request_too_large"),
        (b'{"operation":"status"' + b" " * REQUEST_BYTES + b"}\n", "request_too_large"),
    ],
)
def test_nonsense_is_answered_and_nobody_dies(serve, data, reason) -> None:
    directory = serve()

    with connected(directory) as client:
        send(client, data)
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_WR)
        said = orjson.loads(read_all(client))

    assert (said["ok"], said["reason"]) == (False, reason)
    assert len(said["detail"]) < 1000
    assert answers(directory)


def test_a_line_without_an_end_will_do_when_nothing_follows(serve) -> None:
    with connected(serve()) as client:
        client.sendall(b'{"operation":"status","later":"versions may say more"}')
        client.shutdown(socket.SHUT_WR)

        assert orjson.loads(read_all(client))["ok"]


def test_one_request_per_connection(serve) -> None:
    with connected(serve()) as client:
        client.sendall(encode_request(STATUS) * 3)

        assert read_all(client).count(b'"ok"') == 1


@pytest.mark.parametrize("silent", [True, False])
def test_who_sends_nothing_or_drips_is_cut(serve, silent) -> None:
    directory = serve()
    with connected(directory) as client:
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(CLIENT_S / 10):
                send(client, b" ")

        dripping = threading.Thread(target=drip)
        if not silent:
            dripping.start()
        said = read_all(client)
        stop.set()
        if not silent:
            dripping.join(10.0)

    assert orjson.loads(said)["reason"] == "request_late"
    assert answers(directory)


def test_who_does_not_read_is_cut(serve) -> None:
    """As many as may ask at once: all of them give their places back."""
    directory = serve(long=lambda _: {"text": "x" * 4_000_000})
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connected(directory))
            client.sendall(encode_request(Request("long", {})))

        wait_for("a free place", lambda: answers(directory))


def test_too_many_at_once_are_told_so(serve) -> None:
    directory = serve()
    before = open_files()
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connected(directory))
        said = []
        wait_for("busy", lambda: said.append(_reason(directory)) or said[-1] == "control_busy")

    wait_for("free again", lambda: answers(directory))
    wait_for("all closed", lambda: open_files() == before)


def _reason(directory: Path) -> str:
    try:
        ask(directory, STATUS)
    except ControlError as error:
        return error.reason
    return ""


def _connects(client: socket.socket, directory: Path) -> bool:
    client.settimeout(10.0)
    try:
        client.connect(str(directory / SOCKET))
    except BlockingIOError:
        return False
    return True


def test_two_hundred_connections_take_eight_threads(serve) -> None:
    directory = serve()
    threads, files = threading.active_count(), open_files()
    most = 0
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            wait_for("a place in the queue", lambda client=client: _connects(client, directory))
            most = max(most, threading.active_count() - threads)

    assert most <= 8
    wait_for("an answer", lambda: answers(directory))
    wait_for("no thread left", lambda: threading.active_count() == threads)
    wait_for("all closed", lambda: open_files() == files)


def test_who_leaves_in_the_middle_of_an_answer_ends_the_operation(serve) -> None:
    ended = threading.Event()

    def endless(_: dict[str, object]):
        try:
            while True:
                yield {"text": "x" * 10_000}
        finally:
            ended.set()

    directory = serve(endless=endless)
    with connected(directory) as client:
        client.sendall(encode_request(Request("endless", {})))
        client.recv(1000)

    assert ended.wait(10.0)
    assert answers(directory)


def test_who_leaves_at_once_costs_nothing(serve) -> None:
    directory = serve()
    files = open_files()

    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as client:
            wait_for("a place in the queue", lambda client=client: _connects(client, directory))

    wait_for("an answer", lambda: answers(directory))
    wait_for("all closed", lambda: open_files() == files)


# The file


def test_who_may_connect(serve) -> None:
    directory = serve()

    assert stat.S_IMODE((directory / SOCKET).stat().st_mode) == 0o660
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_the_umask_takes_nothing_away(serve, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    before = os.umask(0o777)
    try:
        directory = serve()
    finally:
        os.umask(before)

    assert stat.S_IMODE((directory / SOCKET).stat().st_mode) == 0o660


def test_others_may_not(open_folder, serve, stranger) -> None:
    directory = serve(open_folder)
    with stranger():
        assert refused(lambda: ask(directory, STATUS)) == "control_no_permission"

    assert answers(directory)


def test_a_directory_in_which_anybody_may_replace_files(tmp_path) -> None:
    tmp_path.chmod(0o777)
    assert refused(lambda: RuntimeLock(tmp_path)) == "runtime_dir_unsafe"

    tmp_path.chmod(0o1777)  # as /tmp: only one's own
    RuntimeLock(tmp_path).release()


def test_what_a_dead_daemon_left_is_replaced(serve, tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET))
        dead.listen()
    assert refused(lambda: ask(tmp_path, STATUS)) == "service_not_running"

    assert answers(serve(tmp_path))


def test_a_living_one_is_left_alone(serve) -> None:
    directory = serve()
    inode = (directory / SOCKET).stat().st_ino

    assert refused(lambda: serve(directory)) == "runtime_dir_taken"

    assert (directory / SOCKET).stat().st_ino == inode
    assert answers(directory)


def test_a_file_that_is_no_socket_is_not_removed(serve, tmp_path) -> None:
    (tmp_path / SOCKET).write_text("precious")

    assert refused(lambda: serve(tmp_path)) == "runtime_dir_unusable"
    assert (tmp_path / SOCKET).read_text() == "precious"


def test_a_path_longer_than_an_address(serve, tmp_path) -> None:
    assert answers(serve(tmp_path / ("long" * 30) / ("longer" * 30)))


def test_it_stops_at_once_and_takes_its_file_along(tmp_path) -> None:
    lock = RuntimeLock(tmp_path)
    server = ControlServer(lock, {}, client_s=60.0)
    with connected(tmp_path):
        began_s = time.monotonic()
        server.stop()

    assert time.monotonic() - began_s < 1.0
    assert not (tmp_path / SOCKET).exists()
    lock.release()


# The client, and what it may meet


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """Listens and says the same to everybody, then hangs up, or with b"" says nothing."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / SOCKET))
    listener.listen(1)
    over = threading.Event()
    threads: list[threading.Thread] = []

    def answer(data: bytes | None) -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            if data is None:
                over.wait(10.0)
            else:
                send(client, data)

    def start(data: bytes | None) -> Path:
        threads.append(threading.Thread(target=answer, args=(data,)))
        threads[-1].start()
        return tmp_path

    yield start
    over.set()
    for thread in threads:
        thread.join(10.0)
    listener.close()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "control_no_answer"),
        (b'{"ok":tr', "control_no_answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "answer_malformed"),
        (b"[]\n", "answer_malformed"),
        (b"{}\n", "answer_malformed"),
        (b'{"ok":true,"result":7}\n', "answer_malformed"),
        (b'{"ok":1,"result":{}}\n', "answer_malformed"),
        (b'{"ok":false,"reason":7,"detail":""}\n', "answer_malformed"),
        (b'{"progress":{}}\n', "control_no_answer"),
        (b"x" * 9_000_000, "answer_malformed"),
        (None, "control_no_answer"),
    ],
)
def test_who_answers_something_else(impostor, data, reason) -> None:
    directory = impostor(data)

    assert refused(lambda: ask(directory, STATUS, answer_s=0.5)) == reason


def test_nobody_there(tmp_path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert refused(lambda directory=directory: ask(directory, STATUS)) == "service_not_running"


def test_a_request_that_cannot_be_sent(serve) -> None:
    directory = serve()

    large = Request("status", {"x": "y" * REQUEST_BYTES})
    assert refused(lambda: ask(directory, large)) == "request_too_large"
    assert refused(lambda: ask(directory, Request("status", {"x": "\udcff"}))) == (
        "request_malformed"
    )


# The parsers


# Values that nearly are a line: the keys that count, with anything in them.
KEYS = ["operation", "arguments", "ok", "result", "reason", "detail", "progress"]
VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
)
LINES = st.binary() | st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4).map(
    lambda value: json.dumps(value).encode()
)


@given(LINES)
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    try:
        request = parse_request(line)
    except ControlError as error:
        assert error.reason in {"request_malformed", "request_too_large"}
    else:
        assert parse_request(encode_request(request)) == request


@given(LINES)
def test_any_bytes_are_an_answer_or_refused(line: bytes) -> None:
    with contextlib.suppress(ControlError):
        assert isinstance(parse_answer(line), Answer | Progress)


def test_progress_is_read_as_it_was_written() -> None:
    assert parse_answer(encode_progress({"bytes": 3})) == Progress({"bytes": 3})

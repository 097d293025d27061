"""Packages over bad networks, and what a power cut leaves of a refresh or a download."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import requests
from sim.files import (
    PowerCutError,
    Step,
    Tree,
    WatchedFiles,
    Wreck,
    aftermath,
    each_sync_forgotten,
    read_tree,
    write_tree,
)
from sim.tcp import Proxy, Silence
from sim.tuf import Server, Trouble, World, serving
from urllib3.connection import HTTPConnection

from edged.errors import EdgedError, FetchError, StoreError, VerifyError
from edged.models.files import Files
from edged.models.httpsource import HttpSource
from edged.models.repository import Clock, Repository
from edged.models.source import Limits
from edged.models.target import Target
from edged.models.trust import Kept, TrustStore

DATA = bytes(range(256)) * 512  # 128 KiB
QUICK = Limits(
    connect_s=1, silence_s=0.7, rate_bytes_s=2000, rate_window_s=1.5, poll_s=0.02, metadata_s=5,
    step_bytes=1024,
)  # fmt: skip


@pytest.fixture
def world() -> World:
    world = World()
    world.add("birds", "1.4.0", DATA)
    world.publish()
    return world


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    with serving(world.files) as running:
        yield running


def repository(folder: Path, world: World, url: str, **settings: object) -> Repository:
    given = {
        "limits": QUICK,
        "clock": lambda: Clock(world.now.timestamp(), synchronised=True),
        "floor_s": 0.0,
        **settings,
    }
    return Repository(
        world.first_root,
        folder / "tuf/metadata",
        f"{url}/metadata",
        folder / "staging",
        f"{url}/targets",
        **given,  # type: ignore[arg-type]
    )


class Case:
    """A device that knows the package, and the server's address of it."""

    def __init__(self, folder: Path, world: World, server: Server) -> None:
        self.folder, self.world, self.server = folder, world, server
        self.path = world.served("birds/1.4.0.zip")
        self.target = self.look(self.start())
        server.asked.clear()

    def start(self, **settings: object) -> Repository:
        return repository(self.folder, self.world, self.server.url, **settings)

    @staticmethod
    def look(started: Repository) -> Target:
        target = started.find("birds/1.4.0.zip")
        assert target is not None
        return target

    def trouble(self, **settings: object) -> None:
        self.server.troubles[self.path] = Trouble(**settings)  # type: ignore[arg-type]

    def download(self, **settings: object) -> bytes:
        return self.start(**settings).download(self.target).read_bytes()

    def refused(self, **settings: object) -> EdgedError:
        with pytest.raises(EdgedError) as caught:
            self.download(**settings)
        return caught.value

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "staging").iterdir())


@pytest.fixture
def case(tmp_path: Path, world: World, server: Server) -> Case:
    return Case(tmp_path, world, server)


# Going on


@pytest.mark.parametrize("cut", range(0, len(DATA), 16 * 1024))
def test_a_cut_connection_is_gone_on_with(case: Case, cut: int) -> None:
    case.trouble(cut_after=cut, times=1)
    if cut == 0:
        assert case.refused().reason == "connection_lost"

    assert case.download() == DATA

    ranges = [wanted for _, wanted, _ in case.server.asked]
    assert ranges == (["", ""] if cut == 0 else ["", f"bytes={cut}-"])
    assert all(etag for _, wanted, etag in case.server.asked if wanted)


def test_no_request_leaves_classes_behind(case: Case) -> None:
    """They are garbage in cycles, which is looked for after hundreds of deployments."""
    case.look(case.start())
    gc.collect()
    before = len(HTTPConnection.__subclasses__())
    gc.disable()
    try:
        case.look(case.start())
        assert len(HTTPConnection.__subclasses__()) == before
    finally:
        gc.enable()


def test_cuts_again_and_again(case: Case) -> None:
    case.trouble(cut_after=20_000)

    assert case.download() == DATA
    assert len(case.server.asked) == 7


def test_a_server_that_gives_no_more_is_left_alone(case: Case) -> None:
    case.trouble(cut_after=500)

    error = case.refused()

    assert (error.reason, type(error)) == ("connection_lost", FetchError)
    assert len(case.server.asked) == 1


def test_it_goes_on_after_a_restart(case: Case) -> None:
    case.trouble(cut_after=500)
    for _ in range(3):
        case.refused()
    case.server.troubles.clear()

    assert case.download() == DATA

    assert [wanted for _, wanted, _ in case.server.asked] == [
        "", "bytes=500-", "bytes=1000-", "bytes=1500-"
    ]  # fmt: skip
    assert case.left() == [case.target.wanted.sha256]


@pytest.mark.parametrize(
    "how",
    [{"ignore_range": True}, {"wrong_range": True}, {"status": 416, "times": 1}],
    ids=["ignores", "another", "refuses"],
)
def test_a_server_without_ranges_begins_anew(case: Case, how: dict[str, object]) -> None:
    case.trouble(cut_after=50_000)
    case.refused(limits=Limits(**{**vars_of(QUICK), "step_bytes": 10**9}))
    case.trouble(**how)

    assert case.download() == DATA


def vars_of(limits: Limits) -> dict[str, object]:
    return {name: getattr(limits, name) for name in limits.__slots__}


def test_a_file_that_has_changed_begins_anew(case: Case) -> None:
    case.trouble(cut_after=50_000, times=1)
    case.server.etags[case.path] = '"old"'
    case.refused(limits=Limits(**{**vars_of(QUICK), "step_bytes": 10**9}))
    case.server.etags[case.path] = '"new"'

    assert case.download() == DATA
    assert case.server.asked[-1][1:] == ("bytes=50000-", '"old"')


def test_a_spoilt_beginning_is_fetched_again(case: Case) -> None:
    case.trouble(cut_after=50_000, times=1)
    case.refused(limits=Limits(**{**vars_of(QUICK), "step_bytes": 10**9}))
    part = case.folder / "staging" / f"{case.target.wanted.sha256}.part"
    part.write_bytes(b"?" + part.read_bytes()[1:])

    assert case.download() == DATA


@pytest.mark.parametrize(
    "mark",
    [b"", b"[]", b"{}", b'{"safe_bytes": -1, "validator": ""}', b"\0" * 50,
     b'{"safe_bytes": 999999999, "validator": ""}', b'{"safe_bytes": 5, "validator": 5}'],
)  # fmt: skip
def test_a_spoilt_mark_begins_anew(case: Case, mark: bytes) -> None:
    case.trouble(cut_after=500, times=1)
    case.refused()
    (case.folder / "staging" / f"{case.target.wanted.sha256}.part.json").write_bytes(mark)

    assert case.download() == DATA


# Thieves and broken servers


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (DATA[:-1] + b"?", "target_hash_mismatch"),
        (DATA + b"?", "target_length_mismatch"),
        (DATA[:-1], "target_length_mismatch"),
        (b"?", "target_length_mismatch"),
        (b"", "target_length_mismatch"),
    ],
)
def test_another_file_is_refused(case: Case, body: bytes, reason: str) -> None:
    case.trouble(body=body)

    error = case.refused()

    assert (error.reason, type(error)) == (reason, VerifyError)
    assert case.left() == []


def test_a_file_without_an_end_is_refused(case: Case) -> None:
    case.trouble(endless=True)

    error = case.refused()

    assert (error.reason, type(error)) == ("target_too_long", VerifyError)
    assert case.left() == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"status": 404}, "not_found"),
        ({"status": 410}, "not_found"),
        ({"status": 403}, "access_denied"),
        ({"status": 401}, "access_denied"),
        ({"status": 407}, "proxy_failed"),
        ({"status": 429}, "server_busy"),
        ({"status": 503, "headers": {"Retry-After": "7"}}, "server_busy"),
        ({"status": 500}, "server_failed"),
        ({"status": 503}, "server_failed"),
        ({"status": 204}, "status_unexpected"),
        ({"status": 418}, "status_unexpected"),
        ({"status": 206}, "status_unexpected"),
        ({"status": 301, "headers": {"Location": "file:///etc/passwd"}}, "redirect_refused"),
        ({"status": 302, "headers": {"Location": "ftp://127.0.0.1/x"}}, "redirect_refused"),
        ({"status": 302}, "redirect_loop"),
        ({"status": 302, "endless": True}, "redirect_loop"),
        ({"status": 302, "headers": {"Location": "http://[/"}}, "redirect_refused"),
        ({"status": 302, "headers": {"Location": f"http://{'a' * 70}.org/"}}, "url_invalid"),
        ({"headers": {"Content-Length": "9" * 5000}}, "status_unexpected"),
        ({"headers": {"Content-Length": "3, 4"}}, "status_unexpected"),
        ({"headers": {"Content-Encoding": "gzip"}}, "content_encoded"),
        ({"body": b"<html>Welcome!", "headers": {"Content-Type": "text/html"}}, "captive_portal"),
        ({"silent": True}, "server_silent"),
        ({"drip_s": 0.05}, "too_slow"),
        ({"drip_s": 0.05, "drip_headers": True}, "too_slow"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_the_network_does_is_told_apart(
    case: Case, how: dict[str, object], reason: str
) -> None:
    case.trouble(**how)

    error = case.refused()
    assert (error.reason, type(error)) == (reason, FetchError), error

    case.server.troubles = {"metadata/timestamp.json": case.server.troubles[case.path]}
    with pytest.raises(FetchError) as caught:
        case.start().refresh()
    assert caught.value.reason == reason
    assert case.download() == DATA


def test_the_server_may_ask_for_patience(case: Case) -> None:
    dates = {
        "Date": "Tue, 01 Dec 2026 00:00:00 GMT",
        "Retry-After": "Tue, 01 Dec 2026 00:01:00 GMT",
    }
    for headers, expected in [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "9" * 50}, 86400.0),
        ({"Retry-After": "soon"}, None),
        ({**dates, "Retry-After": "Tue, 01 Dec 2026 00:01:00 +99999999999"}, None),
        ({**dates, "Date": "Tue, 01 Dec 99999999999 00:01:00 GMT"}, None),
        (dates, 60.0),
    ]:
        case.trouble(status=429, headers=headers)
        error = case.refused()
        assert isinstance(error, FetchError)
        assert error.retry_after_s == expected


def test_redirects_are_followed_thrice(case: Case) -> None:
    server = case.server
    for number in range(4):
        server.troubles[f"hop{number}"] = Trouble(
            status=302, headers={"Location": f"{server.url}/hop{number + 1}"}
        )
    server.files["hop4"] = DATA
    case.trouble(status=307, headers={"Location": "/hop2"})
    assert case.download() == DATA

    for path in (case.folder / "staging").iterdir():
        path.unlink()
    case.trouble(status=301, headers={"Location": "/hop1"})
    assert case.refused().reason == "redirect_loop"


@pytest.mark.parametrize(
    ("here", "there", "allowed"),
    [
        ("https://a.org/x", "https://b.org/x", True),
        ("http://a.org/x", "https://a.org/x", True),
        ("https://a.org/x", "http://a.org/x", False),
        ("https://a.org/x", "https://127.0.0.1/x", False),
        ("http://a.org/x", "http://169.254.169.254/latest", False),
        ("http://a.org/x", "http://localhost/x", False),
        ("http://a.org/x", "http://[::1]/x", False),
        ("http://a.org/x", "http://[::ffff:127.0.0.1]/x", False),
        ("http://a.org/x", "http://LOCALHOST./x", False),
        ("http://a.org/x", "http://127.1/x", False),
        ("http://a.org/x", "http://0xa9fea9fe/x", False),
        ("http://a.org/x", "http://0/x", False),
        ("http://a.org/x", "http://[fe80::1%25eth0]/x", False),
        ("http://a.org/x", "http://10.0.0.1/x", True),
        ("http://127.0.0.1/x", "http://127.0.0.1:8/x", True),
        ("http://a.org/x", "data:,x", False),
    ],
)
def test_where_redirects_may_lead(here: str, there: str, allowed: bool) -> None:
    from edged.models.httpsource import _redirected

    if allowed:
        assert _redirected(here, there) == there
    else:
        with pytest.raises(FetchError):
            _redirected(here, there)


def test_nobody_there(case: Case, free_port: int) -> None:
    for url in (f"http://127.0.0.1:{free_port}", "http://host.invalid", "http://127.0.0.1:1"):
        with pytest.raises(FetchError) as caught:
            repository(case.folder, case.world, url).refresh()
        assert caught.value.reason == "server_unreachable"
    for url in ("gopher://x", "http://[", "nothing"):
        with pytest.raises(FetchError) as caught:
            repository(case.folder, case.world, url).refresh()
        assert caught.value.reason == "url_invalid"


def test_one_who_accepts_and_says_nothing(case: Case) -> None:
    silence = Silence()
    with pytest.raises(FetchError) as caught:
        repository(case.folder, case.world, f"http://127.0.0.1:{silence.port}").refresh()
    silence.close()
    assert caught.value.reason == "server_silent"


def test_a_handshake_that_never_ends(case: Case) -> None:
    """TLS that drips: each byte is in time, the whole never is."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    sent = []

    def drip() -> None:
        sock, _ = listener.accept()
        with sock:
            # A record of 16 KiB is announced.
            for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc" + b"\0" * 1000:
                try:
                    sock.sendall(bytes([byte]))
                except OSError:
                    return
                sent.append(byte)
                if over.wait(0.05):
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}"
    patient = Limits(**{**vars_of(QUICK), "connect_s": 30, "silence_s": 30, "metadata_s": 60})
    try:
        with pytest.raises(FetchError) as caught:
            repository(case.folder, case.world, url, limits=patient).refresh()
    finally:
        over.set()
        thread.join()
        listener.close()
    assert caught.value.reason == "too_slow"
    assert len(sent) < 300  # of a thousand, 20 a second


def test_a_canceled_download_stops_and_stays(case: Case) -> None:
    case.trouble(cut_after=50_000, silent=False, times=1)
    stop = threading.Event()
    case.refused(limits=Limits(**{**vars_of(QUICK), "step_bytes": 10**9}))
    case.trouble(silent=True)
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    patient = Limits(**{**vars_of(QUICK), "silence_s": 20, "rate_window_s": 20})

    with pytest.raises(FetchError) as caught:
        case.start(limits=patient).download(case.target, cancelled=stop.is_set)
    timer.join()

    assert caught.value.reason == "fetch_canceled"
    case.server.troubles.clear()
    assert case.download() == DATA
    assert case.server.asked[-1][1] == "bytes=50000-"


def test_a_deadline_ends_what_is_slow_but_steady(case: Case) -> None:
    case.trouble(drip_s=0.01)
    slow = Limits(**{**vars_of(QUICK), "rate_bytes_s": 1})

    with pytest.raises(FetchError) as caught:
        case.start(limits=slow).download(case.target, deadline_s=0.2)

    assert caught.value.reason == "deadline_passed"


def test_a_refresh_has_a_deadline(case: Case) -> None:
    case.server.troubles[""] = Trouble(drip_s=0.01)
    slow = Limits(**{**vars_of(QUICK), "rate_bytes_s": 1, "metadata_s": 0.2})

    with pytest.raises(FetchError) as caught:
        case.start(limits=slow).refresh()

    assert caught.value.reason == "deadline_passed"


def test_through_a_proxy(case: Case, free_port: int) -> None:
    with serving(case.world.files) as proxy:
        source = HttpSource("edged/1", proxies={"http": proxy.url})
        started = repository(
            case.folder / "other", case.world, "http://models.invalid", source=source
        )
        assert started.download(case.look(started)).read_bytes() == DATA
    assert proxy.agents == {"edged/1"}
    source = HttpSource(proxies={"http": f"http://127.0.0.1:{free_port}"})
    with pytest.raises(FetchError) as caught:
        repository(case.folder, case.world, "http://models.invalid", source=source).refresh()
    assert caught.value.reason == "proxy_failed"


def test_passwords_in_urls_stay_out_of_messages(case: Case, free_port: int) -> None:
    url = f"http://me:secret@127.0.0.1:{free_port}"
    with pytest.raises(FetchError) as caught:
        repository(case.folder, case.world, url).refresh()
    assert "secret" not in caught.value.explain()


def test_tls(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", requests.certs.where())
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=x",
             "-addext", "subjectAltName=IP:127.0.0.1"],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(case.world.files, context) as server:
        url = server.url.replace("http:", "https:")
        trusting = HttpSource(ca_file=str(cert))
        started = repository(tmp_path / "a", case.world, url, source=trusting)
        assert started.download(case.look(started)).read_bytes() == DATA

        with pytest.raises(FetchError) as caught:
            repository(tmp_path / "b", case.world, url).refresh()
        assert caught.value.reason == "server_not_trusted"
        for missing in (HttpSource(ca_file="/none"), HttpSource(cert_files=("/none", "/none"))):
            with pytest.raises(FetchError) as caught:
                repository(tmp_path / "d", case.world, url, source=missing).refresh()
            assert caught.value.reason == "certificate_unreadable"
        other = url.replace("127.0.0.1", "localhost")
        with pytest.raises(FetchError) as caught:
            repository(tmp_path / "c", case.world, other, source=trusting).refresh()
        assert caught.value.reason == "server_not_trusted"


def test_a_connection_that_is_cut_at_each_byte_of_a_refresh(case: Case) -> None:
    """The request is cut at the server's door: nothing is believed, nothing is broken."""
    port = int(case.server.url.rpartition(":")[2])
    proxy = Proxy(port, cut_after=range(1, 60, 7))
    url = f"http://127.0.0.1:{proxy.port}"
    for _ in range(9):
        with pytest.raises(FetchError) as caught:
            repository(case.folder / "new", case.world, url).refresh()
        assert caught.value.reason == "connection_lost"
    assert repository(case.folder / "new", case.world, url).refresh().versions["root"] == 1
    proxy.close()


@pytest.mark.parametrize("cut", [0, 1, 100, 300])
def test_metadata_that_are_cut_are_the_networks_fault(case: Case, cut: int) -> None:
    case.server.troubles["metadata/timestamp.json"] = Trouble(cut_after=cut)

    with pytest.raises(FetchError) as caught:
        case.start().refresh()

    assert caught.value.reason == "connection_lost"


# Full and failing disks


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "disk_read_only"),
        (errno.EIO, "disk_failed"),
        (errno.EMFILE, "descriptors_exhausted"),
        (errno.EACCES, "disk_unusable"),
    ],
)
def test_a_disk_that_fails_at_any_step(case: Case, code: int, reason: str) -> None:
    """The device is at fault, nothing stays behind, and the next attempt does it."""
    case.trouble(cut_after=50_000, times=10**9)
    call = 0
    while True:
        files = WatchedFiles().fail_at(call, code)
        try:
            started = case.start(files=files)
            started.download(case.look(started))
        except StoreError as error:
            assert error.reason == reason
            left = case.left() if (case.folder / "staging").exists() else []
            assert left in ([], [case.target.wanted.sha256])  # nothing, or the whole
        else:
            break
        call += 1
    assert call > 10
    assert case.download() == DATA


def test_there_is_really_no_room(case: Case) -> None:
    """As the kernel says it: a file system with less than the package."""
    folder = case.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)],
        check=False, capture_output=True,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("may not mount a small tmpfs here")
    try:
        (folder / "tuf").mkdir()
        started = repository(folder, case.world, case.server.url)
        with pytest.raises(StoreError) as caught:
            started.download(case.target)
        assert caught.value.reason == "disk_full"
        assert list((folder / "staging").iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# Power cuts. The device has seen version 2, the repository is at 3 with new keys.


class Cut:
    """A device with its old state, in a directory that can be laid out again and again."""

    def __init__(self, folder: Path, world: World, server: Server) -> None:
        self.world, self.server = world, server
        self.home, self.spare = folder / "home", folder / "spare"
        self.start(Files(), self.home).refresh()
        self.old = self.kept(self.home)
        self.before = without_work(read_tree(self.home))
        world.rotate("timestamp")
        world.add("cats", "1.0.0", b"cats")
        world.publish()
        self.files = WatchedFiles()
        self.start(self.files, self.home).refresh()
        self.new = self.kept(self.home)
        self.count = 0
        self.judged: dict[tuple[bool, frozenset[tuple[str, bytes | None]]], bool] = {}

    def start(self, files: Files, home: Path) -> Repository:
        return repository(home, self.world, self.server.url, files=files)

    @staticmethod
    def kept(home: Path) -> Kept:
        return TrustStore(home / "tuf/metadata", Files()).load()

    def lay_out(self, tree: Tree) -> Path:
        self.count += 1
        home = self.spare / str(self.count)
        write_tree(tree, home)
        return home

    def harmed(self, home: Path, *, finished: bool) -> bool:
        """Whether what is there is anything but old or new, as a whole."""
        return self.kept(home) not in ((self.new,) if finished else (self.old, self.new))

    def harms(self, wreck: Wreck, steps: Sequence[Step]) -> bool:
        """The same of what a power cut left; many records leave the same."""
        key = (wreck.done == len(steps), frozenset(wreck.tree.items()))
        if key not in self.judged:
            self.judged[key] = self.harmed(self.lay_out(wreck.tree), finished=key[0])
        return self.judged[key]

    def check(self, home: Path) -> None:
        """The next refresh succeeds and leaves what it should."""
        assert self.start(Files(), home).refresh().versions["timestamp"] == 3
        assert self.kept(home) == self.new
        left = {path.name for path in (home / "tuf").iterdir()}
        assert left <= {"metadata", "metadata.old", "metadata.work"}


def without_work(tree: Tree) -> Tree:
    """python-tuf's own working directory: nothing in it is promised or used again."""
    return {name: content for name, content in tree.items() if ".work" not in name}


@pytest.fixture
def cut(tmp_path: Path, world: World, server: Server) -> Cut:
    return Cut(tmp_path, world, server)


def test_a_refresh_killed_at_each_step(cut: Cut) -> None:
    assert len(cut.files.steps) > 15
    for step in range(len(cut.files.steps)):
        home = cut.lay_out(cut.before)
        with pytest.raises(PowerCutError):
            cut.start(WatchedFiles().die_at(step, torn=step % 2 == 1), home).refresh()
        assert not cut.harmed(home, finished=False)
        cut.check(home)


def test_a_refresh_whose_disk_fails_at_each_step(cut: Cut) -> None:
    for call in range(cut.files.calls):
        home = cut.lay_out(cut.before)
        code = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE)[call % 4]
        with pytest.raises(StoreError):
            cut.start(WatchedFiles().fail_at(call, code), home).refresh()
        assert not cut.harmed(home, finished=False)
        cut.check(home)


def test_the_power_goes_during_a_refresh(cut: Cut) -> None:
    steps = cut.files.steps
    wrecks = list(aftermath(cut.home, cut.before, steps))
    assert len(wrecks) > 30
    for wreck in wrecks:
        assert not cut.harms(wreck, steps), wreck.story
    for wreck in wrecks[::20]:
        cut.check(cut.lay_out(wreck.tree))


def test_no_fsync_of_a_refresh_is_for_nothing(cut: Cut) -> None:
    """Without any one of them, some power cut does harm: the test above would notice."""
    first, *_ = cut.files.steps  # of loading: for the next test
    needless = [
        str(step)
        for step, steps in each_sync_forgotten(cut.files.steps)
        if step is not first
        and not any(
            cut.harms(wreck, steps) for wreck in aftermath(cut.home, cut.before, steps, subsets=0)
        )
    ]
    assert needless == []


def test_what_is_read_after_a_kill_is_safe_before_it_counts(cut: Cut) -> None:
    home = cut.lay_out(cut.before)
    dying = WatchedFiles().die_at(len(cut.files.steps) - 1)
    with pytest.raises(PowerCutError):
        cut.start(dying, home).refresh()

    loading = WatchedFiles()
    assert TrustStore(home / "tuf/metadata", loading).load() == cut.new

    before = without_work(cut.before)
    steps = [*dying.steps, *loading.steps]
    for wreck in aftermath(home, before, steps):
        assert not cut.harms(wreck, steps), wreck.story


def promises(steps: Sequence[Step]) -> list[int]:
    """How many bytes are safe after so many steps: by the last mark made safe, or all."""
    safe, written = [0], 0
    for step in steps:
        now = safe[-1]
        if step.kind == "write" and step.path.name.endswith(".part.json.tmp"):
            written = int(json.loads(step.data)["safe_bytes"])
        elif step.kind == "fsync_dir" and written:
            now = written
        elif step.kind in ("remove", "reserve"):
            now = written = 0
        safe.append(now)
    return [*safe[:-1], len(DATA)]


def test_a_download_killed_at_each_step(case: Case, tmp_path: Path) -> None:
    for step in itertools.count():
        home = tmp_path / f"killed{step}"
        files = WatchedFiles().die_at(step, torn=True)
        try:
            repository(home, case.world, case.server.url, files=files).download(case.target)
        except PowerCutError:
            after = repository(home, case.world, case.server.url).download(case.target)
            assert after.read_bytes() == DATA
            assert [path.name for path in after.parent.iterdir()] == [after.name]
        else:
            break
    assert step > 8


def test_the_power_goes_during_a_download(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a mark every 32 KiB, and a restart from what an earlier server had."""
    monkeypatch.setattr("edged.models.download._SAFE_EVERY_BYTES", 32 * 1024)
    home = tmp_path / "home"
    (home / "staging").mkdir(parents=True)
    files = WatchedFiles()
    case.trouble(cut_after=50_000, times=1)
    never_on = Limits(**{**vars_of(QUICK), "step_bytes": 10**9})
    with pytest.raises(FetchError):
        repository(home, case.world, case.server.url, files=files, limits=never_on).download(
            case.target
        )
    case.trouble(ignore_range=True)
    repository(home, case.world, case.server.url, files=files).download(case.target)
    case.server.troubles.clear()

    laid_out = itertools.count()
    promised = promises(files.steps).__getitem__

    def harmed(steps: Sequence[Step], subsets: int) -> str:
        for wreck in aftermath(home, {"staging": None}, steps, promised=promised, subsets=subsets):
            place = tmp_path / str(next(laid_out))
            write_tree(wreck.tree, place)
            done = place / "staging" / case.target.wanted.sha256
            whole = done.is_file() and done.read_bytes() == DATA
            if whole < (promised(wreck.done) == len(DATA)) or whole < done.is_file():
                return f"not whole, {wreck.story}"
            case.server.asked.clear()
            got = repository(place, case.world, case.server.url).download(case.target)
            if got.read_bytes() != DATA or len(list(got.parent.iterdir())) != 1:
                return f"not mended, {wreck.story}"
            if len(case.server.asked) > 1:
                return f"the mark spoke of bytes that were not there, {wreck.story}"
            wanted = case.server.asked[0][1] if case.server.asked else ""
            if not whole and int(wanted[6:-1] or 0) < promised(wreck.done):
                return f"what was safe was fetched again, {wreck.story}"
        return ""

    assert harmed(files.steps, 20) == ""
    needless = [
        str(step) for step, steps in each_sync_forgotten(files.steps) if not harmed(steps, 0)
    ]
    assert needless == []


# The real thing


def test_the_disk_itself(tmp_path: Path) -> None:
    files = Files()
    deep = tmp_path / "a/b/c"
    files.make_dirs(deep)
    files.make_dirs(deep)
    files.write_atomic(deep / "f", b"one")
    files.write_atomic(deep / "f", b"two")
    assert files.read(deep / "f") == b"two"
    assert files.names(deep) == ["f"]
    files.reserve(deep / "r", 100_000)
    assert (deep / "r").stat().st_size == 100_000
    assert (deep / "r").stat().st_blocks * 512 >= 100_000
    files.write_at(deep / "r", 99_999, b"xyz")
    assert files.read(deep / "r")[-4:] == b"\0xyz"
    files.reserve(deep / "empty", 0)
    (tmp_path / "outside").write_text("stays")
    (deep / "link").symlink_to(tmp_path / "outside")
    (deep / "way").symlink_to(tmp_path)
    with pytest.raises(OSError, match="symbolic link"):
        files.write(deep / "link", b"?")
    files.remove_tree(tmp_path / "a")
    files.remove_tree(tmp_path / "a")
    assert files.names(tmp_path) == ["outside"]


def test_a_file_system_that_cannot_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    Files().reserve(tmp_path / "r", 1000)
    assert (tmp_path / "r").stat().st_size == 1000
    with pytest.raises(OSError, match="No space left"):
        Files().reserve(tmp_path / "s", 2**60)

"""The operator's repository, made by `edgectl` and used by a device."""

from __future__ import annotations

import errno
import json
import socket
import stat
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sim import packages
from sim.files import PowerCutError, WatchedFiles, aftermath, read_tree, write_tree
from tuf.api.metadata import Metadata

from edged.errors import EdgedError, FetchError, OperatorError, StoreError, VerifyError
from edged.models import stick
from edged.models.repository import Repository
from edged.models.source import Limits
from edged.models.stick import StickSource
from edged.operator.cli import main
from edged.operator.keys import ROLES
from edged.operator.published import Published
from edged.operator.repo import Repo
from edged.operator.serve import Server

QUICK = Limits(connect_s=2, silence_s=2, poll_s=0.02, metadata_s=5)


def package(
    folder: Path, version: str = "1.4.0", name: str = "birds", **changes: bytes | None
) -> Path:
    path = folder / f"{name}-{version}.zip"
    files = packages.contents(**changes)
    manifest = packages.encoded(packages.facts(files, name=name, version=version))
    path.write_bytes(packages.archive(packages.parts(manifest, files)))
    return path


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    folder = tmp_path / "desk"
    folder.mkdir()
    return folder


@pytest.fixture
def repo(desk: Path) -> Repo:
    assert main(["repo", "init", str(desk / "repo")]) == 0
    return Repo(desk / "repo")


class Device:
    """A device with the root that it was given, fetching from a repository that is served."""

    def __init__(self, folder: Path, repo: Repo, url: str) -> None:
        self.folder, self.url = folder, url
        self.root = repo.published.root()

    def start(self) -> Repository:
        return Repository(
            self.root, self.folder / "tuf", f"{self.url}/metadata", self.folder / "staging",
            f"{self.url}/targets", limits=QUICK, floor_s=0,
        )  # fmt: skip

    def has(self, version: str) -> bool:
        started = self.start()
        target = started.find(f"birds/{version}.zip")
        if target is not None:
            started.download(target)
        return target is not None


@pytest.fixture
def url(repo: Repo) -> Iterator[str]:
    with Server(repo.published.directory, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def device(tmp_path: Path, repo: Repo, url: str) -> Device:
    return Device(tmp_path / "device", repo, url)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(EdgedError) as caught:
        call()
    return caught.value.reason


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_from_init_to_the_device(
    desk: Path, repo: Repo, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    zipped = package(desk)
    capsys.readouterr()
    arguments = ["repo", "publish", str(desk / "repo"), str(zipped), "--json"]

    assert main([*arguments, "--downgrade-ok"]) == 0
    assert said(capsys) == {"name": "birds", "version": "1.4.0", "changed": True}
    started = device.start()
    target = started.find("birds/1.4.0.zip")
    assert target is not None
    assert target.release is not None
    assert target.release.downgrade_ok
    assert started.download(target).read_bytes() == zipped.read_bytes()

    assert main([*arguments, "--downgrade-ok"]) == 0
    assert said(capsys)["changed"] is False
    assert main(arguments) == 0  # the same bytes, signed anew
    assert said(capsys)["changed"] is True

    package(desk, "1.4.0", README__md=b"?")
    assert main(arguments) == 1
    assert "version_published" in capsys.readouterr().err

    assert main(["repo", "withdraw", str(desk / "repo"), "birds", "1.4.0", "--json"]) == 0
    assert not device.has("1.4.0")
    assert list((desk / "repo/targets").rglob("*.zip")) == []
    assert main(["repo", "withdraw", str(desk / "repo"), "birds", "1.4.0"]) == 1
    assert "version_unknown" in capsys.readouterr().err


def test_what_is_published_is_listed(
    desk: Path, repo: Repo, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(desk / "repo")
    capsys.readouterr()
    assert main(["repo", "list", place]) == 0
    assert capsys.readouterr().out.startswith("Nothing is published yet.\nroot is good until ")

    for name, version in (("birds", "1.10.0"), ("birds", "1.9.0"), ("ants", "2.0.0-rc.1")):
        assert main(["repo", "publish", place, str(package(desk, version, name))]) == 0
    assert main(["repo", "publish", place, str(package(desk, "0.1.0")), "--downgrade-ok"]) == 0
    capsys.readouterr()
    assert main(["repo", "list", place, "--json"]) == 0
    told = said(capsys)
    listed = told["packages"]
    assert isinstance(listed, list)
    names = [(one["name"], one["version"], one["downgrade_ok"]) for one in listed]
    assert names == [
        ("ants", "2.0.0-rc.1", False),
        ("birds", "0.1.0", True),
        ("birds", "1.9.0", False),
        ("birds", "1.10.0", False),
    ]
    zipped = (desk / "birds-1.10.0.zip").read_bytes()
    assert (listed[-1]["bytes"], listed[-1]["sha256"]) == (len(zipped), sha256(zipped).hexdigest())
    assert set(told["expires"]) == set(ROLES)  # type: ignore[call-overload]

    assert main(["repo", "list", place]) == 0
    heading, first, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["MODEL", "VERSION", "BYTES", "SHA-256", "DOWNGRADE"]
    assert first.split()[:2] == ["ants", "2.0.0-rc.1"]


IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="IPv6 is off here")


@pytest.mark.parametrize("everywhere", ["0.0.0.0", pytest.param("::", marks=IPV6)])
def test_what_is_printed_for_all_addresses_is_one_that_devices_reach(
    repo: Repo, everywhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server(repo.published.directory, everywhere, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        answer = requests.get(f"{server.url}/metadata/timestamp.json", timeout=5)
        assert answer.content == (repo.published.directory / "metadata/timestamp.json").read_bytes()
        server.shutdown()

        host = server.url.removeprefix("http://").rpartition(":")[0].strip("[]")
        assert host != everywhere
        assert server.bound.is_unspecified

        def unreachable(*_: object) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

        monkeypatch.setattr(socket.socket, "connect", unreachable, raising=False)
        assert server.url == f"http://{socket.gethostname()}:{server.server_port}"


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        pytest.param("::1", "[::1]", marks=IPV6),
    ],
)
def test_an_address_that_was_named_is_printed(repo: Repo, address: str, host: str) -> None:
    with Server(repo.published.directory, address, 0) as server:
        assert server.url == f"http://{host}:{server.server_port}"
        assert server.bound.is_loopback


def test_nothing_secret_is_served(desk: Path, repo: Repo) -> None:
    repo.publish(package(desk), "birds", "1.4.0")
    served = [path for path in (desk / "repo").rglob("*") if path.is_file()]
    assert sorted(path.name.split(".", 1)[1] for path in served if path.suffix == ".json")
    assert not any(b"PRIVATE" in path.read_bytes() for path in served)
    assert {path.parent.name for path in served} == {"metadata", "birds"}

    secrets = sorted((desk / "repo-keys").rglob("*.pem"))
    assert [path.parent.name for path in secrets] == ["offline"] * 2 + ["online"] * 2
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_is_served_may_be_read_by_the_web_server(
    desk: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(desk)
    package(desk)
    for arguments in (
        ["publish", "repo", "birds-1.4.0.zip"],
        ["root", "repo", "-o", "root.json"],
        ["export", "repo", "birds/1.4.0.zip", "-o", "birds.tar"],
    ):
        assert main(["repo", *arguments]) == 0

    served = [desk / "repo", desk / "root.json", desk / "birds.tar"]
    served += [path for path in (desk / "repo").rglob("*") if not path.name.startswith(".")]
    assert len(served) > 10
    for path in served:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_expiries_of_the_design(desk: Path) -> None:
    start = datetime(2026, 12, 1, tzinfo=UTC)
    state = Repo(desk / "r", now=lambda: start).init()

    assert {role: (when - start).days for role, when in state.expires().items()} == {
        "root": 365, "targets": 365, "snapshot": 30, "timestamp": 30
    }  # fmt: skip
    assert state.root.consistent_snapshot

    later = Repo(desk / "r", now=lambda: start + timedelta(days=29))
    renewed = later.refresh().expires()
    assert (renewed["timestamp"] - start).days == 59
    assert (renewed["targets"] - start).days == 365
    assert (later.refresh(everything=True).expires()["root"] - start).days == 394


def test_refresh_needs_no_offline_key(
    desk: Path, repo: Repo, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    device.has("1.4.0")
    (desk / "repo-keys/offline").rename(desk / "stick")
    capsys.readouterr()

    assert main(["repo", "refresh", str(desk / "repo"), "--json"]) == 0

    assert device.start().refresh().versions["timestamp"] == 2
    assert set(said(capsys)["expires"]) == set(ROLES)  # type: ignore[call-overload]
    assert main(["repo", "publish", str(desk / "repo"), str(package(desk))]) == 1
    assert "threshold_unmet" in capsys.readouterr().err
    assert device.start().refresh().versions["timestamp"] == 2


def test_the_refresh_says_when_the_year_is_over(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--expires", "root=20", "--expires", "targets=200"]
    assert main(["repo", "init", str(desk / "r"), *arguments]) == 0
    assert main(["repo", "refresh", str(desk / "r")]) == 0
    assert "root expires in" in capsys.readouterr().err
    assert main(["repo", "refresh", str(desk / "r"), "--all", "--json"]) == 0


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("lost", [False, True])
def test_a_key_is_replaced(
    desk: Path, repo: Repo, device: Device, role: str, lost: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    repo.publish(package(desk), "birds", "1.4.0")
    assert device.has("1.4.0")
    old = next((desk / "repo-keys").rglob(f"{role}-*.pem"))
    if lost:
        old.unlink()
    capsys.readouterr()

    code = main(["repo", "rotate-key", str(desk / "repo"), role, "--json"])

    if lost and role == "root":
        assert code == 1
        assert "threshold_unmet" in capsys.readouterr().err
        return
    assert code == 0
    assert str(said(capsys)["old"]).endswith(old.name)
    if not lost:
        old.unlink()
    Repo(desk / "repo").publish(package(desk, "1.5.0"), "birds", "1.5.0")
    assert device.has("1.5.0")
    assert device.start().refresh().versions["root"] == 2


def test_the_old_key_is_named_as_the_shell_finds_it(
    desk: Path, repo: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["repo", "rotate-key", str(desk / "repo"), "timestamp"]) == 0
    assert Path(capsys.readouterr().out.split()[-1].rstrip(".")).is_file()


def test_several_root_keys(desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--threshold", "root=2", "--root-keys", "3", "--threshold", "targets=2"]
    assert main(["repo", "init", str(desk / "r"), *arguments]) == 0
    keys = sorted(path.name for path in (desk / "r-keys/offline").iterdir())
    assert [name.split("-")[0] for name in keys] == ["root"] * 3 + ["targets"] * 2
    lost, *_ = (desk / "r-keys/offline").glob("root-*.pem")
    lost.unlink()

    assert main(["repo", "rotate-key", str(desk / "r"), "root"]) == 1
    assert "key_ambiguous" in capsys.readouterr().err
    assert main(["repo", "rotate-key", str(desk / "r"), "root", "--key", "zz"]) == 1
    assert "key_unknown" in capsys.readouterr().err
    keyid = lost.stem.partition("-")[2]
    assert main(["repo", "rotate-key", str(desk / "r"), "root", "--key", keyid]) == 0

    root = Repo(desk / "r").published.state().root
    assert (root.version, root.roles["root"].threshold, len(root.roles["root"].keyids)) == (2, 2, 3)
    first = Metadata.from_file(str(desk / "r/metadata/1.root.json")).signed
    second = Metadata.from_file(str(desk / "r/metadata/2.root.json"))
    first.verify_delegate("root", second.signed_bytes, second.signatures)


def test_keys_that_something_else_keeps(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any URI of securesystemslib; here its own for files, with another kind of key."""
    secret = ec.generate_private_key(ec.SECP256R1())
    pem, public = desk / "k.pem", desk / "k.pub"
    pem.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )  # fmt: skip
    public.write_bytes(
        secret.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    where = [f"file2:{pem}", str(public)]
    assert main(["repo", "init", str(desk / "r"), "--signer", "timestamp", *where]) == 0
    assert not list((desk / "r-keys").rglob("timestamp-*.pem"))
    assert main(["repo", "refresh", str(desk / "r")]) == 0
    assert main(["repo", "rotate-key", str(desk / "r"), "snapshot", "--signer", *where]) == 0

    for uri, file, reason in [
        ("nothing:x", str(public), "key_unavailable"),
        (f"file2:{pem}", str(pem), "key_invalid"),
        ("file2:/nowhere", str(public), "key_unavailable"),
    ]:
        capsys.readouterr()
        assert main(["repo", "rotate-key", str(desk / "r"), "targets", "--signer", uri, file]) == 1
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "usage"),
        (["repo"], 2, "COMMAND"),
        (["repo", "init"], 2, "DIR"),
        (["repo", "init", "r", "--threshold", "boss=2"], 2, "--threshold"),
        (["repo", "init", "r", "--threshold", "root=0"], 2, "--threshold"),
        (["repo", "init", "r", "--expires", "root"], 2, "--expires"),
        (["repo", "init", "r", "--signer", "boss", "x:", "y"], 2, "--signer"),
        (["repo", "init", "repo"], 1, "repo_exists"),
        (["repo", "init", "r", "--keys", "r/../r/keys"], 1, "keys_exposed"),
        (["repo", "rotate-key", "repo", "boss"], 2, "boss"),
        (["repo", "publish", "r", "none.zip"], 1, "package_unreadable"),
        (["repo", "publish", "repo", "none.zip"], 1, "package_unreadable"),
        (["repo", "publish", "repo", "text.zip"], 1, "package_not_zip"),
        (["repo", "publish", "repo", "empty.zip"], 1, "package_incomplete"),
        (["repo", "publish", "repo", "list.zip"], 1, "manifest_invalid"),
        (["repo", "publish", "repo", "named.zip"], 1, "manifest_invalid"),
        (["repo", "publish", "r", "birds-1.4.0.zip"], 1, "repo_missing"),
        (["repo", "withdraw", "repo", "../..", "1"], 1, "target_invalid"),
        (["repo", "refresh", "r"], 1, "repo_missing"),
        (["repo", "root", "r"], 1, "repo_missing"),
        (["repo", "root", "repo", "-o", "/nowhere/x"], 1, "disk_unusable"),
        (["repo", "export", "repo", "birds/2.zip", "-o", "x.tar"], 1, "version_unknown"),
        (["repo", "serve", "r"], 1, "repo_missing"),
        (["repo", "serve", "repo", "--bind", "192.0.2.1"], 1, "address_unusable"),
        (["repo", "serve", "repo", "--port", "99999"], 1, "address_unusable"),
        (["repo", "refresh", "repo", "--keys", "."], 1, "keys_unreadable"),
        (["repo", "refresh", "repo", "--keys", "/nowhere"], 1, "no keys.json in /nowhere"),
        (["repo", "refresh", "repo", "--keys", "other-keys"], 1, "--keys"),
        (["repo", "root", "repo", "-o", "."], 2, "must name a file"),
        (["repo", "export", "repo", "birds/1.4.0.zip", "-o", "spoilt"], 2, "must name a file"),
        (["repo", "refresh", "repo", "--keys", "spoilt"], 1, "keys_unreadable"),
    ],
)
def test_what_goes_wrong_is_said(
    desk: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(desk)
    package(desk)
    (desk / "text.zip").write_text("text")
    for name, manifest in [
        ("empty", None),
        ("list", "[]"),
        ("named", '{"name": "A/..", "version": "1"}'),
    ]:
        with zipfile.ZipFile(desk / f"{name}.zip", "w") as archive:
            if manifest:
                archive.writestr("manifest.json", manifest)
    (desk / "spoilt").mkdir()
    Repo(desk / "other").init()
    (desk / "spoilt/keys.json").write_text("[]")
    capsys.readouterr()

    assert main(arguments) == code
    output = capsys.readouterr()
    assert words in output.err + output.out
    assert "Traceback" not in output.err


def test_a_damaged_repository_is_said(desk: Path, repo: Repo) -> None:
    for name, content in [("1.targets.json", "{}"), ("timestamp.json", "x")]:
        (desk / "repo/metadata" / name).write_text(content)
        assert refused(repo.refresh) == "repo_damaged"
    (desk / "repo/metadata/timestamp.json").write_bytes(
        repo.published.metadata.joinpath("1.root.json").read_bytes()
    )
    assert refused(repo.refresh) == "repo_damaged"


def test_root_for_devices(
    desk: Path, repo: Repo, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    file = desk / "root.json"
    assert main(["repo", "root", str(desk / "repo"), "-o", str(file)]) == 0
    capfdbinary.readouterr()
    assert main(["repo", "root", str(desk / "repo")]) == 0
    assert capfdbinary.readouterr().out == file.read_bytes()
    assert file.read_bytes() == (desk / "repo/metadata/1.root.json").read_bytes()


def test_old_metadata_go(desk: Path, repo: Repo, device: Device) -> None:
    for _ in range(15):
        repo.refresh()
    names = sorted(path.name for path in (desk / "repo/metadata").iterdir())
    assert sum(name.endswith(".snapshot.json") for name in names) == 10
    assert device.start().refresh().versions["snapshot"] == 16


def test_two_changes_at_once_wait_for_each_other(desk: Path, repo: Repo) -> None:
    threads = [threading.Thread(target=Repo(desk / "repo").refresh) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert repo.published.state().snapshot.version == 7


def test_two_operators_replace_keys(desk: Path, repo: Repo) -> None:
    one, two = Repo(desk / "repo"), Repo(desk / "repo")

    one.rotate_key("timestamp")
    two.rotate_key("snapshot")

    assert Repo(desk / "repo").refresh().root.version == 3


def test_a_package_that_changes_while_it_is_published(desk: Path, repo: Repo) -> None:
    path = package(desk)

    def pack_again(*_: int) -> None:
        path.write_bytes(b"another")

    path.write_bytes(path.read_bytes() + bytes(2 * 1024 * 1024))
    with pytest.raises(EdgedError) as caught:
        repo.publish(path, "birds", "1.4.0", progress=pack_again)

    assert caught.value.reason == "package_unreadable"
    assert accepted(desk / "repo") == []
    assert list((desk / "repo/targets").rglob("*.*")) == []


def test_what_is_refused_leaves_no_key(desk: Path, repo: Repo) -> None:
    keys = desk / "repo-keys"
    root = next(keys.glob("offline/root-*.pem"))
    secret = root.read_bytes()
    root.unlink()
    before = read_tree(keys)

    assert refused(lambda: Repo(desk / "repo").rotate_key("root")) == "threshold_unmet"
    assert refused(lambda: Repo(desk / "repo").rotate_key("targets")) == "threshold_unmet"
    assert read_tree(keys) == before | {"lock": b""}

    root.write_bytes(secret)
    Repo(desk / "repo").rotate_key("root")
    assert refused(lambda: Repo(desk / "no", desk / "nokeys").refresh()) == "repo_missing"


def test_a_disk_that_fails_takes_no_key_back(desk: Path, repo: Repo) -> None:
    """The root that names the new key may have been written before."""
    for step in range(100):
        failing = Repo(desk / "repo", files=WatchedFiles().fail_at(step, errno.ENOSPC))
        try:
            failing.rotate_key("timestamp")
        except StoreError:
            Repo(desk / "repo").refresh()
            accepted(desk / "repo")
        else:
            break
    assert step > 5


def test_an_init_that_cannot_be(desk: Path) -> None:
    (desk / "file").write_text("a file")
    assert main(["repo", "init", str(desk / "file")]) == 1
    assert not (desk / "file-keys").exists()

    public = desk / "pub.pem"
    public.write_text("none")
    uri = ["--signer", "timestamp", "file2:x", str(public)]
    assert main(["repo", "init", str(desk / "r"), *uri]) == 1
    assert list((desk / "r-keys").rglob("*.*")) == []
    assert main(["repo", "init", str(desk / "r")]) == 0


def test_an_init_that_died(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in range(100):
        folder = desk / f"r{step}"
        try:
            Repo(folder, files=WatchedFiles().die_at(step)).init()
        except PowerCutError:
            code = main(["repo", "init", str(folder)])
            if "begin again" not in capsys.readouterr().err:
                assert code == 0 or Published(folder).there
                accepted(folder)
        else:
            break
    assert step > 15


# A crash half-way


def accepted(directory: Path) -> list[str]:
    """What a device would say to these files: the targets, all signed and all there."""
    published = Published(directory)
    state = published.state()
    root = state.root
    for name, role in [
        ("timestamp.json", "timestamp"),
        (f"{state.snapshot.version}.snapshot.json", "snapshot"),
        (f"{state.targets.version}.targets.json", "targets"),
    ]:
        found = Metadata.from_file(str(published.metadata / name))
        root.verify_delegate(role, found.signed_bytes, found.signatures)
    data = (published.metadata / f"{state.snapshot.version}.snapshot.json").read_bytes()
    state.timestamp.snapshot_meta.verify_length_and_hashes(data)
    assert state.snapshot.meta["targets.json"].version == state.targets.version
    for target in state.targets.targets.values():
        target.verify_length_and_hashes(published.place(target).read_bytes())
    return sorted(state.targets.targets)


CHANGES: list[tuple[str, Callable[[Repo, Path], object]]] = [
    ("publish", lambda repo, desk: repo.publish(desk / "birds-2.0.0.zip", "birds", "2.0.0")),
    ("withdraw", lambda repo, desk: repo.withdraw("birds", "1.4.0")),
    ("refresh", lambda repo, desk: repo.refresh(everything=True)),
    *((f"rotate {role}", lambda repo, desk, role=role: repo.rotate_key(role)) for role in ROLES),  # type: ignore[misc]
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_change_that_dies_half_way(
    desk: Path, repo: Repo, device: Device, name: str, change: Callable[[Repo, Path], object]
) -> None:
    """Devices accept what is there, and doing it again does it."""
    package(desk, "2.0.0")
    repo.publish(package(desk), "birds", "1.4.0")
    assert device.has("1.4.0")
    for step in range(100):
        dying = Repo(desk / "repo", files=WatchedFiles().die_at(step, torn=True))
        try:
            change(dying, desk)
        except PowerCutError:
            accepted(desk / "repo")
            device.start().refresh()
        except OperatorError as error:
            assert (name, error.reason) == ("withdraw", "version_unknown")
            break
        else:
            break
    assert step > 5
    accepted(desk / "repo")
    assert device.has("2.0.0") == (name == "publish")


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_the_power_goes_during_a_change(
    desk: Path, repo: Repo, name: str, change: Callable[[Repo, Path], object]
) -> None:
    package(desk, "2.0.0")
    repo.publish(package(desk), "birds", "1.4.0")
    before, old = read_tree(desk), accepted(desk / "repo")
    files = WatchedFiles()
    change(Repo(desk / "repo", files=files), desk)
    new = accepted(desk / "repo")
    assert (new != old) == (name in ("publish", "withdraw"))

    steps = files.steps
    for number, wreck in enumerate(aftermath(desk, before, steps, subsets=5)):
        place = desk.parent / f"wreck{number}"
        write_tree(wreck.tree, place)
        expected = (new,) if wreck.done == len(steps) else (old, new)
        assert accepted(place / "repo") in expected, wreck.story


# The stick


def from_stick(tmp_path: Path, root: bytes, tar: Path, version: str = "1.4.0") -> bytes:
    started = Repository(
        root, tmp_path / "offline/tuf", stick.METADATA_URL, tmp_path / "offline/staging",
        stick.TARGETS_URL, source=StickSource(tar), floor_s=0,
    )  # fmt: skip
    started.refresh(local=True)
    target = started.find(f"birds/{version}.zip")
    assert target is not None
    return started.download(target).read_bytes()


def test_a_package_comes_on_a_stick(desk: Path, repo: Repo, tmp_path: Path) -> None:
    zipped = package(desk)
    repo.publish(zipped, "birds", "1.4.0")
    root = repo.published.root()
    repo.rotate_key("timestamp")
    tar = tmp_path / "b.tar"
    arguments = ["repo", "export", str(desk / "repo"), "birds/1.4.0.zip", "-o", str(tar)]
    assert main(arguments) == 0
    first = tar.read_bytes()
    assert main([*arguments, "--json"]) == 0
    assert tar.read_bytes() == first

    assert from_stick(tmp_path, root, tar) == zipped.read_bytes()


def test_a_stick_with_something_wrong(desk: Path, repo: Repo, tmp_path: Path) -> None:
    repo.publish(package(desk), "birds", "1.4.0")
    root, tar = repo.published.root(), tmp_path / "b.tar"
    repo.published.export("birds/1.4.0.zip", tar, repo._files)
    good = tar.read_bytes()

    with tarfile.open(tar) as archive:
        member = next(member for member in archive if member.name.endswith(".zip"))
    spoilt = bytearray(good)
    spoilt[member.offset_data + 5] ^= 1
    tar.write_bytes(spoilt)
    assert refused(lambda: from_stick(tmp_path, root, tar)) == "target_hash_mismatch"

    for content in (b"", b"text", good[:3000]):
        tar.write_bytes(content)
        with pytest.raises(FetchError) as caught:
            from_stick(tmp_path, root, tar)
        assert caught.value.reason in ("stick_unreadable", "not_found", "connection_lost")
    assert refused(lambda: from_stick(tmp_path, root, tmp_path / "none")) == "stick_unreadable"

    with tarfile.open(tar, "w") as archive:
        link = tarfile.TarInfo("metadata/timestamp.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert refused(lambda: from_stick(tmp_path, root, tar)) == "not_found"

    other = Repo(desk / "other")
    other.init()
    other.publish(package(desk), "birds", "1.4.0")
    other.published.export("birds/1.4.0.zip", tar, other._files)
    with pytest.raises(VerifyError) as refusal:
        from_stick(tmp_path, root, tar)
    assert refusal.value.reason == "signature_invalid"


def test_the_longest_version_comes_on_a_stick(desk: Path, repo: Repo, tmp_path: Path) -> None:
    version = f"1.4.0-rc.1+{'build-' * 8}arm64"
    zipped = package(desk, version)
    repo.publish(zipped, "birds", version)
    tar = tmp_path / "b.tar"

    repo.published.export(f"birds/{version}.zip", tar, repo._files)

    found = from_stick(tmp_path, repo.published.root(), tar, version)
    assert found == zipped.read_bytes()


def header(kind: bytes, size: int = 0, name: str = "x") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def pax(key: str, value: str) -> bytes:
    said = f" {key}={value}\n"
    body = f"{len(said) + 2}{said}".encode()
    return header(b"x", len(body)) + body.ljust(512, b"\0")


LONG = header(b"L", 200_000_000) + b"y" * 2000

STICKS = {
    "no numbers": pax("GNU.sparse.map", "x,y") + header(b"0"),
    "a size below 0": header(b"0", -512),
    "nested": pax("comment", "a") * 3000,
    "an endless name": LONG + b"y" * (1_000_000 - len(LONG)),
    "sparse": header(b"S", 512) + bytes(512),
    "devices": header(b"3") + header(b"4") + header(b"6") + header(b"1") + header(b"5"),
    "millions": header(b"0") * 3000,
}


@pytest.mark.parametrize("content", STICKS.values(), ids=STICKS)
def test_a_hostile_stick(tmp_path: Path, repo: Repo, content: bytes) -> None:
    tar = tmp_path / "b.tar"
    tar.write_bytes(content + bytes(1024))
    with tar.open("r+b") as file:
        file.truncate(250_000_000)  # a hole, all of which a name may claim
    root = repo.published.root()

    tracemalloc.start()
    reason = refused(lambda: from_stick(tmp_path, root, tar))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert reason in ("stick_unreadable", "not_found")
    assert (reason == "stick_unreadable") == (content == STICKS["a size below 0"])
    assert peak_bytes < 5_000_000


# Serving


def test_serving_gives_parts_and_nothing_else(desk: Path, repo: Repo, url: str) -> None:
    zipped = package(desk)
    repo.publish(zipped, "birds", "1.4.0")
    file = next((desk / "repo/targets").rglob("*.zip"))
    (desk / "repo/targets/.hidden").write_text("x")
    (desk / "repo/targets/link").symlink_to(desk / "repo-keys/keys.json")
    (desk / "repo/secret").write_text("x")
    place = f"{url}/{file.relative_to(desk / 'repo')}"

    whole = requests.get(place, timeout=5)
    part = requests.get(place, headers={"Range": "bytes=100-"}, timeout=5)
    assert (whole.status_code, whole.content) == (200, zipped.read_bytes())
    assert (part.status_code, part.content) == (206, zipped.read_bytes()[100:])
    assert part.headers["Content-Range"].startswith("bytes 100-")
    changed = {"Range": "bytes=100-", "If-Range": '"old"'}
    assert requests.get(place, headers=changed, timeout=5).status_code == 200
    assert requests.get(place, headers={"Range": "bytes=9999999-"}, timeout=5).status_code == 416
    assert requests.head(place, timeout=5).headers["Content-Length"] == str(len(whole.content))
    for path in ("", "metadata", "metadata/", "secret", "targets/.hidden", "targets/link",
                 "targets/../secret", "metadata/%2e%2e/%2e%2e/repo-keys/keys.json"):  # fmt: skip
        prepared = requests.Request("GET", url).prepare()
        prepared.url = f"{url}/{path}"
        with requests.Session() as session:
            assert session.send(prepared, timeout=5).status_code == 404, path


def test_progress_is_for_people_only(
    desk: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repo", "publish", str(desk / "repo"), str(package(desk))]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["repo", "publish", str(desk / "repo"), str(package(desk, "1.5.0"))]) == 0
    assert "100 %" in capsys.readouterr().err


def test_a_package_too_large(desk: Path, repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edged.operator.repo.MAX_TARGET_BYTES", 100)
    with pytest.raises(OperatorError) as caught:
        repo.publish(package(desk), "birds", "1.4.0")
    assert caught.value.reason == "package_too_large"

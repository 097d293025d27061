"""The device's TUF client against thieves, bad clocks and damaged disks."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sim.tuf import NOW, Server, Trouble, World, serving

from edged.errors import ConfigError, EdgedError, FetchError, VerifyError
from edged.models.repository import Clock, Repository
from edged.models.source import Limits
from edged.models.version import Version

QUICK = Limits(
    connect_s=2, silence_s=0.7, rate_bytes_s=2000, rate_window_s=1.5, poll_s=0.02, metadata_s=5
)
DATA = bytes(range(256)) * 40


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def server(world: World) -> Iterator[Server]:
    with serving(world.files) as running:
        yield running


class Device:
    """A device: what it keeps on its disk, its clock, and its owner's root."""

    def __init__(self, folder: Path, world: World, server: Server) -> None:
        self.folder = folder
        self.server = server
        self.root = world.first_root
        self.world = world
        self.synchronised: bool | None = True
        self.now_s: float | None = None
        self.floor_s = (NOW - timedelta(days=10)).timestamp()

    def clock(self) -> Clock:
        now_s = self.world.now.timestamp() if self.now_s is None else self.now_s
        return Clock(now_s, self.synchronised)

    def start(self, **settings: object) -> Repository:
        """A new process."""
        given: dict[str, object] = {"limits": QUICK, "clock": self.clock, "floor_s": self.floor_s}
        return Repository(
            self.root,
            self.folder / "tuf/metadata",
            f"{self.server.url}/metadata",
            self.folder / "staging",
            f"{self.server.url}/targets/",
            **{**given, **settings},  # type: ignore[arg-type]
        )

    def refresh(self) -> None:
        self.start().refresh()

    def version(self, role: str) -> int:
        found = json.loads((self.folder / f"tuf/metadata/{role}.json").read_bytes())
        return int(found["signed"]["version"])


@pytest.fixture
def device(tmp_path: Path, world: World, server: Server) -> Device:
    return Device(tmp_path, world, server)


def refused(call: Callable[[], object]) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        call()
    return caught.value


# What works


def test_a_package_is_found_and_fetched(device: Device, world: World) -> None:
    path = world.add(
        "birds", "1.4.0", DATA, {"name": "birds", "version": "1.4.0", "downgrade_ok": True}
    )
    world.publish()
    repository = device.start()
    seen: list[tuple[int, int]] = []

    done = repository.refresh()
    target = repository.find(path)
    assert target is not None
    file = repository.download(target, lambda count, total: seen.append((count, total)))

    assert done.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}
    assert done.expires_s == (NOW + timedelta(days=30)).timestamp()
    assert not done.forgotten
    assert target.release is not None
    assert (target.release.name, target.release.version) == ("birds", "1.4.0")
    assert target.release.downgrade_ok
    assert file.read_bytes() == DATA
    assert file.name == target.wanted.sha256
    assert seen[-1] == (len(DATA), len(DATA))
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_is_there_is_not_fetched_again(device: Device, world: World, server: Server) -> None:
    path = world.add("birds", "1.4.0", DATA)
    world.publish()
    repository = device.start()
    target = repository.find(path)
    assert target is not None
    file = repository.download(target)
    asked = len(server.asked)

    assert device.start().download(target) == file
    assert len(server.asked) == asked

    file.write_bytes(DATA[:-1] + b"?")
    assert device.start().download(target).read_bytes() == DATA
    assert len(server.asked) == asked + 1


def test_an_unknown_path_is_no_error(device: Device) -> None:
    assert device.start().find("birds/9.zip") is None


def test_the_latest_version_of_a_model(device: Device, world: World) -> None:
    def order(version: str) -> list[int]:
        return [int(part) for part in version.split(".")]

    for version in ("1.9.0", "1.10.0", "1.2.0"):
        world.add("birds", version, version.encode())
    world.add("cats", "7.0.0", b"cats")
    world.add("birds", "99.0.0", b"x", {"name": "birds", "version": "98.0.0"})
    world.publish()
    repository = device.start()

    found = repository.latest("birds", order)

    assert found is not None
    assert found.path == "birds/1.10.0.zip"
    assert repository.latest("dogs", order) is None


@pytest.mark.parametrize(
    "custom",
    [
        {"name": "birds"},
        {"name": 3, "version": "1.0.0"},
        {"name": "birds", "version": "1.0.1"},
        {"name": "cats", "version": "1.0.0"},
        {"name": "birds", "version": ["1.0.0"]},
        {"name": "birds", "version": "1.0.0", "downgrade_ok": "yes"},
        {"name": "birds", "version": None},
    ],
)
def test_signed_nonsense_is_refused(
    device: Device, world: World, custom: dict[str, object]
) -> None:
    path = world.add("birds", "1.0.0", DATA, custom)
    world.publish()

    assert refused(lambda: device.start().find(path)).reason == "target_invalid"


def test_a_version_that_is_none_does_not_hide_the_others(device: Device, world: World) -> None:
    world.add("birds", "1.4.0", DATA)
    world.add("birds", "banana", DATA)
    world.publish()

    found = device.start().latest("birds", Version)

    assert found is not None
    assert found.path == "birds/1.4.0.zip"


@pytest.mark.parametrize("name", ["sha3000", "shake_128"])
def test_a_hash_that_cannot_be_compared(device: Device, world: World, name: str) -> None:
    path = world.add("birds", "1.4.0", DATA)
    world.targets.targets[path].hashes[name] = "00"
    world.publish()
    repository = device.start()
    target = repository.find(path)

    assert target is not None
    assert refused(lambda: repository.download(target)).reason == "target_hash_unknown"


def test_a_target_larger_than_any_package(device: Device, world: World) -> None:
    path = world.add("birds", "1.0.0", DATA)
    world.targets.targets[path].length = 512 * 1024 * 1024 + 1
    world.publish()

    assert refused(lambda: device.start().find(path)).reason == "target_too_large"


def test_a_file_that_is_no_package(device: Device, world: World) -> None:
    path = world.add("birds", "readme", DATA, {"by": "somebody"})
    world.publish()

    target = device.start().find(path)

    assert target is not None
    assert target.release is None


# Thieves. Each row: what they do to a repository whose version 2 the device has seen, and the
# reason that it is refused for.


def rollback_timestamp(world: World) -> None:
    world.timestamp.version = 0
    world.publish_timestamp()


def rollback_snapshot(world: World) -> None:
    world.snapshot.version = 0
    world.publish_snapshot()
    world.publish_timestamp()


def rollback_targets(world: World) -> None:
    world.targets.version = 1
    world.publish_snapshot()
    world.publish_timestamp()


def drop_targets(world: World) -> None:
    world.snapshot.meta = {}
    world.snapshot.version += 1
    data = world.sign("snapshot", world.snapshot)
    world.files[f"metadata/{world.snapshot.version}.snapshot.json"] = data
    world.publish_timestamp()


def replay(world: World) -> None:
    world.files["metadata/timestamp.json"] = world.first_timestamp  # type: ignore[attr-defined]


def mix_snapshot(world: World) -> None:
    world.publish()
    old = world.files[f"metadata/{world.snapshot.version - 1}.snapshot.json"]
    world.files[f"metadata/{world.snapshot.version}.snapshot.json"] = old


def mix_targets(world: World) -> None:
    world.publish()
    old = world.files[f"metadata/{world.targets.version - 1}.targets.json"]
    world.files[f"metadata/{world.targets.version}.targets.json"] = old


def skip_a_root(world: World) -> None:
    world.root.version += 1
    world.publish_root()
    world.files["metadata/2.root.json"] = world.files.pop("metadata/3.root.json")


def sign_with_a_wrong_key(world: World) -> None:
    stranger = World().signers["timestamp"]
    world.timestamp.version += 1
    data = world.sign("timestamp", world.timestamp, stranger)
    world.files["metadata/timestamp.json"] = data


def sign_under_a_known_name(world: World) -> None:
    """The stranger says that his key is the operator's."""
    sign_with_a_wrong_key(world)
    document = json.loads(world.files["metadata/timestamp.json"])
    document["signatures"][0]["keyid"] = world.signers["timestamp"][0].public_key.keyid
    world.files["metadata/timestamp.json"] = json.dumps(document).encode()


def sign_not_at_all(world: World) -> None:
    world.timestamp.version += 1
    data = world.sign("timestamp", world.timestamp, [])
    world.files["metadata/timestamp.json"] = data


def root_of_a_stranger(world: World) -> None:
    other = World()
    other.publish_root()
    world.files["metadata/2.root.json"] = other.files["metadata/2.root.json"]


def root_signed_by_new_keys_only(world: World) -> None:
    old = world.signers["root"]
    world.rotate("root")
    data = world.sign("root", world.root, world.signers["root"])
    assert old != world.signers["root"]
    world.files["metadata/2.root.json"] = data


def root_signed_by_old_keys_only(world: World) -> None:
    old = world.signers["root"]
    world.rotate("root")
    world.files["metadata/2.root.json"] = world.sign("root", world.root, old)


def targets_by_the_online_key(world: World) -> None:
    """Whoever has the web server and its keys wants another model."""
    world.add("birds", "6.6.6", b"evil")
    world.signers["targets"] = world.signers["timestamp"]
    world.publish()


def endless_timestamp(world: World) -> None:
    world.files["metadata/timestamp.json"] = b"{" + b" " * 20_000 + b"}"


def nested(world: World) -> None:
    world.files["metadata/timestamp.json"] = b"[" * 16_000


def huge_number(world: World) -> None:
    data = world.files["metadata/timestamp.json"]
    world.files["metadata/timestamp.json"] = data.replace(
        b'"version":2', b'"version":' + b"9" * 5000
    )


def another_role(world: World) -> None:
    world.files["metadata/timestamp.json"] = world.files["metadata/2.snapshot.json"]


def one_key_twice(world: World) -> None:
    """Under the same id, where two are asked for."""
    world.root.roles["timestamp"].threshold = 2
    world.add_key("timestamp")
    world.publish_root()
    world.timestamp.version += 1
    data = world.sign("timestamp", world.timestamp, world.signers["timestamp"][:1])
    document = json.loads(data)
    document["signatures"] *= 2
    world.files["metadata/timestamp.json"] = json.dumps(document).encode()


def one_key_under_two_names(world: World) -> None:
    one_key_twice(world)
    document = json.loads(world.files["metadata/timestamp.json"])
    document["signatures"][1]["keyid"] = world.signers["timestamp"][1].public_key.keyid
    world.files["metadata/timestamp.json"] = json.dumps(document).encode()


def one_of_two(world: World) -> None:
    world.root.roles["snapshot"].threshold = 2
    world.add_key("snapshot")
    world.publish_root()
    del world.signers["snapshot"][1]
    world.publish()


ATTACKS = [
    (rollback_timestamp, "metadata_rollback"),
    (rollback_snapshot, "metadata_rollback"),
    (rollback_targets, "metadata_rollback"),
    (drop_targets, "metadata_rollback"),
    (replay, "metadata_rollback"),
    (mix_snapshot, "metadata_mixed"),
    (mix_targets, "metadata_mixed"),
    (skip_a_root, "metadata_mixed"),
    (sign_with_a_wrong_key, "signature_invalid"),
    (sign_under_a_known_name, "signature_invalid"),
    (sign_not_at_all, "signature_invalid"),
    (root_of_a_stranger, "signature_invalid"),
    (root_signed_by_new_keys_only, "signature_invalid"),
    (root_signed_by_old_keys_only, "signature_invalid"),
    (targets_by_the_online_key, "signature_invalid"),
    (endless_timestamp, "metadata_too_large"),
    (nested, "metadata_malformed"),
    (huge_number, "metadata_malformed"),
    (another_role, "metadata_malformed"),
    (one_key_twice, "metadata_malformed"),
    (one_key_under_two_names, "signature_threshold"),
    (one_of_two, "signature_threshold"),
]


@pytest.mark.parametrize(
    ("attack", "reason"), ATTACKS, ids=lambda value: getattr(value, "__name__", "")
)
def test_attacks_are_refused_with_their_reason(
    device: Device, world: World, attack: Callable[[World], None], reason: str
) -> None:
    world.first_timestamp = world.files["metadata/timestamp.json"]  # type: ignore[attr-defined]
    world.add("birds", "1.0.0", DATA)
    world.publish()
    device.refresh()
    good = copy.deepcopy(world.files)

    attack(world)
    repository = device.start()
    error = refused(repository.refresh)

    assert (error.reason, type(error)) == (reason, VerifyError), error
    # Nothing of it is believed, also not by those who do not refresh first, nor remembered.
    assert refused(lambda: repository.find("birds/6.6.6.zip")).reason == reason
    for role in ("timestamp", "snapshot", "targets"):
        assert device.version(role) >= 2
    if attack in (one_key_twice, one_key_under_two_names, one_of_two):
        return  # the new root is genuine and stays
    if "metadata/2.root.json" in world.files:
        del world.files["metadata/2.root.json"]
    world.files.update(good)
    if device.version("timestamp") == 2:
        assert device.start().find("birds/1.0.0.zip") is not None


def test_a_metadata_file_without_an_end(device: Device, server: Server) -> None:
    server.troubles["metadata/timestamp.json"] = Trouble(endless=True)

    assert refused(device.refresh).reason == "metadata_too_large"


def test_a_frozen_repository_is_noticed(device: Device, world: World) -> None:
    device.refresh()
    world.now += timedelta(days=31)

    error = refused(device.refresh)

    assert (error.reason, type(error)) == ("metadata_expired", VerifyError)


@pytest.mark.parametrize("role", ["root", "targets", "snapshot"])
def test_every_role_expires(device: Device, world: World, role: str) -> None:
    signed = getattr(world, role)
    signed.expires = world.now - timedelta(seconds=1)
    if role == "root":
        world.publish_root()
    world.publish()

    assert refused(device.refresh).reason == "metadata_expired"


def test_roots_are_followed_from_the_first_to_the_newest(device: Device, world: World) -> None:
    for _ in range(4):
        world.rotate("root", "timestamp")
    world.publish()

    assert device.start().refresh().versions["root"] == 5
    world.rotate("root", "targets", "snapshot")
    world.publish()
    assert device.start().refresh().versions["root"] == 6


@pytest.mark.parametrize("cut_at", ["", "timestamp", "snapshot", "targets"])
@pytest.mark.parametrize("stolen", ["timestamp", "snapshot", "targets"])
def test_the_way_back_from_a_fast_forward(
    device: Device, world: World, server: Server, stolen: str, cut_at: str
) -> None:
    """The thief counts to the end; the operator goes on from where he was, with new keys.

    Also where the first refresh with them is cut.
    """
    world.add("birds", "1.0.0", DATA)
    world.publish()
    before = copy.deepcopy((world.targets, world.snapshot, world.timestamp))
    signed = getattr(world, stolen)
    signed.version = 10**40
    if stolen == "targets":
        world.publish_targets()
    if stolen != "timestamp":
        world.publish_snapshot()
    world.publish_timestamp()
    device.refresh()
    world.targets, world.snapshot, world.timestamp = before
    for _ in range(3):
        world.publish()
    assert refused(device.refresh).reason == "metadata_rollback"

    world.rotate(
        *{"timestamp": ["timestamp"], "snapshot": ["snapshot"]}.get(stolen, ["snapshot", stolen])
    )
    world.publish()
    if cut_at:
        number = "" if cut_at == "timestamp" else f"{getattr(world, cut_at).version}."
        server.troubles[f"metadata/{number}{cut_at}.json"] = Trouble(status=500)
        assert refused(device.refresh).reason == "server_failed"
        server.troubles.clear()

    assert device.start().refresh().versions["targets"] < 10
    assert device.start().find("birds/1.0.0.zip") is not None


def test_a_stolen_root_below_the_threshold_does_nothing(device: Device, world: World) -> None:
    world.root.roles["root"].threshold = 2
    first = world.signers["root"][0]
    world.add_key("root")
    world.publish_root()
    world.publish()
    device.refresh()

    world.root.version += 1
    world.files["metadata/3.root.json"] = world.sign("root", world.root, [first])

    assert refused(device.refresh).reason == "signature_threshold"


def test_what_was_verified_before_a_failure_is_remembered(
    device: Device, world: World, server: Server
) -> None:
    device.refresh()
    world.rotate("timestamp")
    world.publish()
    server.troubles["metadata/2.snapshot.json"] = Trouble(status=500)

    assert refused(device.refresh).reason == "server_failed"

    assert (device.version("root"), device.version("timestamp")) == (2, 2)
    world.files["metadata/2.timestamp"] = b""
    rollback_timestamp(world)
    assert refused(device.refresh).reason == "metadata_rollback"


@pytest.mark.parametrize("root", [b"", b"{}", b"\xff", b"<html>", b'{"signed": {}}'])
def test_a_root_that_is_none_is_the_owners_mistake(device: Device, root: bytes) -> None:
    device.root = root

    assert refused(device.refresh).reason == "root_invalid"
    with pytest.raises(ConfigError):
        device.refresh()


def test_a_root_of_another_repository(device: Device) -> None:
    device.root = World().first_root

    assert refused(device.refresh).reason == "signature_invalid"


def test_the_owner_may_change_to_another_repository(device: Device, world: World) -> None:
    for _ in range(3):
        world.publish_root()
        world.publish()
    device.refresh()
    other = World()
    world.files.clear()
    world.files.update(other.files)
    device.root = other.first_root

    assert device.start().refresh().versions == dict.fromkeys(
        ("root", "timestamp", "snapshot", "targets"), 1
    )


# Damaged disks


def damage(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "zeros": b"\0" * 500, "cut": path.read_bytes()[:100]}[how])


@pytest.mark.parametrize("how", ["gone", "empty", "zeros", "cut"])
@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json", "trust"])
def test_no_damaged_file_lets_an_old_version_in(
    device: Device, world: World, name: str, how: str
) -> None:
    old = dict(world.files)
    for version in range(3):
        world.add("birds", f"1.0.{version}", DATA)
        world.publish()
        device.refresh()
    damage(device.folder / "tuf/metadata" / name, how)

    new = dict(world.files)
    world.files.clear()
    world.files.update(old)
    assert refused(device.refresh).reason == "metadata_rollback"

    world.files.update(new)
    assert not device.start().refresh().forgotten
    assert device.version("timestamp") == 4


def test_what_the_last_good_copy_knows_counts(device: Device, world: World) -> None:
    """Two files are damaged at once; the copy of before says that version 3 was seen."""
    old = dict(world.files)
    for _ in range(3):
        world.now += timedelta(days=2)
        world.publish()
        device.refresh()
    for name in ("timestamp.json", "trust"):
        damage(device.folder / "tuf/metadata" / name, "zeros")
    world.files.clear()
    world.files.update(old)

    assert refused(device.refresh).reason == "metadata_rollback"
    device.synchronised = False
    device.now_s = (NOW + timedelta(days=3)).timestamp()
    assert refused(device.refresh).reason == "clock_unsynced"


def test_that_something_was_forgotten_is_said_once_and_not_lost(
    device: Device, server: Server
) -> None:
    device.refresh()
    damage(device.folder / "tuf/metadata/trust", "empty")
    server.troubles["metadata/timestamp.json"] = Trouble(status=500)
    assert refused(device.refresh).reason == "server_failed"
    server.troubles.clear()

    assert device.start().refresh().forgotten
    assert not device.start().refresh().forgotten


def test_an_old_targets_file_under_a_new_snapshot(device: Device, world: World) -> None:
    """The thief has the online keys, and the device has lost its snapshot: targets count on."""
    world.publish()
    device.refresh()
    damage(device.folder / "tuf/metadata/snapshot.json", "empty")
    rollback_targets(world)

    assert refused(device.refresh).reason == "metadata_rollback"


@pytest.mark.parametrize("how", ["gone", "empty", "zeros", "cut"])
def test_when_all_is_lost_it_is_said(device: Device, world: World, how: str) -> None:
    world.publish()
    device.refresh()
    world.publish()
    device.refresh()
    for path in (device.folder / "tuf").rglob("*"):
        if path.is_file():
            damage(path, how)

    done = device.start().refresh()

    assert done.forgotten
    assert done.versions["timestamp"] == 3
    assert not device.start().refresh().forgotten


def test_a_lost_root_history_does_not_bring_revoked_keys_back(device: Device, world: World) -> None:
    old = dict(world.files)
    world.rotate("timestamp", "snapshot")
    world.publish()
    device.refresh()
    for path in (device.folder / "tuf").rglob("*.root.json"):
        path.unlink()
    world.files.clear()
    world.files.update(old)

    assert refused(device.refresh).reason == "metadata_rollback"


def test_a_file_in_the_place_of_the_directory(device: Device, world: World) -> None:
    device.refresh()
    (device.folder / "tuf/metadata").rename(device.folder / "elsewhere")
    (device.folder / "tuf/metadata").write_text("?")

    device.refresh()

    assert device.version("timestamp") == 1


def test_nothing_is_written_while_nothing_changes(device: Device, world: World) -> None:
    device.refresh()
    before = (device.folder / "tuf/metadata").stat().st_ino

    world.now += timedelta(hours=23)
    device.refresh()
    assert (device.folder / "tuf/metadata").stat().st_ino == before

    world.now += timedelta(hours=2)
    device.refresh()
    assert (device.folder / "tuf/metadata").stat().st_ino != before


# Clocks


@pytest.mark.parametrize("now_s", [0.0, -5.0, 1e8])
def test_a_clock_at_1970_waits(device: Device, server: Server, now_s: float) -> None:
    device.now_s, device.synchronised = now_s, False

    error = refused(device.refresh)

    assert (error.reason, type(error)) == ("clock_unsynced", FetchError)
    assert server.asked == []


def test_a_clock_that_runs_ahead_waits(device: Device, world: World) -> None:
    device.now_s, device.synchronised = (NOW + timedelta(days=3650)).timestamp(), False

    error = refused(device.refresh)
    assert (error.reason, type(error)) == ("clock_unsynced", FetchError)

    device.synchronised = True
    assert refused(device.refresh).reason == "metadata_expired"
    for now_s in (1e12, 1e18, 1e300):
        device.now_s = now_s
        assert refused(device.refresh).reason == "metadata_expired"


def test_a_plausible_clock_will_do_but_teaches_nothing(device: Device, world: World) -> None:
    device.synchronised = False
    device.now_s = (NOW + timedelta(days=20)).timestamp()
    device.refresh()

    device.now_s = NOW.timestamp()
    device.refresh()


def test_a_clock_that_nobody_vouches_for_is_believed_and_not_remembered(device: Device) -> None:
    device.synchronised = None
    device.now_s = (NOW + timedelta(days=20)).timestamp()
    device.refresh()
    device.now_s = (NOW + timedelta(days=3650)).timestamp()
    assert refused(device.refresh).reason == "metadata_expired", "nothing to wait for"

    device.now_s, device.synchronised = NOW.timestamp(), False
    device.refresh()


def test_a_clock_once_right_does_not_go_back(device: Device, world: World) -> None:
    world.now += timedelta(days=20)
    device.refresh()

    device.synchronised = False
    device.now_s = NOW.timestamp()
    assert refused(device.refresh).reason == "clock_unsynced"
    # One who says that he is right is believed as far as nothing is let in that has expired.
    device.synchronised = True
    device.refresh()
    world.timestamp.expires = NOW + timedelta(days=10)
    world.publish()
    assert refused(device.refresh).reason == "metadata_expired"


def test_a_local_install_does_not_wait_for_a_clock(device: Device, world: World) -> None:
    device.now_s, device.synchronised = 0.0, False

    device.start().refresh(local=True)

    device.floor_s = (NOW + timedelta(days=31)).timestamp()
    error = refused(lambda: device.start().refresh(local=True))
    assert error.reason == "metadata_expired"


# Programs


def test_an_outside_test_suite_can_drive_it(tmp_path: Path) -> None:
    """By the protocol of theupdateframework/tuf-conformance."""
    world = World(datetime.now(UTC))
    path = world.add("birds", "1.4.0", DATA)
    world.publish()
    script = Path(__file__).parents[1] / "scripts/tuf-conformance-client"
    (tmp_path / "root.json").write_bytes(world.first_root)
    metadata, targets = tmp_path / "metadata", tmp_path / "targets"
    metadata.mkdir()
    targets.mkdir()

    def client(*command: str, code: int = 0) -> None:
        done = subprocess.run(
            [sys.executable, str(script), "--metadata-dir", str(metadata),
             "--metadata-url", f"{server.url}/metadata", "--target-name", path,
             "--target-base-url", f"{server.url}/targets", "--target-dir", str(targets), *command],
            env={**os.environ, "PYTHONPATH": str(script.parents[1])},
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr

    with serving(world.files) as server:
        client("init", str(tmp_path / "root.json"))
        client("download")
        world.files["metadata/timestamp.json"] = b"{}"
        client("refresh", code=1)

    assert [file.read_bytes() for file in targets.iterdir()] == [DATA]
    names = {file.name for file in metadata.iterdir()}
    assert names >= {"root.json", "timestamp.json", "snapshot.json", "targets.json"}


def test_requests_is_imported_for_the_web_only() -> None:
    program = (
        "import sys; import edged.models.repository, edged.models.stick;"
        "sys.exit('requests' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert done.returncode == 0

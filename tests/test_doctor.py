"""`edged doctor` beside a service that runs, or as a user who may not what the service may."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest
from sim.broker import MOSQUITTO, Broker
from sim.device import BELT

from edged.camera.images import ImageFolder
from edged.camera.videofile import VideoFile
from edged.cli import main
from edged.control import ControlServer
from edged.errors import EdgedError
from edged.hidden import hidden_below, let_it_be_read
from edged.inference.factory import read_model
from edged.lock import RuntimeLock, StateLock

NOBODY = 65534


@pytest.fixture
def config(open_folder: Path) -> Path:
    """A configuration that everybody may read, with the service's directories, which nobody may."""
    path = open_folder / "edged.toml"
    path.write_text(
        f'state_dir = "{open_folder}/state"\nruntime_dir = "{open_folder}/run"\n{BELT}[mqtt]\n'
    )
    for name in ("state", "run"):
        (open_folder / name).mkdir(mode=0o750)
        os.chown(open_folder / name, NOBODY - 1, -1)
    return path


@pytest.fixture
def doctor(config: Path, capsys) -> Callable[[], dict[str, dict[str, str]]]:
    def examined() -> dict[str, dict[str, str]]:
        main(["doctor", "--config", str(config), "--json"])
        return {one["topic"]: one for one in orjson.loads(capsys.readouterr().out)}

    examined()  # all modules are there before this process is a user who may not read them
    return examined


@pytest.fixture
def serve(open_folder: Path) -> Iterator[Callable[[dict[str, object]], None]]:
    """A service that says this of itself; the socket is for everybody."""
    running = []

    def start(status: dict[str, object]) -> None:
        lock = RuntimeLock(open_folder / "run")
        running.append((ControlServer(lock, {"status": lambda _: status}), lock))
        (open_folder / "run").chmod(0o755)
        (open_folder / "run" / "control.sock").chmod(0o666)

    yield start
    for server, lock in running:
        server.stop()
        lock.release()


# The broker


@pytest.fixture
def credstore(tmp_path: Path, monkeypatch) -> Path:
    """Where the service manager takes secrets from; this process is handed none."""
    monkeypatch.setattr("edged.mqtt.credentials._STORE", str(tmp_path / "credstore"))
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "credstore").mkdir(mode=0o700)
    return tmp_path / "credstore"


SECRET = '"$CREDENTIALS_DIRECTORY/edged.mqtt-password"'


def with_password(config: Path, port: int, file: str = SECRET) -> None:
    table = f'port = {port}\nusername = "edged"\npassword_file = {file}\n'
    config.write_text(config.read_text() + table)


def test_the_password_is_taken_from_where_the_unit_takes_it(
    config, doctor, credstore, tmp_path
) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder, users={"edged": "sesame"}).start()
    try:
        with_password(config, broker.port)
        (credstore / "edged.mqtt-password").write_text("sesame\n")
        assert doctor()["broker"]["level"] == "ok"
        (credstore / "edged.mqtt-password").write_text("wrong\n")
        assert doctor()["broker"]["level"] == "fail"
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("told", "level", "reason"),
    [
        ({"state": "connected", "reason": "", "detail": ""}, "ok", "ok"),
        ({"state": "waiting", "reason": "broker_timeout", "detail": "x"}, "fail", "broker_timeout"),
        ({"state": "connecting", "reason": "", "detail": ""}, "warn", "not_tried"),
        (None, "warn", "not_tried"),
    ],
)
def test_of_a_password_that_only_the_service_has_that_one_is_asked(
    config, doctor, credstore, serve, free_port, told, level, reason
) -> None:
    with_password(config, free_port)
    if told is not None:
        serve({"state": "running", "broker": told})

    found = doctor()["broker"]

    assert (found["level"], found["reason"]) == (level, reason)
    assert "Only the service has $CREDENTIALS_DIRECTORY/edged.mqtt-password" in found["words"]


def test_a_password_that_this_user_may_not_read(
    config, doctor, stranger, open_folder, free_port
) -> None:
    secret = open_folder / "password"
    secret.touch(0o640)
    with_password(config, free_port, f'"{secret}"')
    with stranger():
        found = doctor()["broker"]
    assert (found["level"], found["reason"]) == ("warn", "not_tried")
    assert found["words"].endswith("sudo edged doctor")

    secret.unlink()
    assert doctor()["broker"]["reason"] == "broker_password_unreadable"


@pytest.mark.parametrize("broken", [b"[mqtt", b"\xff\xfe\x00", None])
def test_without_a_configuration_that_can_be_used_nothing_of_it_is_tried(
    config, doctor, broken
) -> None:
    if broken is None:
        config.unlink()
    else:
        config.write_bytes(broken)

    found = doctor()

    assert found["config"]["level"] == "fail"
    assert (found["broker"]["level"], found["broker"]["reason"]) == ("warn", "not_tried")
    assert "127.0.0.1" not in found["broker"]["words"]


# Paths that the unit's sandbox hides


@pytest.mark.parametrize(
    ("path", "top"),
    [
        ("/home/pi/pics", "/home"),
        ("//home//pi", "/home"),
        ("/srv/../root/x", "/root"),
        ("/run/user/1000/x", "/run/user"),
        ("/home", "/home"),
        ("/homework/x", ""),
        ("/run/edged", ""),
        ("/srv/home/x", ""),
        ("home/x", ""),
        ("", ""),
    ],
)
def test_what_the_sandbox_hides(path, top) -> None:
    assert hidden_below(path) == top
    assert ("sees nothing below" in let_it_be_read(path)) == bool(top)


def test_the_unit_hides_them() -> None:
    unit = Path(__file__).parents[1] / "systemd" / "edged.service"

    assert "ProtectHome=yes" in unit.read_text().splitlines()


def test_paths_that_the_service_cannot_see_are_warned_of(
    config, doctor, open_folder, capsys
) -> None:
    assert "paths" not in doctor()
    (open_folder / "link").symlink_to("/root/clip.mp4")
    config.write_text(
        config.read_text().replace("factory", 'labels = "/home/pi/l.txt"\nfactory')
        + 'ca_file = "/run/user/1/ca.pem"\npassword_file = "/etc/edged/p"\nusername = "u"\n'
        + f'[[camera]]\nname = "back"\nsource = "file:{open_folder}/link"\nmodel = "belt"\n'
        + '[update]\nmetadata_url = "http://127.0.0.1:1/m"\ntargets_url = "http://127.0.0.1:1/t"\n'
        + 'root = "/home/pi/root.json"\n'
    )

    main(["doctor", "--config", str(config)])
    lines = capsys.readouterr().out.splitlines()
    said = "\n".join(line for line in lines if line.split()[:2] == ["warn", "paths"])
    for what in ("labels of belt", "source of back", "ca_file", "root of [update]"):
        assert what in said
    for what in ("factory of", "source of front", "password_file"):
        assert what not in said


@pytest.mark.parametrize("kind", ["model", "images", "video"])
def test_a_file_that_may_not_be_read_is_said_with_the_sandbox(monkeypatch, kind) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = Path("/home/pi/thing")
    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    opening: dict[str, Callable[[], object]] = {
        "model": lambda: read_model(path),
        "images": lambda: ImageFolder(path),
        "video": lambda: VideoFile(str(path)),
    }
    with pytest.raises(EdgedError) as refused:
        opening[kind]()

    assert refused.value.reason in ("model_unreadable", "camera_no_permission")
    assert "sees nothing below /home" in refused.value.advice


# Directories


def levels(found: dict[str, dict[str, str]]) -> list[str]:
    return [found[name]["level"] for name in ("state_dir", "runtime_dir")]


def test_directories_of_a_service_that_answers(stranger, doctor, serve) -> None:
    serve({"state": "running"})
    with stranger():
        found = doctor()

    assert levels(found) == ["ok", "ok"]
    assert "used by the service" in found["state_dir"]["words"]


def test_directories_of_a_service_that_holds_its_lock(stranger, doctor, open_folder) -> None:
    lock = StateLock(open_folder / "state")
    (open_folder / "state").chmod(0o755)
    try:
        with stranger():
            found = doctor()
    finally:
        lock.release()

    assert levels(found) == ["ok", "ok"]


def test_directories_of_another_user_while_nothing_runs(stranger, doctor, open_folder) -> None:
    os.chown(open_folder / "run", 1, -1)
    with stranger():
        found = doctor()

    assert levels(found) == ["warn", "warn"]
    assert found["state_dir"]["words"].endswith(f"sudo -u '#{NOBODY - 1}' edged doctor")
    assert found["runtime_dir"]["words"].endswith("sudo -u daemon edged doctor")


def test_a_directory_that_cannot_be_made(stranger, doctor, open_folder) -> None:
    (open_folder / "state").rmdir()
    os.chown(open_folder / "run", 0, -1)
    with stranger():
        found = doctor()

    assert levels(found) == ["fail", "fail"]
    assert found["state_dir"]["words"].endswith("sudo -u edged edged doctor")


def test_ones_own_directory_that_may_not_be_written(stranger, doctor, open_folder) -> None:
    for name in ("state", "run"):
        os.chown(open_folder / name, NOBODY, -1)
        (open_folder / name).chmod(0o550)
    with stranger():
        assert levels(doctor()) == ["fail", "fail"]

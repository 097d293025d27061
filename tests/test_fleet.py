"""`edgectl fleet` at a real broker: with real devices, and with such as only answer."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import badmodels, models
from sim.broker import MOSQUITTO, Broker, Certificates, Subscriber, wait_for
from sim.desk import Desk
from sim.device import Device
from sim.fleet import Answering

from edged.config import MqttConfig
from edged.errors import DeviceError
from edged.models.desired import in_rollout
from edged.mqtt.attempt import connect
from edged.mqtt.status import Timing
from edged.operator.cli import main
from edged.operator.fleetdesk import Desk as FleetDesk

pytestmark = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]

EDGECTL = "import sys; from edged.operator.cli import main; sys.exit(main())"


@pytest.fixture
def fleet(broker: Broker, capsys, monkeypatch, tmp_path) -> Callable[..., tuple[int, str, str]]:
    """Runs a command and returns its exit code, and what it printed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("EDGED_BROKER", f"127.0.0.1:{broker.port}")

    def run(*arguments: str, seconds: float = 0.4) -> tuple[int, str, str]:
        capsys.readouterr()
        more = [] if arguments[0] == "watch" else ["--seconds", str(seconds)]
        code = main(["fleet", *arguments, *more])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run


@pytest.fixture
def anybody(broker: Broker) -> Iterator[Subscriber]:
    """Somebody who hears and says everything."""
    listening = Subscriber(broker.port, "#").connect()
    yield listening
    listening.close()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    made: list[Broker] = []

    def start(**settings) -> Broker:
        folder = tmp_path / f"own{len(made)}"
        folder.mkdir()
        made.append(Broker(folder, **settings).start())
        return made[-1]

    yield start
    for broker in made:
        broker.stop()


# With real devices.


@pytest.fixture
def two_devices(make, broker: Broker, desk: Desk, tmp_path: Path) -> dict[str, Device]:
    """`porch` and `shed`, which are online; `shed` is of the group `garden`."""
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    for number in range(7):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(scenes / f"{number}.png"), image)
    factory = models.write(tmp_path / "factory.tflite", models.classifier("float32"))
    (tmp_path / "labels.txt").write_text("\n".join(models.COLOURS))
    body = (
        f'{desk.update}\n[[model]]\nname = "m"\nfactory = "{factory}"\n\n'
        f'[[camera]]\nname = "front"\nsource = "images:{scenes}"\nmodel = "m"\nfps = 60\n'
    )
    made = {
        "porch": make(broker.port, body, device_id="porch"),
        "shed": make(broker.port, body, device_id="shed", top='groups = ["garden"]'),
    }
    for device in made.values():
        device.start()
    for device in made.values():
        device.wait_ready()
    return made


def online(anybody: Subscriber, *devices: str) -> None:
    for device in devices:
        anybody.wait_for(f"edged/{device}/available", b"online")


def test_a_version_is_deployed_listed_and_rolled_back(fleet, desk, two_devices, anybody) -> None:
    desk.publish("1.0.0", models.classifier("float32", head="logits"))
    desk.publish("1.1.0", badmodels.segfault_at_load(), expected=np.full((4, 1, 4), 0.25, "f"))
    online(anybody, *two_devices)
    code, out, err = fleet("deploy", "m", "1.0.0", "--all", "--yes", "--watch", "--timeout", "40")

    assert code == 0, out + err
    assert "2 SUCCEEDED" in err
    lines = out.splitlines()
    an_id = lines[0].removeprefix("deployment ")
    assert an_id.startswith("m-1.0.0-")
    topic, payload = lines[1].split(" ", 1)
    assert topic == "edged/@all/update/m/desired"
    assert orjson.loads(payload)["deployment_id"] == an_id
    for name in two_devices:
        words = [line.split()[1] for line in lines if line.startswith(f"{name} ")]
        assert words[0] == "waiting"
        assert {"VALIDATING", "TRIAL"} & set(words)
        assert words[-1] == "SUCCEEDED"

    # One that crashes is refused by the device it is meant for, and by no other.
    code, out, err = fleet("deploy", "m", "1.1.0", "--device", "shed", "--watch", "--timeout", "40")
    assert code == 1
    assert "1 REJECTED" in err
    assert "validation_crashed" in out
    code, out, err = fleet("list", "--json")
    said = {one["device"]: one for one in orjson.loads(out)["devices"]}
    assert {name: one["online"] for name, one in said.items()} == {"porch": True, "shed": True}
    assert said["shed"]["groups"] == ["garden"]
    model = said["shed"]["models"][0]
    assert (model["active"], model["last"]["state"]) == ("1.0.0", "REJECTED")
    assert said["porch"]["models"][0]["last"]["deployment_id"] == an_id
    code, out, err = fleet("list", "--group", "garden")
    assert [line.split()[0] for line in out.splitlines()] == ["DEVICE", "shed"]

    code, out, err = fleet("rollback", "m", "--from", "1.0.0", "--all", "--yes", "--watch")
    assert code == 0, out + err
    assert "2 ROLLED_BACK" in err
    code, out, err = fleet("rollback", "m", "--from", "1.0.0", "--device", "porch", "--watch")
    assert code == 1
    assert "is active (not_active)" in out
    code, out, err = fleet("rollback", "m", "--from", "1.0.0", "--all", "--yes")
    assert code == 1
    assert "nobody_concerned" in err

    # A long trial is given up.
    desk.publish("1.2.0", trial={"seconds": 60})
    code, _, err = fleet("deploy", "m", "1.2.0", "--group", "garden", "--yes", "--id", "long")
    assert "counts more: shed (its own)" in err
    code, _, err = fleet("deploy", "m", "--release", "--device", "shed")
    assert (code, err) == (0, "")
    state = "edged/shed/update/m/state"
    wait_for("the trial", lambda: b'"TRIAL"' in anybody.of(state)[-1], 30.0)
    code, out, err = fleet("cancel", "long", "--model", "m", "--all", "--yes", "--watch")
    assert code == 0, out + err
    assert "edged/shed/update/m/command" in out
    assert "porch" not in out
    assert "1 ROLLED_BACK" in err
    done = ("--model", "m", "--id", "long", "--until-done")
    assert fleet("watch", *done)[0] == 1, "what was canceled has not succeeded"


# With devices that only answer.


def told(answering: Answering, *percents: int) -> None:
    """See that devices have been sent these percentages, in this order, and no others."""
    wait_for(f"{percents}", lambda: len(answering.desired) >= len(percents))
    assert [one["rollout"]["percent"] for one in answering.desired] == list(percents)


def test_a_rollout_goes_up_in_steps_while_all_is_well(fleet, broker) -> None:
    devices = {f"d{number}": "COMMITTED" for number in range(20)}
    with Answering(broker.port, devices) as answering:
        code, out, _ = fleet(
            "deploy", "m", "1.1.0", "--all", "--yes", "--id", "r1", "--percent", "5"
        )
        assert code == 0
        code, out, err = fleet("rollout", "m", "r1", "--all", "--yes", "--steps", "5,50,100")
        assert code == 0, out + err
        told(answering, 5, 5, 50, 100)
        assert {one["deployment_id"] for one in answering.desired} == {"r1"}
        assert {one["version"] for one in answering.desired} == {"1.1.0"}
        orders = [one["order"] for one in answering.desired]
        assert orders == sorted(set(orders))
        half = sum(in_rollout("r1", name, 50) for name in devices)
        assert f"50 %: {half} of {half} devices SUCCEEDED" in err
        assert "20 SUCCEEDED" in err

        code, _, err = fleet("rollout", "m", "r1", "--all", "--yes", "--percent", "50")
        assert code == 1
        assert "rollout_lowered" in err
        code, _, err = fleet("rollout", "m", "other", "--all", "--yes", "--percent", "50")
        assert "desired_differs" in err
        code, _, err = fleet("rollout", "m", "r1", "--device", "d1", "--percent", "50")
        assert "desired_unknown" in err
        code, _, err = fleet("rollout", "m", "r1", "--all", "--yes", "--steps", "20,40")
        assert code == 2
        code, _, _ = fleet("rollout", "m", "r1", "--all", "--yes", "--percent", "50", "--force")
        assert code == 0
        told(answering, 5, 5, 50, 100, 50)


def first_of(an_id: str, percent: int, devices: list[str]) -> str:
    return next(name for name in devices if in_rollout(an_id, name, percent))


def test_a_rollout_stops_where_devices_fail(fleet, broker) -> None:
    names = [f"d{number}" for number in range(20)]
    bad = first_of("r1", 30, names)
    devices = dict.fromkeys(names, "COMMITTED") | {bad: "REJECTED"}
    with Answering(broker.port, devices) as answering:
        fleet("deploy", "m", "1.1.0", "--all", "--yes", "--id", "r1", "--percent", "0")
        code, _, err = fleet("rollout", "m", "r1", "--all", "--yes", "--steps", "30,100")
        assert code == 1
        assert "rollout_stopped" in err
        assert f"{bad} REJECTED" in err
        told(answering, 0, 30)
        # Who fails is allowed for by share.
        code, _, err = fleet(
            "rollout", "m", "r1", "--all", "--yes", "--steps", "30,100", "--max-failed", "50"
        )
        assert code == 0, err
        assert "1 REJECTED, 19 SUCCEEDED" in err


def test_a_rollout_stops_where_devices_leave_the_version_in_the_pause(
    fleet, broker, anybody
) -> None:
    names = [f"d{number}" for number in range(20)]
    with Answering(broker.port, dict.fromkeys(names, "COMMITTED")) as answering:
        fleet("deploy", "m", "1.1.0", "--all", "--yes", "--id", "r1", "--percent", "0")
        crash = threading.Timer(1.0, answering.leave, (first_of("r1", 30, names), "1.1.0"))
        crash.start()
        code, _, err = fleet(
            "rollout", "m", "r1", "--all", "--yes", "--steps", "30,100", "--pause", "0.04"
        )
        crash.join()
        assert code == 1
        assert "active_crashed" in err
        told(answering, 0, 30)


def test_a_rollout_whose_steps_reach_nobody_does_not_go_up_to_all(fleet, broker) -> None:
    outside = [name for name in map("d{}".format, range(30)) if not in_rollout("r1", name, 30)]
    with Answering(broker.port, dict.fromkeys(outside[:3], "COMMITTED")) as answering:
        fleet("deploy", "m", "1.1.0", "--all", "--yes", "--id", "r1", "--percent", "0")
        steps = ("rollout", "m", "r1", "--all", "--yes", "--steps", "30,100")
        code, _, err = fleet(*steps)
        assert (code, "rollout_untried" in err) == (1, True)
        told(answering, 0, 30)
        code, _, err = fleet(*steps, "--force")
        assert (code, "3 SUCCEEDED" in err) == (0, True)


def test_who_does_not_answer_in_time_is_named(fleet, broker) -> None:
    with Answering(broker.port, {"d1": "COMMITTED", "mute": ""}):
        code, out, err = fleet(
            "deploy", "m", "1.1.0", "--device", "d1,mute", "--watch", "--timeout", "0.5"
        )
        assert code == 1
        assert "no result within 0.5 s from mute" in err
        assert "fleet_timeout" in err
        code, out, err = fleet(
            "deploy", "m", "1.1.0", "--all", "--yes", "--watch", "--expect", "1", "--timeout", "9"
        )
        assert code == 0, out + err


def test_narrower_wishes_are_seen(fleet, broker) -> None:
    with Answering(broker.port, {"d1": "COMMITTED", "d2": "COMMITTED"}):
        fleet("deploy", "m", "1.0.5", "--device", "d2")
        code, _, err = fleet("deploy", "m", "1.1.0", "--all", "--yes", "--watch", "--timeout", "9")
        assert code == 0
        assert "counts more: d2 (its own)" in err
        assert "1 SUCCEEDED" in err
        code, out, _ = fleet("deploy", "m", "--release", "--device", "d2")
        assert code == 0
        assert b'"version":null' in out.encode()
        code, _, err = fleet("deploy", "m", "1.2.0", "--all", "--yes", "--watch", "--timeout", "9")
        assert (code, "2 SUCCEEDED" in err) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("deploy", "m", "1.1.0", "--device", "d11"), "device_unknown"),
        (("deploy", "x", "1.1.0", "--device", "d1"), "fleet_lacks_model"),
        (("deploy", "x", "1.1.0", "--all"), "fleet_lacks_model"),
        (("deploy", "m", "1.1.0", "--all"), "say --yes"),
        (("deploy", "m", "1.1.0", "--group", "g"), "group_empty"),
        (("deploy", "m", "1.1.0", "--group", "g", "--yes", "--watch"), "fleet_unheard"),
        (("deploy", "m", "1.1", "--device", "d1"), "message_malformed"),
        (("deploy", "m", "1.1.0", "--device", "d1", "--id", "auto-1"), "id_reserved"),
        (("deploy", "m", "1.1.0", "--device", "d1", "--id", "taken"), "id_reused"),
        (("deploy", "m", "--device", "d1"), "VERSION"),
        (("deploy", "m", "1.1.0", "--device", "d 1"), "--device"),
        (("deploy", "M", "1.1.0", "--device", "d1"), "MODEL"),
        (("rollout", "m", "r1", "--all", "--steps", "50,5"), "must rise"),
        (("cancel", "d9", "--model", "m", "--all"), "nobody_concerned"),
        (("watch", "--until-done"), "--id"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_sent(
    fleet, broker, anybody, arguments, reason
) -> None:
    held = b'{"deployment_id":"taken","version":"1.0.0"}'
    anybody.publish("edged/d1/update/m/desired", held, retain=True)
    with Answering(broker.port, {"d1": "COMMITTED"}) as answering:
        wait_for("what is retained", lambda: answering.desired)
        code, _, err = fleet(*arguments)
        assert code in (1, 2)
        assert reason in err
        assert [one["deployment_id"] for one in answering.desired] == ["taken"]


def test_control_characters_are_never_shown(fleet, broker, anybody) -> None:
    evil = "\x1b]0;pwned\x07\x9b2J"
    said = {"deployment_id": evil, "version": evil, "state": evil, "reason": evil}
    for name in ("evil\u202e", "d1"):  # mosquitto takes no control characters in topics
        for tail in ("available", "info", "model/m", "update/m/state", "update/m/desired"):
            for payload in (b"\x00\xff", b"x" * 200_000, evil.encode(), orjson.dumps(said)):
                anybody.publish(f"edged/{name}/{tail}", payload, retain=True)
    anybody.publish("edged/d1/model/m", orjson.dumps({"active": {"version": evil}}), retain=True)
    done = ("--model", "m", "--id", "x", "--until-done", "--timeout", "0.3")
    told = [fleet("list"), fleet("list", "--json"), fleet("watch", *done)]
    where = ["--seconds", "0.4", "--broker", f"127.0.0.1:{broker.port}"]
    shown = on_terminal(["fleet", "list", *where])
    assert "d1" in shown
    assert "pwned" in shown
    for text in (*(out + err for _, out, err in told), shown):
        for sign in ("\x1b]", "\x07", "\x9b", "\u202e"):
            assert sign not in text


def test_what_is_said_is_shown_as_it_comes(fleet, broker, anybody, monkeypatch) -> None:
    listens = threading.Event()
    real = FleetDesk.wait

    def wait(desk: FleetDesk, limit_s: float) -> None:
        real(desk, limit_s)
        listens.set()

    monkeypatch.setattr(FleetDesk, "wait", wait)

    def speak() -> None:
        assert listens.wait(10.0)
        said = {"deployment_id": "d7", "version": "1.1.0", "state": "SYNCING"}
        anybody.publish("edged/d1/available", b"online")
        anybody.publish("edged/d1/update/m/state", orjson.dumps(said | {"reason": "not_published"}))
        anybody.publish(
            "edged/d1/update/m/progress",
            orjson.dumps({"deployment_id": "d7", "bytes": 1, "total": 4}),
        )
        anybody.publish("edged/d1/update/m/state", orjson.dumps(said | {"state": "COMMITTED"}))

    for json in (False, True):
        listens.clear()
        speaking = threading.Thread(target=speak)
        speaking.start()
        more = ("--json",) if json else ()
        code, out, _ = fleet("watch", "--model", "m", "--id", "d7", "--until-done", *more)
        speaking.join()
        assert code == 0
        lines = out.splitlines()
        if json:
            said = [orjson.loads(line) for line in lines]
            assert [one["word"] for one in said] == ["SYNCING", "DOWNLOADING", "COMMITTED"]
            assert said[1]["percent"] == 25
        else:
            assert "d1  m 1.1.0  d7  SYNCING: not_published" in lines[0]
            assert "DOWNLOADING  25 %" in lines[1]


def test_watch_ends_when_it_was_told_to(fleet, anybody) -> None:
    code, out, err = fleet("watch", "--timeout", "0.5")
    assert (code, out, err) == (0, "", "")


def on_terminal(arguments: list[str], typed: bytes = b"") -> str:
    """Run it as a process on a terminal; return what stands there."""
    ours, theirs = pty.openpty()
    os.write(ours, typed)
    process = subprocess.Popen(
        [sys.executable, "-c", EDGECTL, *arguments], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    out = b""
    while True:
        try:
            out += os.read(ours, 4096)
        except OSError:  # Linux says EIO when the other end is closed
            break
    os.close(ours)
    process.wait(10.0)
    return out.decode()


def test_watch_on_a_terminal_ends_with_all_devices_in_view(broker) -> None:
    devices = {f"d{number}": "COMMITTED" for number in range(3)} | {"bad": "REJECTED"}
    with Answering(broker.port, devices):
        out = on_terminal(
            ["fleet", "deploy", "m", "1.1.0", "--all", "--yes", "--watch", "--seconds", "0.4",
             "--broker", f"127.0.0.1:{broker.port}"]
        )  # fmt: skip
    assert "1 REJECTED, 3 SUCCEEDED" in out
    assert all(name in out for name in devices)


@pytest.mark.parametrize("answer", ["n", "y"])
def test_all_devices_are_asked_about(broker, answer) -> None:
    with Answering(broker.port, {"d1": "COMMITTED"}) as answering:
        out = on_terminal(
            ["fleet", "deploy", "m", "1.1.0", "--all", "--seconds", "0.4",
             "--broker", f"127.0.0.1:{broker.port}"],
            f"{answer}\n".encode(),
        )  # fmt: skip
        assert "Deploy m 1.1.0 on all devices (1 known, 1 online)? [y/N]" in out
        assert ("nothing was sent" in out) == (answer == "n")
        told(answering, *([100] if answer == "y" else []))


def test_without_rich_a_terminal_gets_plain_columns(fleet, broker, monkeypatch) -> None:
    monkeypatch.setattr("edged.operator.fleetscreen._has_rich", lambda: False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Answering(broker.port, {"d1": "COMMITTED"}):
        _, out, _ = fleet("list")
        assert [line.split() for line in out.splitlines()] == [
            ["DEVICE", "ONLINE", "MODEL", "ACTIVE"],
            ["d1", "yes", "m", "1.0.0"],
        ]
        code, out, _ = fleet("deploy", "m", "1.1.0", "--device", "d1", "--watch")
        assert (code, out.splitlines()[-1]) == (0, "d1  SUCCEEDED")


def test_a_large_fleet_is_read_whole(own_broker, monkeypatch, capsys) -> None:
    broker = own_broker()
    broker.stop()
    # The limits that mosquitto comes with.
    path = broker.folder / "mosquitto.conf"
    path.write_text(path.read_text().replace("max_queued_messages 100000", ""))
    broker.start()
    speaker = Subscriber(broker.port, "nothing").connect()
    for number in range(2000):
        speaker._client.publish(f"edged/d{number}/available", b"online", 1, retain=True)
    speaker.publish("end", b"")
    speaker.close()
    monkeypatch.setenv("EDGED_BROKER", f"127.0.0.1:{broker.port}")
    assert main(["fleet", "list", "--json", "--seconds", "1.5"]) == 0
    assert len(orjson.loads(capsys.readouterr().out)["devices"]) == 2000


# The broker.


def test_credentials_from_options_and_from_a_file(
    own_broker, tmp_path, monkeypatch, capsys
) -> None:
    acl = "user desk\ntopic read edged/#\ntopic write edged/d1/update/m/desired\n"
    broker = own_broker(users={"desk": "right"}, acl=acl)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("EDGED_BROKER", raising=False)
    (tmp_path / "edged").mkdir()
    password = tmp_path / "password"
    password.write_text("right\n")
    file = tmp_path / "edged/fleet.toml"
    file.write_text(
        f'[mqtt]\nport = {broker.port}\nusername = "desk"\npassword_file = "{password}"\n'
    )
    quick = ["--seconds", "0.2"]
    assert main(["fleet", "list", *quick]) == 0
    assert main(["fleet", "deploy", "m", "1.0.0", "--device", "d1", *quick]) == 0
    capsys.readouterr()
    assert main(["fleet", "deploy", "m", "1.0.0", "--device", "d2", *quick]) == 1
    assert "broker_refused_publish" in capsys.readouterr().err

    # The file's password is for the file's broker.
    where = ["--broker", f"127.0.0.1:{broker.port}"]
    assert main(["fleet", "list", *quick, *where]) == 1
    assert "broker_refused" in capsys.readouterr().err
    assert main(["fleet", "list", *quick, *where, "--config", str(file)]) == 0
    assert main(["fleet", "list", *quick, "--username", "nobody"]) == 1
    who = ["--username", "desk", "--password-file", str(password)]
    assert main(["fleet", "list", *quick, *where, *who]) == 0
    capsys.readouterr()
    for text, words in (("[mqqt]\n", "[mqtt]"), ("[mqtt]\nprt = 1\n", "line 2")):
        file.write_text(text)
        assert main(["fleet", "list", *quick]) == 78
        assert words in capsys.readouterr().err


def test_the_permissions_in_the_documentation(own_broker) -> None:
    page = (Path(__file__).parents[1] / "docs" / "fleet.md").read_text()
    acl = page.partition("(`acl_file`):\n\n```\n")[2].partition("```")[0]
    names = ("porch", "shed", "desk", "home")
    broker = own_broker(users=dict.fromkeys(names, "secret"), acl=acl)
    password = broker.folder / "password"
    password.write_text("secret")

    def may(name: str, topic: str) -> bool:
        config = MqttConfig(port=broker.port, username=name, password_file=str(password))
        with FleetDesk(config, [], lambda _note: None) as desk:
            try:
                desk.publish(topic, b"x", retain=False)
            except DeviceError as error:
                assert error.reason == "broker_refused_publish"
                return False
            return True

    desired = "update/m/desired"
    assert may("porch", "edged/porch/available")
    assert may("desk", f"edged/porch/{desired}")
    assert may("desk", f"edged/@all/{desired}")
    assert may("desk", "edged/porch/update/m/command")
    for name, topic in (("porch", f"edged/shed/{desired}"), ("porch", f"edged/@all/{desired}"),
                        ("porch", "edged/shed/available"), ("home", f"edged/@all/{desired}"),
                        ("desk", "edged/porch/available")):  # fmt: skip
        assert not may(name, topic), (name, topic)

    def hears(name: str, topic: str) -> bool:
        config = MqttConfig(port=broker.port, username=name, password_file=str(password))
        who = MqttConfig(port=broker.port, username="desk", password_file=str(password))
        heard = threading.Event()
        line = connect(config, f"test-{name}", 5.0, on_message=lambda *_: heard.set())
        try:
            asked = line.subscribe([topic])
            wait_for("SUBACK", lambda: asked <= line.subacks.keys())
            with FleetDesk(who, [], lambda _note: None) as desk:
                desk.publish(topic, b"x", retain=False)
            return heard.wait(0.3)
        finally:
            line.close()

    assert hears("porch", f"edged/porch/{desired}")
    assert hears("porch", f"edged/@all/{desired}")
    assert hears("porch", f"edged/@garden/{desired}")
    assert hears("porch", "edged/porch/update/m/command")
    assert hears("home", f"edged/shed/{desired}")
    assert not hears("shed", f"edged/@garden/{desired}")
    assert not hears("shed", f"edged/porch/{desired}")


def test_tls(own_broker, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    certificates = Certificates.make(folder)
    broker = own_broker(certificates=certificates)
    monkeypatch.setenv("EDGED_BROKER", f"127.0.0.1:{broker.port}")
    good = ["--ca-file", certificates.path("ca.pem"), "--seconds", "0.2"]
    assert main(["fleet", "list", *good]) == 0
    capsys.readouterr()
    assert main(["fleet", "list", "--ca-file", certificates.path("other_ca.pem")]) == 1
    assert "broker_tls_failed" in capsys.readouterr().err


def test_no_broker_says_why(free_port, capsys) -> None:
    assert main(["fleet", "list", "--broker", f"127.0.0.1:{free_port}"]) == 1
    assert "broker_unreachable" in capsys.readouterr().err
    assert main(["fleet", "list", "--broker", "me:secret@host"]) == 2
    assert "secret" not in capsys.readouterr().err


def test_a_message_gets_through_to_a_broker_that_hung(broker, anybody) -> None:
    quick = Timing(connect_s=5.0, answer_s=0.3, retry_first_s=0.1)
    with FleetDesk(MqttConfig(port=broker.port), [], lambda _note: None, quick) as desk:
        broker.freeze()
        thaw = threading.Timer(1.0, broker.thaw)
        thaw.start()
        desk.publish("edged/d1/update/m/desired", b"x", retain=False)
        thaw.join()
    anybody.wait_for("edged/d1/update/m/desired", b"x")


def test_a_message_gets_through_while_the_broker_restarts(broker, anybody) -> None:
    notes: list[str] = []
    config = MqttConfig(port=broker.port)
    with FleetDesk(config, ["+/available"], notes.append) as desk:
        broker.restart()
        anybody.connect()
        desk.publish("edged/d1/update/m/desired", b"x", retain=False)
        anybody.wait_for("edged/d1/update/m/desired", b"x")
        broker.stop()
        wait_for("a note", lambda: desk.wait(0.1) or notes)
        broker.start()
        anybody.connect()
        anybody.publish("edged/d1/available", b"online", retain=True)

        def heard() -> bool:
            desk.wait(0.1)
            with desk.fleet() as known:
                return "d1" in known.devices

        wait_for("the device", heard)
        assert "The broker is back." in notes

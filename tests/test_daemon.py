"""The whole daemon against a real broker: what a subscriber sees, whatever goes wrong."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import models
from sim.broker import PATIENCE_S, Broker, Subscriber, wait_for
from sim.broker import free_port as unused_port
from sim.delegate import MODE_VARIABLE, delegate_or_skip
from sim.device import BELT, Device, P
from sim.disk import SmallDisk
from sim.tcp import Proxy, Silence

from edged.models.records import Crashes
from edged.models.store import Store

pytestmark = pytest.mark.broker


def predictions(subscriber: Subscriber, camera: str = "front") -> list[dict]:
    return [orjson.loads(payload) for payload in subscriber.of(f"{P}/prediction/{camera}")]


def last(subscriber: Subscriber, topic: str) -> dict:
    payloads = [payload for payload in subscriber.of(f"{P}/{topic}") if payload]
    return orjson.loads(payloads[-1]) if payloads else {}


def camera_info(subscriber: Subscriber) -> dict:
    return (last(subscriber, "info").get("cameras") or [{}])[0]


def model_info(subscriber: Subscriber) -> dict:
    return (last(subscriber, "info").get("models") or [{}])[0]


def model_and_camera(
    path: Path, source: str = "synthetic", model: str = "", camera: str = ""
) -> str:
    return (
        f'[[model]]\nname = "m"\nfactory = "{path}"\n{model}\n'
        f'[[camera]]\nname = "front"\nsource = "{source}"\nmodel = "m"\n{camera}\n'
    )


def test_the_main_job(broker, subscriber, make) -> None:
    """Camera to MQTT: everything of the wire table that this device says."""
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: len(predictions(subscriber)) >= 10)
    wait_for("stats", lambda: last(subscriber, "stats"))

    seen = predictions(subscriber)
    first = seen[0]
    assert list(first) == [
        "schema", "boot", "seq", "frame", "t", "camera", "model", "version", "sha256", "ms",
        "classes",
    ]  # fmt: skip
    assert first["schema"] == 1
    assert re.fullmatch(r"[0-9a-f]{8}", first["boot"])
    assert first["version"] == f"0.0.0-factory-{first['sha256']}"
    assert abs(first["t"] - time.time()) < 30
    assert [p["seq"] for p in seen] == list(range(1, len(seen) + 1))
    assert {p["classes"][0]["label"] for p in seen} <= {"empty", "fine", "scratched", "no cap"}
    info = last(subscriber, "info")
    assert info["cameras"][0]["state"] == "streaming"
    assert info["models"][0]["accelerator"] == "cpu"
    assert info["last_stop"] == "first_start_since_boot"
    off = "updates over the air are off: no repository is configured."
    assert re.search(rf" INFO +{off}", device.log), "whoever wants none need not be warned"
    model = last(subscriber, "model/belt")
    assert model["active"]["version"] == first["version"]
    assert model["active"]["sha256"].startswith(first["sha256"])
    stats = last(subscriber, "stats")["cameras"][0]
    assert stats["published"] > 0
    assert stats["invoke_ms"]["p50"] > 0
    code, _ = device.stop()
    assert code == 0
    assert subscriber.of(f"{P}/available")[-1] == b"offline"


def test_retained_state_greets_a_late_subscriber(broker, make) -> None:
    make(broker.port).start().wait_ready()
    time.sleep(1.0)
    late = Subscriber(broker.port, f"{P}/#").connect()
    try:
        wait_for("online", lambda: late.of(f"{P}/available") == [b"online"])
        wait_for("the model", lambda: late.of(f"{P}/model/belt"))
        assert last(late, "info")["cameras"]
        assert last(late, "model/belt")["active"]
    finally:
        late.close()


def test_sigterm_ends_within_two_seconds(broker, subscriber, make) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))

    code, seconds = device.stop()

    assert (code, "STOPPING=1" in device.notices) == (0, True)
    assert seconds < 2.0, device.log
    assert "Traceback" not in device.log
    again = Device(device.folder, broker.port).start().wait_ready()
    try:
        wait_for("why", lambda: last(subscriber, "info").get("last_stop") == "sigterm")
    finally:
        again.close()


def test_sigterm_ends_within_two_seconds_while_a_load_hangs(broker, make, tpu) -> None:
    path, top = tpu
    body = model_and_camera(path, model='accelerator = "edgetpu"')
    environment = {MODE_VARIABLE: "hang_after:1"}  # the warm-up
    device = make(broker.port, body, top=top, environment=environment).start()
    crumb = device.folder / "run/breadcrumb"
    wait_for("the load", lambda: crumb.exists() and crumb.read_bytes().strip(b"\0 \n"))
    assert "READY=1" not in device.notices

    code, seconds = device.stop()

    assert (code, seconds < 2.0) == (0, True), device.log


@pytest.mark.parametrize("trouble", ["no_broker", "black_hole", "no_camera", "hung_invoke"])
def test_sigterm_ends_within_two_seconds_in_any_trouble(
    request, broker, free_port, tmp_path, make, trouble
) -> None:
    port, body, settings = broker.port, BELT, {}
    if trouble == "no_broker":
        port = free_port
    elif trouble == "black_hole":
        silence = Silence(swallow=True)
        request.addfinalizer(silence.close)
        port = silence.port
    elif trouble == "no_camera":
        body = BELT.replace("synthetic", "v4l2:/dev/video99")
    else:
        library = delegate_or_skip(tmp_path)
        path = models.write(tmp_path / "m_edgetpu.tflite", models.edgetpu_custom_op())
        body = model_and_camera(path, model='accelerator = "edgetpu"')
        settings["top"] = f'edgetpu_library = "{library}"'
        settings["environment"] = {MODE_VARIABLE: "hang_after:3"}
    device = make(port, body, **settings).start().wait_ready()
    time.sleep(1.0)

    code, seconds = device.stop()

    assert code == 0, device.log
    assert seconds < 2.0, device.log
    assert "Traceback" not in device.log


def test_killed_the_will_says_offline_and_the_next_start_says_crash(
    broker, subscriber, make
) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("online", lambda: subscriber.of(f"{P}/available")[-1:] == [b"online"])
    device.kill()
    wait_for("offline", lambda: subscriber.of(f"{P}/available")[-1] == b"offline")

    again = Device(device.folder, broker.port).start().wait_ready()
    try:
        wait_for("why", lambda: last(subscriber, "info").get("last_stop") == "crash")
    finally:
        again.close()


def test_a_start_that_fails_for_a_reason_is_no_crash(broker, subscriber, make) -> None:
    device = make(broker.port, BELT.replace('factory = "belt"', 'factory = "/none.tflite"'))
    device.start()
    assert device.process.wait(PATIENCE_S) == 1
    assert "(model_missing)" in device.log

    device.write(BELT)
    device.start().wait_ready()
    wait_for("why", lambda: last(subscriber, "info").get("last_stop") == "model_missing")


@pytest.mark.parametrize("rebooted", [True, False])
def test_a_power_cut_blames_no_model_where_the_runtime_directory_outlives_it(
    make, free_port, rebooted
) -> None:
    """A container that is started again keeps it, and so may a directory on a disk."""
    device = make(free_port).start().wait_ready()
    assert device.stop()[0] == 0
    home = Store(device.state).journal("belt")
    journal = home.load().journal
    active = journal.active.sha256
    boot = "before" if rebooted else Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    record = {"state": "running", "pid": 1, "boot_id": boot}
    (device.folder / "run/run.json").write_bytes(orjson.dumps(record))
    (device.folder / "run/breadcrumb").write_bytes(b" " * 64 + active.encode())

    device.start().wait_ready()

    crashes = home.load().journal.crashes
    assert crashes == (None if rebooted else Crashes(active, 1))


def test_the_broker_is_killed_and_restarted_and_nothing_is_lost(broker, make) -> None:
    """The device goes through a proxy, so that the subscriber is back before it is."""
    proxy = Proxy(broker.port)
    listening = Subscriber(broker.port, f"{P}/#").connect()
    device = make(proxy.port).start().wait_ready()
    try:
        wait_for("predictions", lambda: len(predictions(listening)) >= 5)
        proxy.close()
        time.sleep(0.5)  # whatever was on its way has arrived
        broker.kill()
        time.sleep(1.0)
        broker.start()
        listening.connect()
        proxy = Proxy(broker.port, port=proxy.port)
        count = len(predictions(listening))
        wait_for("predictions again", lambda: len(predictions(listening)) >= count + 40)
        assert listening.of(f"{P}/available")[-1] == b"online"
    finally:
        proxy.close()
        listening.close()

    seqs = [p["seq"] for p in predictions(listening)]
    assert set(range(1, max(seqs) + 1)) == set(seqs), "a prediction is missing"
    firsts = list(dict.fromkeys(seqs))
    assert firsts == sorted(firsts), "order"
    assert device.process.poll() is None


def test_a_broker_that_is_absent_at_the_start(make, free_port, tmp_path) -> None:
    device = make(free_port).start().wait_ready()
    time.sleep(1.5)  # predictions pile up
    proxy_port, broker_port = free_port, unused_port()
    (tmp_path / "late").mkdir()
    broker = Broker(tmp_path / "late", port=broker_port).start()
    late = Subscriber(broker.port, f"{P}/#").connect()
    proxy = Proxy(broker.port, port=proxy_port)  # only now can the device get through
    try:
        wait_for("predictions", lambda: len(predictions(late)) > 30)
        seqs = [p["seq"] for p in predictions(late)]
        assert seqs == list(range(1, len(seqs) + 1)), "from the very first one on"
        assert "broker" in "".join(device.notices)
    finally:
        late.close()
        device.close()
        proxy.close()
        broker.stop()


def test_a_broker_that_refuses(tmp_path, make) -> None:
    (tmp_path / "strict").mkdir()
    broker = Broker(tmp_path / "strict", users={"edged": "right"}).start()
    try:
        (tmp_path / "password").write_text("wrong\n")
        mqtt = f'username = "edged"\npassword_file = "{tmp_path}/password"'
        device = make(broker.port, mqtt=mqtt).start().wait_ready()
        wait_for(
            "the reason in the status",
            lambda: any("broker_refused" in notice for notice in device.notices),
        )
        assert device.process.poll() is None
        (tmp_path / "password").write_text("right\n")
        wait_for("connected", lambda: "broker connected" in device.notices[-1] + "".join(
            notice for notice in device.notices if notice.startswith("STATUS")
        ), 25.0)  # fmt: skip
    finally:
        broker.stop()


def test_a_camera_appears_late_goes_away_and_comes_back(broker, subscriber, make, tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    path = models.write(tmp_path / "m.tflite", models.classifier())
    body = model_and_camera(path, f"images:{folder}", camera="fps = 20")
    make(broker.port, body).start().wait_ready()
    wait_for("the reason", lambda: camera_info(subscriber).get("reason") == "camera_no_images")
    assert camera_info(subscriber)["state"] == "waiting"

    cv2.imwrite(str(folder / "red.png"), np.full((40, 40, 3), (0, 0, 255), np.uint8))
    wait_for("streaming", lambda: camera_info(subscriber).get("state") == "streaming")
    wait_for("predictions", lambda: predictions(subscriber))
    assert predictions(subscriber)[-1]["classes"][0]["label"] == "class 0"

    (folder / "red.png").unlink()
    wait_for("gone", lambda: camera_info(subscriber).get("reason") == "camera_no_images")
    cv2.imwrite(str(folder / "blue.png"), np.full((40, 40, 3), (255, 0, 0), np.uint8))
    wait_for(
        "blue",
        lambda: predictions(subscriber)[-1]["classes"][0]["label"] == "class 2",
        20.0,
    )


def test_objects_on_the_wire(broker, subscriber, make, tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:60, 80:120] = (0, 255, 0)
    cv2.imwrite(str(folder / "green.png"), image)
    data = models.with_metadata(models.detector(), ["red", "green", "blue"])
    path = models.write(tmp_path / "m.tflite", data)
    make(broker.port, model_and_camera(path, f"images:{folder}", camera="fps = 20")).start()
    wait_for("predictions", lambda: predictions(subscriber))

    best = predictions(subscriber)[0]["objects"][0]
    assert best["label"] == "green"
    assert best["box"] == pytest.approx([0.5, 0.25, 0.75, 0.5], abs=0.02)


def test_two_cameras_two_models(broker, subscriber, make, tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())
    body = BELT + (
        f'[[model]]\nname = "colour"\nfactory = "{path}"\n'
        '[[camera]]\nname = "side"\nsource = "synthetic"\nmodel = "colour"\nfps = 30\n'
        'publish = { mode = "rate", per_second = 2 }\n'
    )
    make(broker.port, body).start().wait_ready()
    wait_for(
        "both",
        lambda: len(predictions(subscriber)) > 20 and len(predictions(subscriber, "side")) > 3,
    )

    assert {p["model"] for p in predictions(subscriber)} == {"belt"}
    assert {p["model"] for p in predictions(subscriber, "side")} == {"colour"}
    times = [p["t"] for p in predictions(subscriber, "side")]
    assert min(np.diff(times)) > 0.3


def test_outputs_that_are_no_numbers_are_told_and_the_service_stays_up(
    broker, subscriber, make, tmp_path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((40, 40, 3), np.uint8))
    path = models.write(tmp_path / "m.tflite", models.nan_classifier(only_black=True))
    body = model_and_camera(path, f"images:{folder}", camera="fps = 20")
    device = make(broker.port, body).start().wait_ready()

    wait_for("the reason", lambda: model_info(subscriber).get("reason") == "output_not_finite")
    cv2.imwrite(str(folder / "a.png"), np.full((40, 40, 3), 200, np.uint8))
    wait_for("predictions", lambda: predictions(subscriber))
    wait_for("well again", lambda: model_info(subscriber).get("reason") == "")
    assert device.process.poll() is None


# Reload


def test_reload_takes_the_new_configuration(broker, subscriber, make) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    device.write(BELT.replace('"front"', '"back"'))
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    wait_for("the new camera", lambda: predictions(subscriber, "back"))
    assert any(notice.startswith("RELOADING=1\nMONOTONIC_USEC=") for notice in device.notices)
    assert subscriber.of(f"{P}/available")[-1] == b"online"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (BELT.replace("synthetic", "telescope"), "source"),
        (BELT.replace('factory = "belt"', 'factory = "/none.tflite"'), "model_missing|no model"),
        ("not toml at all [", "line"),
    ],
)
def test_reload_of_a_wrong_configuration_changes_nothing(
    broker, subscriber, make, body, words
) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    device.write(body)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    count = len(predictions(subscriber))
    wait_for("predictions go on", lambda: len(predictions(subscriber)) > count + 5)
    assert re.search(words, device.log)
    seqs = [p["seq"] for p in predictions(subscriber)]
    assert seqs == list(range(1, len(seqs) + 1)), "not even a frame was dropped"

    refused = last(subscriber, "info")["configuration"]
    assert refused["reason"]
    assert re.search(words, refused["detail"])
    device.write(BELT)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=3)
    nothing = {"reason": "", "detail": ""}
    wait_for("no more", lambda: last(subscriber, "info")["configuration"] == nothing)


def test_reload_takes_a_replaced_model_file(broker, subscriber, make, tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())
    device = make(broker.port, model_and_camera(path)).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    old = predictions(subscriber)[0]["sha256"]
    models.write(tmp_path / "new", models.classifier("int8")).replace(path)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    wait_for("the new one", lambda: predictions(subscriber)[-1]["sha256"] != old)


def test_reload_on_a_full_disk_goes_on_with_what_runs(
    broker, subscriber, make, tmp_path, request
) -> None:
    small_disk = SmallDisk(tmp_path / "disk", 16)  # 8 are left alone
    request.addfinalizer(small_disk.close)
    path = models.write(tmp_path / "m.tflite", models.classifier())
    device = make(broker.port, model_and_camera(path))
    device.state.symlink_to(small_disk.folder)
    device.start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    old = predictions(subscriber)[0]["sha256"]
    small_disk.fill()
    models.write(tmp_path / "new", models.classifier("int8")).replace(path)
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)

    wait_for("told", lambda: model_info(subscriber)["journal"]["reason"] == "disk_full")
    boot = predictions(subscriber)[0]["boot"]
    wait_for("predictions", lambda: predictions(subscriber)[-1]["boot"] != boot)
    assert predictions(subscriber)[-1]["sha256"] == old
    assert last(subscriber, "model/m")["active"]["sha256"].startswith(old)


def test_reload_takes_models_that_are_no_more_off_the_broker(broker, subscriber, make) -> None:
    device = make(broker.port).start().wait_ready()
    wait_for("the model", lambda: last(subscriber, "model/belt"))
    device.write(
        BELT.replace('name = "belt"', 'name = "new"').replace('model = "belt"', 'model = "new"')
    )
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)
    wait_for("the new one", lambda: last(subscriber, "model/new"))

    late = Subscriber(broker.port, f"{P}/#").connect()
    try:
        wait_for("retained", lambda: late.of(f"{P}/model/new"))
        assert late.of(f"{P}/model/belt") == []
        assert late.of(f"{P}/update/belt/state") == []
        wait_for("online", lambda: subscriber.of(f"{P}/available")[-1] == b"online")
    finally:
        late.close()


def test_reload_while_the_broker_is_away_keeps_what_waits(make, free_port, tmp_path) -> None:
    device = make(free_port).start().wait_ready()
    time.sleep(1.0)
    device.write(BELT.replace('"front"', '"back"'))
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)
    (tmp_path / "late").mkdir()
    broker = Broker(tmp_path / "late", port=unused_port()).start()
    late = Subscriber(broker.port, f"{P}/#").connect()
    proxy = Proxy(broker.port, port=free_port)
    try:
        wait_for("the new camera", lambda: predictions(late, "back"))
        seqs = [p["seq"] for p in predictions(late)]
        assert len(seqs) > 5, "the old camera's predictions arrive all the same"
        assert seqs == list(range(1, len(seqs) + 1))
    finally:
        late.close()
        device.close()
        proxy.close()
        broker.stop()


def test_reloads_during_long_invokes_share_no_interpreter(broker, subscriber, make, tpu) -> None:
    path, top = tpu
    body = model_and_camera(path, model='accelerator = "edgetpu"')
    environment = {MODE_VARIABLE: "slow:700"}
    device = make(broker.port, body, top=top, environment=environment).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    for i in range(3):
        device.write(body.replace('"front"', f'"front{i}"'))
        device.signal(signal.SIGHUP)
        device.wait_ready(times=2 + i)

    wait_for("predictions go on", lambda: predictions(subscriber, "front2"))
    assert "Traceback" not in device.log
    code, seconds = device.stop()
    assert (code, seconds < 2.0) == (0, True)


def test_reload_goes_on_while_an_accelerator_is_away(
    broker, subscriber, make, tpu, tmp_path
) -> None:
    path, top = tpu
    mode = tmp_path / "mode"
    mode.write_text("invoke_error_after:20")
    body = model_and_camera(path, model='accelerator = "edgetpu"')
    device = make(broker.port, body, top=top, environment={MODE_VARIABLE: f"@{mode}"})
    device.start().wait_ready()
    mode.write_text("no_device")
    wait_for("told", lambda: model_info(subscriber).get("reason") == "edgetpu_no_device")
    device.write(body.replace('"front"', '"back"'))
    device.signal(signal.SIGHUP)
    device.wait_ready(times=2)
    wait_for("the new name", lambda: camera_info(subscriber).get("name") == "back")
    mode.write_text("ok")

    wait_for("back", lambda: predictions(subscriber, "back"))


def test_one_daemon_per_state_directory(broker, make) -> None:
    device = make(broker.port).start().wait_ready()
    other = Device(device.folder, broker.port)
    other.write(BELT)
    done = subprocess.run(
        [sys.executable, "-m", "edged", "run", "--config", str(other.config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert "another edged runs" in done.stderr
    assert "Traceback" not in done.stderr
    assert device.process.poll() is None


def test_a_file_name_that_is_no_text(broker, subscriber, make, tmp_path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no picture")
    path = models.write(tmp_path / "m.tflite", models.classifier())
    device = make(broker.port, model_and_camera(path, f"images:{folder}")).start().wait_ready()

    wait_for("the reason", lambda: camera_info(subscriber).get("reason") == "camera_no_images")
    assert device.process.poll() is None


# The watchdog and the Edge TPU


@pytest.fixture
def tpu(tmp_path) -> tuple[Path, str]:
    """A model for the Edge TPU, and the key that names a stand-in for its library."""
    library = delegate_or_skip(tmp_path)
    path = models.write(tmp_path / "m_edgetpu.tflite", models.edgetpu_custom_op())
    return path, f'edgetpu_library = "{library}"'


def test_a_hung_invoke_asks_for_the_end_and_starves_the_watchdog(
    broker, subscriber, make, tpu
) -> None:
    path, top = tpu
    body = model_and_camera(path, model='accelerator = "edgetpu"\ninvoke_limit_s = 0.5')
    environment = {MODE_VARIABLE: "hang_after:10", "WATCHDOG_USEC": "2000000"}
    device = make(broker.port, body, top=top, environment=environment).start().wait_ready()
    wait_for("predictions", lambda: predictions(subscriber))
    wait_for("the stuck invoke", lambda: "stuck" in device.log)
    pings = device.pings()
    assert pings >= 1
    time.sleep(2.0)
    assert device.notices.count("WATCHDOG=trigger") == 1
    assert device.pings() == pings, "a manager that ignores the request must see it starve"


def test_a_hung_invoke_that_no_manager_watches_ends_the_process(
    broker, subscriber, make, tpu
) -> None:
    """As in a container, whose runtime starts it again; the model is blamed as after a crash."""
    path, top = tpu
    body = model_and_camera(path, model='accelerator = "edgetpu"\ninvoke_limit_s = 0.5')
    environment = {
        MODE_VARIABLE: "hang_after:10",
        "NOTIFY_SOCKET": "",
        "WATCHDOG_USEC": "1500000",
    }
    device = make(broker.port, body, top=top, environment=environment).start()
    wait_for("predictions", lambda: predictions(subscriber))

    assert device.wait_end() == signal.SIGALRM

    assert device.log.count("stuck") == 1
    assert "most recent call first" in device.log
    assert orjson.loads((device.folder / "run" / "run.json").read_bytes())["state"] == "running"
    crumb = (device.folder / "run" / "breadcrumb").read_bytes()
    assert predictions(subscriber)[0]["sha256"].encode() in crumb


@pytest.mark.parametrize("trouble", ["no_camera", "no_broker"])
def test_trouble_that_a_restart_would_not_mend_keeps_the_watchdog_fed(
    broker, free_port, make, trouble
) -> None:
    body = BELT.replace("synthetic", "v4l2:/dev/video99") if trouble == "no_camera" else BELT
    port = free_port if trouble == "no_broker" else broker.port
    device = make(port, body, environment={"WATCHDOG_USEC": "2000000"}).start().wait_ready()
    before = device.pings()
    wait_for("pings", lambda: device.pings() >= before + 4)


def test_the_edge_tpu_drops_off_and_auto_goes_on_with_the_cpu(
    broker, subscriber, make, tpu, tmp_path
) -> None:
    path, top = tpu
    models.write(tmp_path / "m.tflite", models.classifier())
    mode = tmp_path / "mode"
    mode.write_text("invoke_error_after:20")
    environment = {MODE_VARIABLE: f"@{mode}"}
    device = make(broker.port, model_and_camera(path), top=top, environment=environment).start()
    wait_for("predictions", lambda: predictions(subscriber))
    assert last(subscriber, "info")["models"][0]["accelerator"] == "edgetpu"
    on_tpu = predictions(subscriber)[0]["sha256"]
    mode.write_text("no_device")  # what opening it again will find

    wait_for("on the CPU", lambda: model_info(subscriber).get("accelerator") == "cpu")
    count = len(predictions(subscriber))
    wait_for("predictions", lambda: len(predictions(subscriber)) > count + 5)

    assert model_info(subscriber)["reason"] == "edgetpu_no_device"
    on_cpu = predictions(subscriber)[-1]["sha256"]
    assert on_cpu == on_tpu, "predictions name the release, whichever of its files made them"
    assert last(subscriber, "model/m")["active"]["sha256"].startswith(on_cpu)
    seqs = [p["seq"] for p in predictions(subscriber)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert device.process.poll() is None


def test_an_explicit_edge_tpu_drops_off_and_is_waited_for(
    broker, subscriber, make, tpu, tmp_path
) -> None:
    path, top = tpu
    mode = tmp_path / "mode"
    mode.write_text("invoke_error_after:20")
    body = model_and_camera(path, model='accelerator = "edgetpu"')
    make(broker.port, body, top=top, environment={MODE_VARIABLE: f"@{mode}"}).start()
    wait_for("predictions", lambda: predictions(subscriber))
    mode.write_text("no_device")
    wait_for("told", lambda: model_info(subscriber).get("reason") == "edgetpu_no_device")
    assert model_info(subscriber)["version"] == "", "no model runs"
    mode.write_text("ok")

    count = len(predictions(subscriber))
    wait_for("back", lambda: len(predictions(subscriber)) > count + 25)
    assert model_info(subscriber)["reason"] == ""


def test_no_edge_tpu_at_the_start_is_told_on_mqtt(broker, subscriber, make, tpu, tmp_path) -> None:
    path, top = tpu
    models.write(tmp_path / "m.tflite", models.classifier())
    environment = {MODE_VARIABLE: "no_device"}
    make(broker.port, model_and_camera(path), top=top, environment=environment).start()
    wait_for("predictions", lambda: predictions(subscriber))

    info = model_info(subscriber)
    assert (info["accelerator"], info["requested_accelerator"]) == ("cpu", "auto")
    assert info["reason"] == "edgetpu_no_device"
    assert "plugged in" in info["detail"]


# What ends at the start


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "belt"], 2, "--camera"),
        (["--model", "belt", "--camera", "telescope:3"], 2, "synthetic"),
        (["--model", "belt", "--camera", "synthetic", "--broker", "host:http"], 2, "port"),
        (["--model", "belt", "--camera", "synthetic", "--broker", "u:pw@host"], 2, "password_file"),
        (["--model", "belt", "--camera", "synthetic", "--broker", ""], 2, "--broker"),
        (["--model", "belt", "--camera", "synthetic", "--broker", "a:1:2"], 2, "--broker"),
        (["--model", "belt", "--camera", "synthetic", "--device-id", "a/b"], 2, "--device-id"),
        (["--model", "nowhere.tflite", "--camera", "synthetic"], 1, "no model file"),
        (["--model", "/etc/hostname", "--camera", "synthetic"], 1, "not a .tflite"),
        (["--model", "/tmp", "--camera", "synthetic"], 1, "directory"),
        (["--config", "/nowhere/edged.toml"], 78, "no configuration file"),
        (["--wrong"], 2, "usage"),
    ],
)
def test_a_user_s_mistake_is_explained_and_has_no_traceback(
    make, free_port, arguments, code, words
) -> None:
    device = make(free_port, arguments=arguments).start()

    assert device.wait_end() == code, device.log
    assert words in device.log
    assert "Traceback" not in device.log


def test_without_any_file(broker, subscriber, make, shared_data) -> None:
    arguments = ["--model", str(shared_data / "models/mobilenet_v2_1.0_224_quant.tflite")]
    arguments += ["--camera", f"images:{shared_data}/images", "--fps", "10"]
    arguments += ["--broker", f"127.0.0.1:{broker.port}", "--device-id", "dut"]
    make(broker.port, arguments=arguments).start().wait_ready()
    wait_for("predictions", lambda: len(predictions(subscriber, "cam")) >= 10)

    assert {p["model"] for p in predictions(subscriber, "cam")} == {"mobilenet_v2_1-0_224_quant"}
    tops = {p["classes"][0]["label"] for p in predictions(subscriber, "cam")}
    assert "chickadee" in tops

"""The package with a real V4L2 device and a real libcamera: read, unplugged, broken, restored."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sim import badmodels, models
from sim.broker import Subscriber, wait_for
from sim.cameravm import HOST, CameraVm
from sim.desk import COLOURS, Desk

_GUEST = Path(__file__).parent / "guest"
_PYTHON = "/opt/edged/bin/python3"
_DEVICE = "rig"
_DRIVER = "/sys/bus/platform/drivers/vivid"
# An emulated processor is busy for seconds with what a board does at once.
_LONG_S = 300.0
_LEAK_S = 1200.0
_GROUP = "/sys/fs/cgroup/system.slice/edged.service"
_CONFIG = """
device_id = "{device}"
[mqtt]
host = "{host}"
port = {port}
[[model]]
name = "colours"
factory = "/etc/edged/colours.tflite"
labels = "/etc/edged/colours.txt"
invoke_limit_s = 30
[[camera]]
name = "front"
source = "{source}"
model = "colours"
width = {size[0]}
height = {size[1]}
fps = {fps}
"""
# What vivid and libcamera's virtual camera show, from left to right: blue, green, red of each bar.
_BARS = ["bgr", "-gr", "bg-", "-g-", "b-r", "--r", "b--", "---"]
# More than are asked of a model before its trial, and fewer than a trial has.
_SOUND_FRAMES = 250
_LEAK_MIB = 400
_KILLED_MB = 500


def files(port: int) -> dict[str, bytes]:
    """Return what the machine is to have before it boots, for `CameraVm`."""
    return {
        "etc/edged/edged.toml": configuration(port, "v4l2:/dev/video0"),
        "etc/edged/colours.tflite": models.classifier("float32"),
        "etc/edged/colours.txt": "".join(f"{name}\n" for name in COLOURS).encode(),
    }


def configuration(
    port: int, source: str, size: tuple[int, int] = (640, 480), fps: int = 5
) -> bytes:
    """Return a device with one camera."""
    return _CONFIG.format(
        device=_DEVICE, host=HOST, port=port, source=source, size=size, fps=fps
    ).encode()


class CameraRig:
    """Runs the steps, each of which raises AssertionError where something is not as it must be.

    Args:
        machine: booted with `files`.
        port: of a broker on this machine's loopback.
        say: takes a line for people, once for each figure.
    """

    def __init__(self, machine: CameraVm, port: int, say: Callable[[str], None]) -> None:
        self.machine = machine
        self._port = port
        self._say = say
        self._heard = Subscriber(port, f"edged/{_DEVICE}/#").connect()

    def run(self) -> None:
        """Run all steps."""
        self._say(f"image {self.machine.image_s:.0f} s, boot {self.machine.boot_s:.0f} s")
        try:
            self._real_picamera2()
            self._service_before_camera()
            self._colours()
            self._vanishes()
            self._unloaded()
            self._faults()
            self._no_permission()
            self._sizes()
            self._service_with_picamera2()
            self._leak()
            self._leak_killed()
        finally:
            self._heard.close()

    def _real_picamera2(self) -> None:
        """The stand-in of the tests against the real one, and the adapter on the real one."""
        began_s = time.monotonic()
        real = self._guest("picontract.py")
        recorded = json.loads((_GUEST / "picamera2.json").read_text())
        for part in ("signatures", "behaviour"):
            for name, seen in real[part].items():
                assert seen == recorded[part].get(name), f"picamera2, {name}: {seen}"
        self._say(
            f"picamera2 {recorded['picamera2']} is as the tests' stand-in in"
            f" {len(real['signatures'])} calls and {len(real['behaviour'])} observations:"
            f" {time.monotonic() - began_s:.0f} s"
        )
        seen = self._guest("adapters.py", "picamera")
        looked = seen["looked at"]
        assert looked["description"] == "picamera (Virtual camera) 640x480 at 10/s", looked
        assert looked["shape"] == [480, 640, 3], looked
        # The virtual camera's bars move.
        assert _turned(looked["bars"]) == _BARS, looked
        assert looked["rising"], looked
        assert 0 <= looked["age_s"] < 5, looked
        assert seen["second"] == "camera_busy", seen
        assert seen["number 1"] == "camera_not_found", seen
        assert seen["read while closed"] == ["camera_lost"], seen
        assert len(set(seen["descriptors"])) == 1, seen
        self._say(
            f"the adapter on it: opened in {seen['opened_s']:.1f} s, bars in their colours,"
            f" picture {looked['age_s'] * 1e3:.0f} ms old, closed under a read in"
            f" {seen['closed_s']:.1f} s, {seen['descriptors'][0]} descriptors each time"
        )

    def _service_before_camera(self) -> None:
        """The driver is loaded after the service has started, and its device is still allowed."""
        self.machine.done("systemctl", "start", "edged")
        self._until("waiting", "camera_not_found")
        self._timed("plugged in to streaming", self._load)
        detail = self._camera()["detail"]
        assert detail == "v4l2:/dev/video0 (vivid) 640x480 BGR3 at 5/s", detail
        self._say(f"streaming: {detail}")

    def _colours(self) -> None:
        for pattern, label in ((7, "red"), (8, "green"), (9, "blue")):
            self._control("test_pattern", pattern)
            self._next(label)
        self._control("test_pattern", 0)
        self._say("red, green and blue pictures are predicted to be red, green and blue")

    def _vanishes(self) -> None:
        """The node goes away under the open descriptor, as that of a webcam that is unplugged."""
        self._bind("unbind")
        self._until("waiting", "camera_lost")
        self._until("waiting", "camera_not_found")
        held = self.machine.run("sh", "-c", f"ls -l /proc/{self._pid()}/fd | grep /dev/video")
        assert held.stdout == "", held.stdout
        self._timed("unplugged, then plugged in to streaming", lambda: self._bind("bind"))

    def _unloaded(self) -> None:
        refused = self.machine.run("modprobe", "-r", "vivid")
        assert "in use" in refused.stderr, refused
        self._bind("unbind")
        self._until("waiting", "camera_not_found")
        self.machine.done("modprobe", "-r", "vivid")
        self._timed("module unloaded and loaded to streaming", self._load)

    def _faults(self) -> None:
        """What vivid can break by itself: it says so, and the camera is opened again."""
        for control, reason in (
            ("inject_fatal_streaming_error", "camera_lost"),
            ("disconnect", "camera_lost"),
        ):
            self._control(control, 1)
            self._until("waiting", reason)
            self._until("streaming")
            self._say(f"{control}: {reason}, and streaming again")
        self._control("percentage_of_dropped_buffers", 100)
        self._until("waiting", "camera_stalled")
        self._control("percentage_of_dropped_buffers", 0)
        self._until("streaming")
        self._say("no pictures: camera_stalled, and streaming again")
        before = len(self._infos())
        self._control("inject_v4l2_buf_flag_error", 1)
        self._next()
        assert len(self._infos()) == before, self._infos()[before:]
        self._say("a picture that the driver calls broken: nothing but that one is lost")

    def _no_permission(self) -> None:
        self.machine.done("systemctl", "stop", "edged")
        self.machine.done("chmod", "0", "/dev/video0")
        self.machine.done("systemctl", "start", "edged")
        self._until("waiting", "camera_no_permission")
        self.machine.done("chmod", "660", "/dev/video0")
        self._until("streaming")
        self._say("a device that nobody may open: camera_no_permission, and streaming when mended")
        self.machine.done("systemctl", "stop", "edged")

    def _sizes(self) -> None:
        """Formats and sizes that the device has and has not, without the service."""
        seen = self._guest("adapters.py", "v4l2")
        assert seen.pop("second") == "camera_busy", seen
        for asked, (shape, text) in {
            "(None, None, None)": ([480, 640, 3], "640x480 BGR3 at 30/s"),
            "(640, 480, 5.0)": ([480, 640, 3], "640x480 BGR3 at 5/s"),
            # Too much for USB 2: MJPEG is asked for, which vivid has not.
            "(1280, 720, 30.0)": ([720, 1280, 3], "1280x720 BGR3 at 30/s"),
            "(1000, 700, 5.0)": ([720, 1280, 3], "1280x720 BGR3 at 5/s (asked for 1000x700)"),
            "YUYV": ([480, 640, 3], "YUYV"),
            "NV12": ([480, 640, 3], "NV12"),
        }.items():
            looked = seen[asked]
            assert looked["description"].removeprefix("v4l2:/dev/video0 (vivid) ") == text, looked
            assert looked["shape"] == shape, looked
            assert looked["bars"] == _BARS, looked
            assert looked["rising"], looked
        self._say(f"vivid asked for sizes and formats: {', '.join(seen)}: as documented")

    def _service_with_picamera2(self) -> None:
        """The unit's sandbox lets libcamera at what it needs."""
        self._configure("picamera")
        self.machine.done("systemctl", "start", "edged")
        self._until("streaming")
        self._next()
        self._say(f"the service: {self._camera()['detail']}")
        self.machine.done("systemctl", "stop", "edged")

    def _leak(self) -> None:
        """A model that takes ever more memory is slowed down, stopped and rolled back."""
        self._configure("v4l2:/dev/video0", (320, 180), fps=10)
        self.machine.done("systemctl", "start", "edged")
        slowed = self._leaks("1.0.0", "high")
        assert slowed > 0, "never beyond MemoryHigh"

    def _leak_killed(self) -> None:
        """So is one that is killed, where slowing it down is not enough."""
        drop_in = "/run/systemd/system/edged.service.d/leak.conf"
        self.machine.done("mkdir", "-p", str(Path(drop_in).parent))
        limits = f"[Service]\nMemoryHigh=infinity\nMemoryMax={_KILLED_MB}M\n"
        self.machine.done("tee", drop_in, content=limits.encode())
        self.machine.done("systemctl", "daemon-reload")
        self.machine.done("systemctl", "restart", "edged")
        self._leaks("2.0.0", "max")
        journal = self.machine.done("journalctl", "-u", "edged", "--no-pager")
        assert journal.count("killed by the OOM killer") == 2, journal[-4000:]

    def _leaks(self, version: str, event: str) -> int:
        """Install a model that leaks and wait until it is rolled back; how often that was counted.

        Args:
            version: of the model.
            event: a line of the control group's memory.events.
        """
        self._next()
        with tempfile.TemporaryDirectory() as folder:
            desk = Desk(Path(folder))
            try:
                model = badmodels.leaking(_LEAK_MIB, _SOUND_FRAMES + int(version[0]))
                content = desk.pack(version, model, name="colours").read_bytes()
            finally:
                desk.close()
        self.machine.done("tee", "/root/leaking.zip", content=content)
        words = ("edged", "models", "install", "--bare", "--json", "--model", "colours")
        self.machine.done(*words, "/root/leaking.zip")
        self._next(version=version)
        began_s, restarts = time.monotonic(), self._restarts()
        most_bytes = counted = 0
        while not (ended := self._ended(version)):
            assert time.monotonic() - began_s < _LEAK_S, self._deployments()
            # The group is a new one after each start.
            said = self.machine.run("sh", "-c", f"cd {_GROUP} && cat memory.peak memory.events")
            if found := re.match(rf"(\d+)\n(?:.*\n)*?{event} (\d+)\n", said.stdout):
                most_bytes, counted = max(most_bytes, int(found[1])), max(counted, int(found[2]))
        assert ended == ("ROLLED_BACK", "trial_crashed"), ended
        back = self._next()
        assert back["version"].startswith("0.0.0-factory"), back
        assert "Out of memory" not in self.machine.done("dmesg").replace("Memory cgroup out of", "")
        limits = self.machine.done("systemctl", "show", "-p", "MemoryHigh,MemoryMax", "edged")
        restarts = self._restarts() - restarts
        self._say(
            f"a model that leaks: {most_bytes / 1e6:.0f} MB ({', '.join(limits.split())}), rolled"
            f" back after {time.monotonic() - began_s:.0f} s, {restarts} restarts"
        )
        return counted

    def _ended(self, version: str) -> tuple[str, str] | None:
        """Return how the deployment of a version ended, with its reason; None where it has not."""
        said = self._deployments()
        for one in json.loads(said)["deployments"] if said else []:
            if one["version"] == version and "status" in one:
                return one["status"], one.get("reason", "")
        return None

    def _deployments(self) -> str:
        # The service may be killed while it answers.
        return self.machine.run("edged", "deployments", "colours", "--json").stdout

    def _restarts(self) -> int:
        return int(self.machine.done("systemctl", "show", "-P", "NRestarts", "edged"))

    def _guest(self, script: str, *words: str) -> dict[str, Any]:
        """Run a script of `sim.guest` with the package's Python; what it says."""
        place = f"/root/{script}"
        self.machine.done("tee", place, content=(_GUEST / script).read_bytes())
        quiet = "LIBCAMERA_LOG_LEVELS=*:FATAL"
        said = self.machine.done("env", quiet, _PYTHON, place, *words).splitlines()[-1]
        seen: dict[str, Any] = json.loads(said)
        return seen

    def _configure(self, source: str, size: tuple[int, int] = (640, 480), fps: int = 5) -> None:
        text = configuration(self._port, source, size, fps)
        self.machine.done("tee", "/etc/edged/edged.toml", content=text)

    def _load(self) -> None:
        self.machine.done("modprobe", "vivid")

    def _bind(self, how: str) -> None:
        self.machine.done("sh", "-c", f"echo vivid.0 > {_DRIVER}/{how}")

    def _control(self, name: str, value: int) -> None:
        self.machine.done("v4l2-ctl", "-d", "/dev/video0", "-c", f"{name}={value}")

    def _pid(self) -> int:
        return int(self.machine.done("systemctl", "show", "-P", "MainPID", "edged"))

    def _infos(self) -> list[bytes]:
        return self._heard.of(f"edged/{_DEVICE}/info")

    def _camera(self) -> dict[str, str]:
        infos = self._infos()
        camera: dict[str, str] = json.loads(infos[-1])["cameras"][0] if infos else {}
        return camera

    def _until(self, state: str, reason: str = "") -> None:
        """Wait until `info` says this of the camera."""
        wait_for(
            lambda: f"the camera {state} {reason}, not {self._camera()}",
            lambda: (self._camera().get("state"), self._camera().get("reason")) == (state, reason),
            _LONG_S,
        )

    def _next(self, label: str = "", version: str = "") -> dict[str, Any]:
        """Wait for a prediction from now on, of this class and version."""
        heard = self._heard.of(f"edged/{_DEVICE}/prediction/front")
        since = len(heard)
        found: list[dict[str, Any]] = []

        def look() -> bool:
            said = [json.loads(one) for one in heard[since:]]
            found[:] = [
                one
                for one in said
                if label in ("", one["classes"][0]["label"]) and version in ("", one["version"])
            ]
            return bool(found)

        wait_for(lambda: f"a prediction {label}{version}, after {heard[-1:]}", look, _LONG_S)
        return found[0]

    def _timed(self, words: str, act: Callable[[], object]) -> None:
        began_s = time.monotonic()
        act()
        self._until("streaming")
        self._next()
        self._say(f"{words}: {time.monotonic() - began_s:.1f} s")


def _turned(bars: list[str]) -> list[str]:
    """Return moving bars as they stand when white is the first."""
    whole = bars[:-1] if bars[0] == bars[-1] else bars
    at = whole.index("bgr")
    return whole[at:] + whole[:at]

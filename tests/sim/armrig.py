"""The package for arm64, emulated: its commands, its models' answers beside amd64, its updates.

Started by scripts/device-test in namespaces of its own: `python -m sim.armrig FOLDER SUITE`, with
`FOLDER/ARCH.deb` and `FOLDER/ARCH`, a Debian tree, for each of both architectures.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson

from edged.demo import desk as demo
from edged.demo.candidates import pruned
from edged.inference.factory import factory_path
from edged.scene import BeltScene
from sim import answers, badmodels, models, nspawn
from sim.armboard import PI_4, PI_5
from sim.broker import Broker, Subscriber, wait_for
from sim.chroot import Chroot, loopback
from sim.desk import Desk
from sim.device import BELT, Device, P
from sim.machine import EVERY_MODULE
from sim.service import Service
from sim.twoarch import Apart, compare

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = "systemd,procps,python3"
"""What the package depends on."""

# Emulation is 10 to 30 times slower than the processor it runs on, which may be busy, too.
PATIENCE_S = 600.0
PIXELS_APART = 1
"""Most levels between the input tensors that the two architectures make of an image."""
STEPS_APART = {"tflite": 0, "litert": 2}
"""Most steps between their outputs for one and the same input tensor."""
STEPS_APART_WITHOUT_XNNPACK = {"tflite": 0, "litert": 32}
"""The same where LiteRT runs in its own kernels on arm64."""

_TOOLS = (
    ("debootstrap", "debootstrap"),
    ("ip", "iproute2"),
    ("mosquitto", "mosquitto"),
    ("unshare", "util-linux"),
)
_HANDLER = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_MOBILENET = "mobilenet_v1_0.25_128_quant"
_SCENES = 12
# A model that is tried is run up to 200 times before; the trial's first frames do no harm either.
_TRIAL_FRAMES, _HARM_AT = 240, 210
_BODY = f"""{BELT}width = 160
height = 120
fps = 20
"""


class ArmRig:
    """Runs the steps, each of which raises AssertionError where something is not as it must be.

    Args:
        folder: with packages and trees; for everything else.
        suite: of both.
        say: takes a line for people.
    """

    def __init__(self, folder: Path, suite: str, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._old = suite == "bookworm"
        self._say = say
        self._shared = folder / "shared"
        self._shared.mkdir()
        self._amd64 = Chroot(folder / "amd64", folder / "on-amd64", self._shared, sysfs=True)
        # The service is run on a board of which nothing is known: its children have an environment
        # of their own, without QEMU_CPU; then qemu 7.2 offers SME, and what XNNPACK computes there
        # is wrong. Without a board it is not used.
        self._arm64 = Chroot(folder / "arm64", folder / "on-arm64", self._shared, sysfs=False)

    def run(self) -> None:
        """Run all steps."""
        for architecture, machine in (("amd64", self._amd64), ("arm64", self._arm64)):
            self._install(architecture, machine)
        self._commands()
        self._answers()
        with ExitStack() as stack:
            self._serve(stack)

    def _install(self, architecture: str, machine: Chroot) -> None:
        package = self._folder / f"{architecture}.deb"
        shutil.copy(package, machine.root / "root")
        apt = ("apt-get", "install", "--yes", "--no-install-recommends", f"/root/{package.name}")
        with self._timed(f"installed without network, {architecture}"):
            machine.done(*apt, limit_s=PATIENCE_S)
        kibibytes = int(machine.done("dpkg-query", "--show", "-f=${Installed-Size}", "edged"))
        packed_mb = package.stat().st_size / 1e6
        self._say(f"{architecture}: {packed_mb:.1f} MB, installed {kibibytes * 1024 / 1e6:.0f} MB")

    def _commands(self) -> None:
        arm = self._arm64
        assert arm.done("uname", "--machine").strip() == "aarch64"
        version = arm.done("dpkg-query", "--show", "-f=${Version}", "edged").partition("-")[0]
        for program in ("edged", "edgectl"):
            with self._timed(f"{program} --version"):
                assert (
                    arm.done(program, "--version", limit_s=PATIENCE_S) == f"{program} {version}\n"
                )
        arm.done("edged", "check-config", limit_s=PATIENCE_S)
        with self._timed("every module imported"):
            arm.done("/opt/edged/bin/python3", "-sPc", EVERY_MODULE, limit_s=PATIENCE_S)

    def _answers(self) -> None:
        job = self._job()
        here = self._answered(self._amd64, "amd64")
        there = self._answered(self._arm64, "arm64", "amd64", xnnpack=False)
        found = [("no XNNPACK", there, STEPS_APART_WITHOUT_XNNPACK)]
        for board in (PI_4, PI_5):
            with self._arm64.being(board):
                there = self._answered(self._arm64, board.qemu_cpu, "amd64")
            found.append((board.name, there, STEPS_APART))
        for name, there, most in found:
            for runtime in job["runtimes"]:
                for model in job["models"]:
                    apart = compare(here, there, runtime, model)
                    self._judge(f"{name}, {runtime}, {model}", apart, most[runtime])

    def _judge(self, words: str, apart: Apart, steps: int) -> None:
        self._say(
            f"{words}: {apart.images} images, inputs differ by {apart.pixels} levels at most,"
            f" outputs of the same input by {apart.given} steps, of the same image by {apart.own};"
            f" {len(apart.turned)} best labels turned"
        )
        assert apart.pixels <= PIXELS_APART, words
        assert apart.given <= steps, f"{words}: more than {steps} steps"
        assert apart.narrow <= 2 * apart.own, f"{words}: {apart.turned}"

    def _job(self) -> dict[str, Any]:
        """Write what `sim.answers` is to do."""
        shutil.copy(answers.__file__, self._shared)
        images = self._shared / "images"
        images.mkdir()
        scene = BeltScene()
        for number in range(_SCENES):
            picture = cv2.cvtColor(scene.frame(16 * number), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(images / f"belt-{number:02}.png"), picture)
        named = {"belt": "belt"}
        data = ROOT.parent / "shared/data"
        if (data / "models" / f"{_MOBILENET}.tflite").exists():
            for photograph in (data / "images").iterdir():
                shutil.copy(photograph, images)
            shutil.copy(data / "models" / f"{_MOBILENET}.tflite", self._shared)
            named[_MOBILENET] = str(self._shared / f"{_MOBILENET}.tflite")
        else:
            self._say(f"skipped: {_MOBILENET} and photographs, no ../shared/data")
        job = {
            "models": named,
            "images": sorted(map(str, images.iterdir())),
            "runtimes": ["litert", "tflite"] if self._old else ["litert"],
        }
        (self._shared / "job.json").write_text(json.dumps(job))
        return job

    def _answered(
        self, machine: Chroot, name: str, given: str | None = None, *, xnnpack: bool = True
    ) -> dict[str, np.ndarray]:
        files = [self._shared / "job.json", self._shared / f"{name}.npz"]
        files += [self._shared / f"{given}.npz"] if given else []
        command = ("/opt/edged/bin/python3", "-sP", str(self._shared / "answers.py"))
        with self._timed(f"answers, {name}"):
            ended = machine.run(*command, *map(str, files), limit_s=PATIENCE_S)
        assert ended.returncode == 0, f"{name}: {ended.returncode}\n{ended.stdout}{ended.stderr}"
        # Else other kernels were compared than those that run on a board.
        created = "Created TensorFlow Lite XNNPACK delegate" in ended.stderr
        assert created == xnnpack, ended.stderr
        medians = json.loads(ended.stdout)["invoke_ms"]
        told = ", ".join(f"{model} {took_ms:.1f} ms" for model, took_ms in medians.items())
        self._say(f"{name}, median of invoke: {told}")
        with np.load(files[1]) as arrays:
            return dict(arrays)

    def _serve(self, stack: ExitStack) -> None:
        """Run the service as its user, and have an operator send it models."""
        (self._folder / "broker").mkdir()
        broker = Broker(self._folder / "broker").start()
        stack.callback(broker.stop)
        desk = Desk(self._shared / "desk")
        stack.callback(desk.close)
        heard = Subscriber(broker.port, f"{P}/#").connect()
        stack.callback(heard.close)
        device = Device(
            self._shared / "device",
            broker.port,
            desk.update.replace("= 30\n", f"= {_TRIAL_FRAMES}\n") + _BODY,
            program=self._arm64.as_user("edged", "/usr/bin/edged"),
        )
        stack.callback(device.close)
        config = str(device.config)
        said = self._arm64.run("edged", "doctor", "--config", config, limit_s=PATIENCE_S).stdout
        assert not re.findall("^fail .*", said, re.MULTILINE), said
        assert re.search("^ok +machine +aarch64", said), said

        service = Service(device)
        began_s = time.monotonic()
        service.start()
        stack.callback(service.close)
        wait_for(lambda: f"predictions\n{device.log}", lambda: _versions(heard), PATIENCE_S)
        self._say(f"start to first prediction over MQTT: {time.monotonic() - began_s:.1f} s")
        try:
            self._updates(desk, heard, service, broker.port)
        except AssertionError:
            self._say(device.log[-20_000:])
            raise
        service.close()
        code, took_s = device.stop()
        assert code == 0, device.log
        self._say(f"stop: {took_s:.1f} s")

    def _updates(self, desk: Desk, heard: Subscriber, service: Service, port: int) -> None:
        good = self._pack("1.0.0")
        desk.repo.publish(good, "belt", "1.0.0")
        self._deploy(heard, port, "1.0.0", "SUCCEEDED", "")
        colours = models.classifier("float32")
        desk.publish("1.1.0", colours, name="belt", expected=np.full((4, 1, 4), 0.25, "f"))
        self._deploy(heard, port, "1.1.0", "REJECTED", "golden_mismatch")
        crashes = badmodels.segfault_at_load()
        desk.publish("1.2.0", crashes, name="belt", expected=np.full((4, 1, 4), 0.25, "f"))
        self._deploy(heard, port, "1.2.0", "REJECTED", "validation_crashed")
        assert service.ends == [], "only the child that tries it may have ended"
        desk.publish("1.3.0", badmodels.harm_at_frame(_HARM_AT), name="belt")
        self._deploy(heard, port, "1.3.0", "ROLLED_BACK", "trial_crashed")
        assert service.ends == [-signal.SIGABRT] * 2, "in its trial, and once more"
        since = len(_versions(heard))
        wait_for("1.0.0 again", lambda: "1.0.0" in _versions(heard)[since:], PATIENCE_S)

    def _pack(self, version: str) -> Path:
        """Pack the bundled model, its smallest weights left out, as an operator does."""
        desk = demo.Desk(self._folder / "operator")
        desk.photograph()
        desk.write("pruned.tflite", pruned(factory_path("belt").read_bytes())[0])
        package = desk.package(version)
        words = ("--name", "belt", "--version", version, "--golden", "photos", "-o", package.name)
        # A busy machine is no slow model.
        desk.edgectl("model", "pack", "pruned.tflite", *words, "--p95-ratio", "50")
        return package

    def _deploy(self, heard: Subscriber, port: int, version: str, status: str, reason: str) -> None:
        """Have the installed edgectl deploy a version and wait for what becomes of it."""
        words = ["edgectl", "fleet", "deploy", "belt", version, "--all", "--yes", "--watch"]
        words += ["--broker", f"127.0.0.1:{port}", "--seconds", "5", "--timeout", f"{PATIENCE_S:g}"]
        began_s = time.monotonic()
        ended = self._arm64.run(*words, limit_s=2 * PATIENCE_S)
        results = [orjson.loads(payload) for payload in heard.of(f"{P}/update/belt/result")]
        told = [one for one in results if one["version"] == version]
        assert [(one["status"], one["reason"]) for one in told] == [(status, reason)], (
            f"{told}\n{ended.stdout}{ended.stderr}"
        )
        assert (ended.returncode == 0) == (status == "SUCCEEDED"), ended.stdout + ended.stderr
        assert f"1 {status}" in ended.stderr, ended.stderr
        took_s = time.monotonic() - began_s
        self._say(f"{version}: {status} {reason}".rstrip() + f" after {took_s:.0f} s")

    @contextmanager
    def _timed(self, words: str) -> Iterator[None]:
        began_s = time.monotonic()
        yield
        self._say(f"{words}: {time.monotonic() - began_s:.1f} s")


def _versions(heard: Subscriber) -> list[str]:
    return [orjson.loads(payload)["version"] for payload in heard.of(f"{P}/prediction/front")]


def missing() -> str | None:
    """Return why nothing can be emulated here; None where it can."""
    if platform.machine() != "x86_64":
        return "compares with amd64, and this is another machine"
    if reason := nspawn.missing(_TOOLS):
        return reason
    try:
        handler = _HANDLER.read_text()
    except OSError:
        handler = ""
    if not re.search(r"^flags: \w*F", handler, re.MULTILINE):
        return (
            "the kernel does not run programs of arm64"
            " (apt install qemu-user-static; update-binfmts --enable qemu-aarch64)"
        )
    return None


def main(folder: str, suite: str) -> int:
    # The service's user writes into directories that this process makes.
    os.umask(0)
    loopback()
    began_s = time.monotonic()
    try:
        ArmRig(Path(folder), suite, lambda line: print(line, flush=True)).run()
    except (AssertionError, subprocess.SubprocessError) as error:
        print(f"failed: {error}")
        return 1
    print(f"all well after {time.monotonic() - began_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

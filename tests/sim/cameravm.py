"""A virtual machine with cameras: Debian with vivid, libcamera's virtual camera, picamera2."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from sim import nspawn, vm
from sim.broker import MOSQUITTO, free_port, wait_for
from sim.guest import agent

SUITE = "trixie"
HOST = "10.0.2.2"
"""The loopback of this machine, as the guest sees it."""

_HERE = Path(__file__).parent
_SITE = "usr/local/lib/python3.13/dist-packages"
_BOOT_S = 300.0
_MEMORY_MB = 1536
_DISK_MB = 3000
_PACKAGES = (
    *("kmod", "psmisc", "v4l-utils"),
    *("python3-libcamera", "libcamera-ipa", "python3-prctl", "python3-pil"),
)
# picamera2 has a preview window and writes raw files; edged asks for neither.
_NOT_USED = {
    "pykms.py": "class PixelFormat:\n    def __getattr__(self, name): return name\n"
    "PixelFormat = PixelFormat()\n",
    "pidng/__init__.py": "",
    "pidng/core.py": "class PICAM2DNG: pass\n",
    "pidng/camdefs.py": "class Picamera2Camera: pass\n",
}
_VIRTUAL_CAMERA = """\
"Virtual0":
  supported_formats:
  - width: 640
    height: 480
    frame_rates: [10, 30]
  test_pattern: "bars"
  model: "Virtual camera"
"""
_AGENT_UNIT = """\
[Unit]
After=systemd-networkd.service
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/rig-agent.py
Restart=always
[Install]
WantedBy=multi-user.target
"""
_FILES = {
    "etc/hostname": "camera-rig\n",
    "etc/hosts": "127.0.0.1 localhost camera-rig\n",
    "etc/systemd/network/10-rig.network": "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\n",
    "etc/systemd/system/rig-agent.service": _AGENT_UNIT,
    "etc/modprobe.d/vivid.conf": "options vivid n_devs=1 node_types=0x1 vid_cap_nr=0"
    " num_inputs=1 input_types=0\n",
    # As on a Raspberry Pi, but for the name of the heap.
    "etc/udev/rules.d/60-rig.rules": 'SUBSYSTEM=="dma_heap", GROUP="video", MODE="0660"\n',
    "etc/tmpfiles.d/rig.conf": "L /dev/dma_heap/linux,cma - - - - system\n",
    "usr/share/libcamera/pipeline/virtual/virtual.yaml": _VIRTUAL_CAMERA,
}


def missing() -> str | None:
    """Return why no such machine can be made or run here; None where it can."""
    if reason := nspawn.missing() or vm.missing():
        return reason
    return "mosquitto is not installed" if MOSQUITTO is None else None


def tree(cache: Path) -> Path:
    """Return the directory of the machine's files, made where the cache has none."""
    made = cache / f"{SUITE}-camera"
    if made.exists():
        return made
    base = nspawn.tree(cache, SUITE)
    part = cache / f"{SUITE}-camera.part"
    shutil.rmtree(part, ignore_errors=True)
    subprocess.run(["cp", "-a", str(base), str(part)], check=True)
    modules = vm.kernel(cache, SUITE).modules
    shutil.copytree(modules, part / "usr/lib/modules" / modules.name)
    for place, text in _FILES.items():
        _write(part / place, text)
    apt = ("apt-get", "-qq")
    _inside(part, *apt, "update", network=True)
    _inside(part, *apt, "install", "--yes", "--no-install-recommends", *_PACKAGES, network=True)
    _inside(part, *apt, "clean")
    _inside(part, "depmod", modules.name)
    shutil.copy(Path(agent.__file__), part / "usr/local/lib/rig-agent.py")
    _picamera2(part / _SITE, cache)
    # The host has a broker; this one would take its port inside.
    _inside(part, "systemctl", "disable", "mosquitto")
    _inside(part, "systemctl", "enable", "rig-agent", "systemd-networkd")
    part.rename(made)
    return made


def _picamera2(site: Path, cache: Path) -> None:
    """Install the real picamera2, which Debian does not have, beside Debian's libcamera."""
    wheels = cache / "picamera2-wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--python-version=3.13", "--implementation=cp"]
    command += [f"--platform={tag}" for tag in ("manylinux_2_28_x86_64", "manylinux2014_x86_64")]
    command += [f"--requirement={_HERE / 'guest/picamera2.txt'}", f"--dest={wheels}"]
    subprocess.run(command, check=True, capture_output=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    for place, text in _NOT_USED.items():
        _write(site / place, text)
    shutil.copy(_HERE / "guest/virtualcamera.py", site)
    with (site / "picamera2/__init__.py").open("a") as module:
        module.write("\nimport virtualcamera\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _inside(root: Path, *words: str, network: bool = False) -> None:
    """Run a command in a tree that is not booted."""
    command = ["systemd-nspawn", "-q", f"--directory={root}", "--register=no", "--keep-unit"]
    command += ["--pipe", "--machine=edged-image", "--setenv=DEBIAN_FRONTEND=noninteractive"]
    command += ["--resolv-conf=replace-host"] if network else ["--private-network"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")


class CameraVm:
    """One boot; a context manager that leaves neither process, mount nor file behind.

    Args:
        cache: where the tree is, and its kernel.
        folder: an empty directory for what changes; it is removed.
        package: a .deb that is installed before the boot.
        files: path without its first slash, and content, written before the boot.
    """

    def __init__(self, cache: Path, folder: Path, package: Path, files: dict[str, bytes]) -> None:
        self.image_s = self.boot_s = 0.0
        self._base = tree(cache)
        self._kernel = vm.kernel(cache, SUITE)
        self._folder = folder
        self._package = package
        self._files = files
        self._port = free_port()
        self._machine: vm.Machine | None = None

    def __enter__(self) -> CameraVm:
        try:
            began_s = time.monotonic()
            disk = self._disk()
            self.image_s = time.monotonic() - began_s
            forward = f"hostfwd=tcp:127.0.0.1:{self._port}-:{agent.PORT}"
            self._machine = vm.Machine(
                self._kernel,
                vm.initramfs(self._kernel, self._folder / "initrd"),
                [disk],
                memory_mb=_MEMORY_MB,
                devices=["-smp", "2", "-nic", f"user,model=virtio-net-pci,{forward}"],
            )
            began_s = time.monotonic()
            self._machine.__enter__()
            wait_for(lambda: f"the machine to boot\n{self.console}", self._answers, _BOOT_S)
            self.boot_s = time.monotonic() - began_s
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._machine is not None:
            self._machine.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def console(self) -> str:
        """The last lines of the machine's serial console."""
        return "" if self._machine is None else self._machine.tail()

    def _disk(self) -> vm.Disk:
        upper, work, root = (self._folder / name for name in ("upper", "work", "root"))
        for place in (upper, work, root):
            place.mkdir(parents=True)
        layers = f"lowerdir={self._base},upperdir={upper},workdir={work}"
        command = ["mount", "-t", "overlay", "overlay", "-o", layers, str(root)]
        subprocess.run(command, check=True)
        try:
            shutil.copy(self._package, root / "root")
            _inside(root, "dpkg", "--install", f"/root/{self._package.name}")
            (root / "root" / self._package.name).unlink()
            # Started when the rig is ready; at the boot it would only slow that down.
            _inside(root, "systemctl", "disable", "edged")
            for place, content in self._files.items():
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_bytes(content)
            return vm.Disk(vm.image(root, self._folder / "disk", _DISK_MB), read_only=True)
        finally:
            subprocess.run(["umount", "--lazy", str(root)], check=False)

    def _answers(self) -> bool:
        assert self._machine is not None
        if not self._machine.running:
            raise AssertionError(f"the machine went off\n{self.console}")
        time.sleep(0.2)
        # QEMU accepts for the guest, and hangs up while nobody listens there.
        with contextlib.suppress(OSError, ValueError):
            return self.run("true", limit_s=5.0).returncode == 0
        return False

    def run(
        self, *words: str, content: bytes = b"", limit_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root, and return how it ended.

        Args:
            words: the command.
            content: its standard input.
            limit_s: OSError after that; the command goes on.
        """
        asked = {"words": words, "input": base64.b64encode(content).decode()}
        with socket.create_connection(("127.0.0.1", self._port), limit_s) as connection:
            connection.sendall(json.dumps(asked).encode() + b"\n")
            with connection.makefile("rb") as answer:
                said = json.loads(answer.readline())
        return subprocess.CompletedProcess(words, said["code"], said["out"], said["err"])

    def done(self, *words: str, content: bytes = b"", limit_s: float = 300.0) -> str:
        """Run a command inside that must succeed; its output."""
        ended = self.run(*words, content=content, limit_s=limit_s)
        if ended.returncode:
            said = f"{ended.stdout}{ended.stderr}"
            raise AssertionError(f"{' '.join(words)}: {ended.returncode}\n{said}")
        return ended.stdout

"""A Debian in a virtual machine without KVM: its kernel, a small initramfs, its disks, its power.

The root disk is read-only; what the guest changes there is in its memory and gone with the power.
Only the disks beside it, /dev/vdb and so on, keep anything.
"""

from __future__ import annotations

import lzma
import re
import shutil
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.broker import wait_for
from sim.machine import PATH
from sim.nspawn import mirror

_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "mke2fs": "e2fsprogs",
    "zstd": "zstd",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What it takes to reach the root disk; crc32c is what ext4 asks for by another name.
BASE_MODULES = ("crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_blk", "ext4", "overlay")
_INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod /modules/$module; done < /modules/order
mount -t ext4 -o ro /dev/vda /lower || echo "rig: no root disk"
mount -t tmpfs tmpfs /changes; mkdir /changes/upper /changes/work
mount -t overlay overlay -o lowerdir=/lower,upperdir=/changes/upper,workdir=/changes/work /new
for each in proc sys dev; do mount --move /$each /new/$each; done
mount -t tmpfs tmpfs /new/run; mount -t tmpfs tmpfs /new/tmp
ifconfig lo 127.0.0.1 up
for word in $(cat /new/proc/cmdline); do
    case $word in rig.init=*) init=${word#rig.init=};; esac
done
exec switch_root /new "$init"
"""


def missing() -> str | None:
    """Return why no machine can be started here; None where it can."""
    for tool, package in _TOOLS.items():
        if shutil.which(tool, path=PATH) is None:
            return f"{tool} is not installed (apt install {package})"
    if not _KEYRING.exists():
        return f"{_KEYRING} is not there (apt install debian-archive-keyring)"
    return None


@dataclass(frozen=True)
class Kernel:
    """Debian's, unpacked.

    Attributes:
        image: uncompressed, which saves 8 s of each start.
        modules: the directory `lib/modules/<version>`.
    """

    image: Path
    modules: Path


def kernel(cache: Path, suite: str) -> Kernel:
    """Return the kernel of a release, fetched with apt where the cache has none."""
    made = cache / f"{suite}-kernel"
    if not made.exists():
        part = cache / f"{suite}-kernel.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _run("dpkg-deb", "--extract", str(_fetched(part, suite)), str(part / "unpacked"))
        (part / "unpacked/boot/vmlinux").write_bytes(
            _uncompressed(next((part / "unpacked/boot").glob("vmlinuz-*")).read_bytes())
        )
        (part / "unpacked").rename(made)
        shutil.rmtree(part)
    modules = next(
        place for place in (made / "lib/modules", made / "usr/lib/modules") if place.is_dir()
    )
    return Kernel(made / "boot/vmlinux", next(modules.iterdir()))


def _fetched(folder: Path, suite: str) -> Path:
    """Fetch the kernel's package with an apt that knows nothing of this machine's."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True)
    place = next(iter(mirror()), "http://deb.debian.org/debian")
    (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {place} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": str(folder / "sources.list"),
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": str(folder / "lists"),
        "Dir::State::status": "/dev/null",
        "Dir::Cache": str(folder),
        "APT::Architecture": "amd64",
        "APT::Sandbox::User": "root",
    }
    apt = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    _run("apt-get", *apt, "update", "-qq")
    said = _run("apt-cache", *apt, "depends", "linux-image-amd64")
    found = re.search(r"Depends: (linux-image-\S+)", said)
    assert found is not None, said
    _run("apt-get", *apt, "-qq", "download", found[1], cwd=folder)
    return next(folder.glob("linux-image-*.deb"))


def _uncompressed(image: bytes) -> bytes:
    """Return the ELF file inside a bzImage: see the kernel's Documentation/arch/x86/boot.rst."""
    offset, length = struct.unpack_from("<II", image, 0x248)
    begin = (image[0x1F1] + 1) * 512 + offset
    payload = image[begin : begin + length]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    # The last four bytes are the length of what comes out.
    command = ["zstd", "--decompress", "--stdout"]
    return subprocess.run(command, input=payload[:-4], check=True, stdout=subprocess.PIPE).stdout


def initramfs(of: Kernel, target: Path, modules: Sequence[str] = ()) -> Path:
    """Write what mounts the root disk and goes on there.

    Args:
        of: the kernel.
        target: the file.
        modules: loaded at the start, with all they depend on, beside `BASE_MODULES`.
    """
    busybox = shutil.which("busybox", path=PATH)
    assert busybox is not None
    loaded = dict(_modules(of, [*BASE_MODULES, *modules]))
    directories = ("bin", "proc", "sys", "dev", "lower", "changes", "new", "modules")
    entries: list[tuple[str, int, bytes]] = [(name, 0o040755, b"") for name in directories]
    entries += [
        ("bin/busybox", 0o100755, Path(busybox).read_bytes()),
        ("init", 0o100755, _INIT.encode()),
        ("modules/order", 0o100644, "".join(f"{name}\n" for name in loaded).encode()),
        *((f"modules/{name}", 0o100644, data) for name, data in loaded.items()),
        ("TRAILER!!!", 0, b""),
    ]
    with target.open("wb") as file:
        for number, (name, mode, data) in enumerate(entries, 1):
            file.write(_entry(number, name, mode, data))
    return target


def _modules(of: Kernel, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of modules, each after what it depends on."""
    builtin = {
        Path(line).stem.replace("-", "_")
        for line in (of.modules / "modules.builtin").read_text().splitlines()
    }
    places = {
        path.name.partition(".")[0].replace("-", "_"): path
        for path in (of.modules / "kernel").rglob("*.ko*")
    }
    seen = set(builtin)

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen:
            return
        seen.add(name)
        data = places[name].read_bytes()
        if places[name].suffix == ".xz":
            data = lzma.decompress(data)
        found = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in found[1].decode().split(",") if found and found[1] else ():
            yield from visit(other.replace("-", "_"))
        yield f"{name}.ko", data

    for name in wanted:
        yield from visit(name)


def _entry(number: int, name: str, mode: int, data: bytes) -> bytes:
    """Return one member of an archive as `cpio --format=newc` makes it."""
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def image(tree: Path, target: Path, size_mb: int) -> Path:
    """Write an ext4 file system that holds what a directory holds."""
    _run("mke2fs", "-q", "-t", "ext4", "-F", "-d", str(tree), str(target), f"{size_mb}M")
    return target


@dataclass(frozen=True)
class Disk:
    """A raw image.

    Attributes:
        path: of it.
        read_only: the guest cannot write to it.
        log: where each write and flush is written down as well, in the format of the kernel's
            Documentation/admin-guide/device-mapper/log-writes.rst; None for nowhere.
    """

    path: Path
    read_only: bool = False
    log: Path | None = None


class Machine:
    """A machine; a context manager whose end takes the power away.

    Args:
        of: the kernel.
        initrd: made by `initramfs`.
        disks: the first one is root.
        init: the program that runs first, a path on the root disk.
        words: further words for the kernel's command line, which the guest can read.
        memory_mb: of the guest.
        devices: further arguments for QEMU.

    Attributes:
        lines: what the serial console said so far.
    """

    def __init__(
        self,
        of: Kernel,
        initrd: Path,
        disks: Sequence[Disk],
        *,
        init: str = "/sbin/init",
        words: Sequence[str] = (),
        memory_mb: int = 512,
        devices: Sequence[str] = (),
    ) -> None:
        append = ["console=ttyS0", "quiet", "mitigations=off", "random.trust_cpu=on", "panic=-1"]
        append += [f"rig.init={init}", *words]
        self._command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"]
        self._command += ["-smp", "1", "-m", str(memory_mb), "-nographic", "-no-reboot"]
        self._command += ["-nodefaults", "-serial", "stdio", "-kernel", str(of.image)]
        self._command += ["-initrd", str(initrd), "-append", " ".join(append), *devices]
        for number, disk in enumerate(disks):
            self._command += _drive(f"disk{number}", disk)
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Machine:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    @property
    def running(self) -> bool:
        """Whether the power is on."""
        return self._process is not None and self._process.poll() is None

    def wait(self, pattern: str, limit_s: float, *, since: int = 0) -> str:
        """Wait for a line on the console in which a regular expression is found; return it.

        Args:
            pattern: the expression.
            limit_s: how long.
            since: lines before this one are not looked at.
        """
        found: list[str] = []

        def look() -> bool:
            found[:] = [line for line in self.lines[since:] if re.search(pattern, line)]
            return bool(found) or not self.running

        wait_for(lambda: f"{pattern!r} on the console:\n{self.tail()}", look, limit_s)
        if not found:
            assert self._reader is not None
            self._reader.join()
            look()
        assert found, f"the machine went off before {pattern!r}:\n{self.tail()}"
        return found[0]

    def wait_off(self, limit_s: float) -> None:
        """Wait until the guest has powered the machine off."""
        wait_for(lambda: f"the end:\n{self.tail()}", lambda: not self.running, limit_s)
        self.kill()

    def kill(self) -> None:
        """Take the power away, by SIGKILL."""
        if self._process is None or self._reader is None:
            return
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def tail(self) -> str:
        """Return the last lines of the console."""
        return "\n".join(self.lines[-40:])


def _drive(name: str, disk: Disk) -> list[str]:
    read_only = ",read-only=on" if disk.read_only else ""
    nodes = [f"driver=file,filename={disk.path},node-name={name}{read_only}"]
    last = name
    if disk.log is not None:
        nodes.append(f"driver=file,filename={disk.log},node-name={name}-log")
        last = f"{name}-logged"
        nodes.append(
            f"driver=blklogwrites,node-name={last},file={name},log={name}-log,log-sector-size=512"
        )
    words = [word for node in nodes for word in ("-blockdev", node)]
    return [*words, "-device", f"virtio-blk-pci,drive={last}"]


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={"PATH": PATH}
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout

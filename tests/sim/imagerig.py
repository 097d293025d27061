"""The container image without a container runtime: unpacked, and run as its settings say.

`podman run` needs more of a machine than a build machine in a container has. So the rig does what a
runtime does with `--read-only --network=host --cap-drop=all`: namespaces for processes and mounts,
the image's file system read-only, its user, environment and command, and what is passed in.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sim import badmodels
from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.desk import Desk
from sim.machine import PATH
from sim.nspawn import mirror

BUILDERS = ("buildah", "podman", "docker")
WATCHDOG_S = 5.0
_FPS = 50
_STUCK = int(signal.SIGALRM)
_CONFIG = f"""
device_id = "image"
[mqtt]
host = "127.0.0.1"
port = {{port}}
[[model]]
name = "belt"
factory = "belt"
invoke_limit_s = 1
[[camera]]
name = "front"
source = "synthetic"
model = "belt"
fps = {_FPS}
"""


def missing() -> str | None:
    """Return why no image can be built and run here; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    if not any(map(shutil.which, BUILDERS)):
        return f"none of {', '.join(BUILDERS)} is installed"
    if not shutil.which("buildah") and not shutil.which("podman"):
        info = subprocess.run(["docker", "info"], capture_output=True, check=False)
        if info.returncode:
            return "no docker daemon answers, and neither buildah nor podman is installed"
    for tool in ("debootstrap", "unshare", "nsenter", "setpriv"):
        if shutil.which(tool, path=PATH) is None:
            return f"{tool} is not installed"
    if MOSQUITTO is None:
        return "mosquitto is not installed"
    return None


def base_tree(cache: Path, suite: str) -> Path:
    """Return the directory of a least Debian, made by debootstrap where the cache has none."""
    made = cache / f"{suite}-minbase"
    if not made.exists():
        part = cache / f"{made.name}.part"
        shutil.rmtree(part, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        command = ["debootstrap", "--variant=minbase", suite, str(part), *mirror()]
        environment = {**os.environ, "PATH": PATH}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        shutil.rmtree(part / "var/cache/apt/archives", ignore_errors=True)
        part.rename(made)
    return made


class Image:
    """An image as `docker save` writes it.

    Args:
        archive: the file, compressed or not.
        folder: an empty directory; the file system goes there.

    Attributes:
        settings: `config` of the image: User, Env, Entrypoint and so on.
        layers_bytes: sizes of the layers, not compressed, the base's first.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self.root = folder
        self.layers_bytes: list[int] = []
        opened = gzip.open if archive.suffix == ".gz" else open
        with opened(archive, "rb") as raw, tempfile.TemporaryDirectory(dir=folder.parent) as name:
            with tarfile.open(fileobj=raw) as tar:
                tar.extractall(name, filter="data")
            (manifest,) = json.loads((Path(name) / "manifest.json").read_text())
            self.settings = json.loads((Path(name) / manifest["Config"]).read_text())["config"]
            for layer in manifest["Layers"]:
                self._apply(Path(name) / layer)

    def _apply(self, layer: Path) -> None:
        self.layers_bytes.append(layer.stat().st_size)
        with tarfile.open(layer) as tar:
            removed = [Path(entry) for entry in tar.getnames() if Path(entry).name[:4] == ".wh."]
        for mark in removed:
            gone = self.root / mark.parent
            if mark.name == ".wh..wh..opq":
                shutil.rmtree(gone, ignore_errors=True)
                continue
            gone /= mark.name[4:]
            if gone.is_dir() and not gone.is_symlink():
                shutil.rmtree(gone)
            else:
                gone.unlink(missing_ok=True)
        command = ["tar", "-C", str(self.root), "--numeric-owner", "--exclude=.wh.*", "-xpf"]
        subprocess.run([*command, str(layer)], check=True)

    @property
    def user(self) -> tuple[int, int]:
        """The user's and the group's number."""
        user, _, group = self.settings["User"].partition(":")
        return int(user), int(group)


class Container:
    """One container of an image.

    Args:
        image: unpacked.
        folder: for what is passed in: `etc`, `state`, `run`; made.
        environment: beside the image's.

    Attributes:
        starts: how often it was started.
    """

    def __init__(self, image: Image, folder: Path, environment: dict[str, str]) -> None:
        self.image = image
        self.etc, self.state, self.run_dir = (folder / name for name in ("etc", "state", "run"))
        self.starts = 0
        self._log = folder / "log"
        self._environment = [*image.settings["Env"], *map("=".join, environment.items())]
        self._process: subprocess.Popen[bytes] | None = None
        for place in (self.etc, self.state, self.run_dir):
            place.mkdir()
        for place in (self.state, self.run_dir):
            os.chown(place, *image.user)

    def start(self, *words: str) -> None:
        """Run the image's command, or its entry point with other words."""
        user, group = self.image.user
        root = self.image.root
        script = "\n".join(
            [
                "set -e",
                "mount --make-rprivate /",
                f"mount --bind {root} {root}",
                f"mount -o remount,bind,ro {root}",
                f"mount --bind {self.state} {root}/var/lib/edged",
                f"mount --bind {self.run_dir} {root}/run/edged",
                f"mount --bind {self.etc} {root}/etc/edged",
                f"mount -o remount,bind,ro {root}/etc/edged",
                f"mount -t proc proc {root}/proc",
                f"mount -t tmpfs -o size=64k,mode=755 dev {root}/dev",
                *(f"mknod -m 666 {root}/dev/{name}" for name in ("null c 1 3", "urandom c 1 9")),
                f"mount -o remount,ro {root}/dev",
                'exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid "$@"',
            ]
        )
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "-"]
        command += ["chroot", f"--userspec={user}:{group}", "--groups=", str(root)]
        inside = [*self.image.settings["Entrypoint"], *(words or self.image.settings["Cmd"])]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "/usr/bin/env", "-i", *self._environment, *inside],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.starts += 1

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def init(self) -> int:
        """Return the number that process 1 has outside."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert children, self.log
        return int(children[0])

    def exec(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as the image's user."""
        user, group = self.image.user
        command = ["nsenter", f"--target={self.init()}", "--mount", "--pid", "--root", "--wd"]
        command += [f"--setgid={group}", f"--setuid={user}", "/usr/bin/env", "-i"]
        return subprocess.run(
            [*command, *self._environment, *words], capture_output=True, text=True, check=False
        )

    def healthy(self) -> bool:
        """Say what the image's health check says."""
        kind, *words = self.image.settings["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.exec(*words).returncode == 0

    def ended(self, limit_s: float = 60.0) -> int:
        """Wait until it ends; its exit status."""
        assert self._process is not None
        return self._process.wait(limit_s)

    def stop(self) -> int:
        """Stop it as a runtime does."""
        os.kill(self.init(), signal.Signals[self.image.settings["StopSignal"]])
        return self.ended(10.0)

    def close(self) -> None:
        """Whatever state it is in: no process is left, and with it no mount."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class ImageRig:
    """Runs the steps, each of which raises AssertionError where something is not as it must be.

    Args:
        archive: the image.
        folder: an empty directory.
        say: takes a line for people, once for each figure.
    """

    def __init__(self, archive: Path, folder: Path, say: Callable[[str], None]) -> None:
        self._archive = archive
        self._folder = folder
        self._say = say

    def run(self) -> None:
        """Run all steps."""
        (self._folder / "root").mkdir()
        image = Image(self._archive, self._folder / "root")
        compressed = self._archive.stat().st_size
        base, *above = image.layers_bytes
        self._say(
            f"base {base / 1e6:.0f} MB, above it {sum(above) / 1e6:.0f} MB,"
            f" the file {compressed / 1e6:.0f} MB"
        )
        assert image.user[0] != 0
        (self._folder / "broker").mkdir()
        broker = Broker(self._folder / "broker").start()
        listening = Subscriber(broker.port, "edged/image/#", qos=0).connect()
        (self._folder / "in").mkdir()
        environment = {"WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6))}
        container = Container(image, self._folder / "in", environment)
        config = container.etc / "edged.toml"
        config.write_text(_CONFIG.format(port=broker.port))
        try:
            self._refuses(container)
            self._serves(container, listening)
            self._hangs(container, listening)
            self._stops(container)
        except BaseException:
            self._say(container.log[-4000:])
            raise
        finally:
            container.close()
            listening.close()
            broker.stop()

    def _refuses(self, container: Container) -> None:
        """What cannot work ends at once with a status that a restart policy can tell."""
        config = container.etc / "edged.toml"
        good = config.read_text()
        config.write_text(good + "nonsense = 1\n")
        container.start()
        assert container.ended() == 78
        assert "nonsense" in container.log
        config.write_text(good)
        container.run_dir.chmod(0o500)
        container.start()
        assert container.ended() == 1
        assert "(runtime_dir_unusable)" in container.log
        container.run_dir.chmod(0o750)

    def _serves(self, container: Container, listening: Subscriber) -> None:
        began_s = time.monotonic()
        container.start()
        predictions = listening.of("edged/image/prediction/front")
        wait_for("predictions", lambda: predictions)
        self._say(f"start to first prediction: {time.monotonic() - began_s:.1f} s")
        assert json.loads(predictions[0])["classes"]
        init = container.init()
        status = Path(f"/proc/{init}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["NSpid"].split()[-1] == "1", "it is process 1, as in a container"
        assert set(fields["Uid"].split()) == {str(container.image.user[0])}
        assert (fields["CapEff"].strip("0"), fields["NoNewPrivs"]) == ("", "1")
        rollup = Path(f"/proc/{init}/smaps_rollup").read_text()
        memory = next(line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
        self._say(f"memory of the process (Pss): {int(memory) / 1e3:.0f} MB")
        began_s = time.monotonic()
        assert container.healthy()
        self._say(f"health check: {time.monotonic() - began_s:.2f} s")
        assert container.exec("touch", "/opt/edged/x").returncode != 0, "the root is read-only"
        assert container.exec("/usr/bin/edgectl", "--version").returncode == 0
        written = {path.name for path in container.run_dir.iterdir()}
        assert written == {"breadcrumb", "control.sock", "run.json"}, written

    def _hangs(self, container: Container, listening: Subscriber) -> None:
        """A candidate that hangs in its trial, where nobody watches but the kernel's timer."""
        with desk(self._folder / "desk") as made:
            package = made.pack("1.0.0", badmodels.harm_at_frame(400, "endless"), name="belt")
            (container.etc / "candidate.zip").write_bytes(package.read_bytes())
        words = ("models", "install", "--bare", "--model", "belt", "/etc/edged/candidate.zip")
        told = container.exec("/usr/bin/edged", *words)
        assert told.returncode == 0, told.stdout + told.stderr
        predictions = listening.of("edged/image/prediction/front")
        for times in ("first", "second"):
            since = len(predictions)
            wait_for(
                "the candidate",
                lambda since=since: any(b'"1.0.0"' in said for said in predictions[since:]),
            )
            assert container.ended() == _STUCK, container.log
            container.start()  # as `--restart=on-failure` has it
            began_s, since = time.monotonic(), len(predictions)
            wait_for("predictions", lambda since=since: len(predictions) > since)
            self._say(f"{times} hang: restart to predictions {time.monotonic() - began_s:.1f} s")
        assert "most recent call first" in container.log
        wait_for("the previous model", lambda: b"0.0.0-factory" in predictions[-1])
        said = container.exec("/usr/bin/edged", "deployments", "--json").stdout
        assert '"ROLLED_BACK"' in said, said
        assert '"trial_crashed"' in said, said

    def _stops(self, container: Container) -> None:
        began_s = time.monotonic()
        assert container.stop() == 0, container.log
        self._say(f"stop: {time.monotonic() - began_s:.1f} s")
        container.start("status")
        assert container.ended() == 1, "the health check of a service that is down"


@contextmanager
def desk(folder: Path) -> Iterator[Desk]:
    """A desk that is closed afterwards."""
    folder.mkdir()
    made = Desk(folder)
    try:
        yield made
    finally:
        made.close()

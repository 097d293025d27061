"""What goes wrong around a service: it runs all the same, or one line says what to mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sim import badmodels, models
from sim.broker import wait_for
from sim.installed import PATIENCE_S, Installed, Predictions

_BROKER = """per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
listener 1884 127.0.0.1
allow_anonymous false
password_file /etc/mosquitto/rig-passwords
"""
_ELSEWHERE = """[update]
metadata_url = "https://models.example.org/metadata"
targets_url = "https://models.example.org/targets"
"""
_USER = '"edged"\npassword_file = "$CREDENTIALS_DIRECTORY/edged.mqtt-password"'


class Troubles:
    """The steps, each of which raises AssertionError where something is not as it must be."""

    def __init__(self, service: Installed) -> None:
        self._service = service
        self._machine = service.machine

    def prepare(self) -> None:
        """Before the package is installed: a broker with two doors, one with a password."""
        root = self._machine.root
        (root / "etc/mosquitto/conf.d/rig.conf").write_text(_BROKER)
        (root / "etc/credstore").mkdir(exist_ok=True)
        words = ("mosquitto_passwd", "-b", "-c", "/etc/mosquitto/rig-passwords", "edged", "secret")
        self._machine.done(*words)
        self._machine.done("chown", "mosquitto", "/etc/mosquitto/rig-passwords")
        self._machine.done("systemctl", "restart", "mosquitto")

    def run(self) -> None:
        """Run all steps; afterwards the service runs as at their beginning."""
        self._missing()
        self._credentials()
        self._owners()
        self._disks()
        self._factory_crashes()
        self._clock_of_1970()
        self._broker_down_at_boot()

    def _missing(self) -> None:
        service, machine = self._service, self._machine
        service.configure(source='"v4l2:/dev/video9"')
        self._up("no camera", "/dev/video9")
        compiled = models.write(machine.root / "etc/edged/tpu.tflite", models.edgetpu_custom_op())
        service.configure(factory=f'"/etc/edged/{compiled.name}"\naccelerator = "edgetpu"')
        with self._other_state("size=64m"):
            self._down("no Edge TPU, nor its library", r"libedgetpu\.so\.1")
        service.configure(_ELSEWHERE, host='"broker.example.org"')
        self._up("no network", r"broker\.example\.org")

    def _owners(self) -> None:
        service, machine = self._service, self._machine
        service.configure()
        machine.done("chown", "--recursive", "root:root", "/var/lib/edged")
        self._up("state directory of another owner")
        machine.done("chown", "root:root", "/var/lib/edged/models/belt/state.json")
        machine.done("chmod", "600", "/var/lib/edged/models/belt/state.json")
        self._down("journal of another owner", r"/var/lib/edged/.*/state\.json.*[Pp]ermission")
        machine.done("chown", "--recursive", "edged:edged", "/var/lib/edged")
        service.predictions.next("predictions once the journal can be read")
        service.config.chmod(0o600)
        self._refused("configuration of another owner", "/etc/edged/edged.toml.*[Pp]ermission")
        service.config.chmod(0o640)
        machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions once the configuration can be read")

    def _disks(self) -> None:
        service, machine = self._service, self._machine
        with self._other_state("size=24m"):
            machine.run("dd", "if=/dev/zero", "of=/var/lib/edged/filler", "bs=1M")
            self._up("full disk", "full|space")
            service.predictions.next("predictions with a full disk")
        with self._other_state("size=24m"):
            machine.done("mount", "--options", "remount,ro", "/var/lib/edged")
            self._down("read-only state directory", "/var/lib/edged.*[Rr]ead-only")
        service.start()
        service.predictions.next("predictions with a state directory")

    def _credentials(self) -> None:
        service, machine = self._service, self._machine
        service.configure(host=f'"127.0.0.1"\nport = 1884\nusername = {_USER}')
        self._up("no password where the configuration names one", "password_file.*edged.mqtt-pass")
        secret = machine.root / "etc/credstore/edged.mqtt-password"
        secret.write_text("secret\n")
        secret.chmod(0o600)
        machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions with a password that only root can read")
        service.say("a password from /etc/credstore, mode 600 of root: predictions")
        secret.unlink()

    def _factory_crashes(self) -> None:
        """Nothing to fall back to: the service runs without a model."""
        service, machine = self._service, self._machine
        (machine.root / "etc/edged/bad.tflite").write_bytes(badmodels.abort_at_load())
        service.configure(factory='"/etc/edged/bad.tflite"')
        with self._other_state("size=64m"):
            mark = self._started()
            wait_for("three crashes", lambda: service.restarts() >= 3, PATIENCE_S)
            wait_for("a start", lambda: service.active() == "active", PATIENCE_S)
            self._told("factory model that crashes the process", mark, "model belt|active_crashed")
            service.stop()

    def _clock_of_1970(self) -> None:
        """The clock of this machine is everybody's: the service is given a wrong one."""
        service, machine = self._service, self._machine
        library = next(machine.root.glob("usr/lib/*/faketime/libfaketime.so.1"), None)
        if library is None:
            service.say("clock at 1970: skipped, the tree has no libfaketime")
            return
        drop_in = machine.root / "etc/systemd/system/edged.service.d"
        drop_in.mkdir()
        (drop_in / "clock.conf").write_text(
            "[Service]\nEnvironment=FAKETIME_DONT_FAKE_MONOTONIC=1\n"
            'Environment="FAKETIME=@1970-01-01 00:00:30"\n'
            f"Environment=LD_PRELOAD=/{library.relative_to(machine.root)}\n"
        )
        machine.done("systemctl", "daemon-reload")
        service.configure()
        self._up("clock at 1970")
        first = service.predictions.next("predictions of 1970", lambda one: one.captured_s < 1e6)
        service.say(f"a frame of {first.captured_s:.0f} s after 1970-01-01")
        (drop_in / "clock.conf").unlink()
        drop_in.rmdir()
        machine.done("systemctl", "daemon-reload")
        machine.done("systemctl", "restart", "edged")
        service.predictions.next("predictions of today", lambda one: one.captured_s > 1e9)

    def _broker_down_at_boot(self) -> None:
        service, machine = self._service, self._machine
        machine.done("systemctl", "disable", "mosquitto")
        service.stop()
        service.predictions.close()
        machine.restart()
        wait_for("the service after a boot", lambda: service.active() == "active", PATIENCE_S)
        assert machine.run("systemctl", "is-active", "mosquitto").stdout.strip() == "inactive"
        self._told("broker down at boot", "", "not connected to the broker")
        machine.done("systemctl", "enable", "--now", "mosquitto")
        service.predictions = Predictions(machine)
        service.predictions.next("predictions once the broker is up")

    def _up(self, words: str, told: str = "") -> None:
        """Start it with some trouble around: it runs, and goes on running."""
        service, mark = self._service, self._started()
        wait_for(f"{words}: a start", lambda: service.active() == "active", PATIENCE_S)
        pid = service.pid()
        self._told(words, mark, told)
        assert (service.active(), service.pid(), service.restarts()) == ("active", pid, 0), words

    def _down(self, words: str, told: str) -> None:
        """Start it with what it cannot do without: one line says why, and it is tried again."""
        service, mark = self._service, self._started()
        wait_for(f"{words}: two attempts", lambda: service.restarts() >= 2, PATIENCE_S)
        assert service.active() == "activating", f"{words}: it has given up"
        self._told(words, mark, told)

    def _refused(self, words: str, told: str) -> None:
        """Start it with a wrong configuration: one line says why, and it stays down."""
        service, mark = self._service, self._started()
        wait_for(f"{words}: the end", lambda: service.active() == "failed", PATIENCE_S)
        self._told(words, mark, told)

    def _started(self) -> str:
        """Start it anew, and return the place in the journal before."""
        service = self._service
        service.stop()
        mark = service.mark()
        self._machine.run("systemctl", "start", "edged")
        return mark

    def _told(self, words: str, mark: str, told: str) -> None:
        """Wait for the line that says what is wrong, and say it."""
        service = self._service

        def found() -> list[str]:
            return [line for line in service.said(mark) if re.search(told, line)]

        if told:
            wait_for(lambda: f"{words}: {service.said(mark)}", found, PATIENCE_S)
        state = service.active()
        service.say(f"{words}: {state}{f'; {found()[0]}' if told else ''}")

    @contextmanager
    def _other_state(self, options: str) -> Iterator[None]:
        """Put an empty file system of some size in the place of the state directory."""
        service, machine = self._service, self._machine
        service.stop()
        owner = machine.done("id", "-u", "edged").strip(), machine.done("id", "-g", "edged").strip()
        options += f",mode=0750,uid={owner[0]},gid={owner[1]}"
        machine.done("mount", "-t", "tmpfs", "-o", options, "tmpfs", "/var/lib/edged")
        try:
            yield
        finally:
            service.stop()
            machine.done("umount", "/var/lib/edged")

"""The service manager's protocols, and the unit file by systemd's own judgement."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edged.breadcrumb import RunRecord
from edged.errors import StoreError
from edged.systemd import WATCHDOG_S, JournalHandler, Notifier, set_up_logging

UNIT = Path(__file__).parents[1] / "systemd" / "edged.service"


@pytest.fixture
def manager(tmp_path):
    """A service manager's end of the notify socket."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(5.0)
        yield str(path), lambda: listener.recv(4096).decode()


def test_each_message_in_its_words(manager) -> None:
    address, received = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})

    notifier.ready()
    assert received() == "READY=1"
    notifier.feed(alive=True)
    assert received() == "WATCHDOG=1"
    notifier.reloading()
    kind, when = received().split("\n")
    assert kind == "RELOADING=1"
    assert int(when.removeprefix("MONOTONIC_USEC=")) > 0
    notifier.stopping()
    assert received() == "STOPPING=1"


def test_a_stuck_process_asks_for_its_end_once_and_feeds_no_more(manager) -> None:
    address, received = manager
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})

    for alive in (False, False, False, True, False):
        notifier.feed(alive=alive)
    notifier.stopping()

    said = [received() for _ in range(4)]
    assert said == ["WATCHDOG=trigger", "WATCHDOG=1", "WATCHDOG=trigger", "STOPPING=1"]


def test_without_a_watchdog_nobody_is_asked(manager) -> None:
    address, received = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})

    notifier.feed(alive=True)
    notifier.feed(alive=False)
    notifier.stopping()

    assert received() == "STOPPING=1"


def test_a_status_is_one_line_and_sent_when_it_changes(manager) -> None:
    address, received = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})

    notifier.status("a\nb")
    notifier.status("a\nb")
    notifier.status("c")

    assert [received(), received()] == ["STATUS=a b", "STATUS=c"]


def test_an_abstract_socket() -> None:
    name = f"edged-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(5.0)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, WATCHDOG_S),
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, WATCHDOG_S),
        ({"WATCHDOG_USEC": "soon"}, WATCHDOG_S),
        ({"WATCHDOG_USEC": "0"}, WATCHDOG_S),
    ],
)
def test_the_watchdog_s_interval(environment, expected) -> None:
    assert expected == Notifier(environment).watchdog_s


def test_unwatched_it_is_as_patient_as_the_unit() -> None:
    assert f"\nWatchdogSec={WATCHDOG_S:g}\n" in UNIT.read_text()


UNFED = """
import ctypes, time
from edged.systemd import Notifier
notifier = Notifier({"WATCHDOG_USEC": "2000000"})
for _ in range(5):
    notifier.feed(alive=True)
    time.sleep(0.5)
print("fed", flush=True)
ctypes.PyDLL(None).sleep(60)  # keeps the GIL, as a runtime does while it prepares a model
"""


@pytest.mark.parametrize("prefix", [[], ["unshare", "--pid", "--fork", "--kill-child"]])
def test_unfed_and_unwatched_the_process_ends_with_its_stacks(prefix: list[str]) -> None:
    """Also as process 1, which no signal ends by default."""
    if prefix and (shutil.which("unshare") is None or os.geteuid() != 0):
        pytest.skip("needs root and unshare")
    done = subprocess.run(
        [*prefix, sys.executable, "-c", UNFED],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert (done.returncode, done.stdout) == (signal.SIGALRM, "fed\n"), done.stderr
    assert 'File "<string>", line 9' in done.stderr


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-listens"])
def test_without_a_manager_nothing_happens(address) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("x")


def test_records_reach_the_journal_with_their_fields() -> None:
    sent = []
    logger = logging.Logger("edged.test")
    logger.addHandler(JournalHandler(lambda message, **fields: sent.append((message, fields))))

    logger.warning("camera %s: gone", "front", extra={"fields": {"camera": "front", "reason": ""}})

    ((message, fields),) = sent
    assert message == "camera front: gone"
    assert fields["PRIORITY"] == 4
    assert fields["SYSLOG_IDENTIFIER"] == "edged"
    assert fields["EDGED_CAMERA"] == "front"
    assert fields["CODE_FUNC"] == "test_records_reach_the_journal_with_their_fields"
    assert "EDGED_REASON" not in fields


def test_a_journal_that_fails_does_not_end_the_thread_that_logs(capsys) -> None:
    def send(message, **fields) -> None:
        raise OSError("no journal")

    logger = logging.Logger("edged.test")
    logger.addHandler(JournalHandler(send))

    logger.warning("hello")


def test_a_status_of_any_bytes(manager) -> None:
    address, received = manager
    Notifier({"NOTIFY_SOCKET": address}).status("a \udcff file")

    assert received() == "STATUS=a \\udcff file"


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )


def test_with_the_library_a_message_is_the_message(tmp_path) -> None:
    """No `INFO:logger:` in front: the journal has fields for those."""
    folder = tmp_path / "systemd"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "journal.py").write_text("def send(message, **fields): print(repr(message))\n")
    program = (
        "import os, sys, logging\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "stat = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{stat.st_dev}:{stat.st_ino}'\n"
        "from edged.systemd import error_lines, set_up_logging\n"
        "set_up_logging(verbose=False)\n"
        "logging.info('reloaded')\n"
        "print(error_lines('edged: a.toml:\\n2 problems:\\n  line 1: b\\n  line 2: c'))\n"
    )
    done = run_program(program)

    assert done.stdout == "'reloaded'\n<3>edged: a.toml: 2 problems: line 1: b; line 2: c\n"


def test_without_the_library_the_journal_gets_priorities(tmp_path) -> None:
    """stderr is the journal's, systemd-python is not there: `<4>` before each line."""
    program = (
        "import os, sys, logging\n"
        "stat = os.fstat(2)\n"
        "os.environ['JOURNAL_STREAM'] = f'{stat.st_dev}:{stat.st_ino}'\n"
        "sys.modules['systemd'] = None\n"
        "from edged.systemd import set_up_logging\n"
        "set_up_logging(verbose=False)\n"
        "logging.warning('two\\nlines')\n"
        "logging.debug('not shown')\n"
    )
    done = run_program(program)

    assert done.stderr == "<4>two\n<4>lines\n"


def test_for_people_there_is_a_time_and_a_level(capsys) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        set_up_logging(verbose=True)
        logging.getLogger("edged.x").debug("hello")
        assert "DEBUG   hello" in capsys.readouterr().err
        set_up_logging(verbose=False)
        logging.getLogger("tuf.api.metadata").info("No signature for keyid")
        logging.getLogger("edged.x").info("hello")
        assert "INFO    hello" in (said := capsys.readouterr().err)
        assert "keyid" not in said
    finally:
        root.handlers[:] = before
        root.setLevel(level)


# The unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=50, check=False
    )


def test_the_unit_passes_systemd_s_own_check(tmp_path) -> None:
    unit = tmp_path / "edged.service"
    # The command is not installed where tests run; everything else is checked as it stands.
    unit.write_text(UNIT.read_text().replace("=/usr/bin/edged", "=/bin/true"))

    done = analyze("verify", "--man=no", str(unit))

    assert (done.returncode, done.stderr) == (0, "")


def test_the_refresh_timer_passes_as_well(tmp_path) -> None:
    for name in ("edgectl-refresh.service", "edgectl-refresh.timer"):
        text = UNIT.with_name(name).read_text()
        (tmp_path / name).write_text(text.replace("=/usr/bin/edgectl", "=/bin/true"))

    done = analyze("verify", "--man=no", str(tmp_path / "edgectl-refresh.timer"))

    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_hardened() -> None:
    done = analyze("security", "--offline=true", "--threshold=20", "--no-pager", str(UNIT))

    assert done.returncode == 0, done.stdout[-200:]  # exposure above 2.0 fails


# The record of the last run


def test_a_clean_stop_a_crash_and_a_fresh_boot_are_told_apart(tmp_path) -> None:
    folder = tmp_path / "run"
    first = RunRecord(folder)
    assert first.last_stop == "first_start_since_boot"
    first.stopped("sigterm")
    assert RunRecord(folder).last_stop == "sigterm"  # and this one does not stop cleanly
    assert RunRecord(folder).last_stop == "crash"
    (folder / "run.json").write_text("{half")
    assert RunRecord(folder).last_stop == "crash"
    (folder / "run.json").write_text("[]")
    assert RunRecord(folder).last_stop == "crash"


def test_a_directory_that_outlives_a_reboot_does_not_make_a_crash_of_it(tmp_path) -> None:
    RunRecord(tmp_path, "one boot")
    record = RunRecord(tmp_path, "another")
    assert record.last_stop == "first_start_since_boot"
    record.stopped("sigterm")
    assert RunRecord(tmp_path, "the third").last_stop == "sigterm", "it was a clean stop"
    assert RunRecord(tmp_path, "the third").last_stop == "crash"


def test_a_runtime_directory_that_cannot_be_used(tmp_path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError) as caught:
        RunRecord(tmp_path / "file" / "run")

    assert caught.value.reason == "runtime_dir_unusable"
    assert "runtime_dir" in caught.value.advice

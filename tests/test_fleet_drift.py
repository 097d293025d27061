"""`edgectl fleet drift`: windows out of files and from a real broker."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sim.broker import MOSQUITTO, Broker, Subscriber, wait_for
from sim.driftfleet import NEW, OLD, Candidate, fleet

from edged.drift.records import LIMIT_BYTES, encode_window, parse_window
from edged.drift.window import Window
from edged.operator.cli import main
from edged.operator.driftwindows import FOREIGN, LOST, Inbox, Reading

Run = Callable[..., tuple[int, str, str]]
with_broker = [
    pytest.mark.broker,
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("EDGED_BROKER", raising=False)

    def drift(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["fleet", "drift", *map(str, arguments)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return drift


@pytest.fixture(scope="module")
def short() -> list[Window]:
    return fleet(np.random.default_rng(1), control=2, canary=1, hours=1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("windows")
    made = {}
    for name, candidate in (("same", Candidate()), ("bad", Candidate(confused=0.67))):
        made[name] = folder / f"{name}.ndjson"
        found = fleet(np.random.default_rng(4), candidate, window_s=3600.0)
        made[name].write_bytes(lines(found))
    return made


def lines(windows: list[Window]) -> bytes:
    return b"".join(encode_window(one) + b"\n" for one in windows)


def test_a_bad_candidate_out_of_a_file(run: Run, files: dict[str, Path]) -> None:
    code, out, err = run("birds", "--candidate", NEW, "--files", files["bad"])

    assert code == 1
    assert f"\nroll back: {NEW} against {OLD}\n  top-1 score -" in out
    assert "canary-1   canary" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("top-1 score")] == [
        "worse"
    ]
    assert err == ""


def test_the_same_model_as_json(run: Run, files: dict[str, Path]) -> None:
    code, out, _ = run("birds", "--candidate", NEW, "--files", files["same"], "--json")
    said = json.loads(out)

    assert code == 0
    assert said["verdict"]["decision"] == "promote"
    assert [(one["version"], one["cohort"]) for one in said["groups"]] == [
        (OLD, "canary"), (OLD, "control"), (NEW, "canary"),
    ]  # fmt: skip
    assert all(one["harmless"] for one in said["verdict"]["signals"])


def test_without_a_candidate_it_only_adds_up(run: Run, files: dict[str, Path]) -> None:
    code, out, _ = run("birds", "--files", files["same"])

    assert code == 0
    assert len(out.splitlines()) == 1 + 1 + 12 + 1 + 4  # headings; both packages and their devices
    assert "promote" not in out


def test_named_cohorts(run: Run, files: dict[str, Path]) -> None:
    some = ["--canary", "canary-1,canary-2", "--control", "control-1"]
    code, out, _ = run("birds", "--candidate", NEW, *some, "--files", files["same"])

    assert code == 1
    assert "hold:" in out
    assert f"{NEW}    other" in out  # canary-3, which nobody named


def test_lines_that_are_no_windows_are_counted(
    run: Run, short: list[Window], tmp_path: Path
) -> None:
    file = tmp_path / "some.ndjson"
    other = json.loads(encode_window(short[0])) | {"edges": "e9"}
    lie = replace(short[1], tally=replace(short[1].tally, frames=2**52))
    file.write_bytes(
        lines([*short[2:], lie, short[2]])
        + json.dumps(other).encode() + b"\n"
        + b"x" * (3 * LIMIT_BYTES) + b"\n"
        + encode_window(short[0])[:-40]
    )  # fmt: skip
    code, _, err = run("birds", "--files", file)

    assert code == 0
    assert "edgectl: 1 refused: edges_differ." in err
    assert "edgectl: 2 refused: window_malformed." in err
    assert f"1 windows of {lie.device} refused: it counts more, or less" in err


def test_nothing_found_is_said(run: Run, short: list[Window], tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    file.write_bytes(lines(short))

    assert "(windows_missing)" in run("cats", "--files", file)[2]
    assert "(windows_missing)" in run("birds", "--files", file, "--since", "1h")[2]
    assert "(windows_unreadable)" in run("birds", "--files", tmp_path / "none")[2]
    assert "(candidate_unseen)" in run("birds", "--files", file, "--candidate", "9.9")[2]


def test_since_leaves_out_what_was_before(run: Run, short: list[Window], tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    file.write_bytes(lines(short))
    middle = sorted(one.began_ms for one in short)[len(short) // 2]
    when = np.datetime64(middle, "ms").item().isoformat() + "+00:00"
    code, out, _ = run("birds", "--files", file, "--since", when, "--json")
    counted = sum(
        device["windows"]
        for group in json.loads(out)["groups"]
        for device in group["devices"].values()
    )

    assert code == 0
    assert counted == sum(one.began_ms >= middle for one in short)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["birds", "--budget", "10"],
        ["birds", "--canary", "porch"],
        ["birds", "--since", "soon", "--files", "x"],
        ["birds", "--candidate", "1", "--budget", "0", "--files", "x"],
        ["birds", "--candidate", "1", "--record", "x"],
        ["birds", "--files", "x", "--record", "y"],
    ],
)
def test_usage(run: Run, arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_a_window_counts_only_under_its_own_name(short: list[Window]) -> None:
    reading = Reading()
    inbox = Inbox("edged", reading)
    payload = encode_window(short[0])
    inbox.hear(f"edged/{short[0].device}/drift/front/window", payload)
    inbox.hear("edged/porch/drift/front/window", payload)
    inbox.hear(f"edged/{short[0].device}/drift/back/window", payload)
    inbox.hear("edged/porch/drift/front/window", b"{" * 10_000_000)

    assert len(inbox.windows()) == 1
    assert +reading.refused == {FOREIGN: 2, "window_malformed": 1}


def test_more_than_anybody_reads_is_said(short: list[Window], monkeypatch) -> None:
    monkeypatch.setattr("edged.operator.driftwindows._MOST_WAITING", 3)
    reading = Reading()
    inbox = Inbox("edged", reading)
    for one in short[:5]:
        inbox.hear(f"edged/{one.device}/drift/front/window", encode_window(one))

    assert [one.seq for one in inbox.windows()] == [one.seq for one in short[2:5]]
    assert reading.refused[LOST] == 2


@pytest.fixture
def said_again(broker: Broker, short: list[Window]):
    """Devices that send their windows over and over until the test ends."""
    line = Subscriber(broker.port).connect()
    over = threading.Event()

    def speak() -> None:
        while not over.wait(0.1):
            for one in short[:20]:
                topic = f"edged/{one.device}/drift/front/window"
                line.publish(topic, encode_window(one))

    speaker = threading.Thread(target=speak)
    speaker.start()
    yield
    over.set()
    speaker.join()
    line.close()


@pytest.mark.usefixtures("said_again")
class TestLive:
    pytestmark = with_broker

    def test_windows_from_the_broker(self, run: Run, broker: Broker) -> None:
        address = f"127.0.0.1:{broker.port}"
        code, out, _ = run("birds", "--broker", address, "--seconds", "1", "--json")
        said = json.loads(out)

        assert code == 0
        assert sum(len(group["devices"]) for group in said["groups"]) >= 1
        assert said["repeated"] > 0

    def test_recorded_and_read(
        self, run: Run, broker: Broker, short: list[Window], tmp_path: Path
    ) -> None:
        file = tmp_path / "kept.ndjson"
        file.write_bytes(lines(short[30:31]) + b'{"schema":1,"torn')
        address = f"127.0.0.1:{broker.port}"
        code, _, err = run("--record", file, "--broker", address, "--seconds", "1")
        kept = file.read_bytes().splitlines()

        assert code == 0
        assert "windows written to" in err
        assert kept[1] == b'{"schema":1,"torn'
        assert {parse_window(one).seq for one in kept[2:]} == {one.seq for one in short[:20]}
        assert "1 refused: window_malformed" in run("birds", "--files", file)[2]

    def test_recording_ends_with_ctrl_c(self, broker: Broker, tmp_path: Path) -> None:
        file = tmp_path / "kept.ndjson"
        # A shell's background jobs ignore Ctrl-C, and the suite may be one.
        program = (
            "import signal, sys; from edged.operator.cli import main;"
            "signal.signal(signal.SIGINT, signal.default_int_handler); sys.exit(main())"
        )
        arguments = ["fleet", "drift", "--record", file, "--broker", f"127.0.0.1:{broker.port}"]
        with subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE
        ) as child:
            try:
                wait_for("a window", lambda: file.exists() and file.stat().st_size > 0)
                child.send_signal(signal.SIGINT)
                _, err = child.communicate(timeout=20)
            finally:
                child.kill()

        assert child.returncode == 0
        assert b"windows written" in err
        assert b"Traceback" not in err


def test_on_a_terminal(files: dict[str, Path]) -> None:
    ours, theirs = pty.openpty()
    program = "import sys; from edged.operator.cli import main; sys.exit(main())"
    arguments = ["fleet", "drift", "birds", "--candidate", NEW, "--files", str(files["same"])]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=theirs,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
    ) as child:  # fmt: skip
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # the terminal ends with its last process
            pass
    os.close(ours)

    assert child.returncode == 0
    assert b"promote: 1.1.0 against 1.0.0" in said
    assert b"harmless" in said

"""`scripts/demo` as it runs after its set-up: with mosquitto, and with the embedded broker."""

import importlib.util
import socket
import subprocess
import sys

import pytest
from sim.broker import MOSQUITTO

pytestmark = pytest.mark.broker


def demo(*arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 1883)) == 0:
            pytest.skip("a broker of this machine's owner listens on 1883")
    start = [sys.executable, "-c", program] if program else [sys.executable, "-m", "edged.demo"]
    return subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=50, check=False
    )


def test_predictions_are_shown_and_it_stops_by_itself() -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    done = demo("--seconds", "4")

    assert done.returncode == 0, done.stderr
    assert "mosquitto on localhost:1883, started for the demo" in done.stdout
    assert "predictions/s" in done.stdout
    assert " 0 lost." in done.stdout.splitlines()[-1]


def test_without_mosquitto_the_embedded_broker_does() -> None:
    if importlib.util.find_spec("amqtt") is None:
        pytest.skip("amqtt is not installed")
    program = (
        "import shutil, sys\n"
        "shutil.which = lambda *args, **kwargs: None\n"
        "from edged.demo import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = demo("--seconds", "6", program=program)

    assert done.returncode == 0, done.stderr
    assert "embedded amqtt" in done.stdout
    assert " 0 lost." in done.stdout.splitlines()[-1]


def test_without_any_broker_it_says_what_to_install() -> None:
    program = (
        "import importlib.util, shutil, sys\n"
        "shutil.which = lambda *args, **kwargs: None\n"
        "importlib.util.find_spec = lambda name: None\n"
        "from edged.demo import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = demo("--seconds", "2", program=program)

    assert done.returncode == 1
    assert "apt install mosquitto" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broker_that_is_none_is_told_and_another_one_started(request) -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    listener = socket.create_server(("127.0.0.1", 1883))
    request.addfinalizer(listener.close)
    done = subprocess.run(
        [sys.executable, "-m", "edged.demo", "--seconds", "4"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "is of no use here" in done.stdout
    assert " 0 lost." in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
def test_nonsense_seconds_are_refused(seconds) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edged.demo", "--seconds", seconds],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert done.returncode == 2
    assert "Traceback" not in done.stderr

"""`scripts/demo` as it runs after its set-up: with mosquitto, and with the embedded broker."""

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sim.broker import MOSQUITTO

from edged.demo.account import Account, Outcome
from edged.demo.candidates import A_QUARTER, constant, crashing, pruned
from edged.demo.desk import Desk
from edged.demo.processes import DemoError
from edged.demo.subscriber import Sequence
from edged.errors import VerifyError
from edged.inference.factory import factory_path
from edged.models.repository import Repository
from edged.operator.pack import check
from edged.scene import LABELS

pytestmark = pytest.mark.broker
BUNDLED = factory_path("belt").read_bytes()


def demo(
    *arguments: str, program: str = "", limit_s: float = 50
) -> subprocess.CompletedProcess[str]:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 1883)) == 0:
            pytest.skip("a broker of this machine's owner listens on 1883")
    start = [sys.executable, "-c", program] if program else [sys.executable, "-m", "edged.demo"]
    return subprocess.run(
        [*start, *arguments], capture_output=True, text=True, timeout=limit_s, check=False
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
        "from edged.demo.__main__ import main\n"
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
        "from edged.demo.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    done = demo("--seconds", "2", program=program)

    assert done.returncode == 1
    assert "apt install mosquitto" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_models_over_the_air_come_out_as_announced() -> None:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    done = demo("--ota", limit_s=200)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "All as announced."
    for reason in ("validation_crashed", "output_constant", "golden_mismatch",
                   "signature_invalid", "trial_disagrees"):  # fmt: skip
        assert reason in done.stdout
    assert "0 missing, 0 repeated" in done.stdout
    assert done.stderr == ""


def test_the_acts_do_not_go_together() -> None:
    done = demo("--ota", "--seconds", "3")

    assert done.returncode == 2
    assert "not allowed with" in done.stderr


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk on which a sound version 2 is packed."""
    made = Desk(tmp_path_factory.mktemp("demo") / "desk")
    made.photograph()
    made.write("pruned.tflite", pruned(BUNDLED)[0])
    made.edgectl(*packing("2.0.0", "pruned.tflite"))
    return made


def packing(version: str, model: str, *more: str) -> tuple[str, ...]:
    words = ("model", "pack", model, "--name", "belt", "--version", version, "--golden", "photos")
    return (*words, *more, "-o", f"belt-{version}.zip")


def test_the_sound_candidate_is_another_file_and_as_good(desk: Desk) -> None:
    model, share = pruned(BUNDLED)

    assert model != BUNDLED
    assert 0.1 < share < 0.2
    assert check(desk.package("2.0.0")).reason is None


@pytest.mark.parametrize(
    ("version", "changes", "answer", "reason"),
    [
        ("3.0.0", {"model.tflite": crashing(BUNDLED)}, None, "validation_crashed"),
        ("4.0.0", {"model.tflite": constant(BUNDLED)}, A_QUARTER, "output_constant"),
        ("5.0.0", {"labels.txt": "\n".join(LABELS[::-1]).encode()}, None, "golden_mismatch"),
    ],
)
def test_bad_candidates_are_refused_for_what_is_bad(
    desk: Desk, version, changes, answer, reason
) -> None:
    desk.by_hand(version, changes, answer)
    tried = check(desk.package(version))

    assert (tried.reason, tried.marks) == (reason, True)


def test_the_desk_refuses_them_first(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.write("crashing.tflite", crashing(BUNDLED))
    desk.write("constant.tflite", constant(BUNDLED))
    desk.write("reversed.txt", "\n".join(LABELS[::-1]).encode())

    assert "SIGSEGV" in desk.refused(*packing("3.0.1", "crashing.tflite"))
    assert "contradict" in desk.refused(*packing("4.0.1", "constant.tflite"))
    said = desk.refused(*packing("5.0.1", "pruned.tflite", "--labels", "reversed.txt"))
    assert "golden_contradicted" in said
    # What the runtime says of itself is not shown, nor a list to its end.
    assert "INFO" not in said
    assert capfd.readouterr().out.endswith("    ...\n")


def test_the_desk_does_not_play_on_when_it_is_let_down(desk: Desk) -> None:
    with pytest.raises(DemoError, match="has not refused"):
        desk.refused("model", "inspect", "belt-2.0.0.zip")
    with pytest.raises(DemoError, match="package_unreadable"):
        desk.edgectl("model", "inspect", "nothing.zip")


def test_a_stranger_fails_at_the_metadata(desk: Desk, tmp_path: Path) -> None:
    for name in ("repo", "stranger"):
        desk.edgectl("repo", "init", name)
        desk.edgectl("repo", "publish", name, desk.package("2.0.0").name)
    desk.edgectl("repo", "root", "repo", "-o", "root.json")
    with desk.serving() as words:
        urls = [line.split('"')[1] for line in words.splitlines()[:2]]
        device = Repository(
            (desk.folder / "root.json").read_bytes(),
            tmp_path / "metadata", urls[0], tmp_path / "staging", urls[1],
        )  # fmt: skip
        with desk.stranger_serves(), pytest.raises(VerifyError) as caught:
            device.find("belt/2.0.0.zip")
        assert caught.value.reason == "signature_invalid"
        assert desk.asked
        assert not any(path.startswith("/targets/") for path in desk.asked)
        target = device.find("belt/2.0.0.zip")
        assert target is not None, "the genuine repository is served again"
        assert device.download(target).read_bytes() == desk.package("2.0.0").read_bytes()


def prediction(seq: int, version: str = "1", t: float = 0.0, boot: str = "a") -> dict[str, object]:
    return {"boot": boot, "seq": seq, "version": version, "t": t}


def test_what_is_missing_and_what_comes_again_is_counted() -> None:
    counted = Sequence()
    for seq in (2, 3, 3, 6, 5, 7):
        counted.count(prediction(seq))
    counted.count(prediction(1, boot="b"))

    assert (counted.received, counted.missing, counted.repeated) == (7, 3, 2)
    assert counted.boots == ["a", "b"]


def test_a_swap_has_its_own_gap() -> None:
    counted = Sequence()
    for seq, (version, t) in enumerate([("1", 0.0), ("1", 0.5), ("2", 0.75), ("2", 1.0)], 1):
        counted.count(prediction(seq, version, t))

    assert (counted.swaps, counted.swap_gap_s, counted.largest_gap_s) == (1, 0.25, 0.5)


@pytest.mark.parametrize(
    ("seqs", "version", "code", "words"),
    [
        ((1, 2), "2.0.0", 0, "All as announced."),
        ((1, 3), "2.0.0", 1, "1 predictions are missing"),
        ((1, 2, 2), "2.0.0", 1, "1 predictions came twice"),
        ((1, 2), "7.0.0", 1, "7.0.0 runs instead of 2.0.0"),
    ],
)
def test_what_comes_out_otherwise_fails_the_demo(
    capsys: pytest.CaptureFixture[str], seqs, version, code, words
) -> None:
    counted, account = Sequence(), Account(1, 0.1)
    for seq in seqs:
        counted.count(prediction(seq))
    account.outcomes.append(Outcome("2.0.0", "as good", "SUCCEEDED", "", 1.0))

    assert account.close(counted, version, "2.0.0") == code
    assert capsys.readouterr().out.splitlines()[-1].strip() == words

"""The commands, called as a person would, in this process."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import orjson
import pytest
from sim import models
from sim.desk import Desk
from sim.device import BELT

from edged import __version__
from edged.arguments import config_of
from edged.board import default_device_id
from edged.cli import _parser, main
from edged.inference.edgetpu import EdgeTpu


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "edged.toml"
    path.write_text(f'state_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/run"\n{BELT}')
    return path


# check-config


def test_a_good_configuration(config, capsys) -> None:
    assert main(["check-config", str(config)]) == 0
    assert "front (belt)" in capsys.readouterr().out
    assert main(["check-config", "--config", str(config)]) == 0


def test_the_shipped_example_is_good(capsys) -> None:
    example = Path(__file__).parents[1] / "config" / "edged.toml"

    assert main(["check-config", str(example)]) == 0


def test_every_mistake_is_explained_at_once(config, capsys) -> None:
    config.write_text(BELT.replace("source", "sorce") + "fps = 'fast'\n[mqtt]\nhots = 'x'\n")

    assert main(["check-config", str(config)]) == 78

    said = capsys.readouterr().err
    assert f"edged: {config}" in said
    for words in ("line 8", "did you mean 'source'", "line 10", "fps", "line 12", "'host'"):
        assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "model"),
        (b"\xff\xfe\x00", "line 1"),
        (b"[mqtt", "line 1"),
        (BELT.encode() + "name = 'ä'\n".encode("latin-1"), "line 10"),
    ],
)
def test_files_that_are_no_configuration(config, capsys, content, words) -> None:
    config.write_bytes(content)

    assert main(["check-config", str(config)]) == 78
    assert words in capsys.readouterr().err


def test_no_file_and_a_directory(tmp_path, capsys) -> None:
    assert main(["check-config", str(tmp_path / "none.toml")]) == 78
    assert main(["check-config", str(tmp_path)]) == 78
    assert main(["check-config", "a\0b"]) == 78
    assert "no configuration file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check-config", "status"])
def test_who_may_not_read_it_is_told_what_to_do(config, capsys, command) -> None:
    config.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        assert main([command, "--config", str(config)]) == 78
    finally:
        if was_root:
            os.seteuid(0)

    said = capsys.readouterr().err
    assert "may not read" in said
    assert "sudo usermod -aG edged $USER" in said


def test_the_environment_names_the_file(config, capsys, monkeypatch) -> None:
    monkeypatch.setenv("EDGED_CONFIG", str(config))

    assert main(["check-config"]) == 0


# snapshot


def test_a_snapshot_is_what_the_model_sees(tmp_path, capsys) -> None:
    """Red above blue, turned clockwise, in the model's size and order."""
    image = np.zeros((80, 60, 3), np.uint8)
    image[:40] = (0, 0, 255)
    image[40:] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "in.png"), image)
    path = models.write(tmp_path / "m.tflite", models.classifier(size=(32, 32)))
    config = tmp_path / "edged.toml"
    config.write_text(
        f'[[model]]\nname = "m"\nfactory = "{path}"\n'
        f'[[camera]]\nname = "a"\nsource = "images:{tmp_path}/in.png"\nmodel = "m"\nrotate = 90\n'
    )
    out = tmp_path / "out.png"

    assert main(["snapshot", "--config", str(config), "-o", str(out)]) == 0

    seen = cv2.imread(str(out))
    assert seen.shape == (32, 32, 3)
    assert seen[16, 4].tolist() == [255, 0, 0]  # the lower half is on the left now
    assert seen[16, 28].tolist() == [0, 0, 255]
    assert "32 x 32" in capsys.readouterr().out


def test_a_snapshot_without_a_configuration_as_json(tmp_path, capsys) -> None:
    arguments = ["snapshot", "--model", "belt", "--camera", "synthetic"]
    arguments += ["-o", str(tmp_path / "s.jpg"), "--json"]

    assert main(arguments) == 0

    taken = orjson.loads(capsys.readouterr().out)
    assert taken["model_input"] == [96, 96]
    assert len(taken["classes"]) == 4


def test_a_run_without_a_configuration_is_not_taken_for_the_service() -> None:
    arguments = ["run", "--model", "belt", "--camera", "synthetic"]

    given = config_of(_parser().parse_args(arguments)).device_id
    named = config_of(_parser().parse_args([*arguments, "--device-id", "porch"])).device_id

    assert (given, named) == (default_device_id(suffix="-trial"), "porch")
    assert given != default_device_id()


def test_a_snapshot_says_where_as_the_wire_does(tmp_path, capsys) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:24, 40:48] = 255
    cv2.imwrite(str(tmp_path / "in.png"), image)
    path = models.write(tmp_path / "m.tflite", models.keypoints())
    arguments = ["snapshot", "--model", str(path), "--camera", f"images:{tmp_path}/in.png"]

    assert main([*arguments, "-o", str(tmp_path / "s.png"), "--json"]) == 0

    first = orjson.loads(capsys.readouterr().out)["keypoints"][0]
    assert (first["label"], first["point"]) == (
        "point 0",
        pytest.approx([0.6875, 0.3125], abs=0.01),
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--model", "belt", "--camera", "synthetic", "-o", "/nowhere/x.png"], 1, "not_written"),
        (["--model", "belt", "--camera", "synthetic", "-o", "x.doc"], 1, "not_written"),
        (["--model", "belt", "--camera", "images:/nowhere"], 1, "camera_"),
        (["--model", "belt", "--camera", "v4l2:/dev/video99"], 1, "camera_not_found"),
        (["--model", "belt", "--camera", "picamera"], 1, "camera_runtime_missing"),
        (["--model", "/nowhere.tflite", "--camera", "synthetic"], 1, "model_missing"),
        (["--model", "belt"], 2, "--camera"),
        (["--camera", "synthetic"], 2, "--model"),
        (["--labels", "x"], 2, "--labels"),
        (["--fps", "0"], 2, "--fps"),
        (["--model", "belt", "--camera", "synthetic", "--fps", "-1"], 2, "--fps: "),
        (
            ["--model", "belt", "--camera", "synthetic", "--accelerator", "gpu"],
            2,
            "--accelerator: ",
        ),
        (["--model", "belt", "--camera", "/dev/video3"], 2, "did you mean v4l2:/dev/video3?"),
        (["--model", "belt", "--camera", "0"], 2, "did you mean v4l2:/dev/video0?"),
        (["--model", "belt", "--camera", "/etc"], 2, "did you mean images:/etc?"),
        (["--model", "belt", "--camera", "sythetic"], 2, "did you mean synthetic?"),
        (["--model", "belt", "--camera", "synthetic", "--config", "x"], 2, "exclude"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path, monkeypatch, capsys, arguments, code, words) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["snapshot", *arguments]) == code

    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_an_unknown_camera_of_the_configuration(config, capsys) -> None:
    assert main(["snapshot", "--config", str(config), "--name", "back"]) == 78
    assert "there is: front" in capsys.readouterr().err


# doctor


def doctor(capsys, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    code = main(["doctor", *arguments, "--json"])
    found = orjson.loads(capsys.readouterr().out)
    return code, {finding["topic"]: finding for finding in found}


def test_doctor_in_plain_words(config, capsys) -> None:
    main(["doctor", "--config", str(config)])

    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "fail") for line in lines)
    assert any("litert" in line for line in lines)


def test_doctor_with_all_in_order(config, broker, capsys) -> None:
    config.write_text(config.read_text() + f"[mqtt]\nport = {broker.port}\n")

    code, found = doctor(capsys, "--config", str(config))

    assert code == 0, found
    assert found["broker"]["level"] == "ok"
    assert (
        found["model belt"]["words"]
        .partition(", ")[2]
        .startswith("classification, 4 labels, 96 x 96, on cpu")
    )
    assert found["cam front"]["level"] == "ok"
    assert found["state_dir"]["level"] == "ok"
    assert found["disk"]["level"] in ("ok", "warn")


def test_doctor_finds_what_is_wrong(tmp_path, free_port, capsys) -> None:
    config = tmp_path / "edged.toml"
    config.write_text(
        f'state_dir = "{tmp_path}"\nruntime_dir = "{config}/run"\n[mqtt]\nport = {free_port}\n'
        f'[[model]]\nname = "m"\nfactory = "{tmp_path}/none.tflite"\n'
        + "".join(
            f'[[camera]]\nname = "c{i}"\nsource = "{source}"\nmodel = "m"\n'
            for i, source in enumerate(
                (
                    "v4l2:/dev/video99",
                    "picamera",
                    "images:/nowhere",
                    f"rtsp://user:secret@127.0.0.1:{free_port}/1",
                )
            )
        )
    )

    code, found = doctor(capsys, "--config", str(config))

    assert code == 1
    expected = {
        "broker": "broker_unreachable",
        "model m": "model_missing",
        "cam c0": "camera_not_found",
        "cam c1": "camera_runtime_missing",
        "cam c2": "camera_not_found",
        "cam c3": "camera_unreachable",
        "runtime_dir": "not_writable",
    }
    assert expected == {
        topic: finding["reason"] for topic, finding in found.items() if finding["level"] == "fail"
    }
    assert "secret" not in str(found)


def test_doctor_asks_the_repository(config, tmp_path, capsys) -> None:
    desk = Desk(tmp_path / "desk")
    plain = config.read_text()

    def updates() -> dict[str, str]:
        config.write_text(plain + desk.update)
        return doctor(capsys, "--config", str(config))[1]["updates"]

    try:
        desk.publish("1.0.0")
        assert updates()["level"] == "ok"
        root = desk.root.read_bytes()
        desk.root.write_text("{}")
        assert (updates()["level"], updates()["reason"]) == ("fail", "root_invalid")
        desk.root.unlink()
        assert (updates()["level"], updates()["reason"]) == ("fail", "updates_off")
        desk.root.write_bytes(root)
    finally:
        desk.close()
    assert (updates()["level"], updates()["reason"]) == ("fail", "server_unreachable")


def test_doctor_without_a_configuration(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("EDGED_CONFIG", str(tmp_path / "none.toml"))
    _, found = doctor(capsys)
    assert found["config"]["reason"] == "config_missing"

    code, found = doctor(capsys, "--config", str(tmp_path / "none.toml"))
    assert (code, found["config"]["level"]) == (1, "fail")


def test_doctor_and_the_edge_tpu(config, capsys, monkeypatch) -> None:
    def plug(*devices: EdgeTpu) -> None:
        for module in ("doctor", "machinefindings"):
            monkeypatch.setattr(f"edged.{module}.list_edgetpus", lambda: devices)

    plug(EdgeTpu("usb", "/dev/bus/usb/001/004", accessible=False))
    code, _ = doctor(capsys, "--config", str(config))
    assert code == 1
    main(["doctor", "--config", str(config)])
    said = capsys.readouterr().out
    assert "plugdev" in said
    assert "install-coral.md" in said

    # The service may be using it: a second process that opens it would end the first.
    plug(EdgeTpu("pci", "/dev/apex_0", accessible=True))
    _, found = doctor(capsys, "--config", str(config))
    assert found["model belt"]["reason"] == "not_tried"


def test_doctor_knows_the_impostor(config, capsys, monkeypatch) -> None:
    monkeypatch.setattr("edged.machinefindings.pycoral_state", lambda: "impostor")

    _, found = doctor(capsys, "--config", str(config))

    assert found["pycoral"]["reason"] == "pycoral_impostor"


# The program


def test_version_and_usage(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"edged {__version__}"
    assert main([]) == 2
    assert main(["fly"]) == 2
    assert main(["--help"]) == 0


def test_a_reader_that_goes_away_is_no_error_to_shout_about(config) -> None:
    program = f"{sys.executable} -m edged doctor --config {config} | head -1"
    done = subprocess.run(
        ["/bin/sh", "-c", program], capture_output=True, text=True, timeout=50, check=False
    )

    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# Start-up


def test_a_command_imports_what_it_alone_needs(config) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "edged", "check-config", str(config)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "edged.config_text" in imported
    assert not {"numpy", "cv2", "paho", "ssl", "edged.daemon", "edged.doctor"} & imported


@pytest.mark.skipif(os.cpu_count() == 1, reason="BLAS starts no thread on a single core")
@pytest.mark.parametrize(("given", "threads"), [({}, 1), ({"OPENBLAS_NUM_THREADS": "2"}, 2)])
def test_the_program_keeps_blas_from_starting_threads(given, threads) -> None:
    counting = """
import os, edged.__main__, edged.cli
def command():
    import numpy
    return len(os.listdir("/proc/self/task"))
edged.cli.main = command
print(edged.__main__.main())
"""
    kept = {key: value for key, value in os.environ.items() if key != "OPENBLAS_NUM_THREADS"}

    done = subprocess.run(
        [sys.executable, "-c", counting],
        env={**kept, **given},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(done.stdout) == threads

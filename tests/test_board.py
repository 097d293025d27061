"""Facts of the machine, read from a made-up /sys, /dev and /etc."""

import time
from pathlib import Path

import pytest

from edged.board import (
    Remembered,
    board_name,
    clock_synchronised,
    default_device_id,
    free_bytes,
    kernel_clock_synchronised,
    manager_clock_synchronised,
    temperatures_c,
)
from edged.config import Config
from edged.config_text import from_values
from edged.inference.edgetpu import (
    EdgeTpu,
    explain_delegate_failure,
    explain_edgetpu_error,
    list_edgetpus,
    pycoral_state,
)

USB = EdgeTpu("usb", "/dev/bus/usb/001/004", accessible=True)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_default_device_id_is_unique_and_valid(tmp_path, monkeypatch) -> None:
    write(tmp_path, {"etc/machine-id": "0123456789abcdef0123456789abcdef\n"})
    for host, expected in (
        ("raspberrypi", "raspberrypi-012345"),
        ("my.pi.example.org", "my-pi-example-org-012345"),
        ("x" * 64, "x" * 57 + "-012345"),
        ("...", "edged-012345"),
    ):
        monkeypatch.setattr("socket.gethostname", lambda host=host: host)
        device_id = default_device_id(tmp_path)
        assert expected == device_id
        assert config_with(device_id).device_id == device_id
        trial = default_device_id(tmp_path, "-trial")
        assert trial.endswith("-012345-trial")
        assert config_with(trial).device_id == trial
    assert default_device_id(tmp_path / "nowhere") == "edged"


def config_with(device_id: str) -> Config:
    return from_values(
        {
            "device_id": device_id,
            "model": [{"name": "m", "factory": "x"}],
            "camera": [{"name": "c", "source": "synthetic", "model": "m"}],
        }
    )


def test_board_and_temperatures(tmp_path) -> None:
    root = write(
        tmp_path,
        {
            "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "51234\n",
            "sys/class/thermal/thermal_zone1/temp": "nonsense",
            "sys/class/apex/apex_0/temp": "43000\n",
        },
    )

    assert board_name(root) == "Raspberry Pi 5 Model B Rev 1.0"
    assert temperatures_c(root) == {"cpu-thermal": 51.234, "apex_0": 43.0}
    assert board_name(tmp_path / "empty")


def test_the_clock(tmp_path) -> None:
    def by_kernel(known: bool | None) -> bool | None:
        return clock_synchronised(tmp_path, lambda: known, lambda: None)

    assert [by_kernel(known) for known in (None, False, True)] == [None, False, True]
    write(tmp_path, {"run/systemd/timesync/clock": ""})
    assert [by_kernel(known) for known in (None, False, True)] == [False, False, True]
    write(tmp_path, {"run/systemd/timesync/synchronized": ""})
    assert [by_kernel(known) for known in (None, False, True)] == [True] * 3


@pytest.mark.parametrize(
    ("script", "known"),
    [
        ("echo yes", True),
        ("echo no", False),
        ("echo 'Failed to connect to bus' >&2; exit 1", None),
        ("echo maybe", None),
        ("sleep 30", None),
    ],
)
def test_where_the_sandbox_forbids_to_ask_the_kernel_timedated_does(
    tmp_path, monkeypatch, script, known
) -> None:
    program = tmp_path / "timedatectl"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "show --property=NTPSynchronized --value" ] && {script}'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("edged.board._MANAGER_S", 0.5)

    manager = manager_clock_synchronised
    assert clock_synchronised(tmp_path, lambda: None, manager) is known
    assert clock_synchronised(tmp_path, lambda: False, manager) is False, "the kernel comes first"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert clock_synchronised(tmp_path, lambda: None, manager) is None


def test_timedated_is_asked_now_and_then(tmp_path, monkeypatch) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "timedatectl"
    program.write_text(f"#!/bin/sh\necho >> {asked}\ncat {tmp_path}/answer")
    program.chmod(0o755)
    (tmp_path / "answer").write_text("no")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    now_s = 0.0
    manager = Remembered(manager_clock_synchronised, lambda: now_s)

    def known() -> bool | None:
        return clock_synchronised(tmp_path, lambda: None, manager)

    assert [known() for _ in range(100)] == [False] * 100
    assert len(asked.read_text()) == 1
    (tmp_path / "answer").write_text("yes")
    assert known() is False
    now_s = 31.0
    assert known() is True
    now_s = 10_000.0
    assert known() is True
    assert len(asked.read_text()) == 2, "what was set stays so"
    assert clock_synchronised.__defaults__ is not None
    assert isinstance(clock_synchronised.__defaults__[-1], Remembered), "so it is in the service"


def test_the_kernel_is_asked_and_nothing_is_changed() -> None:
    before = time.clock_gettime(time.CLOCK_TAI) - time.time()

    assert kernel_clock_synchronised() in (None, False, True)

    assert abs(time.clock_gettime(time.CLOCK_TAI) - time.time() - before) < 0.5


def test_space(tmp_path) -> None:
    free = free_bytes(tmp_path / "not" / "made" / "yet")
    assert free is not None
    assert free > 0


def test_edge_tpus_are_found_without_opening_them(tmp_path) -> None:
    root = write(
        tmp_path,
        {
            "sys/bus/usb/devices/1-1/idVendor": "18d1\n",
            "sys/bus/usb/devices/1-1/idProduct": "9302\n",
            "sys/bus/usb/devices/1-1/busnum": "1\n",
            "sys/bus/usb/devices/1-1/devnum": "4\n",
            "sys/bus/usb/devices/1-2/idVendor": "046d\n",
            "sys/bus/usb/devices/1-2/idProduct": "082d\n",
            "sys/bus/usb/devices/2-1/idVendor": "1a6e\n",
            "sys/bus/usb/devices/2-1/idProduct": "089a\n",
            "sys/bus/usb/devices/2-1/busnum": "2\n",
            "sys/bus/usb/devices/2-1/devnum": "17\n",
            "dev/bus/usb/001/004": "",
            "dev/apex_0": "",
        },
    )

    assert list_edgetpus(root) == (
        EdgeTpu("usb", str(root / "dev/bus/usb/001/004"), accessible=True),
        EdgeTpu("usb", str(root / "dev/bus/usb/002/017"), accessible=False),
        EdgeTpu("pci", str(root / "dev/apex_0"), accessible=True),
    )


@pytest.mark.parametrize(
    ("error", "devices", "reason"),
    [
        (OSError("libedgetpu.so.1: cannot open"), (), "edgetpu_library_missing"),
        (AttributeError("undefined symbol"), (USB,), "edgetpu_library_wrong"),
        (ValueError("Failed to load delegate"), (), "edgetpu_no_device"),
        (ValueError("Failed"), (EdgeTpu("pci", "/dev/apex_0", False),), "edgetpu_no_permission"),
        (ValueError("Failed to load delegate"), (USB,), "edgetpu_busy"),
    ],
)
def test_a_delegate_that_does_not_load_is_explained(error, devices, reason) -> None:
    explained = explain_delegate_failure(error, "libedgetpu.so.1", devices)

    assert explained.reason == reason
    assert explained.advice


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            (
                "Failed precondition: Package requires runtime version (14), which is newer than"
                " this runtime version (13).Node number 1 (EdgeTpuDelegateForCustomOp) failed to"
                " prepare."
            ),
            "edgetpu_library_old",
        ),
        (
            (
                "Internal: Unsupported data type in custom op handler: 0Node number 0"
                " (EdgeTpuDelegateForCustomOp) failed to prepare."
            ),
            "edgetpu_library_mismatch",
        ),
        ("USB transfer error 1.Node number 1 (EdgeTpuDelegateForCustomOp) failed to invoke.", None),
        ("something else", None),
    ],
)
def test_a_delegate_s_own_errors_are_explained(text, reason) -> None:
    explained = explain_edgetpu_error(text)

    assert reason == (explained.reason if explained else None)


def test_the_impostor_is_recognised(tmp_path, monkeypatch) -> None:
    """On the Python index `pycoral` is a map tool; importing it is not needed to see that."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, {"pycoralmap/__init__.py": "raise SystemExit('imported')"})
    write(tmp_path, {"realcoral/__init__.py": "", "realcoral/utils/edgetpu.py": ""})

    assert pycoral_state("pycoralmap") == "impostor"
    assert pycoral_state("realcoral") == "genuine"
    assert pycoral_state("no_such_package_at_all") == "absent"

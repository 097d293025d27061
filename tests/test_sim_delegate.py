"""The stand-in for libedgetpu behaves as its head comment says, in the real runtime."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter, load_delegate
from sim import delegate, models

PUBLISHED = "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
# A child process: python -c CHILD library model; says which invoke has returned. The invokes run
# in a thread, as a daemon's would, and the main thread shows that it is alive.
CHILD = """
import sys, threading, time
from ai_edge_litert.interpreter import Interpreter, load_delegate
library, model = sys.argv[1:]
interpreter = Interpreter(model, experimental_delegates=[load_delegate(library)])
interpreter.allocate_tensors()
def work():
    for i in range(1, 4):
        interpreter.invoke()
        print("returned", i, flush=True)
thread = threading.Thread(target=work, daemon=True)
thread.start()
thread.join(1.0)
print("alive", flush=True)
thread.join()
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return delegate.delegate_or_skip(tmp_path_factory.mktemp("delegate"))


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "delegate.log"
    monkeypatch.setenv(delegate.LOG_VARIABLE, str(path))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.write(tmp_path / "model_edgetpu.tflite", models.edgetpu_custom_op(classes=300))


def open_model(library: Path, model: Path, mode: str) -> Interpreter:
    loaded = load_delegate(str(library), {"mode": mode})
    interpreter = Interpreter(str(model), experimental_delegates=[loaded])
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Interpreter, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
    interpreter.invoke()
    output: npt.NDArray[np.uint8] = interpreter.get_tensor(
        interpreter.get_output_details()[0]["index"]
    )
    return output


def some_image(interpreter: Interpreter) -> npt.NDArray[np.uint8]:
    shape = interpreter.get_input_details()[0]["shape"]
    image: npt.NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    return image


def expected(image: npt.NDArray[np.uint8], classes: int) -> list[int]:
    return [(int(image.sum()) + i) & 0xFF for i in range(classes)]


def test_ok_computes_and_tells_its_life(library: Path, model: Path, log: Path) -> None:
    interpreter = open_model(library, model, "ok")
    image = some_image(interpreter)
    assert run(interpreter, image)[0].tolist() == expected(image, 300)
    assert run(interpreter, image + np.uint8(1))[0].tolist() == expected(image + np.uint8(1), 300)
    lines = ["option mode=ok", "created ok", "took 1 nodes", "prepared", "invoked 1", "invoked 2"]
    assert log.read_text().splitlines() == lines
    del interpreter
    assert log.read_text().splitlines() == [*lines, "destroyed"]


def test_ok_runs_a_published_model(library: Path) -> None:
    path = Path(__file__).parents[2] / "shared/data/models" / PUBLISHED
    if not path.is_file():
        pytest.skip(f"{PUBLISHED} is not beside the checkout, in shared/data/models")
    interpreter = open_model(library, path, "ok")
    image = some_image(interpreter)
    assert image.shape == (1, 128, 128, 3)
    assert run(interpreter, image)[0].tolist() == expected(image, 1001)


def test_ok_leaves_a_cpu_model_alone(library: Path, tmp_path: Path, log: Path) -> None:
    path = models.write(tmp_path / "cpu.tflite", models.classifier())
    interpreter = open_model(library, path, "ok")
    red = np.zeros((1, 32, 32, 3), np.uint8)
    red[..., 0] = 255
    assert run(interpreter, red)[0].argmax() == 0
    assert "took 0 nodes" in log.read_text()


def test_mode_comes_from_the_environment_too(
    library: Path, model: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(delegate.MODE_VARIABLE, "no_device")
    with pytest.raises(ValueError, match="Failed to load delegate"):
        load_delegate(str(library), {"device": "usb:0"})
    assert log.read_text().splitlines() == ["option device=usb:0", "refused no_device"]
    open_model(library, model, "ok")  # the option wins


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("no_device", ""),
        ("silent_null", ""),
        ("null_with_message", "No Edge TPU device found"),
        ("nonsense", "unknown mode of the test delegate"),
        ("ok:1", "unknown mode of the test delegate"),
        ("slow", "unknown mode of the test delegate"),
        ("slow:x", "unknown mode of the test delegate"),
    ],
)
def test_modes_that_do_not_load(library: Path, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match="Failed to load") as caught:
        load_delegate(str(library), {"mode": mode})
    assert str(caught.value) == f"Failed to load delegate from {library}\n{message}"


def test_prepare_error(library: Path, model: Path) -> None:
    text = (
        "Failed to prepare for TPU. Failed precondition: Package requires runtime version (14), "
        "which is newer than this runtime version (13)."
        "Node number 1 (EdgeTpuDelegateForCustomOp) failed to prepare."
    )
    with pytest.raises(RuntimeError, match=re.escape(text)):
        open_model(library, model, "prepare_error")


@pytest.mark.parametrize(("mode", "good"), [("invoke_error", 0), ("invoke_error_after:3", 2)])
def test_invoke_error(library: Path, model: Path, mode: str, good: int) -> None:
    interpreter = open_model(library, model, mode)
    for _ in range(good):
        interpreter.invoke()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"USB transfer error .*failed to invoke"):
            interpreter.invoke()


def test_slow(library: Path, model: Path) -> None:
    interpreter = open_model(library, model, "slow:80")
    started = time.monotonic()
    interpreter.invoke()
    assert time.monotonic() - started >= 0.08


def start_child(
    library: Path, model: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> subprocess.Popen[str]:
    monkeypatch.setenv(delegate.MODE_VARIABLE, mode)
    command: list[Any] = [sys.executable, "-c", CHILD, library, model]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_hang_stops_one_thread_only(
    library: Path, model: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_child(library, model, "hang_after:2", monkeypatch) as child:
        assert child.stdout is not None
        try:
            lines = [child.stdout.readline().strip() for _ in range(2)]
            running = child.poll() is None
        finally:
            child.kill()
    assert lines == ["returned 1", "alive"]
    assert running
    assert log.read_text().splitlines()[-1] == "invoked 2"


def test_abort_ends_the_process(
    library: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start_child(library, model, "abort_after:2", monkeypatch) as child:
        out, _ = child.communicate(timeout=30)
    assert out.splitlines() == ["returned 1"]
    assert child.returncode == -signal.SIGABRT


def test_no_compiler_skips_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(delegate.CompilerMissingError, match="none of cc, gcc, clang"):
        delegate.compile_delegate(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="needs a C compiler"):
        delegate.delegate_or_skip(tmp_path)


def test_a_compiler_error_is_no_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delegate.delegate_or_skip(tmp_path)
    broken = tmp_path / "broken.c"
    broken.write_text("int f(void) { return x; }\n")
    monkeypatch.setattr(delegate, "SOURCE", broken)
    with pytest.raises(RuntimeError, match=r"cannot compile broken\.c"):
        delegate.delegate_or_skip(tmp_path)

"""A candidate is tried in a child: whatever it does, this process goes on and knows what it was."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sim import badmodels, models
from sim import golden as sim_golden
from sim.golden import COLOURS, colour_inputs

from edged.config import ModelConfig
from edged.errors import DeviceError
from edged.models.golden import Golden
from edged.models.validation import Limits, Validation, validate

CONFIG = ModelConfig(name="colours", factory="unused.tflite")
LIMITS = Limits(memory_bytes=200 * 2**20, invoke_s=10, load_s=30, wall_s=50)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Golden:
    """What a sound classifier of colours answers."""
    path = models.write(tmp_path_factory.mktemp("m") / "m.tflite", models.classifier("float32"))
    servable = sim_golden.load(path)
    return sim_golden.golden_of(servable, colour_inputs())


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """This process is the same afterwards, and has no children."""
    before = os.getpid()
    yield
    assert os.getpid() == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def tried(
    folder: Path, model: bytes, golden: Golden, limits: Limits = LIMITS, /, **rest
) -> Validation:
    config = rest.pop("config", CONFIG)
    given = {name: rest.pop(name) for name in ("edgetpu", "cancelled", "program") if name in rest}
    directory = sim_golden.unpacked(folder / "package", model, golden, **rest)
    return validate(config, directory, limits, **given)


def test_a_sound_model_passes(tmp_path, sound) -> None:
    top1 = {"samples": 4, "made_with": "litert 2.3.0", "top1": list(COLOURS)}
    result = tried(tmp_path, models.classifier("float32"), sound, golden=top1)

    assert (result.reason, result.detail, result.marks) == (None, "", False)
    assert result.measured is not None
    assert result.measured.golden == "4/4 agree"
    assert 0 < result.measured.p50_ms <= result.measured.p95_ms
    assert result.measured.load_s > 0
    assert 0 < result.measured.memory_bytes < 100 * 2**20
    assert result.measured.runtime.startswith(("litert ", "tflite "))
    assert not result.structure_only


@pytest.mark.parametrize(
    ("kind", "model", "task"),
    [
        ("uint8", models.classifier("uint8"), "classification"),
        ("int8", models.classifier("int8"), "classification"),
        ("detector", models.detector("uint8", (32, 32)), "detection"),
    ],
)
def test_other_kinds_of_models_pass(tmp_path, kind, model, task) -> None:
    servable = sim_golden.load(models.write(tmp_path / "m.tflite", model))
    dtype = servable.input.tensor.dtype
    inputs = colour_inputs(dtype="uint8")
    inputs = inputs if dtype == "uint8" else (inputs.astype(np.int16) - 128).astype(np.int8)
    golden = sim_golden.golden_of(servable, inputs)
    labels = COLOURS if task == "classification" else models.FOUND
    head = {"head": "softmax" if task == "classification" else "ssd"}

    result = tried(tmp_path, model, golden, lines=labels, task=task, output=head)

    assert result.reason is None, result.detail


CRASHES = {
    "segfault at load": (badmodels.segfault_at_load, "SIGSEGV while it was loaded"),
    "abort at load": (badmodels.abort_at_load, "SIGABRT while it was loaded"),
    "at a bright image": (lambda: badmodels.harm_when_bright(0.9), "SIGABRT at golden sample 0"),
    "at frame 7": (lambda: badmodels.harm_at_frame(7), "SIGABRT at frame 7"),
}


@pytest.mark.parametrize("case", CRASHES)
def test_a_crash_is_named_by_its_signal_and_marks(tmp_path, sound, case) -> None:
    make, words = CRASHES[case]

    result = tried(tmp_path, make(), sound)

    assert (result.reason, result.marks) == ("validation_crashed", True)
    assert result.detail == words


def test_success_that_is_followed_by_a_crash_is_a_crash(tmp_path, sound) -> None:
    """With a real model; what a spoilt heap does is up to the allocator, see also `PROGRAMS`."""
    result = tried(tmp_path, badmodels.abort_at_exit(), sound)

    if result.reason is None:
        pytest.skip("the spoilt heap does no harm with this runtime and allocator")
    assert result.marks
    if result.reason != "validation_hung":  # the allocator may wait for itself, too
        assert result.reason == "validation_crashed"
        assert result.detail.startswith(("SIGSEGV", "SIGABRT")), result.detail


def test_an_endless_loop_is_a_hang_and_marks(tmp_path, sound) -> None:
    soon = Limits(memory_bytes=2**28, load_s=1, wall_s=50)
    short = Limits(memory_bytes=2**28, invoke_s=0.2, load_s=30, wall_s=50)

    at_load = tried(tmp_path, badmodels.endless(), sound, soon)
    later = tried(tmp_path, badmodels.harm_when_bright(0.9, "endless"), sound, short)

    assert (at_load.reason, at_load.marks) == ("validation_hung", True)
    assert at_load.detail == "it did not come back while it was loaded"
    assert (later.reason, later.marks) == ("validation_hung", True)
    assert later.detail == "it did not come back at golden sample 0"


def test_cpu_time_is_bounded_beside_wall_time(tmp_path, sound) -> None:
    """The kernel ends what burns seconds of CPU, even if nobody watched."""
    limits = Limits(memory_bytes=2**28, load_s=30, wall_s=50, cpu_s=2)

    result = tried(tmp_path, badmodels.endless(), sound, limits)

    assert (result.reason, result.marks) == ("validation_slow", False)
    assert "2 s of CPU" in result.detail


def test_too_large_for_this_board_does_not_mark(tmp_path, sound) -> None:
    """8 GiB are refused before anything runs; what grows while it runs is cut off."""
    eight = tried(tmp_path, badmodels.huge(8), sound)
    growing = tried(tmp_path, badmodels.huge(0.5), sound)

    assert (eight.reason, eight.marks) == ("validation_memory", False)
    assert "one tensor alone has" in eight.detail
    assert (growing.reason, growing.marks) == ("validation_memory", False)
    assert growing.detail == "it took more than 200 MiB while it was loaded"


def test_too_slow_for_this_board_does_not_mark(tmp_path, sound) -> None:
    slow = badmodels.slow(200_000)  # some 40 ms here
    limits = Limits(memory_bytes=2**28, invoke_s=0.01, load_s=30, wall_s=50)
    hang_is_far = Limits(memory_bytes=2**28, invoke_s=10, load_s=30, wall_s=2)

    per_invoke = tried(tmp_path, badmodels.slow(120_000), sound, limits)
    in_all = tried(tmp_path, slow, sound, hang_is_far)

    assert (per_invoke.reason, per_invoke.marks) in (
        ("validation_slow", False),
        ("validation_hung", True),  # on a machine that is four times as slow
    )
    assert (in_all.reason, in_all.marks) == ("validation_slow", False)


def test_not_a_number_marks(tmp_path, sound) -> None:
    always = tried(tmp_path, models.nan_classifier(), sound)
    at_night = tried(tmp_path, models.nan_classifier(only_black=True), sound)

    assert (always.reason, always.marks) == ("output_not_finite", True)
    assert (at_night.reason, at_night.marks) == ("output_not_finite", True)


def test_a_constant_model_is_refused_though_its_golden_set_agrees(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", badmodels.constant())
    golden = sim_golden.golden_of(sim_golden.load(path), colour_inputs())

    result = tried(tmp_path, badmodels.constant(), golden)

    assert (result.reason, result.marks) == ("output_constant", True)


def test_a_golden_mismatch_says_how_far(tmp_path, sound) -> None:
    outputs = sound.outputs[0].copy()
    outputs[2] = np.roll(outputs[2], 1)
    wrong = Golden(sound.inputs, (outputs,))

    result = tried(tmp_path, models.classifier("float32"), wrong)

    assert (result.reason, result.marks) == ("golden_mismatch", True)
    assert "3/4 agree, worst 1e+02 %, sample 2" in result.detail


def test_swapped_labels_are_seen_by_name(tmp_path, sound) -> None:
    top1 = {"samples": 4, "made_with": "litert 2.3.0", "top1": ["red", None, "blue", "dark"]}
    swapped = ("red", "green", "dark", "blue")

    result = tried(tmp_path, models.classifier("float32"), sound, lines=swapped, golden=top1)

    assert (result.reason, result.marks) == ("golden_mismatch", True)
    assert "2/4 agree, worst 'dark' instead of 'blue', sample 2" in result.detail


def test_owners_labels_do_not_make_a_mismatch(tmp_path, sound) -> None:
    own = tmp_path / "own.txt"
    own.write_text("rouge\nvert\nbleu\nnoir\n")
    config = ModelConfig(name="colours", factory="unused.tflite", labels=str(own), top_k=1)
    top1 = {"samples": 4, "made_with": "litert 2.3.0", "top1": list(COLOURS)}

    result = tried(tmp_path, models.classifier("float32"), sound, golden=top1, config=config)

    assert result.reason is None, result.detail


def test_what_is_not_as_the_manifest_says(tmp_path, sound) -> None:
    smaller = models.classifier("float32", (16, 16))
    five = models.classifier("float32", extra_classes=1)
    good = models.classifier("float32")
    shape = {"shape": [1, 16, 16, 3], "dtype": "float32"}
    half = Golden((sound.inputs[0].astype(np.float16),), sound.outputs)
    two = Golden(sound.inputs * 2, sound.outputs)
    cases = {
        "shape": (tried(tmp_path, smaller, sound), "input_mismatch"),
        "golden shape": (tried(tmp_path, smaller, sound, input=shape), "golden_invalid"),
        "golden type": (tried(tmp_path, good, half, input=shape | {"shape": [1, 32, 32, 3]}),
                        "golden_invalid"),
        "golden inputs": (tried(tmp_path, good, two), "golden_invalid"),
        "labels of the model": (tried(tmp_path, five, sound), "labels_mismatch"),
        "labels of the manifest": (tried(tmp_path, good, sound, labels=3), "labels_mismatch"),
        "lines": (tried(tmp_path, good, sound, lines=COLOURS[:3]), "labels_mismatch"),
        "kind": (tried(tmp_path, good, sound, task="detection"), "task_mismatch"),
        "edge tpu": (tried(tmp_path, models.edgetpu_custom_op(), sound), "model_needs_edgetpu"),
        "operator": (tried(tmp_path, models.custom_op("my-op"), sound), "unsupported_operator"),
        "no model": (tried(tmp_path, b"nothing of the kind", sound), "not_a_model"),
    }  # fmt: skip

    assert {name: (r.reason, r.marks) for name, (r, _) in cases.items()} == {
        name: (reason, False) for name, (_, reason) in cases.items()
    }


def test_a_model_for_an_edge_tpu_is_looked_at_only(tmp_path, sound) -> None:
    compiled = models.edgetpu_custom_op()
    rest = {"edgetpu": True, "model_name": "model_edgetpu.tflite"}

    good = tried(tmp_path, compiled, sound, **rest)
    smaller = tried(tmp_path, models.edgetpu_custom_op((16, 16)), sound, **rest)
    plain = tried(tmp_path, models.classifier("float32"), sound, **rest)

    assert (good.reason, good.structure_only, good.measured) == (None, True, None)
    assert (smaller.reason, smaller.structure_only) == ("input_mismatch", True)
    assert plain.reason == "model_not_compiled"


# What stands in for the probe, to try what a model cannot be made to do at will.
STARTED = 'say(stage="started", enforced=[])\n'
LOADING = STARTED + f'say(stage="loading", resident_bytes={2**40})\n'
DONE = ('say(stage="done", runtime="r 1", golden="1/1 agree", load_s=1, p50_ms=1, p95_ms=1,'
        " memory_bytes=1)\n")  # fmt: skip
PROGRAMS = {
    "abort after success": (LOADING + DONE + "os.abort()", "validation_crashed",
                            "SIGABRT after it had reported success", True),
    "exit status after success": (LOADING + DONE + "sys.exit(5)", "validation_crashed",
                                  "it ended badly: exit status 5 after it had reported success",
                                  True),
    "no report": (LOADING, "validation_crashed",
                  "it ended badly: exit status 0 while it was loaded", True),
    "a report of nothing": (LOADING + 'say(stage="done")', "validation_crashed",
                            "its report makes no sense", True),
    "nonsense": (LOADING + "os.write(fd, b'[1]\\n\\xff\\n{}\\n')", "validation_crashed",
                 "it ended badly: exit status 0 while it was loaded", True),
    "an invoke too long": (LOADING + DONE.replace("p95_ms=1", "p95_ms=10_001"), "validation_slow",
             "an invoke takes 10001 ms, longer than the service waits", False),
    "nested without end": (LOADING + "os.write(fd, b'[' * 100_000 + b'\\n')", "validation_crashed",
                           "it ended badly: exit status 0 while it was loaded", True),
    "a refusal that is none": (LOADING + 'say(stage="refused", reason="a b", detail=1)\n'
                               "sys.exit(3)", "validation_crashed", "its report makes no sense",
                               True),
    "words without end": (LOADING + "while True: os.write(fd, bytes(65536))", "validation_crashed",
                          "what runs in its place writes without end", True),
    "killed by the kernel": (LOADING + "os.kill(os.getpid(), 9)", "validation_memory",
                             "the system had no memory left for it while it was loaded", False),
    "a crash after a refusal": (LOADING + 'say(stage="refused", reason="-", detail="-")\n'
                                "os.abort()", "validation_crashed", "SIGABRT after it was refused",
                                True),
    "illegal instruction": (LOADING + "os.kill(os.getpid(), 4)", "validation_crashed",
                            "SIGILL while it was loaded", True),
    "hang when freed": (LOADING + 'say(stage="freeing")\ntime.sleep(99)', "validation_hung",
                        "it did not come back when freed", True),
}  # fmt: skip


def stand_in(folder: Path, code: str) -> tuple[str, ...]:
    path = folder / "program.py"
    path.write_text(
        "import json, os, sys, time\nfd = int(sys.argv[2])\n"
        "def say(**line): os.write(fd, (json.dumps(line) + chr(10)).encode())\n" + code
    )
    return (sys.executable, str(path))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Every other stage may take a second only."""
    monkeypatch.setattr("edged.models.validation._START_S", 1.0)


@pytest.mark.parametrize("case", PROGRAMS)
def test_the_end_counts_as_much_as_the_report(tmp_path, sound, quick, case) -> None:
    code, reason, detail, marks = PROGRAMS[case]

    result = tried(tmp_path, b"-", sound, program=stand_in(tmp_path, code))

    assert (result.reason, result.detail, result.marks) == (reason, detail, marks)


@pytest.mark.parametrize(
    "code",
    [
        "sys.exit(1)",
        "raise ImportError('numpy is broken')",
        "os.abort()",
        "time.sleep(99)",
        STARTED + "raise RuntimeError('numpy is broken')",
        STARTED + "os.abort()",
        STARTED + 'say(stage="refused", reason="runtime_missing", detail="-", device=True)\n'
        "sys.exit(3)",
    ],
)
def test_a_child_that_cannot_look_is_the_devices_fault(tmp_path, sound, quick, code) -> None:
    with pytest.raises(DeviceError) as caught:
        tried(tmp_path, b"-", sound, program=stand_in(tmp_path, code))

    assert caught.value.reason in {"validation_unavailable", "runtime_missing"}
    assert "numpy" not in code or "numpy is broken" in str(caught.value)


def test_a_program_that_is_not_there(tmp_path, sound) -> None:
    with pytest.raises(DeviceError) as caught:
        tried(tmp_path, b"-", sound, program=("/nowhere/python",))
    assert caught.value.reason == "validation_unavailable"


def test_the_whole_group_ends_with_the_child(tmp_path, sound) -> None:
    """A grandchild, which the fence would not let begin, is killed with its group."""
    code = (
        LOADING + "child = os.fork()\n"
        "if not child:\n    time.sleep(60)\n    os._exit(0)\n"
        'say(stage="grandchild", number=child)\n'
        f"open({str(tmp_path / 'number')!r}, 'w').write(str(child))\n" + DONE
    )

    result = tried(tmp_path, b"-", sound, program=stand_in(tmp_path, code))

    assert result.reason is None
    number = int((tmp_path / "number").read_text())
    for _ in range(500):
        if not Path(f"/proc/{number}").exists() or zombie(number):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the grandchild lives")


def zombie(number: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return True


def test_trying_can_be_given_up(tmp_path, sound) -> None:
    asked = iter([False] * 30)

    with pytest.raises(DeviceError) as caught:
        tried(tmp_path, badmodels.endless(), sound, cancelled=lambda: next(asked, True))

    assert caught.value.reason == "validation_canceled"


def test_nothing_of_our_environment_and_no_descriptor_goes_along(
    tmp_path, sound, monkeypatch
) -> None:
    monkeypatch.setenv("EDGED_SECRET", "x")
    monkeypatch.setenv("PYTHONSTARTUP", "x")
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    code = (
        STARTED + "say(stage='loading', resident_bytes=2**40, environment=dict(os.environ), "
        "descriptors=os.listdir('/proc/self/fd'), group=os.getpgid(0), me=os.getpid())\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps([dict(os.environ), "
        "sorted(os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid(), os.getcwd(), fd]))\n"
        + DONE
    )

    tried(tmp_path, b"-", sound, program=stand_in(tmp_path, code))
    os.close(held)

    environment, descriptors, leads, folder, report = json.loads((tmp_path / "seen").read_text())
    assert set(environment) <= {
        "PATH", "LANG", "LC_CTYPE", "PYTHONPATH", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS",
        "LD_LIBRARY_PATH",
    }  # fmt: skip
    assert (leads, folder) == (True, "/")
    assert set(descriptors) - {"0", "1", "2", str(report)} <= {"3", "4"}  # this file, that listing


FENCED = """
import ctypes, os, platform, socket, subprocess, sys, threading
from edged.models.sandbox import Fence, fence_in
print(*fence_in(Fence(100, 50 * 2**20, os.getppid())))
def tried(what):
    try:
        what()
    except (OSError, MemoryError) as error:
        return type(error).__name__
    return "allowed"
def grow():
    with open(sys.argv[1], "wb", buffering=0) as file:
        file.write(b"x")
def thread():
    threads = [threading.Thread(target=int) for _ in range(3)]
    [each.start() for each in threads]
    [each.join() for each in threads]
libc = ctypes.CDLL(None, use_errno=True)
def signal_by(*call):
    if libc.syscall(*call) != 0:
        raise OSError(ctypes.get_errno(), "refused")
numbers = {"x86_64": (200, 234, 129, 297), "aarch64": (130, 131, 138, 240),
           "armv7l": (238, 268, 178, 363)}[platform.machine()]
parent = os.getppid()
def signals():
    calls = [(numbers[0], parent, 0), (numbers[1], parent, parent, 0),
             (numbers[2], parent, 0, None), (numbers[3], parent, parent, 0, None),
             (424, os.pidfd_open(parent), 0, None, 0)]
    for call in calls:
        if tried(lambda: signal_by(*call)) != "PermissionError":
            return print(call)
    signal_by(numbers[1], os.getpid(), threading.get_native_id(), 0)  # as abort does
    raise PermissionError
for what in (
    signals, socket.socket, lambda: socket.socket(socket.AF_UNIX), socket.socketpair, os.fork,
    lambda: subprocess.run(["true"]), lambda: os.execv("/bin/true", ["true"]),
    lambda: os.kill(os.getppid(), 0), grow, lambda: bytearray(60 * 2**20),
    lambda: [os.dup(0) for _ in range(100)], thread, lambda: bytearray(10 * 2**20),
):
    print(tried(what))
"""


def test_what_the_fence_keeps_out(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-B", "-c", FENCED, tmp_path / "file"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )

    enforced, *answers = done.stdout.splitlines()
    if "network" not in enforced.split():
        pytest.skip(f"seccomp is not to be had here; enforced: {enforced}")
    assert {"parent", "cpu", "memory", "files", "descriptors", "core"} <= set(enforced.split())
    assert answers[:9] == ["PermissionError"] * 8 + ["OSError"]
    assert answers[9:] == ["MemoryError", "OSError", "allowed", "allowed"]


def test_a_child_dies_with_its_parent(tmp_path) -> None:
    """What the daemon was trying when it was killed does not go on."""
    child = (
        "import os, time\nfrom edged.models.sandbox import Fence, fence_in\n"
        "fence_in(Fence(100, 2**28, os.getppid()))\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    parent = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    running = subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    number = int(running.stdout.readline())
    running.kill()
    running.wait()
    running.stdout.close()

    for _ in range(1000):
        if zombie(number):
            break
        time.sleep(0.01)
    else:
        pytest.fail("the child lives")


def test_the_probe_is_fenced_in(tmp_path, sound) -> None:
    result = tried(tmp_path, models.classifier("float32"), sound)

    assert {"parent", "cpu", "memory", "files", "descriptors", "core"} <= set(result.enforced)

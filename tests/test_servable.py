"""Models become servables: kinds, labels, accelerators, and every way a file can be wrong."""

import gc
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from sim import models
from sim.delegate import LOG_VARIABLE, MODE_VARIABLE, delegate_or_skip

from edged.config import ModelConfig
from edged.errors import AcceleratorError, EdgedError, ValidationError
from edged.inference import loading as servable_module
from edged.inference.interpreter import choose_runtime, installed_runtimes
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.prediction import Classes, Objects, Result

COLOURS = ["red", "green", "blue", "dark"]
PIXELS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "dark": (0, 0, 0)}


def load(path: Path, library: str = "libedgetpu.so.1", **settings) -> Servable:
    return load_servable(
        ModelConfig(name="m", factory=str(path), **settings), edgetpu_library=library
    )


def predict(servable: Servable, image: np.ndarray, color="rgb", rotate=0) -> Result:
    preprocessor = Preprocessor(servable.input, rotate)
    tensor = next(preprocessor.slots())
    preprocessor.write(image, color, tensor)
    return servable.decode(servable.infer(tensor), preprocessor.geometry(*image.shape[:2]))


def plain(colour: str, size=(60, 80)) -> np.ndarray:
    return np.full((*size, 3), PIXELS[colour], np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("head", ["softmax", "logits"])
def test_classification_of_every_type(tmp_path, dtype, head) -> None:
    data = models.with_metadata(models.classifier(dtype, head=head), COLOURS)
    servable = load(models.write(tmp_path / "m.tflite", data))

    for colour in COLOURS:
        result = predict(servable, plain(colour))
        assert isinstance(result, Classes)
        assert result.classes[0].label == colour
        assert 0.8 < result.classes[0].score <= 1.0
    assert servable.kind == "classification"


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float32"])
@pytest.mark.parametrize("order", ["standard", "shuffled"])
def test_detection_of_every_type(tmp_path, dtype, order) -> None:
    data = models.with_metadata(models.detector(dtype, output_order=order), COLOURS[:3])
    servable = load(models.write(tmp_path / "m.tflite", data))
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:60, 80:120] = PIXELS["green"]  # third column, second row of 4 x 4

    result = predict(servable, image)

    assert isinstance(result, Objects)
    best = result.objects[0]
    assert (best.label, servable.kind) == ("green", "detection")
    assert best.score > 0.5
    assert best.box == pytest.approx((0.5, 0.25, 0.75, 0.5), abs=0.02)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_boxes_fit_the_object_in_the_upright_image(tmp_path, resize, rotate) -> None:
    """A red patch in a wide picture is found where it is, however the model's input was made."""
    path = models.write(tmp_path / "m.tflite", models.detector("uint8", grid=8))
    servable = load(path, resize=resize)
    upright = np.zeros((240, 480, 3), np.uint8)
    upright[90:150, 180:240] = PIXELS["red"]
    image = np.ascontiguousarray(np.rot90(upright, k=rotate // 90))

    best = predict(servable, image, rotate=rotate).objects[0]

    x0, y0, x1, y1 = best.box
    assert best.label == "class 0"
    assert (x0 + x1) / 2 == pytest.approx(210 / 480, abs=0.07)
    assert (y0 + y1) / 2 == pytest.approx(120 / 240, abs=0.13)


def test_rotation_reaches_the_model(tmp_path) -> None:
    servable = load(models.write(tmp_path / "m.tflite", models.left_right_classifier()))
    image = np.zeros((90, 90, 3), np.uint8)
    image[30:60, :30] = 255  # left

    seen = [
        predict(servable, image, rotate=rotate).classes[0].label for rotate in (0, 90, 180, 270)
    ]

    left, right, top, bottom = (f"class {i}" for i in range(4))
    assert seen == [left, top, right, bottom]


def test_colour_order_of_the_model(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())

    assert predict(load(path), plain("red")).classes[0].label == "class 0"
    assert predict(load(path, color="bgr"), plain("red")).classes[0].label == "class 2"


def test_labels_come_from_the_configuration_first(tmp_path) -> None:
    path = models.write(
        tmp_path / "m.tflite", models.with_metadata(models.classifier(), ["a", "b", "c", "d"])
    )
    own = tmp_path / "own.txt"
    own.write_text("rouge\nvert\nbleu\nnoir\n")

    assert load(path).labels == ("a", "b", "c", "d")
    assert load(path, labels=str(own)).labels == ("rouge", "vert", "bleu", "noir")


def test_the_version_names_the_file(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())
    servable = load(path)

    assert servable.id.version == f"0.0.0-factory-{servable.id.sha256[:8]}"
    assert len(servable.id.sha256) == 64


def bad_files(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    good = models.with_metadata(models.classifier(), COLOURS)
    wrong_labels = models.with_metadata(models.classifier(), COLOURS[:3])
    files = {
        "empty": (b"", "model_empty"),
        "text": (b"this is text, not a model", "not_a_model"),
        "random": (np.random.default_rng(5).bytes(5000), "not_a_model"),
        "truncated": (good[: len(good) // 3], "model_damaged"),
        "custom_op": (models.custom_op("my-op"), "unsupported_operator"),
        "edgetpu": (models.edgetpu_custom_op(), "edgetpu_library_missing"),
        "two_inputs": (models.two_inputs(), "model_inputs_unsupported"),
        "nan": (models.nan_classifier(), "output_not_finite"),
        "labels": (wrong_labels, "labels_mismatch"),
    }
    cases = {
        name: (models.write(tmp_path / f"{name}.tflite", data), reason)
        for name, (data, reason) in files.items()
    }
    cases["missing"] = (tmp_path / "nowhere.tflite", "model_missing")
    cases["directory"] = (tmp_path, "model_is_directory")
    return cases


NAMES = [
    "empty", "text", "random", "truncated", "custom_op", "edgetpu", "two_inputs", "nan", "labels",
    "missing", "directory",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bad_files_are_refused_with_a_reason(tmp_path, name) -> None:
    path, reason = bad_files(tmp_path)[name]

    with pytest.raises(EdgedError) as caught:
        load(path, library=str(tmp_path / "libnone.so"))

    assert caught.value.reason == reason
    assert len(caught.value.explain()) > 20


def test_the_list_of_bad_files_is_complete(tmp_path) -> None:
    assert list(bad_files(tmp_path)) == NAMES


@pytest.mark.parametrize(
    ("file", "reason", "words"),
    [
        ("model_invoking_error.tflite", "unsupported_operator", "fake-op-double"),
        ("split_concat.tflite", "model_kind_unsupported", "concat/split0"),
        ("imagenet_labels.txt", "not_a_model", "text"),
    ],
)
def test_real_files_that_cannot_run(shared_data, file, reason, words) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        load(shared_data / "models" / file)

    assert caught.value.reason == reason


def test_labels_that_do_not_fit_name_both_numbers(shared_data) -> None:
    birds = shared_data / "models" / "inat_bird_labels.txt"

    with pytest.raises(ValidationError, match="965 labels.*1001 outputs"):
        load(shared_data / "models" / "mobilenet_v1_0.25_128_quant.tflite", labels=str(birds))


def test_an_unreadable_label_file(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())

    with pytest.raises(EdgedError) as caught:
        load(path, labels=str(tmp_path / "none.txt"))

    assert caught.value.reason == "labels_unreadable"


def test_the_runtime_asked_for_must_be_there() -> None:
    there = {runtime.name for runtime in installed_runtimes()}
    assert there, "no runtime: nothing can be tested"
    for name in {"litert", "tflite"} - there:
        with pytest.raises(AcceleratorError) as caught:
            choose_runtime(name, edgetpu=False)
        assert caught.value.reason == "runtime_missing"
        assert "pip install" in caught.value.advice


def test_a_detector_without_a_background_column(tmp_path) -> None:
    """`num_classes` of the operator decides, not the number of columns."""
    data = models.detector("uint8", background=False)
    labels = ["first", "second", "third", "dull"]
    servable = load(models.write(tmp_path / "m.tflite", models.with_metadata(data, labels)))
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:60, 80:120] = PIXELS["blue"]

    assert servable.labels == tuple(labels)
    assert predict(servable, image).objects[0].label in ("third", "dull")
    assert "third" in {found.label for found in predict(servable, image).objects}


def test_labels_of_the_configuration_replace_unreadable_ones_inside(tmp_path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("labels.txt", b"\xff\xfe\xff")
    path = models.write(tmp_path / "m.tflite", models.classifier() + packed.getvalue())
    own = tmp_path / "own.txt"
    own.write_text("a\nb\nc\nd\n")

    with pytest.raises(EdgedError) as caught:
        load(path)
    assert caught.value.reason == "labels_unreadable"
    assert load(path, labels=str(own)).labels == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("mean", "std"), [((127.5,), (58.0, 57.0, 57.0)), ((1.0, 2.0, 3.0), (255.0,))]
)
def test_one_value_of_mean_or_std_stands_for_all_channels(tmp_path, mean, std) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier("float32"))
    servable = load(path, mean=mean, std=std)

    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(np.full((8, 8, 3), 100, np.uint8), "rgb", tensor)

    expected = (100 - np.broadcast_to(mean, 3)) / np.broadcast_to(std, 3)
    assert np.allclose(tensor[0, 4, 4], expected)


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("~nosuchuser/m.tflite", "model_missing"),
        ("/dev/zero", "model_unreadable"),
        ("x" * 300 + ".tflite", "model_unreadable"),
        ("/etc/hostname/m.tflite", "model_missing"),
    ],
)
def test_names_that_lead_nowhere(factory, reason) -> None:
    with pytest.raises(EdgedError, match="model 'm'") as caught:
        load(Path(factory))

    assert caught.value.reason == reason


def test_a_long_name_has_no_sibling(tmp_path) -> None:
    path = models.write(tmp_path / ("x" * 244 + ".tflite"), models.classifier())

    assert load(path).accelerator == "cpu"


def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "m.tflite")

    with pytest.raises(EdgedError) as caught:
        load(tmp_path / "m.tflite")
    assert caught.value.reason == "model_unreadable"
    path = models.write(tmp_path / "good.tflite", models.classifier())
    with pytest.raises(EdgedError) as caught:
        load(path, labels=str(tmp_path / "m.tflite"))
    assert caught.value.reason == "labels_unreadable"


def test_a_replaced_file_is_noticed(tmp_path) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\n")
    config = ModelConfig(name="m", factory=str(path), labels=str(labels))
    servable = load_servable(config)
    assert servable.files_unchanged(config)
    labels.write_text("a\nb\nc\ne\n")
    assert not servable.files_unchanged(config)
    labels.write_text("a\nb\nc\nd\n")
    models.write(tmp_path / "new.tflite", models.classifier("int8")).replace(path)
    assert not servable.files_unchanged(config)
    path.unlink()
    assert not servable.files_unchanged(config)


# The delegate: a small library that the real dlopen loads, in place of libedgetpu.


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> str:
    return str(delegate_or_skip(tmp_path_factory.mktemp("delegate")))


@pytest.fixture
def edgetpu_model(tmp_path) -> Path:
    return models.write(tmp_path / "m_edgetpu.tflite", models.edgetpu_custom_op())


@pytest.fixture
def plugged_in(monkeypatch) -> None:
    device = servable_module.list_edgetpus.__globals__["EdgeTpu"]("usb", "/dev/bus/usb/1/2", True)
    for module in ("edged.inference.loading", "edged.inference.interpreter"):
        monkeypatch.setattr(f"{module}.list_edgetpus", lambda: (device,))


@pytest.mark.parametrize("accelerator", ["edgetpu", "usb:0", "auto"])
def test_a_compiled_model_runs_on_the_delegate(
    monkeypatch, tmp_path, library, edgetpu_model, accelerator
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(MODE_VARIABLE, "ok")
    monkeypatch.setenv(LOG_VARIABLE, str(log))

    servable = load(edgetpu_model, library, accelerator=accelerator)
    result = predict(servable, plain("red"))

    assert servable.accelerator == ("edgetpu" if accelerator == "auto" else accelerator)
    assert servable.fallback is None
    assert len(result.classes) >= 3  # one may have a score of 0
    lines = log.read_text().splitlines()
    assert ("option device=usb:0" in lines) == (accelerator == "usb:0")
    servable.close()
    del servable
    assert log.read_text().splitlines()[-1] == "destroyed"


@pytest.mark.parametrize(
    ("mode", "there", "reason"),
    [
        ("no_device", False, "edgetpu_no_device"),
        ("no_device", True, "edgetpu_busy"),
        ("prepare_error", True, "edgetpu_library_old"),
        ("invoke_error", True, "edgetpu_failed"),
    ],
)
def test_the_delegate_s_silence_becomes_advice(
    monkeypatch, request, library, edgetpu_model, mode, there, reason
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, mode)
    if there:
        request.getfixturevalue("plugged_in")

    with pytest.raises(AcceleratorError) as caught:
        load(edgetpu_model, library, accelerator="edgetpu")

    assert caught.value.reason == reason
    assert caught.value.advice


def test_a_library_that_is_no_delegate(edgetpu_model) -> None:
    with pytest.raises(AcceleratorError) as caught:
        load(edgetpu_model, "libc.so.6", accelerator="edgetpu")

    assert caught.value.reason == "edgetpu_library_wrong"


def test_auto_falls_back_to_the_cpu_file_and_says_why(
    monkeypatch, tmp_path, library, edgetpu_model
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "no_device")
    models.write(tmp_path / "m.tflite", models.classifier())

    servable = load(edgetpu_model, library)

    assert servable.accelerator == "cpu"
    assert servable.fallback is not None
    assert servable.fallback.reason == "edgetpu_no_device"
    assert predict(servable, plain("blue")).classes[0].label == "class 2"


def test_a_fallback_lets_the_accelerator_go(monkeypatch, tmp_path, library, edgetpu_model) -> None:
    """The failed interpreter is destroyed while the one on the CPU lives."""
    log = tmp_path / "log"
    monkeypatch.setenv(MODE_VARIABLE, "invoke_error")
    monkeypatch.setenv(LOG_VARIABLE, str(log))
    models.write(tmp_path / "m.tflite", models.classifier())

    servable = load(edgetpu_model, library)

    assert servable.fallback is not None
    assert servable.fallback.reason == "edgetpu_failed"
    gc.collect()
    assert log.read_text().splitlines()[-1] == "destroyed"
    assert predict(servable, plain("green")).classes[0].label == "class 1"


def test_auto_without_a_cpu_file_is_refused_with_the_device_s_reason(
    monkeypatch, library, edgetpu_model
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "no_device")

    with pytest.raises(AcceleratorError) as caught:
        load(edgetpu_model, library)

    assert caught.value.reason == "edgetpu_no_device"


def test_auto_takes_the_compiled_sibling_when_a_device_is_there(
    monkeypatch, tmp_path, library, edgetpu_model, plugged_in
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, "ok")
    path = models.write(tmp_path / "m.tflite", models.classifier())

    assert load(path, library).accelerator == "edgetpu"


def test_auto_on_a_plain_file_without_a_device_is_no_fallback(tmp_path, edgetpu_model) -> None:
    path = models.write(tmp_path / "m.tflite", models.classifier())

    servable = load(path, str(tmp_path / "libnone.so"))

    assert (servable.accelerator, servable.fallback) == ("cpu", None)


def test_a_plain_model_is_not_sent_to_an_edge_tpu(tmp_path, library) -> None:
    path = models.write(tmp_path / "plain.tflite", models.classifier())

    with pytest.raises(ValidationError, match="edgetpu_compiler") as caught:
        load(path, library, accelerator="edgetpu")

    assert caught.value.reason == "model_not_compiled"


def test_a_compiled_model_is_not_sent_to_the_cpu(edgetpu_model) -> None:
    with pytest.raises(ValidationError, match="beside it") as caught:
        load(edgetpu_model, accelerator="cpu")

    assert caught.value.reason == "model_needs_edgetpu"


def test_the_real_compiled_file_without_a_device_falls_back(shared_data) -> None:
    servable = load(shared_data / "models" / "mobilenet_v1_0.25_128_quant_edgetpu.tflite")

    image = cv2.imread(str(shared_data / "images" / "sunflower.bmp"))
    assert servable.accelerator == "cpu"
    assert servable.fallback is not None
    assert predict(servable, image, "bgr").classes[0].label == "daisy"


def test_a_missing_library_leaves_no_noise(edgetpu_model) -> None:
    """The runtimes print a traceback from a destructor when their dlopen fails."""
    program = (
        "import sys\n"
        "from edged.config import ModelConfig\n"
        "from edged.errors import EdgedError\n"
        "from edged.inference.loading import load_servable\n"
        "try:\n"
        f"    load_servable(ModelConfig(name='m', factory={str(edgetpu_model)!r}))\n"
        "except EdgedError as error:\n"
        "    print(error.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True
    )

    assert done.stdout.strip() == "edgetpu_library_missing"
    assert "Traceback" not in done.stderr

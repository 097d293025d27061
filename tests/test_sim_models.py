"""The test models do in the real runtime what their docstrings say."""

import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers.table import Table
from sim import models

Array = npt.NDArray[Any]
DTYPES: tuple[models.DType, ...] = ("uint8", "int8", "float32")
RED, GREEN, BLUE, BLACK, WHITE = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (0, 0, 0),
    (255, 255, 255),
)


def load(model: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def paint(
    size: models.Size,
    colour: tuple[int, int, int] = BLACK,
    patch: tuple[slice, slice] | None = None,
    patch_colour: tuple[int, int, int] = WHITE,
) -> Array:
    image = np.empty((*size, 3), np.uint8)
    image[:] = colour
    if patch is not None:
        image[patch] = patch_colour
    return image


def feed(details: dict[str, Any], image: Array) -> Array:
    """Turn uint8 pixels into what the input tensor declares: -1..1, quantised."""
    real = (image.astype(np.float32) - 127.5) / 127.5
    scale, zero = details["quantization"]
    if scale:
        limits = np.iinfo(details["dtype"])
        real = np.clip(np.rint(real / scale + zero), limits.min, limits.max)
    return real.astype(details["dtype"])[np.newaxis, ..., : details["shape"][3]]


def run(interpreter: Interpreter, *images: Array) -> list[Array]:
    for details, image in zip(interpreter.get_input_details(), images, strict=True):
        interpreter.set_tensor(details["index"], feed(details, image))
    interpreter.invoke()
    return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]


def scores(interpreter: Interpreter, *images: Array) -> Array:
    (raw,) = run(interpreter, *images)
    scale, zero = interpreter.get_output_details()[0]["quantization"]
    real: Array = (raw[0].astype(np.float32) - zero) * scale if scale else raw[0]
    return real


@pytest.mark.parametrize("dtype", DTYPES)
def test_classifier_declares_its_tensors(dtype: models.DType) -> None:
    interpreter = load(models.classifier(dtype, size=(24, 40)))
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert image["shape"].tolist() == [1, 24, 40, 3]
    assert output["shape"].tolist() == [1, 4]
    assert image["dtype"] == output["dtype"] == np.dtype(dtype)
    quantisation = {
        "uint8": ((1 / 128, 128), (1 / 256, 0)),
        "int8": ((1 / 128, 0), (1 / 256, -128)),
        "float32": ((0.0, 0), (0.0, 0)),
    }
    assert (image["quantization"], output["quantization"]) == quantisation[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (32, 32), (240, 320)])
def test_classifier_names_the_colour(dtype: models.DType, size: models.Size) -> None:
    interpreter = load(models.classifier(dtype, size))
    for expected, colour in enumerate((RED, GREEN, BLUE, BLACK)):
        result = scores(interpreter, paint(size, colour))
        assert result.argmax() == expected
        assert result[expected] > 0.8
        assert result.sum() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classifier_takes_the_mean_of_the_whole_image(dtype: models.DType) -> None:
    interpreter = load(models.classifier(dtype))
    for corner in (slice(0, 20), slice(12, 32)):
        image = paint((32, 32), BLUE, (corner, slice(None)), GREEN)
        assert scores(interpreter, image).argmax() == 1  # 20 green rows of 32
    assert scores(interpreter, paint((32, 32), (40, 40, 40))).argmax() == 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_classifier_with_logits_and_extra_classes(dtype: models.DType) -> None:
    interpreter = load(models.classifier(dtype, head="logits", extra_classes=2))
    result = scores(interpreter, paint((32, 32), RED))
    assert result == pytest.approx([20, 0, 0, 4, -20, -20], abs=0.3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_classifier_of_one_channel_tells_bright_from_dark(dtype: models.DType) -> None:
    interpreter = load(models.classifier(dtype, channels=1))
    assert scores(interpreter, paint((32, 32), WHITE))[0] > 0.8
    assert scores(interpreter, paint((32, 32), BLACK))[3] > 0.8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(33, 33), (64, 48)])
def test_left_right_classifier_sees_where_the_blob_is(
    dtype: models.DType, size: models.Size
) -> None:
    interpreter = load(models.left_right_classifier(dtype, size))
    h, w = size
    near_h, mid_h, far_h = slice(0, h // 3), slice(h // 3, 2 * h // 3), slice(2 * h // 3, h)
    near_w, mid_w, far_w = slice(0, w // 3), slice(w // 3, 2 * w // 3), slice(2 * w // 3, w)
    places = [(mid_h, near_w), (mid_h, far_w), (near_h, mid_w), (far_h, mid_w)]
    for expected, place in enumerate(places):
        result = scores(interpreter, paint(size, BLACK, place))
        assert result.argmax() == expected
        assert result[expected] > 0.8
    assert scores(interpreter, paint(size)) == pytest.approx([0.25] * 4, abs=0.01)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["standard", "shuffled"])
def test_detector_finds_coloured_cells(dtype: models.DType, order: Any) -> None:
    interpreter = load(models.detector(dtype, size=(64, 96), output_order=order))
    image = paint((64, 96), BLACK, (slice(16, 32), slice(48, 72)), RED)
    image[48:64, 0:24] = BLUE
    outputs = run(interpreter, image)
    assert {each.dtype for each in outputs} == {np.dtype(np.float32)}
    if order == "shuffled":
        values, boxes, count, classes = outputs
    else:
        boxes, classes, values, count = outputs
    assert [each.shape for each in (boxes, classes, values, count)] == [
        (1, 10, 4),
        (1, 10),
        (1, 10),
        (1,),
    ]
    assert count[0] == 2
    found = {int(classes[0, i]): boxes[0, i] for i in range(2)}
    assert found[0] == pytest.approx([0.25, 0.5, 0.5, 0.75], abs=1e-4)
    assert found[2] == pytest.approx([0.75, 0.0, 1.0, 0.25], abs=1e-4)
    assert values[0, :2].min() > 0.5


def test_detector_counts_nothing_in_the_dark() -> None:
    interpreter = load(models.detector())
    assert run(interpreter, paint((64, 64)))[3][0] == 0


def test_detector_leaves_old_values_behind_the_count() -> None:
    # As the real operator does: who reads past the count reports the image before.
    interpreter = load(models.detector())
    run(interpreter, paint((64, 64), RED))
    _, _, values, count = run(interpreter, paint((64, 64)))
    assert count[0] == 0
    assert values[0, 0] > 0.5


def test_detector_without_threshold_fills_every_place() -> None:
    interpreter = load(models.detector("float32", max_detections=5, score_threshold=0.0))
    image = paint((64, 64), BLACK, (slice(0, 16), slice(0, 16)), GREEN)
    _, classes, values, count = run(interpreter, image)
    assert count[0] == 5
    assert classes[0, 0] == 1
    assert values[0, 0] > 0.5 > values[0, 1]


def test_nan_classifier() -> None:
    always = load(models.nan_classifier())
    at_night = load(models.nan_classifier(only_black=True))
    for colour in (RED, WHITE, BLACK):
        assert np.isnan(scores(always, paint((32, 32), colour))).all()
    assert np.isnan(scores(at_night, paint((32, 32), BLACK))).all()
    assert scores(at_night, paint((32, 32), GREEN))[1] > 0.8


def test_two_inputs() -> None:
    interpreter = load(models.two_inputs())
    assert [each["name"] for each in interpreter.get_input_details()] == ["left", "right"]
    assert scores(interpreter, paint((32, 32), RED), paint((32, 32), RED)).argmax() == 0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: models.custom_op("NobodyKnows"), "NobodyKnows"),
        (models.edgetpu_custom_op, "edgetpu-custom-op"),
    ],
)
def test_custom_operators_are_unknown_to_the_runtime(make: Callable[[], bytes], name: str) -> None:
    with pytest.raises(RuntimeError, match=f"unresolved custom op: {name}"):
        load(make())


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide into 4 cells"):
        models.detector(size=(3, 64))


# Metadata, read back slot by slot. That the slots are right shows with a published model, below.


def table(table: Table, slot: int) -> Table:
    return Table(table.Bytes, table.Indirect(field(table, slot)))


def field(table: Table, slot: int) -> int:
    offset = table.Offset(4 + 2 * slot)
    assert offset, f"slot {slot} is not there"
    return int(table.Pos + offset)


def elements(parent: Table, slot: int) -> list[Table]:
    start = parent.Vector(field(parent, slot) - parent.Pos)
    count = parent.VectorLen(field(parent, slot) - parent.Pos)
    return [Table(parent.Bytes, parent.Indirect(start + 4 * i)) for i in range(count)]


def text(parent: Table, slot: int) -> str:
    return bytes(parent.String(field(parent, slot))).decode()


def floats(parent: Table, slot: int) -> list[float]:
    at = field(parent, slot) - parent.Pos
    return list(struct.unpack_from(f"<{parent.VectorLen(at)}f", parent.Bytes, parent.Vector(at)))


def metadata(model: bytes) -> Table:
    read = schema.ModelT.InitFromPackedBuf(model)
    (entry,) = [each for each in read.metadata if each.name == b"TFLITE_METADATA"]
    content = bytes(read.buffers[entry.buffer].data)
    assert content[4:8] == b"M001"
    return Table(content, struct.unpack_from("<I", content)[0])


def test_metadata_of_a_classifier() -> None:
    model = models.with_metadata(
        models.classifier(), models.COLOURS, mean=127.5, std=[1.0, 2.0, 4.0], version="2.3.4"
    )
    root = metadata(model)
    assert [text(root, slot) for slot in (0, 2, 7)] == ["edged test model", "2.3.4", "1.0.0"]
    (graph,) = elements(root, 3)
    (image,), (output,) = elements(graph, 2), elements(graph, 3)
    (unit,) = elements(image, 4)
    assert unit.Bytes[field(unit, 0)] == 1
    options = table(unit, 1)
    assert (floats(options, 0), floats(options, 1)) == ([127.5], [1.0, 2.0, 4.0])
    (file,) = elements(output, 6)
    assert (text(file, 0), file.Bytes[field(file, 2)], text(file, 3)) == ("labels.txt", 2, "en")
    with zipfile.ZipFile(BytesIO(model)) as archive:
        assert archive.read("labels.txt").decode().split() == list(models.COLOURS)
    assert scores(load(model), paint((32, 32), GREEN))[1] > 0.8


def test_metadata_of_a_detector_labels_the_classes() -> None:
    model = models.with_metadata(models.detector(), models.FOUND, labels_output=1)
    (graph,) = elements(metadata(model), 3)
    outputs = elements(graph, 3)
    assert len(outputs) == 4
    (file,) = elements(outputs[1], 6)
    assert file.Bytes[field(file, 2)] == 3
    assert run(load(model), paint((64, 64), BLUE))[1][0, 0] == 2


def test_metadata_without_labels_appends_no_archive() -> None:
    model = models.with_metadata(models.classifier(), None)
    assert not zipfile.is_zipfile(BytesIO(model))
    assert text(metadata(model), 0) == "edged test model"


def test_metadata_slots_are_those_of_published_models() -> None:
    name = "mobilenet_v2_1.0_224_quant.tflite"
    path = Path(__file__).parents[2] / "shared/data/models" / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the checkout, in shared/data/models")
    root = metadata(path.read_bytes())
    assert [text(root, slot) for slot in (0, 7)] == ["ImageClassifier", "1.0.0"]
    (graph,) = elements(root, 3)
    (image,), (output,) = elements(graph, 2), elements(graph, 3)
    (unit,) = elements(image, 4)
    assert unit.Bytes[field(unit, 0)] == 1
    options = table(unit, 1)
    assert (floats(options, 0), floats(options, 1)) == ([127.5], [127.5])
    (file,) = elements(output, 6)
    assert (text(file, 0), file.Bytes[field(file, 2)]) == ("imagenet_labels.txt", 2)


@pytest.mark.parametrize(
    "model",
    [models.detector("float32"), models.with_metadata(models.classifier(), ["a"])],
    ids=["written", "rewritten"],
)
def test_constants_are_aligned(model: bytes) -> None:
    root = schema.Model.GetRootAs(model)
    buffers = [root.Buffers(i)._tab for i in range(root.BuffersLength())]
    starts = [each.Vector(each.Offset(4)) for each in buffers if each.Offset(4)]
    assert len(starts) >= 4
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_the_same_arguments_make_the_same_file() -> None:
    make = models.with_metadata
    assert make(models.classifier(), ["a"]) == make(models.classifier(), ["a"])
